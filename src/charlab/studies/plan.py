"""A study's plan: the question, the arms that answer it, and the cells that have to be run."""

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
        name: unique within the study; fit for a folder.
        overrides: what sets it apart, as on the command line.
        expect: what the hypothesis says that it does, compared with the baseline.
        factors: its values by the names of what is varied, for tables; empty where the arms are written out.
        paired: whether a seed gives it the same windows in the same order as the baseline.
    """

    name: str
    overrides: tuple[str, ...]
    expect: Expectation = "improve"
    factors: Mapping[str, str] = field(default_factory=dict)
    paired: bool = True


@dataclass(frozen=True)
class Cell:
    """An arm with a seed: one run.

    Attributes:
        arm: the arm's name.
        seed: the run's seed.
        run: the run's folder below that of all runs: its name and its fingerprint, with a slash between them.
        overrides: what `scripts/train.py` needs to make this run alone, after the program's name.
        code: the hash of the code that it was planned with; empty if it is not known.
        processes: how many processes train it together; None if that is known only where it runs.
        former: its run's folder by the fingerprint of the first version of charlab, which kept records have; or "".
    """

    arm: str
    seed: int
    run: str
    overrides: tuple[str, ...]
    code: str = ""
    processes: int | None = 1
    former: str = ""

    @property
    def key(self) -> str:
        """What it is called within the study, and its place below the study's folder."""
        return f"{self.arm}/{self.seed}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its run."""
        return self.run.rpartition("/")[2].partition("-")[0]


@dataclass(frozen=True)
class Plan:
    """A study, written down before its first cell runs.

    Attributes:
        name: the study's, and its folder's.
        hypothesis: what is to be supported or refuted, in a sentence; empty where a sweep states none.
        baseline: name of the arm that the others are compared with.
        arms: all of them, the baseline first.
        cells: arms × seeds, seed by seed, so that a study that is cut short has whole pairs.
        seeds: those of each arm.
        planned_seeds: how many there were when the first cell ran; with more, the study is exploratory.
        looks: how many seeds were finished at each report so far, where that had changed.
        metric: what is compared, lower is better: "nll", in nats per character.
        protocol: how it is measured.
        margin: the smallest difference that matters, in the metric's unit.
        budget: what the arms must share.
        time_limit: seconds after which a cell is stopped, or None.
        fail_fast: whether no further cell is begun once one has failed.
        records: folder in which finished runs are looked for besides those of the output folder.
        command: what makes the study again, after `python`.
        sweep: whether it was made of an ordinary sweep, which states neither hypothesis nor expectation.
        amendments: what was decided anew after the first cell ran, a sentence each; such a study is exploratory.
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
        """Whether anything was decided after the first cell ran, or no hypothesis stated: verdicts are then hints."""
        return self.sweep or bool(self.amendments) or len(self.seeds) > self.planned_seeds

    @property
    def compares(self) -> bool:
        """Whether arms are compared; an ordinary sweep with one seed, or over nothing but seeds, is only described."""
        return not self.sweep or min(len(self.arms), len(self.seeds)) > 1

    def continuing(self, former: Plan) -> Plan:
        """Return this plan with what `former`, of the same study, knows of its past.

        A plan that shares no run with the former one is another study, whatever its name.

        Args:
            former: the plan by which cells have been run already.
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
        """Return the cell of that key: the arm's name and the seed, with a slash between them."""
        return next(cell for cell in self.cells if cell.key == key)

    def arm(self, name: str) -> Arm:
        """Return the arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def save(self, folder: Path) -> None:
        """Write the plan into the study's folder, atomically."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / FILE_NAME, lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read the plan in a study's folder.

        Raises:
            UserError: if there is none, or it is corrupt or of another version.
        """
        path = folder / FILE_NAME
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") != FORMAT:
                raise UserError(f"{path} was written by another version of charlab: read it with that one.")
            fields["arms"] = tuple(Arm(**{**arm, "overrides": tuple(arm["overrides"])}) for arm in fields["arms"])
            fields["cells"] = tuple(Cell(**{**cell, "overrides": tuple(cell["overrides"])}) for cell in fields["cells"])
            listed = {key: tuple(fields[key]) for key in ("seeds", "looks", "amendments")}
            return cls(**{**fields, **listed})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"There is no study in {folder}: name a folder that holds a {FILE_NAME}.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is corrupt: delete it and give the study's command again.") from error


def _amendments(former: Plan, plan: Plan) -> list[str]:
    """Return a sentence for each thing that decides verdicts and is no longer as it was."""
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
    """Return the folder of each run, by arm and seed."""
    return {arm.name: {cell.seed: cell.run for cell in plan.cells if cell.arm == arm.name} for arm in plan.arms}


def _shown(value: object) -> str:
    return f"“{value}”" if isinstance(value, str) else str(value)
