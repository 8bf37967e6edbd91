"""Text from any model."""
