"""evaluate-model: the bundle and the champion, scored on the same test rows, with the doubt in each figure.

`metrics` says how good a model is on these rows, `bootstrap` how much other rows could change that,
`scorecard` puts both together, `report` shows them, `run` reads and writes.
"""
