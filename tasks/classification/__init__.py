"""What kinds with classes share: metrics, scores, gates, conversion and report."""
