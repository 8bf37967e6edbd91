"""Texts, vocabularies and windows."""
