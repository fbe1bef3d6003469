"""One folder per DAG step: `component.py` is its KFP face, its logic lies beside it."""
