"""What a language model is. Pure PyTorch."""
