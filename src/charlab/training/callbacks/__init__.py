"""What happens around the training steps: evaluation, checkpoints, what a person sees."""
