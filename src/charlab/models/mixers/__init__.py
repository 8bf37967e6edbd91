"""Mixers, through which positions exchange information: (B, T, D) → (B, T, D)."""
