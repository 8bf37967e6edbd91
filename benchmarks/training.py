"""Benchmarks of training: a step, the framework's overhead, and the time to a loss."""

from __future__ import annotations

from functools import cache
from typing import Any

from benchmarks.pairs import OURS, Benchmark, Figure, Side
from benchmarks.processes import (
    QUIET,
    run_module,
    run_program,
    run_recipe,
    run_study,
    run_sweep,
    run_to_first_step,
    run_training,
    run_twice,
    text_path,
)

REFERENCE = "nanoGPT's recipe, eager"
COMPILED = "nanoGPT's recipe, compiled"
PLAIN_LOOP = "the plainest loop"
BARE = "a bare lightning.Trainer"
IMPORTS = "importing torch and lightning"
GPU_RECIPE_LOSS = 1.4697  # nats per character: what nanoGPT publishes


def _recipe_step() -> Benchmark:
    steps = 300
    ours = ("experiment=benchmark/recipe", f"trainer.max_steps={steps}", "compute.compile=true", *QUIET)
    return Benchmark(
        "A step of nanoGPT's CPU recipe: the same function, parameters and optimizer",
        {
            OURS: lambda _: run_training(*ours),
            REFERENCE: lambda _: run_recipe("--steps", steps),
            COMPILED: lambda _: run_recipe("--steps", steps, "--compile"),
        },
        [
            Figure("step_ms", "step", "ms", "times less", REFERENCE, 1.5),
            Figure("step_ms", "step", "ms", "times less", COMPILED, 1.0),
        ],
        before=lambda: run_training(*ours),
    )


def _memory() -> Benchmark:
    steps = 100
    ours = ("experiment=benchmark/recipe", f"trainer.max_steps={steps}", "compute.compile=false")
    return Benchmark(
        "Peak memory of nanoGPT's CPU recipe, imports included",
        {OURS: lambda _: run_training(*ours), REFERENCE: lambda _: run_recipe("--steps", steps)},
        [Figure("peak_memory_mb", "peak memory", "MiB", "share above", REFERENCE, 0.3)],
    )


