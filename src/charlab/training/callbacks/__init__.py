"""Lightning callbacks: checkpoints, compilation, metrics, progress, samples, attention maps and weight averaging."""
