"""Compose and check configurations without importing torch."""
