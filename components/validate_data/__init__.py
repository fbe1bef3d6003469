"""validate-data: the first step. Nothing is trained on data that has not passed its checks.

A task kind's `data` module reads the rows and decides which checks they need; what kinds share lies here.
"""
