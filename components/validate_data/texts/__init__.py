"""Tables of texts and labels: `delimited` and `records` parse them, `values` and `similarity` check them."""
