"""validate-data: the first step. Nothing is trained on data that has not passed here.

The way of a row: `source` finds and verifies the files, `delimited` and `records` parse them, `values`,
`duplicates` and `classes` check them, `splits` carves what no file provides, and `outputs` writes the
splits, the statistics (the drift baseline), the checks and the report.
"""
