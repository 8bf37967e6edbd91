"""How a study was done, what it leaves open, and how to run it again."""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlab.command import command
from charlab.configuration.overrides import quoted_if_needed, translate
from charlab.quantities import UNKNOWN, count, joined
from charlab.runs.identity import CHARACTERS
from charlab.studies.costs import BY_BUDGET, COSTS
from charlab.studies.report.literature import Citation
from charlab.studies.report.tables import NOTHING, Table, entry
from charlab.studies.report.tuning import tuning_method

if TYPE_CHECKING:
    from charlab.runs.record import Record
    from charlab.studies.plan import Plan
    from charlab.studies.state import StudyResults
    from charlab.studies.verdicts import Comparison

_PROTOCOLS = {
    "blocks": "every character of the validation text once, in adjacent windows",
    "sliding": "every character of the validation text once, in overlapping windows",
    "estimate": "random windows of the validation text",
}
_TIMES = {"steps_to": "number of optimizer steps", "seconds_to": "time of training, in seconds,"}
# An absolute path, of POSIX or Windows, of at least two parts; the lookbehind spares addresses and parts of paths.
_ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~…-])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s/\\:'\",;()]+[\\/])+[^\s/\\:'\",;()]*")


def method(
    plan: Plan, records: list[Record], comparisons: Mapping[str, Comparison], citations: Sequence[Citation]
) -> list[str]:
    """Return how the study was done, according to its plan, records and comparisons."""
    sentences = []
    texts = {f"{record.corpus.get('name')} ({record.corpus.get('characters', 0):,} characters)" for record in records}
    if texts:
        sentences.append(f"The models predict the next character of {joined(sorted(texts))}.")
    data = [record.config.get("data", {}) for record in records]
    settings = {(values.get("context_length"), values.get("batch_size"), _unit(values)) for values in data}
    if len(settings) == 1 and None not in (setting := settings.pop()):
        sentences.append(f"A batch contains {setting[1]} windows of {setting[0]} {setting[2]}.")
    named: dict[str, list[str]] = {}
    for citation in citations:
        named.setdefault(citation.method, []).append(citation.source.cited)
    if methods := [f"{name} ({', '.join(cited)})" for name, cited in sorted(named.items()) if name]:
        sentences.append(f"Methods from the literature: {joined(methods, most=100)}.")
    if records:
        sentences.append(f"The cells ran on {joined(sorted({_machine(record) for record in records}))}.")
    sentences.append(
        "The metric is the mean negative log-likelihood, in nats per character, over "
        f"{_PROTOCOLS.get(plan.protocol, plan.protocol)} (protocol “{plan.protocol}”), with the final weights."
        if plan.target is None
        else f"The metric is the {_TIMES[plan.metric]} until the estimate on random windows of the validation text "
        f"first reaches {plan.target:g} nats per character, interpolated linearly between evaluations. A cell that "
        "ends before that counts as later than any that does not, and an arm gains nothing from having been trained "
        "for longer."
    )
    if plan.planned_looks:
        sentences += _looks(plan, comparisons)
    else:
        seeds = f"seed, {plan.seeds[0]}"
        if len(plan.seeds) > 1:
            ordered = plan.seeds == tuple(range(plan.seeds[0], plan.seeds[0] + len(plan.seeds)))
            which = f"starting at {plan.seeds[0]}" if ordered else joined([str(seed) for seed in plan.seeds], most=100)
            seeds = f"{len(plan.seeds)} seeds, {which}"
        sentences.append(f"Every arm was trained with the same {seeds}.")
    sentences += tuning_method(plan)
    if plan.kind == "scaling":
        sentences.append(
            f"A power law with an offset over {COSTS[plan.against].heading} is fitted to all sizes but "
            f"{plan.held_out}, and tested on it. The prediction interval must be narrower than {plan.margin:g} nats "
            "per character (the margin)."
        )
    if plan.compares:
        sentences.append(f"The arms must match the baseline's {COSTS[BY_BUDGET[plan.budget]].shared}.")
        if all(arm.paired for arm in plan.arms):
            sentences.append(
                "A seed gives all arms the same windows in the same order, so differences are taken seed by seed."
            )
        margin = f"{plan.margin:g} nats per character" if plan.target is None else f"a factor of {plan.margin:g}"
        sentences.append(f"The smallest difference that matters (the margin) is {margin}.")
    return sentences


