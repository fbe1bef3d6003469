"""One folder per task kind, and one per family of kinds for the code that they share."""
