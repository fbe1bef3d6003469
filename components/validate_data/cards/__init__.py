"""validate-data for cards: scans of two sides in splits that are given, a grade, and what else is known."""
