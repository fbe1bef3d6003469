"""The receiver of events that ask for a run, and its server."""
