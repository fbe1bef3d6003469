"""request-training: remember what a window showed, and ask for at most one training while harm lasts."""
