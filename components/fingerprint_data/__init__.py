"""fingerprint-data: what the later steps are cached by. It runs every time and reads as little as it can."""
