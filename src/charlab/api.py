"""charlab in Python and in notebooks: what `charlab.run` and `charlab.load` do."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf, open_dict

from charlab.configuration.compose import check_output_folder, compose, hydra_config, leave_out_sweep
from charlab.runs.checkpoint import load
from charlab.runs.record import Record
from charlab.runs.store import answer
from charlab.runs.train import train

__all__ = ["load", "run"]


def run(*overrides: str) -> Record:
    """Trains and evaluates one model, as `python scripts/train.py OVERRIDES` does, and returns the run's record.

    Args:
        overrides: what would stand on the command line, one string each.

    Raises:
        UserError: if an override is wrong; nothing has been written then.
        DivergedError: if the loss stops being a number.
    """
    config = compose(overrides, return_hydra_config=True)
    check_output_folder(config, sweep=False)
    with hydra_config(config):
        folder = Path(config.hydra.run.dir)
        finished = answer(config, folder)
        if finished is not None:
            return finished
        parts = {"config": {key: config[key] for key in config if key != "hydra"}, "hydra": {"hydra": config.hydra}}
        described = folder / ".hydra"
        described.mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            OmegaConf.save(part, described / f"{name}.yaml")
        OmegaConf.save(list(overrides), described / "overrides.yaml")
    with open_dict(config):
        del config["hydra"]
    leave_out_sweep(config)
    return train(config, folder, overrides)
