"""Part 2 of the results: every family after equal training time, over seeds, with the floor that it has to beat."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from charlab.runs.record import Record
from tools.results import on_machines, row
from tools.results.marks import NONE, Marks

FLOOR = "part2-ngram_kneser_ney"  # what a neural model must beat to be worth its training

# On the same split, in nats per character: system, figure, how it was measured.
PUBLISHED = (
    ("unigram / bigram counts", "3.347 / 2.482", "full validation text"),
    ("Witten–Bell n-grams, order 4 / 5 / 6", "1.774 / 1.669 / 1.698", "full validation text"),
    ("modified Kneser–Ney n-grams, order 5 / 6 / 7 / 8", "1.561 / 1.523 / 1.516 / 1.519", "full validation text"),
    ("nanoGPT, CPU recipe (0.80 M parameters, 2,000 steps)", "1.88", "random windows; its README"),
    ("minGRU / minLSTM / Mamba / transformer, 3 layers of 384", "1.548 / 1.555 / 1.575 / 1.547", "arXiv 2410.01201"),
    ("nanoGPT, GPU recipe (10.65 M parameters, 5,000 steps)", "1.4697", "random windows; its README"),
    ("the same, five seeds", "1.4655 ± 0.0027", "random windows"),
)
PUBLISHED_ONLINE = (("PPMd, order 6", "1.404"), ("zpaq -m5", "1.307"), ("paq8px -8", "1.195"))

STUDIES = {60.0: "table/one_minute", 300.0: "table/five_minutes"}  # seconds of training -> study behind the table

COLUMNS = ("family", "parameters", "characters seen", "training s", "blocks", "bpc", "perplexity", "sliding", "seeds")


def part2(runs: Sequence[Record], others: Sequence[Record] = (), marks: Marks = NONE) -> str:
    """Return the section; "" if there are no trained runs. Other runs are listed too if they were evaluated online."""
    counted = [run for run in runs if run.parameters == 0]
    budgets = sorted({budget for run in runs if run.parameters and (budget := seconds_of(run)) is not None})
    if not budgets:
        return ""
    tables = [
        _table(counted, [run for run in runs if run.parameters and seconds_of(run) == budget], budget, marks)
        for budget in budgets
    ]
    return "\n".join([_INTRODUCTION, *tables, *_online([*runs, *others], marks), *_published()])


def seconds_of(run: Record) -> float | None:
    """Return a run's budget in seconds of training; runs before 2026-11-28 have it among the trainer's settings."""
    budget = run.config.get("budget", run.config["trainer"])["max_seconds"]
    return None if budget is None else float(budget)


def leaders(runs: Sequence[Record], seconds: float = 60.0, number: int = 6) -> list[str]:
    """Return the trained families with the lowest mean nll by blocks after a budget, the best first.

    Families known only by a bound, and those that leak, are not ranked.
    """
    families: dict[str, list[Record]] = defaultdict(list)
    for run in runs:
        if run.parameters and seconds_of(run) == seconds:
            families[run.name.removeprefix("part2-")].append(run)
    ranked = {
        name: _mean(found, "blocks", "nll")
        for name, found in families.items()
        if not (_is_bound(found) or any(run.causality.get("leaks") for run in found))
    }
    return sorted(ranked, key=ranked.__getitem__)[:number]


SHOWN = {  # what the README says of the models in its table
    "ngram_kneser_ney": "counts of 7-grams, no training",
    "hmm": "hidden Markov model, fitted by EM",
    "lstm": "two layers of LSTM",
    "min_gru": "minimal GRU, trained by a parallel scan",
    "s4d": "diagonal state space",
    "mamba": "selective state space",
    "gpt": "transformer",
    "ngram_gpt": "transformer with embedded n-grams",
    "neural_ngram": "transformer mixed with counts of 7-grams",
    "masked_diffusion": "masked diffusion",
    "context_mixing": "counts in many contexts, mixed with an LSTM",
}


def overview(runs: Sequence[Record], marks: Marks = NONE) -> str:
    """Return the README's table: models, their losses after each budget, and online."""
    shown = []
    lines = ["| model | | parameters | one minute | five minutes | online |", "|---|---|---:|---:|---:|---:|"]
    for name, description in SHOWN.items():
        found = [run for run in runs if run.name in (f"part2-{name}", f"online-{name}")]
        if not found:
            continue
        shown += found
        minute, five = ([run for run in found if run.parameters and seconds_of(run) == budget] for budget in STUDIES)
        whole = [run for run in found if not run.parameters or seconds_of(run) is None]  # without a budget
        counted = [run for run in whole if not run.parameters]
        losses = [_loss(minute or counted, "blocks"), _loss(five, "blocks"), _loss(five or whole, "online")]
        size = f"{found[0].parameters:,}" if found[0].parameters else "counts"
        lines.append(row([f"`{name}`{marks.of(found)}", description, size, *losses]))
    return "\n".join([*lines, *marks.sentence(shown)])


