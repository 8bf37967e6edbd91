"""Tools that only this repository needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from charlab.errors import UserError
from charlab.files import write_atomically


def run_tool(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Run a tool with the command line's arguments and exit; a user's error is one sentence, with exit code 2."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def write_bytes(path: Path, contents: bytes) -> None:
    """Create a file, or replace it as a whole."""
    write_atomically(path, lambda file: file.write(contents))


def write_text(path: Path, text: str) -> None:
    """Create a text file, or replace it as a whole."""
    write_bytes(path, text.encode())


def write_json(path: Path, known: dict[str, Any]) -> None:
    """Write a dictionary as JSON, sorted by key."""
    write_text(path, json.dumps(known, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the dictionary in a JSON file; an empty one if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints in a folder; None if git fails, for example outside a repository."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the dictionaries in a file with one on each line; none if there is no such file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
