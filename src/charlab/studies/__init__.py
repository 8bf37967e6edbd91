"""Studies: one question each, answered by arms and seeds."""
