"""Vertex AI Pipelines: what is compiled for it, how it is checked, submitted, followed and scheduled."""
