"""The outside world, one module per capability: a small interface, a local and a Google Cloud one."""
