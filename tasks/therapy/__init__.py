"""What judges the answers of a model for therapeutic conversations. See docs/therapy_evaluation.md.

Each of `crisis`, `safety`, `toxicity`, `privacy`, `fairness` and `quality` judges single answers and has a
`VERSION`, which changes when any judgement could. `validation` holds them against labelled rows that they
were not tuned on, `scorecard` turns judgements into figures with bootstrap bounds, `judge` finds an optional
language-model judge. All of them work offline.
"""
