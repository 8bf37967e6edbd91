"""Benchmarks of finished models: generation and evaluation."""

from __future__ import annotations

from functools import cache

from benchmarks.block_sampling import STEPS, TEXT
from benchmarks.pairs import OURS, Benchmark, Figure, Measurement, Side
from benchmarks.processes import run_module

PLAIN = "without a cache"
UNIT = "characters/s"
RECURRENT = ("gru", "min_gru", "s4d", "mamba", "linear_attention")


def _worker(what: str, model: str) -> Measurement:
    return run_module("benchmarks.worker", what, model)


def _rate(what: str) -> float:
    return _worker(what, "large")["characters_per_second"]


def _generation() -> Benchmark:
    one_by_one = "one text at a time"

    @cache
    def sliding(_: int) -> Measurement:
        """Measure both sides in one process, because processes differ by more than the sides do."""
        return _worker("sliding", "large")

    def ours(number: int) -> Measurement:
        rates = {task: _rate(task) for task in ("first", "first_of_64", "rebasing")}
        slide = {"first_to_full": rates["first"], "sliding": sliding(number)["exactly"]}
        return {**rates, **slide, **_worker("difference", "large")}

    def plainly(number: int) -> Measurement:
        full = sliding(number)["plainly"]
        return {"first": _rate("first_plainly"), "first_to_full": full, "sliding": full, "rebasing": full}

    return Benchmark(
        "Generation by a transformer of 10.6 M parameters, context 256",
        {OURS: ours, PLAIN: plainly, one_by_one: lambda _: {"first_of_64": _rate("first")}},
        [
            Figure("first_to_full", "the first 256, one text, against a full context", UNIT, "times more", PLAIN, 10.0),
            Figure("first", "the first 256, one text, against the same", UNIT, "times more", PLAIN),
            Figure("difference", "largest difference of a logit, as a share of the largest", "", "itself", None, 1e-5),
            Figure("first_of_64", "the first 256, 64 texts at once", UNIT, "times more", one_by_one, 8.0),
            Figure("sliding", "after that, overflow=slide", UNIT, "times more", PLAIN, 1.0),
            Figure("rebasing", "after that, overflow=rebase", UNIT, "times more", PLAIN, 8.0),
        ],
    )


def _growth() -> Benchmark:
    return Benchmark(
        "The cost of a character after 1,024 others, as a multiple of its cost after 64",
        {OURS: lambda _: {model: _worker("growth", model)["growth"] for model in RECURRENT}},
        [Figure(model, model.replace("_", " "), "", "itself", None, 1.2) for model in RECURRENT],
    )


def _evaluation() -> Benchmark:
    estimate = "nanoGPT's estimate"

    @cache
    def blocks(_: int) -> Measurement:
        """Measure both rates in one process, because processes differ by more than the rates do."""
        return _worker("blocks", "recipe")

    def plainly(number: int) -> Measurement:
        rate = blocks(number)["characters_per_second_plainly"]
        return {**_worker("estimate_plainly", "recipe"), "characters_per_second": rate}

    return Benchmark(
        "An evaluation: blocks (0.11 M characters) against nanoGPT's estimate (3.3 M)",
        {OURS: blocks, estimate: plainly},
        [
            Figure("seconds", "an evaluation, of 30 times fewer characters", "s", "times less", estimate),
            Figure("characters_per_second", "characters per second", UNIT, "times more", estimate),
            Figure("difference", "difference from the plain mean over all windows", "nats", "itself", None, 1e-6),
        ],
    )


def _block_sampling() -> Benchmark:
    run = ("experiment=part2/block_diffusion", "compute.threads=2", "budget.max_seconds=300")

    @cache
    def sampled(_: int) -> dict[str, Measurement]:
        """Measure all sides in one process, which trains the run unless the output folder has it."""
        return run_module("benchmarks.block_sampling", *run)

    def side(name: str) -> Side:
        return lambda number: sampled(number)[name]

    more = [name for name in STEPS if name != OURS]
    rate = "characters per second, 1 evaluation per block, 16 texts at once"
    nll = "the samples of 1 evaluation per block, by 7-gram counts"
    return Benchmark(
        "Sampling by block diffusion after five minutes: one evaluation per block of four characters, against more",
        {name: side(name) for name in (*STEPS, TEXT)},
        [
            *(Figure("characters_per_second", rate, UNIT, "times more", other) for other in more),
            *(Figure("nll", nll, "nats", "more by", other) for other in (*more, TEXT)),
        ],
        pairs=1,
        is_asked_for=True,
    )


BENCHMARKS = {
    "generation": _generation,
    "growth": _growth,
    "evaluation": _evaluation,
    "block_sampling": _block_sampling,
}
