"""Alternating measurements of two ways to do the same thing, and their records."""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from charlab.files import write_atomically
from charlab.runs.machine import git_commit, installed_versions, processor
from charlab.studies.executors import usable_cores

Measurement = Mapping[str, float]
Side = Callable[[int], Measurement]  # measures once, in its own process; its argument is the round, from 0
Comparison = Literal["times less", "times more", "share above", "more by", "itself"]

OURS = "charlab"
FILE_NAME = "benchmarks.jsonl"  # in `records/`


@dataclass(frozen=True)
class Figure:
    """One line of a benchmark: a measured quantity, and how charlab's compares with another side's.

    Attributes:
        key: entry of a measurement.
        what: name of the quantity.
        unit: of the quantity.
        compared: "times less" and "times more" are ratios, above 1 if charlab is better; "share above" and "more by"
            are the extra cost of charlab, relative and in the unit; "itself" is charlab's figure alone.
        against: the other side; None if there is none.
        goal: smallest acceptable ratio or largest acceptable cost; None if there is no goal.
    """

    key: str
    what: str
    unit: str
    compared: Comparison
    against: str | None = None
    goal: float | None = None

    def compare(self, pair: Mapping[str, Measurement]) -> float:
        """Return charlab's figure compared with the other side's."""
        ours = pair[OURS][self.key]
        if self.against is None or self.compared == "itself":
            return ours
        theirs = pair[self.against][self.key]
        if self.compared == "more by":
            return ours - theirs
        return theirs / ours if self.compared == "times less" else ours / theirs - (self.compared == "share above")

    def is_reached(self, value: float) -> bool | None:
        """Return whether `value` reaches the goal; None without a goal."""
        if self.goal is None:
            return None
        return value >= self.goal if self.compared.startswith("times") else value <= self.goal


@dataclass(frozen=True)
class Benchmark:
    """A comparison of speed.

    Attributes:
        title: what is compared, as the page of results lists it.
        sides: what is measured, charlab first, under the name `OURS`.
        figures: what is reported.
        pairs: default number of rounds.
        before: called once before measuring, to fill a cache for example.
        is_asked_for: whether it runs only if named, because it is slow or needs special hardware.
        gpu: returns the name of the GPU that it needs, or raises `UserError`; None if it needs none.
    """

    title: str
    sides: Mapping[str, Side]
    figures: Sequence[Figure]
    pairs: int = 5
    before: Callable[[], object] | None = None
    is_asked_for: bool = False
    gpu: Callable[[], str] | None = None


def measure(name: str, benchmark: Benchmark, pairs: int, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Measure all sides, in rotating order, and yield the record after each round; `say` gets a line for each side.

    A figure's `value` is the median over rounds of the comparison within each round.

    Raises:
        UserError: before anything is measured, if there is no GPU for a benchmark that needs one.
    """
    gpu = {} if benchmark.gpu is None else {"gpu": benchmark.gpu()}
    _commit()  # before the first round, which may take an hour
    if benchmark.before is not None:
        benchmark.before()
    rounds: list[dict[str, Measurement]] = []
    for number in range(pairs):
        order = list(benchmark.sides)
        shift = number % len(order)
        found = {}
        for side in order[shift:] + order[:shift]:
            found[side] = benchmark.sides[side](number)
            say(f"{name} {number + 1}/{pairs} {side}: " + "  ".join(f"{k} {v:.4g}" for k, v in found[side].items()))
        rounds.append({side: found[side] for side in order})
        yield _record(name, benchmark, rounds, gpu)


@cache
def _commit() -> str | None:
    """Return the commit at which this process began to measure; each record that it keeps is a change."""
    return git_commit()


def _record(
    name: str, benchmark: Benchmark, rounds: Sequence[Mapping[str, Measurement]], gpu: Mapping[str, str]
) -> dict[str, Any]:
    figures = []
    for figure in benchmark.figures:
        values = [figure.compare(pair) for pair in rounds]
        value = statistics.median(values)
        medians = {
            side: statistics.median(pair[side][figure.key] for pair in rounds)
            for side in (OURS, figure.against)
            if side is not None
        }
        spread = {"lowest": min(values), "highest": max(values), "reached": figure.is_reached(value)}
        figures.append({**dataclasses.asdict(figure), "value": value, **spread, "medians": medians})
    return {
        "name": name,
        "title": benchmark.title,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": len(usable_cores()), "architecture": platform.machine(), "name": processor(), **gpu},
        "versions": installed_versions(),
        "git_commit": _commit(),
        "figures": figures,
        "rounds": list(rounds),
    }


def save(record: Mapping[str, Any], file: Path) -> None:
    """Write a benchmark's record as one line of a file sorted by name, replacing an earlier one."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    known = {json.loads(line)["name"]: line for line in lines}
    known[record["name"]] = json.dumps(record, ensure_ascii=False)
    text = "".join(f"{known[name]}\n" for name in sorted(known))
    write_atomically(file, lambda opened: opened.write(text.encode()))
