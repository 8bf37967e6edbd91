"""Language models in pure PyTorch."""
