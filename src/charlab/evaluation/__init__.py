"""What a trained model is worth: metric, protocols, causality check."""
