"""Conversations: their files, checks, statistics and splits."""
