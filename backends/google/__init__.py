"""Vertex AI and the other services of Google Cloud that Gauntlet calls."""