def settings_table(results: StudyResults) -> Table | None:
    """Return what each arm was trained with, by its first finished run if it has any; None if unknown."""
    rows = []
    units: set[str] = set()
    for arm in results.plan.arms:
        ordered = sorted(results.of(arm.name), key=lambda result: result.status != "finished")  # else of fewer steps
        record = next((r.record for r in ordered if r.record is not None and r.record.config), None)
        if record is None or "model" not in record.config:
            continue
        config, data = record.config, record.config["data"]
        units.add(_unit(data))
        trained = config if record.parameters else {}  # counting has no use for the optimizer that is configured
        rate = trained["optimizer"].get("lr") if trained.get("optimizer") else None
        rows.append(
            (
                entry(arm.name),
                entry(_described(config["model"])),
                entry(f"{record.parameters:,}" if record.parameters else "counts only", record.parameters),
                entry(_named(trained.get("optimizer"))),
                NOTHING if rate is None else entry(f"{rate:g}", rate),
                entry(_named(trained.get("scheduler"))),
                entry(f"{record.steps:,}", record.steps),
                entry(f"{data.get('batch_size')} × {data.get('context_length')}"),
            )
        )
    headings = ("arm", "model", "parameters", "optimizer", "rate", "schedule", "steps", "batch")
    left = ("arm", "model", "optimizer", "schedule")
    unit = "tokens" if "tokens" in units else "characters"
    caption = f"What each arm was trained with. Batch: windows × {unit}."
    return Table("settings", caption, headings, tuple(rows), left) if rows else None


def _unit(data: Mapping[str, Any]) -> str:
    """Return what the length of a window counts: characters, or tokens of another kind."""
    target = (data.get("tokenizer") or {}).get("_target_", CHARACTERS)
    return "characters" if target == CHARACTERS else "tokens"


def _described(model: Mapping[str, Any]) -> str:
    """Return the name of a model with its parts and sizes."""
    parts = [_named(node) for node in model.values() if isinstance(node, dict) and "_target_" in node]
    parts = [part for part in parts if part[:1].isupper()]  # modules, not functions such as the initialization
    nodes = [model, *(node for node in model.values() if isinstance(node, dict))]
    sizes = [
        f"{key} {value}"
        for node in nodes
        for key, value in node.items()
        if isinstance(value, int) and not isinstance(value, bool) and key != "context_length"
    ]
    return "; ".join(filter(None, [" + ".join([_named(model), *parts]), ", ".join(sizes)]))


def _named(node: Mapping[str, Any] | None) -> str:
    return str(node["_target_"]).rpartition(".")[2] if node and "_target_" in node else UNKNOWN


def _looks(plan: Plan, comparisons: Mapping[str, Comparison]) -> list[str]:
    """Return when the study was looked at, and what that saved."""
    looks = joined([f"{look}" for look in plan.planned_looks])
    sentences = [
        f"Looks at the results were planned after {looks} seeds, starting at seed {plan.seeds[0]}. The looks share the "
        "error rates in proportion to their seeds (Kim and DeMets 1987), and the intervals hold at all looks together "
        "(Jennison and Turnbull 1989)."
    ]
    settled: dict[int, list[str]] = {}
    for arm, comparison in comparisons.items():
        if comparison.verdict not in ("inconclusive", "none"):
            settled.setdefault(len(comparison.seeds), []).append(arm)
    if settled:
        when = joined([f"{joined(arms)} after {seeds} seeds" for seeds, arms in sorted(settled.items())])
        sentences.append(f"An arm takes no part in looks after the one that settles it: {when}.")
    if saved := _saved(plan, comparisons):
        sentences.append(f"That saved {saved} of {len(plan.cells)} cells.")
    return sentences


def _saved(plan: Plan, comparisons: Mapping[str, Comparison]) -> int:
    """Return how many cells planned looks made unnecessary."""
    left = [0 if c.verdict == "inconclusive" else len(plan.seeds) - len(c.seeds) for c in comparisons.values()]
    return sum(left) + min(left, default=0)  # the baseline runs as long as any arm


