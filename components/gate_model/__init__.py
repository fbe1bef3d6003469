"""gate-model: numbers in, one decision out, with every rule, its bound, its value and its verdict.

`rules` decides, `figures` picks the numbers out of what other steps wrote, `table` shows the verdicts,
`run` reads and writes.
"""
