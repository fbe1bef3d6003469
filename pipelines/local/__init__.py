"""A run on this machine: its processes, the cache of its steps, and what is removed later."""
