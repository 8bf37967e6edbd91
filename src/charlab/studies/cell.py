"""Run one cell in its own process: `python -m charlab.studies.cell FILE` trains the configuration in the cell's file.

The file contains everything that the process needs, so it can run on any machine with access to the same folders.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from charlab.configuration.messages import exit_code
from charlab.configuration.overrides import escape_interpolations
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.notebook import replace_missing_characters
from charlab.runs.definitions import extract, import_into_main, names_of_run


def write_cell(
    file: Path,
    config: Mapping[str, Any],
    folder: Path,
    overrides: Sequence[str],
    code: str = "",
    protocol: str = "blocks",
    split: str = "validation",
    *,
    sampled: bool = False,
) -> None:
    """Write the file of a cell.

    Args:
        file: where to write it.
        config: the run's configuration as plain dictionaries and lists, without Hydra's node.
        folder: the run's folder.
        overrides: overrides that reproduce the run on its own, for its record.
        code: hash of the code that the cell was planned with; "" if any code may run it.
        protocol: the evaluation protocol of the study; figures by `blocks` are computed in any case.
        split: the part of the text that the study or search compares.
        sampled: whether to sample a text at the end, for the report.
    """
    at_end = [*(["sliding"] if protocol == "sliding" else []), *(["samples"] if sampled else [])]
    described = {
        "folder": str(folder.absolute()),
        "code": code,
        "protocol": protocol,
        "split": split,
        "at_end": at_end,
        "definitions": extract(names) if (names := names_of_run(config)) else "",
        "overrides": list(overrides),
        "working_folder": os.getcwd(),
        "python_path": [os.path.abspath(entry) for entry in sys.path],
        "config": escape_interpolations(config),
    }
    text = yaml.dump(described, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    write_atomically(file, lambda stream: stream.write(text.encode()))


def read_cell(file: Path) -> dict[str, Any]:
    """Return what `write_cell` wrote."""
    return yaml.load(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def run(file: Path) -> int:
    """Train the configuration in a cell's file; return the exit code."""
    described = read_cell(file)
    config, folder = OmegaConf.create(described["config"]), Path(described["folder"])
    replace_missing_characters()
    study = file.absolute().parents[2].name
    sys.path[:] = described["python_path"]
    os.chdir(described["working_folder"])
    try:
        from charlab.runs.identity import identify
        from charlab.runs.train import train
        from charlab.training.callbacks.divergence import DivergedError
        from charlab.training.trackers import STUDY

        os.environ[STUDY] = study  # trackers group its runs
        if described["definitions"]:
            import_into_main(described["definitions"], folder)
        identity = identify(config)
        if identity.fingerprint != folder.name.partition("-")[0]:
            raise UserError(
                "The run would not be the one that was planned: did the text change, or was the study planned on a "
                "machine with another kind of device? Then set trainer.precision, and run the study's command again."
            )
        if described["code"] not in ("", identity.code):
            raise UserError(
                f"The code of this run was edited after its study was planned (it was {described['code']}, and is "
                f"{identity.code}): run the study's command again."
            )
        try:
            config.at_end = [*config.get("at_end", []), *described["at_end"]]
            record = train(config, folder, described["overrides"])
            if record.status == "finished":  # only the first of several processes finishes the run
                record.metric(described["protocol"], described.get("split", "validation"), trust=True)
        except DivergedError as error:
            print(error, file=sys.stderr)
            return 1
    except (KeyboardInterrupt, Exception) as error:
        return exit_code(error)
    return 0


def exit_with(wait_for_end: Callable[[], object]) -> None:
    """Call `wait_for_end` in a thread; when it returns, kill this process, and its process group if it leads one."""

    def watch() -> None:
        wait_for_end()
        if os.name == "posix" and os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-watcher", daemon=True).start()


def exit_with_watcher() -> None:
    """Exit when standard input closes, which it does however the watching process ends."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):  # otherwise a user typed the command, and no process watches
        exit_with(lambda: all(iter(lambda: os.read(0, 4096), b"")))


if __name__ == "__main__":
    exit_with_watcher()
    atexit.register(gc.freeze)  # as in cli
    sys.exit(run(Path(sys.argv[1])))
