"""Compose and check configurations; torch is imported only to build their parts."""
