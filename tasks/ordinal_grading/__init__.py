"""Ordinal grading."""
