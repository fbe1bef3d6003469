"""The receiver of events that ask for a run: one schema, limits read from Vertex itself, one job an event."""
