"""The plan of a study: its question, its arms, and the cells to run. `planner` makes it from a definition."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from charlab.configuration.messages import nearest
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.quantities import joined
from charlab.studies.definition import EXPECTED_TO, Arm, Settings

FILE_NAME = "plan.json"
FORMAT = 1
_OPERATION = ("time_limit", "fail_fast", "records")  # settings that no verdict depends on


@dataclass(frozen=True)
class Cell:
    """One run of a study: an arm with a seed.

    Attributes:
        run: the run's folder relative to the folder of all runs, as NAME/FINGERPRINT.
        overrides: arguments of `charlab train` that reproduce this run on its own.
        code: hash of the code that the cell was planned with; "" if unknown.
        processes: number of processes that train it together; None if it depends on the machine.
    """

    arm: str
    seed: int
    run: str
    overrides: tuple[str, ...]
    code: str = ""
    processes: int | None = 1

    @property
    def key(self) -> str:
        """The cell's name within the study, ARM/SEED."""
        return f"{self.arm}/{self.seed}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the run."""
        return self.run.rpartition("/")[2].partition("-")[0]


@dataclass(frozen=True, kw_only=True)
class Plan(Settings):
    """The plan of a study, saved before its first cell runs.

    Attributes:
        baseline: name of the arm that the others are compared with.
        arms: all arms, baseline first.
        cells: arms × seeds, seed by seed, so that a study cut short has complete pairs.
        planned_seeds: number of seeds when the first cell ran; a study with more is exploratory.
        looks: number of finished seeds at each report so far, recorded when it changes.
        planned_looks: number of seeds at each planned look; empty for a study that is tested once.
        command: arguments of `charlab train` that run the study again; older plans have `scripts/train.py` before them.
        sweep: whether it is an ordinary sweep, without hypothesis and expectations.
        amendments: one sentence for each change after the first cell ran; a study with any is exploratory.
    """

    name: str
    baseline: str
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    planned_seeds: int
    looks: tuple[int, ...] = ()
    planned_looks: tuple[int, ...] = ()
    command: str = ""
    sweep: bool = False
    amendments: tuple[str, ...] = ()

    @property
    def exploratory(self) -> bool:
        """Whether the plan changed after the first cell ran or has no hypothesis; verdicts are then only suggestive."""
        return self.sweep or bool(self.amendments) or len(self.seeds) > self.planned_seeds

    @property
    def compares(self) -> bool:
        """Whether arms are compared with a baseline; a sweep with one seed or one arm is only described."""
        return self.kind == "comparison" and (not self.sweep or min(len(self.arms), len(self.seeds)) > 1)

    def continuing(self, former: Plan) -> Plan:
        """Return this plan with the history of the study's earlier plan, under which cells have been run.

        A plan that shares no run with the earlier one is a different study, even with the same name, unless its arms
        were tuned again.
        """
        tuned = any(arm.tuned for arm in self.arms) and any(arm.tuned for arm in former.arms)
        if not tuned and not {cell.run for cell in self.cells} & {cell.run for cell in former.cells}:
            return self
        amendments = tuple(dict.fromkeys((*former.amendments, *_amendments(former, self))))
        return replace(self, planned_seeds=former.planned_seeds, looks=former.looks, amendments=amendments)

    def cell(self, key: str) -> Cell:
        """Return the cell with a key of the form ARM/SEED."""
        return self._cells[key]

    def arm(self, name: str) -> Arm:
        """Return the arm with that name."""
        return self._arms[name]

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        return {cell.key: cell for cell in self.cells}

    @cached_property
    def _arms(self) -> dict[str, Arm]:
        return {arm.name: arm for arm in self.arms}

    def save(self, folder: Path) -> None:
        """Write the plan into the study's folder, atomically."""
        write_json(folder / FILE_NAME, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read the plan from a study's folder."""
        path = folder / FILE_NAME
        try:
            saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if saved["format"] == FORMAT:
                return _reader().validate_python(saved)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"There is no study in {folder}: name a folder that holds a {FILE_NAME}.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is corrupt: delete it and run the study's command again.") from error
        raise UserError(f"{path} was written by another version of charlab: read it with that one.")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def find_study(name: str | None, homes: Sequence[Path]) -> Path:
    """Return the folder of the study of that name, in the first of `homes` that has it."""
    known = sorted({path.parent.name for home in homes for path in home.glob(f"*/{FILE_NAME}")})
    if name is None:
        raise UserError(f"No study is named: give study=NAME{nearest('', known)}")
    for home in homes:
        if (home / name / FILE_NAME).is_file():
            return home / name
    raise UserError(f"There is no study {name!r} in {' or '.join(map(str, homes))}{nearest(name, known)}")


@cache
def _reader() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def _amendments(former: Plan, plan: Plan) -> Iterator[str]:
    """Yield a sentence for each changed setting that affects verdicts."""
    for name in ("hypothesis", "baseline", *(field.name for field in fields(Settings) if field.name != "hypothesis")):
        before, after = getattr(former, name), getattr(plan, name)
        if before != after and name not in _OPERATION:
            yield f"The {name} was {_shown(before)} at first, and is now {_shown(after)}."
    if former.planned_looks != plan.planned_looks:
        yield f"Looks were planned {_planned(former)} at first, and are now {_planned(plan)}."
    if left := [str(seed) for seed in former.seeds if seed not in plan.seeds]:
        seeds, were = ("seed", "was") if len(left) == 1 else ("seeds", "were")
        yield f"The {seeds} {joined(left)} {were} left out."
    elif plan.planned_looks and plan.seeds[: len(former.seeds)] != former.seeds:
        yield "The order of the seeds was changed, and with it what each look reads."
    arms, runs, runs_before = ({arm.name: arm for arm in former.arms}, *map(_runs_by_arm, (plan, former)))
    for arm in plan.arms:
        before = arms.pop(arm.name, None)
        if before is None:
            yield f"The arm {arm.name} was added."
            continue
        if before.expect != arm.expect:
            was, now = EXPECTED_TO[before.expect], EXPECTED_TO[arm.expect]
            yield f"The arm {arm.name} was expected to {was} at first, and is now to {now}."
        if any(runs[arm.name].get(seed, run) != run for seed, run in runs_before[arm.name].items()):
            yield f"The arm {arm.name} was changed."
    yield from (f"The arm {name} was left out." for name in arms)


def _runs_by_arm(plan: Plan) -> dict[str, dict[int, str]]:
    """Return the runs' folders by arm and seed."""
    return {arm.name: {cell.seed: cell.run for cell in plan.cells if cell.arm == arm.name} for arm in plan.arms}


def _planned(plan: Plan) -> str:
    return f"after {joined([str(look) for look in plan.planned_looks])} seeds" if plan.planned_looks else "nowhere"


def _shown(value: object) -> str:
    return f"“{value}”" if isinstance(value, str) else str(value)
