"""HTML pages: one wrapper, one style sheet, charts, and how figures are written. See `page`."""
