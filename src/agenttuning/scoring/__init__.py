"""Episode records in, scores out: metrics, intervals, error kinds, and the comparison with the published numbers."""
