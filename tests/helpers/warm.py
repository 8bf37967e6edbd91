"""Run Python programs in processes of their own that start warm.

A new interpreter imports torch, Lightning and charlab for seconds. `warm(command)` gives a command that runs the same
program in a fork of a server that has imported them; each pytest worker has one. The program has the arguments, the
environment, the working directory, the files and the signals of the process that asks for it, and ends alone. A test of
how an interpreter starts, of `python`'s own options, or of the ids of processes runs its command as it is.
"""

from __future__ import annotations

import atexit
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


def warm(command: Sequence[Any]) -> list[str]:
    """Return a command that does what `command`, which begins with this interpreter, does, but starts warm."""
    interpreter, *arguments = map(os.fspath, command)
    assert interpreter == sys.executable, f"{interpreter} is not this interpreter"
    assert arguments[0] in ("-c", "-m") or not arguments[0].startswith("-"), f"{arguments[0]} is the interpreter's own"
    return [interpreter, "-I", "-S", str(CLIENT), _server(), *arguments]


@functools.cache
def _server() -> str:
    """Start the server of this process and return the path of its socket."""
    folder = tempfile.mkdtemp(prefix="warm")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # no pool of threads, which would not survive a fork
    server = subprocess.Popen([sys.executable, SERVER, folder], stdin=subprocess.PIPE, env=environment, cwd=folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.wait)
    atexit.register(server.stdin.close)  # which ends it; exit handlers run last to first
    return f"{folder}/socket"
