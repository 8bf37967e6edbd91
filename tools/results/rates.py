"""Choose the rates of online learning on held-out train text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from charlab.files import write_atomically
from tools.results.make import Maker
from tools.results.wanted import FAMILIES, ONE_MINUTE, RATES, Item, known_rates, wanted

CANDIDATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)
DEV = "data.dev_fraction=0.02"  # as in the mixtures' own runs, which need not be repeated


def choose_rates(maker: Maker, file: Path = RATES) -> None:
    """Choose a rate for each family that has none, by the `online` figures of one run on its dev text.

    The run is the family's first one-minute run, with that dev text. The rate and all figures are kept in the file.

    Raises:
        FailedError: if a run fails; what was chosen before is kept.
    """
    first = {run.name.removeprefix("part2-"): run for run in reversed(wanted([ONE_MINUTE], maker.output_dir))}
    figures = tuple(f"online split=dev learning_rate={rate:g}" for rate in CANDIDATES)
    for family in FAMILIES:
        known = known_rates(file)
        if family in known:
            continue
        item = Item("Rates", (*first[family].overrides, DEV), figures=figures)
        (run,) = wanted([item], maker.output_dir)
        metrics = maker.finish(run).metrics
        dev = {f"{m['learning_rate']:g}": m["nll"] for m in metrics if (m["protocol"], m["split"]) == ("online", "dev")}
        known[family] = {"rate": float(_best(dev)), "dev": dev, "run": run.key, "code": run.code}
        text = json.dumps(known, indent=1, sort_keys=True) + "\n"
        write_atomically(file, lambda opened: opened.write(text.encode()))  # noqa: B023  (it is called at once)
        print(f"{family}: {_best(dev)} of {', '.join(f'{rate} ({nll:.4f})' for rate, nll in dev.items())}", flush=True)


def _best(dev: Mapping[str, float]) -> str:
    return min(dev, key=dev.__getitem__)
