"""Conversations, and the models that answer in them, whether trained here or by a service."""
