"""What a run leaves behind, and how it is made, continued and read back."""
