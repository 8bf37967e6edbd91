"""Every run that the documents show, the most important first: in the order in which a reader meets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from charlab.configuration.compose import Composer, leave_out_sweep, resolve_values
from charlab.configuration.sources import hydra_config
from charlab.runs.identity import identify
from charlab.studies.definition import define
from charlab.studies.planner import Planner, find_cells
from tools import read_json

SEEDS = (305, 306, 307)
PART1 = ("bigram", "bigram_embedding", "single_head", "multi_head")
MINUTES_OF_MIXING = 45.0  # to fit context mixing on one core (1,420 s), and to score the validation text (1,303 s)
COUNTED = ("ngram_kneser_ney", "ngram_witten_bell")  # they draw nothing at random, so one seed is enough
FAMILIES = ("neural_ngram", "lstm", "ensemble", "min_gru", "ngram_gpt", "rnn")  # scored while they keep learning
RATES = Path(__file__).parents[2] / "records" / "online_rates.json"  # of these families; see `tools.results.rates`
STUDIES = ("position", "heads", "optimizer", "families", "wrong_axis")  # in docs/studies; the README tells of the first


@dataclass(frozen=True)
class Item:
    """One or more runs of the list.

    Attributes:
        group: the part of the documents that shows them.
        overrides: the arguments of `charlab train`; empty for a study.
        study: name of the study whose cells they are; "" for a single run.
        figures: the figures that are shown, besides the estimate and `blocks`: each a protocol, with further arguments
            of `charlab evaluate` if any, such as "online learning_rate=0.0002".
        online: whether to show the figure `online` of each of a study's families that has a rate.
        seconds: how long a run takes, if neither a record nor its budget tells.
    """

    group: str
    overrides: tuple[str, ...] = ()
    study: str = ""
    figures: tuple[str, ...] = ()
    online: bool = False
    seconds: float | None = None


ONE_MINUTE = Item("Part 2: one minute", study="table/one_minute", figures=("sliding",))
FIVE_MINUTES = Item("Part 2: five minutes", study="table/five_minutes", figures=("sliding",), online=True)


def _items() -> Iterator[Item]:
    ladder, losses = "Part 1: the ladder", "A loss within a time"
    # README.md
    yield Item("Quickstart", ("experiment=quickstart",), figures=("sliding",))
    transformer = (
        "experiment=part1/transformer",
        "trainer.precision=bf16-mixed",
        "estimate_batches=25",
        "at_end=[samples]",
    )
    yield Item("Part 1: the transformer to its end", transformer)
    yield ONE_MINUTE
    yield FIVE_MINUTES
    for seed in SEEDS:
        mixing = ("experiment=online/context_mixing", f"seed={seed}")
        yield Item("Online", mixing, figures=("online",), seconds=60 * MINUTES_OF_MIXING)
    yield Item(losses, ("experiment=benchmark/one_hour",), figures=("sliding",))
    # docs/results.md
    for name in PART1:
        yield Item(ladder, (f"experiment=part1/{name}",))
    yield Item(ladder, ("experiment=part1/wrong_axis",))
    yield Item(ladder, ("experiment=part1/long", "compute.threads=1"))
    half_an_hour = ("experiment=part2/masked_diffusion", "compute.threads=2", "budget.max_seconds=1800")
    yield Item("Part 2: half an hour of diffusion", half_an_hour, figures=("sliding",))
    for name in ("four_minutes", "ten_minutes"):
        yield Item(losses, (f"experiment=benchmark/{name}",), figures=("sliding",))
    # docs/track.md and docs/studies
    for name in ("track", "track_counts"):
        for seed in SEEDS:
            yield Item("The track", (f"experiment=benchmark/{name}", f"seed={seed}"), figures=("sliding",))
    for name in STUDIES:
        yield Item(f"Study: {name}", study=name)


LIST = tuple(_items())


@dataclass(frozen=True)
class Wanted:
    """A run that the documents show, as today's configuration and code define it.

    Attributes:
        group: the part of the documents that shows it.
        name: the run's name.
        seed: the run's seed.
        fingerprint: its fingerprint.
        code: hash of today's code for it.
        overrides: the arguments of `charlab train` that make it.
        figures: see `Item`.
        seconds: how long it is expected to take, if no record tells; None if unknown.
    """

    group: str
    name: str
    seed: int
    fingerprint: str
    code: str
    overrides: tuple[str, ...]
    figures: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def key(self) -> str:
        """NAME/FINGERPRINT."""
        return f"{self.name}/{self.fingerprint}"

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def wanted(items: Sequence[Item], output_dir: Path) -> list[Wanted]:
    """Return the runs of a list, each once, with their identities; a study looks for its runs in the output folder.

    Raises:
        UserError: if a configuration does not compose, or its corpus cannot be found.
    """
    composer, found = Composer(), dict[str, Wanted]()
    for item in items:
        for run in _cells(item, composer, output_dir) if item.study else [_single(item, composer)]:
            found.setdefault(run.key, run)
    return list(found.values())


def _single(item: Item, composer: Composer) -> Wanted:
    config = composer.job(composer.prepare(item.overrides), build=False)
    with hydra_config(config):
        resolve_values(config)
        leave_out_sweep(config)
        identity = identify(config)
    seconds = item.seconds or config.budget.max_seconds
    about = (identity.fingerprint, identity.code, item.overrides, item.figures, seconds)
    return Wanted(item.group, config.name, config.seed, *about)


def _cells(item: Item, composer: Composer, output_dir: Path) -> Iterator[Wanted]:
    """Yield the cells of a shipped study, each as a single run."""
    rates = read_json(RATES) if item.online else {}
    definition = define(composer.master([f"study={item.study}"]).study, item.study)
    planner = Planner(definition, composer, [])
    for arm in definition.arms:
        overrides = planner.overrides(arm)
        config = composer.job([*overrides, *composer.prepare([f"output_dir={output_dir}"])], build=False)
        with hydra_config(config):
            resolve_values(config)
        seeds = definition.seeds[:1] if arm.name in COUNTED else definition.seeds
        figures = item.figures
        if arm.name == "ngram_kneser_ney" and figures:
            figures = (*figures, "online")
        if arm.name in rates:
            figures = (*figures, f"online learning_rate={rates[arm.name]['rate']:g}")
        for cell in find_cells(arm.name, config, seeds, overrides, (), []):
            about = (cell.fingerprint, cell.code, cell.overrides, figures, config.budget.max_seconds)
            yield Wanted(item.group, config.name, cell.seed, *about)
