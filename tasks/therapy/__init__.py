"""Evaluators of answers in therapeutic conversations. See docs/therapy_evaluation.md.

Each of `crisis`, `safety`, `toxicity`, `privacy`, `fairness` and `quality` judges single answers and has a
`VERSION`, which changes whenever a judgement may change. `validation` measures them on labelled rows that
they were not tuned on, `scorecard` turns judgements into figures with bootstrap bounds, and `judge` finds an
optional language-model judge. All of them work offline.
"""
