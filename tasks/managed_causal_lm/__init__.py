"""Managed causal lm."""
