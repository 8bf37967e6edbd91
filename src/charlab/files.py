"""Writing files so that a reader finds either the former content or the new one, whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from charlab.errors import UserError


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Lets `write` fill a new file, which takes the place of `path` once it is safely on the disk.

    Args:
        path: the file to be replaced or made; its folder is made as well.
        write: called with the new file, open for writing bytes.

    Raises:
        UserError: if the disk is full or the folder cannot be written to; `path` is then as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.unlink(file.name)
                raise
        os.chmod(file.name, 0o666 & ~_umask())
        os.replace(file.name, path)
    except OSError as error:
        kept = "the former one is whole" if path.exists() else "nothing was left behind"
        raise UserError(
            f"Could not write {path} ({error.strerror or error}); {kept}: free some space or choose another output_dir."
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Removes the files that `write_atomically` had begun below `folder` when its process was killed.

    Nobody else may be writing there.
    """
    for path in folder.glob("**/.*.????????"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
