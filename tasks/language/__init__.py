"""Conversations and models that answer in them. For language models trained here or by a service."""
