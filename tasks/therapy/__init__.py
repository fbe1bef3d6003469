"""Evaluators of answers in therapeutic conversations, all offline: docs/explanation/therapy_evaluation.md

Each of `crisis`, `safety`, `toxicity`, `privacy`, `fairness` and `quality` judges single answers. Its
`VERSION` changes whenever a judgement may change.
"""