def _loss(runs: Sequence[Record], protocol: str) -> str:
    """Return the mean nll of some runs, or – unless all of them have that figure."""
    if not runs or not all(run.has_figure(protocol) for run in runs):
        return "–"
    return f"{_sign(runs)}{_mean(runs, protocol, 'nll'):.3f}"


_INTRODUCTION = """\
## Part 2: the families

Mean over seeds ± standard deviation, after equal training time. *blocks* and *sliding* score every character of the
validation text once: *blocks* in adjacent windows, *sliding* with at least half a window of context, or with all
preceding text where a model's state is unlimited. A figure with ≤ is an upper bound and is not ranked with the others;
it is itself an estimate, with its Monte-Carlo standard error in parentheses.
"""


def _table(counted: Sequence[Record], trained: Sequence[Record], budget: float, marks: Marks) -> str:
    families: dict[str, list[Record]] = defaultdict(list)
    for run in [*counted, *trained]:
        families[run.name].append(run)
    ranked = sorted(families.values(), key=lambda runs: (_is_bound(runs), _mean(runs, "blocks", "nll")))
    lines = [
        f"### After {_duration(budget)}",
        "",
        row(COLUMNS),
        f"|---|{'---:|' * (len(COLUMNS) - 1)}",
        *(_row(runs, marks) for runs in ranked),
        "",
        _verdict(families),
        "",
        f"Trained {on_machines((_label(run.name), run.machine['name']) for runs in ranked for run in runs)}.",
        "",
        *_command(budget),
    ]
    return "\n".join(lines)


def _row(runs: Sequence[Record], marks: Marks) -> str:
    first = runs[0]
    cells = [
        _label(first.name) + (" (the floor)" if first.name == FLOOR else "") + marks.of(runs),
        f"{first.parameters:,}" if first.parameters else "counts",
        f"{statistics.mean(run.characters_seen for run in runs):,.0f}",
        f"{statistics.mean(run.time['training_s'] for run in runs):,.1f}",
        spread(runs, "blocks", "nll", 4),
        f"{_sign(runs)}{_mean(runs, 'blocks', 'bpc'):.4f}",
        f"{_sign(runs)}{_mean(runs, 'blocks', 'perplexity'):.3f}",
        spread(runs, "sliding", "nll", 4),
        str(len(runs)) if first.parameters else "–",
    ]
    return row(cells)


def _verdict(families: dict[str, list[Record]]) -> str:
    """Return which families beat the floor and which do not, in sentences."""
    if FLOOR not in families:
        return "The floor, the Kneser–Ney n-gram, has not been run."
    exact = {name: runs for name, runs in families.items() if runs[0].parameters and not _is_bound(runs)}
    said = []
    for protocol in ("blocks", "sliding"):
        floor = _mean(families[FLOOR], protocol, "nll")
        better = [_label(name) for name, runs in exact.items() if _mean(runs, protocol, "nll") < floor]
        worse = [_label(name) for name, runs in exact.items() if _mean(runs, protocol, "nll") >= floor]
        said.append(
            f"By *{protocol}*, counting n-grams reaches {floor:.3f}. "
            f"Better: {', '.join(better) or 'none'}. Not better: {', '.join(worse) or 'none'}."
        )
    diffusion, transformer = (families.get(f"part2-{name}") for name in ("block_diffusion", "modern_gpt"))
    if diffusion and transformer:
        above = _mean(diffusion, "blocks", "nll") / _mean(transformer, "blocks", "nll") - 1
        said.append(f"Block diffusion is at most {above:.1%} above modern gpt, which has its parts and size.")
    bounds = [_label(name) for name, runs in families.items() if _is_bound(runs)]
    if bounds:
        said.append(f"Known only by an upper bound: {', '.join(bounds)}.")
    return "\n\n".join(said)


