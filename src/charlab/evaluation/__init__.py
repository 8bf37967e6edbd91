"""Evaluate trained models: metric, protocols, causality check."""
