"""The plan of a study: its question, its arms, and the cells to run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from charlab.errors import UserError
from charlab.files import write_atomically

FILE_NAME = "plan.json"
FORMAT = 1

Expectation = Literal["improve", "worsen", "no difference"]
Budget = Literal["steps", "characters", "flops", "seconds", "parameters"]
EXPECTATIONS: tuple[str, ...] = get_args(Expectation)


@dataclass(frozen=True)
class Arm:
    """One setting of a study.

    Attributes:
        name: name, unique within the study and usable for a folder.
        overrides: the overrides that define it, as on the command line.
        expect: the effect that the hypothesis predicts, compared with the baseline.
        factors: the varied values by name, for tables; empty if the arms are listed explicitly.
        paired: whether each seed gives it the same windows in the same order as the baseline.
    """

    name: str
    overrides: tuple[str, ...]
    expect: Expectation = "improve"
    factors: Mapping[str, str] = field(default_factory=dict)
    paired: bool = True


@dataclass(frozen=True)
class Cell:
    """One run of a study: an arm with a seed.

    Attributes:
        arm: the arm's name.
        seed: the run's seed.
        run: the run's folder relative to that of all runs, as NAME/FINGERPRINT.
        overrides: arguments of `charlab train` that reproduce this run on its own.
        code: hash of the code that it was planned with; "" if unknown.
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


@dataclass(frozen=True)
class Plan:
    """The plan of a study, saved before its first cell runs.

    Attributes:
        name: name of the study and its folder.
        hypothesis: the sentence to be supported or refuted; "" for a sweep without one.
        baseline: name of the arm that the others are compared with.
        arms: all arms, baseline first.
        cells: arms × seeds, seed by seed, so that a study cut short has complete pairs.
        seeds: seeds that each arm runs with.
        planned_seeds: number of seeds when the first cell ran; a study with more is exploratory.
        looks: number of finished seeds at each report so far, recorded when it changes.
        metric: the metric to compare, lower is better: "nll", in nats per character.
        protocol: the evaluation protocol.
        margin: the smallest difference that matters, in the metric's unit.
        budget: the cost that the arms must share.
        time_limit: seconds after which a cell is stopped; None for no limit.
        fail_fast: whether to start no more cells after the first failure.
        records: folder searched for finished runs, in addition to the output folder.
        command: arguments of `python` that run the study again.
        sweep: whether it is an ordinary sweep, without hypothesis and expectations.
        amendments: one sentence for each change after the first cell ran; a study with any is exploratory.
    """

    name: str
    hypothesis: str
    baseline: str
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    planned_seeds: int
    looks: tuple[int, ...] = ()
    metric: str = "nll"
    protocol: str = "blocks"
    margin: float = 0.01
    budget: Budget = "steps"
    time_limit: float | None = None
    fail_fast: bool = False
    records: str = "records"
    command: str = ""
    sweep: bool = False
    amendments: tuple[str, ...] = ()

    @property
    def exploratory(self) -> bool:
        """Whether the plan changed after the first cell ran or has no hypothesis; verdicts are then only suggestive."""
        return self.sweep or bool(self.amendments) or len(self.seeds) > self.planned_seeds

    @property
    def compares(self) -> bool:
        """Whether arms are compared; a sweep with one seed or one arm is only described."""
        return not self.sweep or min(len(self.arms), len(self.seeds)) > 1

    def continuing(self, former: Plan) -> Plan:
        """Return this plan with the history of a former plan of the same study.

        A plan that shares no run with the former one is a different study, even with the same name.

        Args:
            former: the plan that cells have already been run by.
        """
        if not {cell.run for cell in self.cells} & {cell.run for cell in former.cells}:
            return self
        amendments = (*former.amendments, *_amendments(former, self))
        return replace(
            self,
            planned_seeds=former.planned_seeds,
            looks=former.looks,
            amendments=tuple(dict.fromkeys(amendments)),
        )

    def cell(self, key: str) -> Cell:
        """Return the cell with a key of the form ARM/SEED."""
        return next(cell for cell in self.cells if cell.key == key)

    def arm(self, name: str) -> Arm:
        """Return the arm with that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def save(self, folder: Path) -> None:
        """Write the plan into the study's folder, atomically."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / FILE_NAME, lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read the plan from a study's folder.

        Raises:
            UserError: if the plan does not exist, is corrupt or has another version.
        """
        path = folder / FILE_NAME
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") != FORMAT:
                raise UserError(f"{path} was written by another version of charlab: read it with that one.")
            fields["arms"] = tuple(Arm(**{**arm, "overrides": tuple(arm["overrides"])}) for arm in fields["arms"])
            for cell in fields["cells"]:
                cell.pop("former", None)  # written for a while
            fields["cells"] = tuple(Cell(**{**cell, "overrides": tuple(cell["overrides"])}) for cell in fields["cells"])
            listed = {key: tuple(fields[key]) for key in ("seeds", "looks", "amendments")}
            return cls(**{**fields, **listed})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"There is no study in {folder}: name a folder that holds a {FILE_NAME}.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is corrupt: delete it and give the study's command again.") from error


def _amendments(former: Plan, plan: Plan) -> list[str]:
    """Return a sentence for each changed setting that affects verdicts."""
    said = [
        f"The {name} was {_shown(getattr(former, name))} at first, and is now {_shown(getattr(plan, name))}."
        for name in ("hypothesis", "baseline", "metric", "protocol", "margin", "budget")
        if getattr(former, name) != getattr(plan, name)
    ]
    arms, runs = {arm.name: arm for arm in former.arms}, _runs_by_arm(former)
    for arm in plan.arms:
        before = arms.pop(arm.name, None)
        if before is None:
            said.append(f"The arm {arm.name} was added.")
        elif before.expect != arm.expect:
            said.append(f"The arm {arm.name} was expected to {before.expect} at first, and is now to {arm.expect}.")
        if before is not None and any(_runs_by_arm(plan)[arm.name].get(s, r) != r for s, r in runs[arm.name].items()):
            said.append(f"The arm {arm.name} was changed.")
    return [*said, *(f"The arm {name} was left out." for name in arms)]


def _runs_by_arm(plan: Plan) -> dict[str, dict[int, str]]:
    """Return the runs' folders by arm and seed."""
    return {arm.name: {cell.seed: cell.run for cell in plan.cells if cell.arm == arm.name} for arm in plan.arms}


def _shown(value: object) -> str:
    return f"“{value}”" if isinstance(value, str) else str(value)
