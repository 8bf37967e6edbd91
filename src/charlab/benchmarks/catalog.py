"""What is measured. Sides beside ours are in `tests/references/`, so benchmarks are run from a checkout."""

from __future__ import annotations

from charlab.benchmarks.pairs import OURS, Benchmark, Figure, Measurement
from charlab.benchmarks.processes import (
    run_module,
    run_program,
    run_to_first_step,
    run_training,
    run_trainings_at_once,
    text_path,
)

REFERENCE = "nanoGPT's recipe, eager"
COMPILED = "nanoGPT's recipe, compiled"
PLAIN_LOOP = "the plainest loop"
PLAIN = "without a cache"
QUIET = ("callbacks.evaluation.every_n_steps=1000000", "callbacks.evaluation.num_batches=1")


def _reference(*arguments: object) -> Measurement:
    found = run_module("tests.references.nanogpt_recipe", text_path(), *arguments)
    steps = sorted(found.pop("step_s"))
    found.pop("estimate")
    return {**found, "step_ms": 1e3 * steps[len(steps) // 2]}


def _recipe_step() -> Benchmark:
    steps = 300
    ours = ("experiment=benchmark/recipe", f"trainer.max_steps={steps}", "trainer.compile=true", *QUIET)
    return Benchmark(
        "A step of nanoGPT's CPU recipe: the same function, parameters and optimizer",
        {
            OURS: lambda: run_training(*ours),
            REFERENCE: lambda: _reference("--steps", steps),
            COMPILED: lambda: _reference("--steps", steps, "--compile"),
        },
        [
            Figure("step_ms", "step", "ms", "times less", REFERENCE, 1.5),
            Figure("step_ms", "step", "ms", "times less", COMPILED, 1.0),
        ],
    )


def _tax(title: str, experiment: str, steps: int, figure: Figure) -> Benchmark:
    ours = (experiment, f"trainer.max_steps={steps}", "trainer.compile=false")
    return Benchmark(
        title,
        {
            OURS: lambda: run_training(*ours, *QUIET),
            PLAIN_LOOP: lambda: run_module("tests.references.plain_loop", steps, experiment),
        },
        [figure, Figure("peak_memory_mb", "peak memory", "MiB", "share above", PLAIN_LOOP, 0.3)],
    )


def _framework_tax_of_a_transformer() -> Benchmark:
    figure = Figure("step_ms", "step", "ms", "share above", PLAIN_LOOP, 0.03)
    return _tax("The framework's tax on nanoGPT's CPU recipe", "experiment=benchmark/recipe", 300, figure)


def _framework_tax_of_a_bigram() -> Benchmark:
    figure = Figure("step_ms", "step", "ms", "more by", PLAIN_LOOP, 1.0)
    return _tax("The framework's tax on the bigram", "experiment=part1/bigram", 1000, figure)


def _ladder(name: str, steps: int) -> Benchmark:
    ours = (f"experiment=part1/{name}", f"trainer.max_steps={steps}", "callbacks.metrics.every_n_steps=1", *QUIET)
    direct = "a matrix per head"
    return Benchmark(
        f"The ladder's {name.replace('_', '-')}, windows of 256, batches of 32",
        {
            OURS: lambda: run_training(*ours),
            direct: lambda: run_module("tests.references.course_models", name, steps, text_path()),
        },
        [
            Figure("step_ms", "step", "ms", "times less", direct, 2.5),
            Figure("peak_memory_mb", "peak memory", "MiB", "share above", direct, 0.3),
        ],
        pairs=5,
    )


def _time_to_recipe_loss() -> Benchmark:
    return Benchmark(
        "Time to the loss that nanoGPT's CPU recipe ends with, on the full validation text",
        {
            OURS: lambda: run_training("experiment=benchmark/fast"),
            REFERENCE: lambda: _reference(),
        },
        [
            Figure("blocks", "loss, which must not be above", "nats", "more by", REFERENCE, 0.0),
            Figure("training_s", "training", "s", "times less", REFERENCE, 8.0),
            Figure("wall_s", "the whole process, compiled before", "s", "times less", REFERENCE, 5.0),
        ],
    )


def _generation() -> Benchmark:
    def worker(what: str) -> Measurement:
        return run_module("charlab.benchmarks.generation", what, "large")

    def ours() -> Measurement:
        return {task: worker(task)["characters_per_second"] for task in ("first", "first_of_64", "sliding", "rebasing")}

    def plainly() -> Measurement:
        sliding = worker("sliding_plainly")["characters_per_second"]
        return {
            "first": worker("first_plainly")["characters_per_second"],
            "sliding": sliding,
            "rebasing": sliding,
        }

    unit, one_by_one = "characters/s", "one text at a time"
    return Benchmark(
        "Generation by a transformer of 10.6 M parameters, context 256",
        {
            OURS: ours,
            PLAIN: plainly,
            one_by_one: lambda: {"first_of_64": worker("first")["characters_per_second"]},
        },
        [
            Figure("first", "the first 256, one text", unit, "times more", PLAIN, 10.0),
            Figure("first_of_64", "the first 256, 64 texts at once", unit, "times more", one_by_one, 8.0),
            Figure("sliding", "after that, overflow=slide", unit, "times more", PLAIN, 1.0),
            Figure("rebasing", "after that, overflow=rebase", unit, "times more", PLAIN, 8.0),
        ],
    )


def _evaluation() -> Benchmark:
    def worker(what: str) -> Measurement:
        return run_module("charlab.benchmarks.generation", what, "recipe")

    estimate = "nanoGPT's estimate"
    return Benchmark(
        "An evaluation: blocks, the whole validation text, against an estimate on 3.3 million characters",
        {OURS: lambda: worker("blocks"), estimate: lambda: worker("estimate_plainly")},
        [
            Figure("seconds", "an evaluation", "s", "times less", estimate),
            Figure("characters_per_second", "characters per second", "characters/s", "times more", estimate, 1.0),
        ],
    )


def _evaluation_share() -> Benchmark:
    return Benchmark(
        "The share of evaluation in a run of the recipe",
        {OURS: lambda: run_training("experiment=benchmark/recipe")},
        [Figure("evaluation_share", "share of the whole run", "", "itself", None, 0.05)],
        pairs=1,
    )


def _start_up() -> Benchmark:
    imports = "importing torch and lightning"
    mistake = ("scripts/train.py", "model.typo=1")
    one_step = (
        "experiment=benchmark/recipe",
        "trainer.max_steps=50",
        "trainer.compile=false",
        "callbacks.evaluation.num_batches=1",
        "~callbacks.samples",
        "~callbacks.attention_maps",
    )
    return Benchmark(
        "Start-up",
        {
            OURS: lambda: {
                "help_s": run_program("scripts/train.py", "--help")["wall_s"],
                "mistake_s": run_program(*mistake)["wall_s"],
                "first_step_s": run_to_first_step(*one_step)["first_step_s"],
            },
            imports: lambda: {"first_step_s": run_program("-c", "import torch, lightning.pytorch")["wall_s"]},
        },
        [
            Figure("help_s", "--help", "s", "itself", None, 3.0),
            Figure("mistake_s", "an error in the configuration", "s", "itself", None, 3.0),
            Figure("first_step_s", "the first training step is done", "s", "share above", imports, 0.3),
        ],
    )


def _two_cells() -> Benchmark:
    cell = ("experiment=benchmark/recipe", "trainer.max_steps=300", "trainer.compile=false", *QUIET)
    cells = [(*cell, f"seed={seed}") for seed in (1, 2)]
    in_turn = "one after the other, two threads each"
    return Benchmark(
        "Two cells at once on two cores, a thread each",
        {
            OURS: lambda: run_trainings_at_once([(*c, "trainer.threads=1") for c in cells], at_once=True),
            in_turn: lambda: run_trainings_at_once([(*c, "trainer.threads=2") for c in cells], at_once=False),
        },
        [Figure("wall_s", "both cells", "s", "times less", in_turn, 1.5)],
    )


BENCHMARKS = {
    "recipe_step": _recipe_step,
    "framework_tax": _framework_tax_of_a_transformer,
    "framework_tax_bigram": _framework_tax_of_a_bigram,
    "multi_head": lambda: _ladder("multi_head", 12),
    "transformer": lambda: _ladder("transformer", 4),
    "time_to_recipe_loss": _time_to_recipe_loss,
    "generation": _generation,
    "evaluation": _evaluation,
    "evaluation_share": _evaluation_share,
    "start_up": _start_up,
    "two_cells": _two_cells,
}
