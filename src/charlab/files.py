"""Atomic file writes: a reader sees either the old content or the new content, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from charlab.errors import UserError

_UMASK = threading.Lock()  # two threads that read the mask at once could leave it at 0


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a temporary file with `write`, and move it to `path` once it is on disk.

    Args:
        path: the file to create or replace, which is no device such as /dev/null. Its folder is created if needed.
        write: function that writes the contents, called with the file open for writing bytes.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # root would replace /dev/null by a file
            raise UserError(f"{path} is a device or a pipe, which cannot be replaced: name a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.unlink(file.name)
                raise
        try:
            with contextlib.suppress(OSError):  # refused where a network or Windows mount sets all permissions
                os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    except OSError as error:
        kept = "the former one is whole" if path.exists() else "nothing was left behind"
        raise UserError(f"Could not write {path} ({error.strerror or error}); {kept}: {advice(error)}.") from error


def advice(error: OSError) -> str:
    """Return what to do about an operating-system error during a write."""
    match error.errno:
        case errno.EFBIG:
            return "raise the limit on the size of a file (ulimit -f)"
        case errno.EMFILE | errno.ENFILE:
            return "close some files or raise the limit on open ones (ulimit -n)"
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space or choose another output_dir"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "allow access to it or choose another output_dir"
    return "check the disk, or choose another output_dir"


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files that killed calls of `write_atomically` left in a folder.

    Args:
        folder: the folder. No other process may be writing there.
        names: the files that were written, relative to the folder; the last part may be a pattern.
    """
    for name in names:
        parent, pattern = (folder / name).parent, f".{Path(name).name}.{'[a-z0-9_]' * 8}"
        for path in parent.glob(pattern):
            if path.is_file():
                path.unlink(missing_ok=True)


def _umask() -> int:
    with _UMASK:
        mask = os.umask(0)
        os.umask(mask)
    return mask
