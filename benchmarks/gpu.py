"""Benchmarks that need a GPU."""

from __future__ import annotations

from benchmarks.pairs import OURS, Benchmark, Figure, Measurement
from benchmarks.processes import QUIET, run_recipe, run_training, run_trainings_at_once
from benchmarks.training import COMPILED, GPU_RECIPE_LOSS
from charlab.errors import UserError

NUM_STEPS = 500
CHARACTERS_PER_STEP = 64 * 256  # of the recipe

PEAK = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA L4": 121e12,
}
"""Dense bfloat16 operations per second, from NVIDIA's data sheets."""


def _peak() -> float:
    """Return the peak rate of the GPU in operations per second.

    Raises:
        UserError: if there is no GPU, or its peak is not known.
    """
    import torch

    if not torch.cuda.is_available():
        raise UserError("This benchmark needs a GPU: run it where torch.cuda.is_available().")
    name = torch.cuda.get_device_name()
    if name not in PEAK:
        raise UserError(f"The peak of {name} is not known: add it to PEAK in benchmarks/gpu.py.")
    return PEAK[name]


def _ours(*overrides: str) -> Measurement:
    peak = _peak()
    measured = run_training(*overrides, "trainer=gpu")
    return {**measured, "share_of_peak": measured["flops"] / peak}


def _recipe(*arguments: object) -> Measurement:
    found = run_recipe("--gpu", "--compile", *arguments)
    return {**found, "characters_per_second": CHARACTERS_PER_STEP * 1e3 / found["step_ms"]}


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
        is_asked_for=True,
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
    )


def _graphs() -> Benchmark:
    ours = ("experiment=benchmark/gpu_recipe", f"trainer.max_steps={NUM_STEPS}", *QUIET)
    default = "compiled, without graphs"
    return Benchmark(
        "CUDA graphs: a step of nanoGPT's GPU recipe",
        {OURS: lambda _: _ours(*ours, "compute.compile=cuda_graphs"), default: lambda _: _ours(*ours)},
        [Figure("step_ms", "step", "ms", "times less", default)],
        is_asked_for=True,
    )


def _cells() -> Benchmark:
    cell = ("experiment=benchmark/recipe", "trainer=gpu", "compute.compile=false", *QUIET)
    cells = [(*cell, f"seed={seed}") for seed in range(4)]
    in_turn = "one after the other"
    return Benchmark(
        "Four cells of the CPU recipe at once on one GPU",
        {
            OURS: lambda _: run_trainings_at_once(cells, at_once=True),
            in_turn: lambda _: run_trainings_at_once(cells, at_once=False),
        },
        [Figure("wall_s", "all four", "s", "times less", in_turn)],
        is_asked_for=True,
    )


BENCHMARKS = {
    "gpu_step": _step,
    "gpu_time_to_recipe_loss": _time_to_recipe_loss,
    "gpu_graphs": _graphs,
    "gpu_cells": _cells,
}
