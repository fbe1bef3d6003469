"""Classifiers: metrics, scores, gates and report. For kinds with one class per row."""
