"""Documents between steps: one pydantic model for each JSON file that a step writes and another reads."""
