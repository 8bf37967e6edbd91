"""Measurements of speed: charlab beside the plainest code that does the same, in turn, in fresh processes."""
