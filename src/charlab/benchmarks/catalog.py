"""What is measured. Sides beside ours are in `tests/references/`, so benchmarks are run from a checkout."""

from __future__ import annotations

from charlab.benchmarks import gpu, inference, training

BENCHMARKS = {**training.BENCHMARKS, **inference.BENCHMARKS, **gpu.BENCHMARKS}
"""By name, a function that returns the benchmark; those that have to be asked for come last."""
