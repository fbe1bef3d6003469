"""Conversations and the models that answer in them. For language models that are trained here or by a service."""