def _framework_tax(what: str, experiment: str, *figures: Figure) -> Benchmark:
    blocks, steps = 40, 10  # blocks in each process: short ones, since the machine's speed drifts within seconds

    @cache
    def alternation(process: int) -> dict[str, Any]:
        return run_module("benchmarks.alternation", blocks, steps, f"experiment={experiment}", f"seed={process}")

    def side(key: str) -> Side:
        return lambda number: {"step_ms": alternation(number // blocks)[key][number % blocks]}

    return Benchmark(
        f"The framework's tax on {what}, block after block of {steps} steps in one process",
        {OURS: side("step_ms"), BARE: side("bare_step_ms"), PLAIN_LOOP: side("plain_step_ms")},
        figures,
        pairs=3 * blocks,
    )


def _ladder(name: str, steps: int) -> Benchmark:
    ours = (f"experiment=part1/{name}", f"trainer.max_steps={steps}", "trainer.log_every_n_steps=1", *QUIET)
    direct = "a matrix per head"
    return Benchmark(
        f"The ladder's {name.replace('_', '-')}, windows of 256, batches of 32",
        {
            OURS: lambda _: run_training(*ours),
            direct: lambda _: run_module("tests.references.course_models", name, steps, text_path()),
        },
        [
            Figure("step_ms", "step", "ms", "times less", direct, 2.5),
            Figure("peak_memory_mb", "peak memory", "MiB", "share above", direct, 0.3),
        ],
    )


def _time_to_recipe_loss() -> Benchmark:
    ours = "experiment=benchmark/fast"
    return Benchmark(
        "Time to the final loss of nanoGPT's CPU recipe, on the full validation text; a new seed in each round",
        {
            OURS: lambda number: run_training(ours, f"seed={number}"),
            REFERENCE: lambda number: run_recipe("--seed", number),
        },
        [
            Figure("blocks", "loss, which must not be above", "nats", "more by", REFERENCE, 0.0),
            Figure("training_s", "training", "s", "times less", REFERENCE, 8.0),
            Figure("wall_s", "the whole process, compiled before", "s", "times less", REFERENCE, 12.0),
        ],
        before=lambda: run_training(ours, "trainer.max_steps=1", *QUIET),
    )


def _experiment(name: str) -> Side:
    """Return a side that trains `experiment=benchmark/NAME`, with another seed in each round."""
    return lambda number: run_training(f"experiment=benchmark/{name}", f"seed={305 + number}")


def _track() -> Benchmark:
    former, counted = "benchmark/ten_minutes", "benchmark/track_counts"
    return Benchmark(
        "What nanoGPT's GPU recipe reaches, as soon as possible: the latest entries of the track",
        {OURS: _experiment("track"), counted: _experiment("track_counts"), former: _experiment("ten_minutes")},
        [
            Figure("blocks", "loss", "nats", "itself", None, GPU_RECIPE_LOSS),
            Figure("blocks", "loss", "nats", "more by", counted),
            Figure("blocks", "loss", "nats", "more by", former),
            Figure("training_s", "training", "s", "itself", None, 180.0),
            Figure("training_s", "training", "s", "times less", counted),
            Figure("training_s", "training", "s", "times less", former),
            Figure("wall_s", "the whole process", "s", "times less", former),
        ],
        pairs=1,
        is_asked_for=True,
    )


def _evaluation_share() -> Benchmark:
    # The default run with a smaller model: training and evaluation scale with it alike.
    ours = ("data=tinyshakespeare", "model.embed_dim=64", "model.num_layers=1", "model.mixer.num_heads=2")
    return Benchmark(
        "Evaluation's share of a default run of 2,000 steps (a model of one layer, to save time)",
        {OURS: lambda _: run_training(*ours)},
        [Figure("evaluation_share", "share of the whole run", "", "itself", None, 0.05)],
    )


def _import_s() -> float:
    return run_program("-c", "import torch, lightning.pytorch")["wall_s"]


def _start_up() -> Benchmark:
    shown = ("experiment=benchmark/recipe", "trainer.max_steps=50", "compute.compile=false")
    bare = ("estimate_batches=1",)
    return Benchmark(
        "Start-up",
        {
            OURS: lambda _: {
                "help_s": run_program("scripts/train.py", "--help")["wall_s"],
                "option_s": run_program("scripts/train.py", "model=nope", exit_code=2)["wall_s"],
                "mistake_s": run_program("scripts/train.py", "model.typo=1", exit_code=2)["wall_s"],
                "first_step_s": run_to_first_step(*shown, *bare)["first_step_s"],
                "evaluated_s": run_to_first_step(*shown)["first_step_s"],
                "again_s": run_twice(*shown, *bare)["again_s"],
            },
            IMPORTS: lambda _: {"first_step_s": _import_s()},
        },
        [
            Figure("help_s", "--help", "s", "itself", None, 3.0),
            Figure("option_s", "an unknown option, found without torch", "s", "itself", None, 1.5),
            Figure("mistake_s", "an unknown key of the model", "s", "itself", None, 3.0),
            Figure("first_step_s", "the first training step is done", "s", "share above", IMPORTS, 0.3),
            Figure("evaluated_s", "the same after the recipe's own first evaluation", "s", "itself"),
            Figure("again_s", "a finished run asked for again", "s", "itself", None, 2.0),
        ],
    )


def _single_run() -> Benchmark:
    ours = "experiment=benchmark/fast"
    return Benchmark(
        "What a run of a few seconds costs besides its training and its imports",
        {OURS: lambda number: run_training(ours, f"seed={number}"), IMPORTS: lambda _: {"rest_s": _import_s()}},
        [
            Figure("rest_s", "besides training", "s", "more by", IMPORTS, 5.0),
            Figure("evaluation_s", "of it, causality, estimates and blocks", "s", "itself"),
            Figure("exit_s", "of it, after the last line", "s", "itself", None, 0.5),
        ],
        before=lambda: run_training(ours, "trainer.max_steps=1", *QUIET),
    )


def _two_cells(model: str) -> Benchmark:
    cells = ("experiment=study/small", f"model={model}", "trainer.max_steps=400", "seed=1,2")
    in_turn = "one after the other, both cores each"
    return Benchmark(
        f"A sweep of two cells of a small study on two cores, at once or one after the other: model={model}",
        {
            OURS: lambda _: run_sweep(*cells, "compute.threads=1", "launcher.at_once=2"),
            in_turn: lambda _: run_sweep(*cells, "compute.threads=2"),
        },
        [Figure("wall_s", "both cells", "s", "times less", in_turn, 1.5)],
    )


def _study() -> Benchmark:
    return Benchmark(
        "The demo study: 12 cells, two at a time",
        {OURS: lambda _: run_study("study=demo", "launcher.at_once=2")},
        [
            Figure("wall_s", "from the command to its report", "s", "itself", None, 45.0),
            Figure("first_step_s", "from a cell's start to its first step", "s", "itself", None, 1.5),
            Figure("overhead_s", "a cell besides training and evaluation", "s", "itself", None, 1.5),
        ],
        pairs=3,
    )


BENCHMARKS = {
    "recipe_step": _recipe_step,
    "memory": _memory,
    "framework_tax": lambda: _framework_tax(
        "nanoGPT's CPU recipe",
        "benchmark/recipe",
        Figure("step_ms", "step", "ms", "share above", PLAIN_LOOP, 0.03),
        Figure("step_ms", "step", "ms", "share above", BARE),
    ),
    "framework_tax_bigram": lambda: _framework_tax(
        "the bigram", "part1/bigram", Figure("step_ms", "step", "ms", "times less", BARE, 1 / 1.8)
    ),
    "multi_head": lambda: _ladder("multi_head", 12),
    "transformer": lambda: _ladder("transformer", 6),
    "time_to_recipe_loss": _time_to_recipe_loss,
    "evaluation_share": _evaluation_share,
    "start_up": _start_up,
    "single_run": _single_run,
    "study": _study,
    "two_cells": lambda: _two_cells("gpt"),
    "two_cells_lstm": lambda: _two_cells("lstm"),
    "track": _track,
}
