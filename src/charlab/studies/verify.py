"""Check a run, or a study with all its runs, without trusting them: `charlab verify`."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from charlab.command import command, split_options
from charlab.configuration.messages import nearest
from charlab.errors import UserError
from charlab.quantities import count, joined
from charlab.runs.record import Record
from charlab.runs.store import Store
from charlab.runs.verify import Finding, RunToVerify, verify_run
from charlab.studies.display import status_counts
from charlab.studies.plan import FILE_NAME, Plan
from charlab.studies.state import StudyResults, read_results

OPTIONS = {"output_dir": "outputs", "data.path": "", "quick": "false", "trust": "false"}
MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "dim")}
USAGE = """\
charlab verify RUN      check a finished run: its settings, code and text, its
                        figures, its weights by scoring the validation text
                        again, that probabilities add up to 1, and causality
charlab verify STUDY    check the plan, seeds, pairs and budget of a study, and
                        each of its finished runs

A run is named by its folder, or by the beginning of its fingerprint; a study by
its name. Each check is a line: ✓ holds, ✗ does not, – cannot be checked. The
exit code is 1 if any does not hold.

Options: output_dir=outputs, quick=true (leave out what needs the weights),
data.path=FILE (where the text is now), trust=true (run code that the run's
folder holds)."""


def verify_named(
    name: str, output_dir: Path, *, scoring: bool = True, path: str | None = None, trust: bool = False
) -> Iterator[Finding]:
    """Yield the finding of each check of a run or study.

    Args:
        name: folder of a run, beginning of its fingerprint, or name of a study.
        path: where the file of the text is now; None for where it was.
        trust: whether code that the folders of runs hold may run.
    """
    studies = output_dir / "studies"
    for folder in (Path(name), studies / name):
        if (folder / FILE_NAME).is_file():
            results = read_results(Plan.load(folder), output_dir)
            finished = [result for result in results.cells if result.status == "finished"]
            known = {result.cell.key: result.record for result in finished if result.record is not None}
            yield from _study_findings(results, known)
            yield from _cell_findings(known, scoring, path, trust)
            return
    try:
        record = Record.load(Store(output_dir).named(name))
    except UserError as error:
        names = sorted(found.parent.name for found in studies.glob(f"*/{FILE_NAME}"))
        raise UserError(f"{str(error).rstrip('.')}, and there is no study {name}{nearest(name, names)}") from None
    if record.status != "finished":
        raise UserError(f"The run {name} is {record.status}: only a finished run has figures to verify.")
    yield from verify_run(RunToVerify(record, path, trust), scoring=scoring)


def _study_findings(results: StudyResults, known: Mapping[str, Record]) -> Iterator[Finding]:
    """Yield the findings that concern a study as a whole, given the records of its finished cells."""
    plan = results.plan
    yield Finding("cells", True if results.finished else None, status_counts(results))
    others = [key for key, record in known.items() if not _is_planned(plan, key, record)]
    said = f"not the planned run: {joined(others)}" if others else "each record has the planned fingerprint and seed"
    yield Finding("plan", not others, said)
    keys, runs = Counter(cell.key for cell in plan.cells), Counter(cell.run for cell in plan.cells)
    twice = [cell.key for cell in plan.cells if keys[cell.key] > 1 or runs[cell.run] > 1]
    yield Finding("seeds", not twice, f"used twice: {joined(twice)}" if twice else "no seed is used twice in an arm")
    yield _pairing(plan, known)
    yield _budget(results, known)


def _is_planned(plan: Plan, key: str, record: Record) -> bool:
    cell = plan.cell(key)
    known = {record.fingerprint, *(entry.get("fingerprint") for entry in record.requalified)}
    return cell.fingerprint in known and cell.seed == record.seed == record.config.get("seed", record.seed)


def _pairing(plan: Plan, records: Mapping[str, Record]) -> Finding:
    """Return whether all arms of a seed saw the same windows of the same text, and were scored on the same."""
    apart: list[str] = []
    pairs = 0
    for seed in plan.seeds:
        pair = {arm.name: records[f"{arm.name}/{seed}"] for arm in plan.arms if f"{arm.name}/{seed}" in records}
        base = pair.pop(plan.baseline, None)
        pairs += len(pair) if base else 0
        apart += [f"{name}/{seed}" for name, other in pair.items() if base and _windows(other) != _windows(base)]
    if not pairs:
        return Finding("pairing", None, "no seed has finished cells of the baseline and another arm")
    if not apart:
        return Finding("pairing", True, "each seed gave all arms the same windows of the same text")
    planned = {arm.name for arm in plan.arms if not arm.paired}
    known = all(key.partition("/")[0] in planned for key in apart)
    said = f"other windows or another text than the baseline's: {joined(apart)}"
    return Finding("pairing", None if known else False, f"{said}{', as the plan says' if known else ''}")


def _budget(results: StudyResults, records: Mapping[str, Record]) -> Finding:
    """Return whether the arms that have finished cells share the declared budget, as the report says."""
    plan, finished = results.plan, {key.partition("/")[0] for key in records}
    if not plan.compares and plan.kind != "scaling":
        return Finding("budget", None, "nothing is compared, so nothing has to be equal")
    if len(finished) < 2 or plan.baseline not in finished:
        return Finding("budget", None, "the baseline and another arm need finished cells")
    mismatch = results.mismatch()
    return Finding("budget", mismatch is None, mismatch or f"all arms have equal {plan.budget}")


def _windows(record: Record) -> dict[str, Any]:
    """Return what decides which windows a run saw, and which text it was scored on."""
    data = {key: value for key, value in record.config.get("data", {}).items() if key not in ("path", "corpus")}
    return data | {"text": record.corpus.get("sha256")}


def _cell_findings(known: Mapping[str, Record], scoring: bool, path: str | None, trust: bool) -> Iterator[Finding]:
    """Yield each check of a run once, with what it found in all finished cells."""
    found: dict[str, dict[str, Finding]] = defaultdict(dict)
    for key, record in known.items():
        for finding in verify_run(RunToVerify(record, path, trust), scoring=scoring):
            found[finding.name][key] = finding
    for name, by_cell in found.items():
        wrong = [f"{key}: {finding.text}" for key, finding in by_cell.items() if finding.passed is False]
        unknown = [finding.text for finding in by_cell.values() if finding.passed is None]
        if wrong:
            cells = count(len(by_cell), "cell")
            yield Finding(name, False, f"wrong in {len(wrong)} of {cells}: {'; '.join(wrong[:3])}")
        elif len(unknown) == len(by_cell):
            yield Finding(name, None, unknown[0])
        else:
            rest = f"; not checked in {len(unknown)}: {unknown[0]}" if unknown else ""
            yield Finding(name, True, f"right in {len(by_cell) - len(unknown)} of {count(len(by_cell), 'cell')}{rest}")


def verify(arguments: Sequence[str], console: Console | None = None) -> int:
    """Run `charlab verify` with these arguments and return the exit code: 1 if anything is wrong."""
    console = console or Console(width=None if sys.stdout.isatty() else 200)
    if {"--help", "-h"} & set(arguments):
        console.print(USAGE.replace("charlab verify", command("verify")), markup=False, highlight=False)
        return 0
    options, rest = split_options(arguments, OPTIONS)
    names = []
    for argument in rest:
        key, separator, value = argument.partition("=")
        if separator and key not in ("run", "study"):
            raise UserError(f"verify has no option {key}{nearest(key, OPTIONS)}")
        names.append(value if separator else key)
    if len(names) != 1:
        raise UserError(f"verify takes one run or study, not {len(names)}: {command('verify', 'RUN')}.")
    failed = False
    for finding in verify_named(
        names[0],
        Path(options["output_dir"]),
        scoring=options["quick"].lower() != "true",
        path=options["data.path"] or None,
        trust=options["trust"].lower() == "true",
    ):
        mark, style = MARKS[finding.passed]
        name = Text.assemble((mark, style), f" {finding.name:<13}")
        if console.is_terminal:  # a long text wraps under itself
            row = Table.grid(padding=(0, 1))
            row.add_column(no_wrap=True)
            row.add_row(name, Text(finding.text))
            console.print(row)
        else:
            console.print(Text.assemble(name, " ", finding.text), soft_wrap=True)
        failed |= finding.passed is False
    return int(failed)
