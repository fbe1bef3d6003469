"""Compare the two variants of an A/B test.

`outcomes` joins outcome events with the requests that were assigned, `sequence` computes the interval of the
difference, `analysis` decides, and `report` writes the page. `gauntlet ab` uses them.
"""
