"""Benchmarks that need a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.pairs import OURS, Benchmark, Figure, Measurement
from benchmarks.processes import QUIET, run_program, run_recipe, run_training, run_trainings_at_once
from benchmarks.training import COMPILED, GPU_RECIPE_LOSS
from charlab.errors import UserError

NUM_STEPS = 500
CHARACTERS_PER_STEP = 64 * 256  # of the recipe
PUBLISHED_STEP, PUBLISHED_LOSS = 1800, 1.628  # of the ladder's transformer: nats per character, by the estimate
SYNCHRONIZATION_TEST = "tests/runs/test_synchronization.py::test_no_step_between_loggings_waits_for_a_gpu"

PEAK = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA L4": 121e12,
}
"""Dense bfloat16 operations per second, from NVIDIA's data sheets."""


def _gpu() -> str:
    """Return the name of the GPU.

    Raises:
        UserError: if there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError("This benchmark needs a GPU: run it where torch.cuda.is_available().")
    return torch.cuda.get_device_name()


def _peak() -> float:
    """Return the peak rate of the GPU in operations per second.

    Raises:
        UserError: if there is no GPU, or its peak is not known.
    """
    name = _gpu()
    if name not in PEAK:
        raise UserError(f"The peak of {name} is not known: add it to PEAK in benchmarks/gpu.py.")
    return PEAK[name]


def _ours(*overrides: str, estimates: Sequence[int] = ()) -> Measurement:
    peak = _peak()
    measured = run_training(*overrides, "trainer=gpu", estimates=estimates)
    return {**measured, "share_of_peak": measured["flops"] / peak}


def _recipe(*arguments: object) -> Measurement:
    found = run_recipe("--gpu", "--compile", *arguments)
    return {**found, "characters_per_second": CHARACTERS_PER_STEP * 1e3 / found["step_ms"]}


def _transformer() -> Benchmark:
    published = "published"

    def train(_: int) -> Measurement:
        return _ours("experiment=part1/transformer", estimates=(PUBLISHED_STEP, 2000))

    return Benchmark(
        "The ladder's transformer of 19.6 million parameters, trained to step 2,000",
        {OURS: train, published: lambda _: {f"estimate_{PUBLISHED_STEP}": PUBLISHED_LOSS}},
        [
            Figure(f"estimate_{PUBLISHED_STEP}", "loss by estimate, step 1,800", "nats", "more by", published, 0.0),
            Figure("estimate_2000", "loss by estimate, step 2,000", "nats", "itself"),
            Figure("training_s", "training", "s", "itself"),
            Figure("characters_per_second", "characters per second", "characters/s", "itself"),
            Figure("share_of_peak", "share of the peak in bfloat16", "", "itself"),
        ],
        pairs=1,
        is_asked_for=True,
        gpu=_gpu,
    )


def _step() -> Benchmark:
    ours = ("experiment=benchmark/gpu_recipe", f"trainer.max_steps={NUM_STEPS}", *QUIET)
    flops = [0.0]  # per step; both sides compute the same function

    def charlab(_: int) -> Measurement:
        measured = _ours(*ours)
        flops[0] = measured["flops"] * measured["step_ms"]
        return measured

    def theirs(_: int) -> Measurement:
        found = _recipe("--steps", NUM_STEPS)
        return {**found, "share_of_peak": flops[0] / found["step_ms"] / _peak()}

    return Benchmark(
        "A step of nanoGPT's GPU recipe: the same function, parameters and optimizer",
        {OURS: charlab, COMPILED: theirs},
        [
            Figure("step_ms", "step", "ms", "times less", COMPILED, 1.0),
            Figure("characters_per_second", "characters per second", "characters/s", "times more", COMPILED, 1.0),
            Figure("share_of_peak", "share of the peak in bfloat16", "", "times more", COMPILED),
        ],
        pairs=2,
        is_asked_for=True,
        gpu=_gpu,
    )


def _time_to_recipe_loss() -> Benchmark:
    return Benchmark(
        "Time to the loss of nanoGPT's GPU recipe, on the full validation text",
        {
            OURS: lambda number: _ours("experiment=benchmark/gpu_fast", f"seed={number}"),
            COMPILED: lambda number: _recipe("--seed", number),
        },
        [
            Figure("blocks", "loss", "nats", "itself", None, GPU_RECIPE_LOSS),
            Figure("training_s", "training", "s", "itself", None, 30.0),
            Figure("training_s", "training", "s", "times less", COMPILED),
        ],
        is_asked_for=True,
        gpu=_gpu,
    )


def _graphs() -> Benchmark:
    ours = ("experiment=benchmark/gpu_recipe", f"trainer.max_steps={NUM_STEPS}", *QUIET)
    default = "compiled, without graphs"
    return Benchmark(
        "CUDA graphs: a step of nanoGPT's GPU recipe",
        {OURS: lambda _: _ours(*ours, "compute.compile=cuda_graphs"), default: lambda _: _ours(*ours)},
        [Figure("step_ms", "step", "ms", "times less", default)],
        is_asked_for=True,
        gpu=_gpu,
    )


def _cells() -> Benchmark:
    steps = 1000
    cell = ("experiment=benchmark/recipe", f"trainer.max_steps={steps}", "trainer=gpu", "compute.compile=false", *QUIET)
    cells = [(*cell, f"seed={seed}") for seed in range(6)]
    in_turn = "one after the other"
    return Benchmark(
        f"Six cells of {steps:,} steps of nanoGPT's CPU recipe at once on one GPU",
        {
            OURS: lambda _: run_trainings_at_once(cells, at_once=True),
            in_turn: lambda _: run_trainings_at_once(cells, at_once=False),
        },
        [Figure("wall_s", "all six", "s", "times less", in_turn)],
        pairs=1,
        is_asked_for=True,
        gpu=_gpu,
    )


def _synchronization() -> Benchmark:
    def watch(_: int) -> Measurement:
        """Run a test in which a step that waits raises an error."""
        run_program("-m", "pytest", "-q", "-W", "default", SYNCHRONIZATION_TEST)
        return {"waiting_steps": 0.0}

    return Benchmark(
        "Steps that wait for the GPU",
        {OURS: watch},
        [Figure("waiting_steps", "of 20 steps between two that are logged", "", "itself", None, 0.0)],
        pairs=1,
        is_asked_for=True,
        gpu=_gpu,
    )


BENCHMARKS = {
    "gpu_transformer": _transformer,
    "gpu_step": _step,
    "gpu_cells": _cells,
    "gpu_synchronization": _synchronization,
    "gpu_time_to_recipe_loss": _time_to_recipe_loss,
    "gpu_graphs": _graphs,
}
GROUP = ("gpu_transformer", "gpu_step", "gpu_cells", "gpu_synchronization")
"""What `python -m benchmarks gpu` measures, the most important first.

Minutes on an H100 or H200, estimated from steps of 15 ms, starts of 10 s and compilations of 40 s: 1.5, 3.5, 2.5 and
0.5.
"""