def _online(runs: Iterable[Record], marks: Marks) -> list[str]:
    scored: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for run in runs:
        if run.has_figure("online") and run.metric("online")["nll"] is not None:
            scored[_label(run.name), _budget(run)].append(run)
    if not scored:
        return []
    rows = [
        f"| {label}{marks.of(found)} | {budget} | {spread(found, 'blocks', 'nll', 4)} "
        f"| {spread(found, 'online', 'nll', 4)} | {_mean(found, 'online', 'bpc'):.4f} "
        f"| {_mean(found, 'online', 'perplexity'):.3f} | {_rate(found)} "
        f"| {len(found) if found[0].parameters else '–'} |"
        for (label, budget), found in sorted(scored.items(), key=lambda entry: _mean(entry[1], "online", "nll"))
    ]
    return [
        "### Online",
        "",
        "These models keep learning from each block of the validation text once it has been scored, so their figures",
        "cannot be compared with those above. *blocks* is the loss of the same models without that. *rate* is the",
        "learning rate of dynamic evaluation, chosen on held-out train text (`make results ARGS=--rates`); models that",
        "count have their own.",
        "",
        "| model | trained for | blocks | online | bpc | perplexity | rate | seeds |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *rows,
        *(
            row([f"{name} (measured elsewhere)", "–", "–", figure, "–", "–", "–", "–"])
            for name, figure in PUBLISHED_ONLINE
        ),
        "",
    ]


def _rate(runs: Sequence[Record]) -> str:
    rates = sorted({rate for run in runs if (rate := run.metric("online").get("learning_rate")) is not None})
    return ", ".join(f"{rate:g}" for rate in rates) or "–"


def _published() -> list[str]:
    return [
        "### Published figures on this split",
        "",
        "| system | nll | how |",
        "|---|---:|---|",
        *map(row, PUBLISHED),
        "",
    ]


def _command(budget: float) -> list[str]:
    """Return the command that makes the table, where a study is shipped for its budget."""
    study = STUDIES.get(budget)
    return ["```sh", f"charlab train -m study={study}", "```", ""] if study else []


def _mean(runs: Sequence[Record], protocol: str, figure: str) -> float:
    return statistics.mean(_values(runs, protocol, figure))


def _values(runs: Sequence[Record], protocol: str, figure: str) -> list[float]:
    """Return a figure of each run; a record holds null for infinity."""
    figures = [run.metric(protocol)[figure] for run in runs]
    return [math.inf if value is None else value for value in figures]


def spread(runs: Sequence[Record], protocol: str, figure: str, digits: int) -> str:
    """Return the mean of a figure over runs ± its standard deviation; of a bound, also ≤ and its standard error."""
    values = _values(runs, protocol, figure)
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and runs[0].parameters else ""
    errors = [run.metric(protocol).get("standard_error") for run in runs]
    known = [error for error in errors if error is not None]
    error = f" ({max(known):.{digits}f})" if _is_bound(runs) and known else ""
    return f"{_sign(runs)}{statistics.mean(values):.{digits}f}{deviation}{error}"


def _is_bound(runs: Sequence[Record]) -> bool:
    return runs[0].metric("blocks")["likelihood"] == "bound"


def _sign(runs: Sequence[Record]) -> str:
    return "≤ " if _is_bound(runs) else ""


def _label(name: str) -> str:
    return name.removeprefix("part2-").removeprefix("online-").replace("_", " ").replace("-", ", ")


def _budget(run: Record) -> str:
    if not run.parameters:
        return "one pass"
    seconds = seconds_of(run)
    if seconds is not None:
        return _duration(seconds)
    return f"{run.steps:,} steps" if run.steps > 1 else "fitted as a whole"


def _duration(seconds: float) -> str:
    return f"{seconds:g} seconds" if seconds < 120 else f"{seconds / 60:g} minutes"
