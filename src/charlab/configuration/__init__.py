"""Composing and checking configurations, without torch."""
