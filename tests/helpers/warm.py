"""Run Python programs in processes of their own that start warm.

A new interpreter imports torch, Lightning and charlab for seconds. `warm(command)` gives a command that runs the same
program in a fork of a server that has imported them; all workers of pytest share one. The program has the arguments,
the environment, the working directory, the files and the signals of the process that asks for it, and ends alone. A
test of how an interpreter starts, of `python`'s own options, or of the ids of processes runs its command as it is.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).with_name("warm_client.py")
SERVER = Path(__file__).with_name("warm_server.py")
FOLDER = "CHARLAB_TESTS_WARM"  # the variable that names the server's folder
STARTED: list[subprocess.Popen] = []  # kept, as it runs on


def warm(command: Sequence[Any]) -> list[str]:
    """Return a command that does what `command`, which begins with this interpreter, does, but starts warm."""
    interpreter, *arguments = map(os.fspath, command)
    assert interpreter == sys.executable, f"{interpreter} is not this interpreter"
    assert arguments[0] in ("-c", "-m") or not arguments[0].startswith("-"), f"{arguments[0]} is the interpreter's own"
    return [interpreter, "-I", "-S", str(CLIENT), _server(), *arguments]


def offer() -> None:
    """Name a folder for the server of this process and its workers. The server ends with this process."""
    if FOLDER not in os.environ:
        folder = os.environ[FOLDER] = tempfile.mkdtemp(prefix="warm")
        os.mkfifo(f"{folder}/alive")
        alive = os.open(f"{folder}/alive", os.O_RDWR)  # whose end the server sees
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(os.close, alive)


@functools.cache
def _server() -> str:
    """Start the server, if no worker has, and return the path of its socket."""
    folder = os.environ[FOLDER]
    with contextlib.suppress(FileExistsError):
        os.mkdir(f"{folder}/asked")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # no pool of threads, which would not survive a fork
        with open(f"{folder}/alive") as alive:
            STARTED.append(subprocess.Popen([sys.executable, SERVER, folder], stdin=alive, env=environment, cwd=folder))
    return f"{folder}/socket"
