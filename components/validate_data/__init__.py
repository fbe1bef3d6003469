"""validate-data: the first step. Nothing is trained on data that has not passed its checks.

A task kind's `data` module reads the rows and decides which checks they need; what kinds share lies here:
`checks` judges single rows, `duplicates` pairs of rows and `classes` whole classes, `carving` makes the
splits that no file provides, and `rejected` lists the faulty rows.
"""
