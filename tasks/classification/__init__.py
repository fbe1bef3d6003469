"""What kinds with one class per row share: metrics, scores, gates and report."""
