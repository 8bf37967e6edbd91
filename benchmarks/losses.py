"""Benchmarks of a loss after equal steps: what a choice within a model is worth."""

from __future__ import annotations

from benchmarks.pairs import OURS, Benchmark, Figure, Measurement, Side
from benchmarks.processes import run_training

DECAYED = "the state decays as well"
TRANSFORMER = "the transformer"
SEED = 305  # of the first round


def _trained(experiment: str, steps: int, *overrides: str) -> Side:
    """Return a side that trains for a number of steps, with another seed in each round."""
    budget = ("budget.max_seconds=null", f"trainer.max_steps={steps}", "at_end=[sliding]")

    def train(number: int) -> Measurement:
        return run_training(f"experiment=part2/{experiment}", *budget, f"seed={SEED + number}", *overrides)

    return train


def _state_decay(family: str, steps: int) -> Benchmark:
    decayed = "callbacks.decay_all={_target_: benchmarks.decay_all.DecayAll}"
    return Benchmark(
        f"Weight decay of the state's parameters: {family}, {steps} steps of the table of one minute",
        {OURS: _trained(family, steps), DECAYED: _trained(family, steps, f"+{decayed}")},
        [Figure(protocol, f"loss by {protocol}", "nats", "more by", DECAYED) for protocol in ("blocks", "sliding")],
        pairs=3,
        is_asked_for=True,
    )


def _block_diffusion() -> Benchmark:
    steps, smaller = 1000, "blocks of two characters"
    return Benchmark(
        f"Block diffusion, blocks of four, next to a transformer of its size after {steps:,} steps; a bound",
        {
            OURS: _trained("block_diffusion", steps),
            smaller: _trained("block_diffusion", steps, "model.block_size=2"),
            TRANSFORMER: _trained("modern_gpt", steps),
        },
        [
            Figure("blocks", "loss by blocks", "nats", "share above", TRANSFORMER, 0.1),
            Figure("blocks", "loss by blocks", "nats", "more by", smaller),
            Figure("training_s", "training", "s", "share above", TRANSFORMER),
        ],
        pairs=3,
        is_asked_for=True,
    )


BENCHMARKS = {
    "state_decay_s4d": lambda: _state_decay("s4d", 450),
    "state_decay_mamba": lambda: _state_decay("mamba", 230),
    "block_diffusion": _block_diffusion,
}
