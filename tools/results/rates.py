"""Choose the rates of online learning on held-out train text."""

from __future__ import annotations

from pathlib import Path

from tools import read_json, write_json
from tools.results.make import Maker
from tools.results.wanted import FAMILIES, ONE_MINUTE, RATES, Item, wanted

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
        known = read_json(file)
        if family in known:
            continue
        item = Item("Rates", (*first[family].overrides, DEV), figures=figures)
        (run,) = wanted([item], maker.output_dir)
        metrics = maker.finish(run).metrics
        dev = {f"{m['learning_rate']:g}": m["nll"] for m in metrics if (m["protocol"], m["split"]) == ("online", "dev")}
        best = min(dev, key=dev.__getitem__)
        known[family] = {"rate": float(best), "dev": dev, "run": run.key, "code": run.code}
        write_json(file, known)
        print(f"{family}: {best} of {', '.join(f'{rate} ({nll:.4f})' for rate, nll in dev.items())}", flush=True)
