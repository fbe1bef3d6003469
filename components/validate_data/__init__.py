"""validate-data: the first step. Nothing is trained on data that has not passed here.

`texts` and `images` know what a row of their task is: in each, `source` finds, verifies and reads the files,
`inspection` runs the checks, `statistics` is the drift baseline and `outputs` writes the splits. What they
share lies here: `findings`, `duplicates` and `classes` check rows, `carving` makes the splits that no file
provides, and `report` is the page.
"""