def limits(results: StudyResults, records: list[Record], comparisons: Mapping[str, Comparison]) -> Iterator[str]:
    """Yield what the study leaves open, according to its plan, records and comparisons."""
    plan = results.plan
    if texts := sorted({f"{record.corpus.get('name')}" for record in records}):
        yield f"Text: only {joined(texts)}, whose validation split is a small sample of such text."
    larger = ", or about models larger than the one held out" if plan.kind == "scaling" else " or larger models"
    yield f"Size: nothing is shown about longer training{larger}."
    if len(plan.seeds) == 1:
        yield "Seeds: there is only one, so differences between arms may be due to chance."
    else:
        yield "Seeds: they vary the initial weights, the order of the windows and dropout, and nothing else."
    if any(arm.tuned for arm in plan.arms):
        yield "Settings: verdicts are conditional on the chosen values; a longer search may choose others."
    else:
        yield (
            "Settings: this report cannot tell how the settings shared by all arms (such as the learning rate) were "
            "chosen; settings tuned for one arm favor it."
        )
    if _saved(plan, comparisons) and plan.planned_looks:
        yield (
            "Looks: an arm is settled early when its mean happens to be far from the limit, so the mean of such an arm "
            "is biased away from it; the interval is valid."
        )
    if plan.budget == "seconds" or plan.metric == "seconds_to":
        machines = joined(sorted({_machine(record) for record in records})) or "one machine"
        yield f"Clock: equal seconds on {machines} are not equal seconds on another machine."
    if plan.metric == "seconds_to":
        most = results.most_at_once()
        ran = "is not known" if most is None else f"was {most}, each on cores of its own" if most > 1 else "was one"
        yield f"Clock: the number of cells that ran at once on a machine {ran}."
    if _ran_different_code(records):
        yield "Code: the cells were not all run by the same code."


def _ran_different_code(records: list[Record]) -> bool:
    """Return whether any module differed between two cells; one that only some cells import does not count."""
    if not all(record.sources for record in records):
        return len({record.code for record in records}) > 1
    digests: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for name, digest in record.sources.items():
            digests[name].add(digest)
    return any(len(found) > 1 for found in digests.values())


def environment(records: list[Record]) -> dict[str, str]:
    """Return what the cells ran on: every value that occurred, the most frequent first."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        code, commit = record.code or "unknown", record.git_commit or "unknown"
        for name, value in {"machine": _machine(record), **record.versions, "code": code, "commit": commit}.items():
            kinds[name][value] += 1
    return {name: joined([value for value, _ in counts.most_common()]) for name, counts in kinds.items()}


def _machine(record: Record) -> str:
    machine = record.machine
    threads = f", {count(machine['threads'], 'thread')}" if machine.get("device") == "cpu" else ""
    return f"{machine.get('name')} ({machine.get('device')}{threads}, {machine.get('precision')})"


def commands(results: StudyResults) -> dict[str, str]:
    """Return the commands that repeat the study, this report and a run of each arm, by purpose.

    They work as printed in the working folder, to which their paths are relative.
    """
    plan = results.plan
    found = {}
    if plan.command:
        again = train_command(shlex.split(plan.command.removeprefix("scripts/train.py ")))
        whole = f"The whole {'sweep' if plan.sweep else 'study'}"
        found[f"{whole}; finished runs are not repeated"] = again
        if any(result.older for result in results.cells):
            found[f"{whole}; runs by older code are repeated"] = f"{again} study.rerun=older"
    report = [f"study={plan.name}"]
    output_dir = relative(f"{results.folder.parents[1]}")
    if output_dir != "outputs":
        report.append(f"output_dir={quoted_if_needed(output_dir)}")
    found["This report"] = command("report", *report)
    for arm in plan.arms:
        found[f"One cell of {arm.name}"] = train_command(next(c.overrides for c in plan.cells if c.arm == arm.name))
    return found


def train_command(words: Sequence[str]) -> str:
    """Return the command that trains with overrides, by their current names even if the plan has older ones."""
    return relative(command("train", *translate(words)[0]))


def relative(text: str) -> str:
    """Return a text with the paths below the working folder relative to it."""
    return text.replace(f"{Path.cwd()}/", "")


def without_paths(text: str) -> str:
    """Return a text with absolute paths, which would identify the machine, cut to their last parts."""

    def cut(match: re.Match[str]) -> str:
        parts = [part for part in re.split(r"[\\/]", match[0]) if part and part != "~" and not part.endswith(":")]
        return "/".join(["…", *parts[-2 if len(parts) > 3 else -1 :]])  # of /home/NAME/file, one

    return _ABSOLUTE_PATH.sub(cut, text)
