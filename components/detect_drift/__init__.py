"""detect-drift: compare rows of the request log with reference rows of the same bundle.

`rows` reads the log, `faults` says whether it can be trusted, `change` tests whether inputs or predictions
have changed, `harm` whether the model is worse than promised, `decision` what to do, `report` shows it.
"""
