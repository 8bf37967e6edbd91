"""A laboratory for small character-level language models."""
