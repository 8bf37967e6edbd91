"""Exceptions that entry points print without a traceback, and a context manager that turns errors into warnings."""

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Raised when something that the user provided is invalid.

    The message is one sentence that says what is wrong, where it was set, and how to fix it. Every entry point prints
    it without a traceback and exits with code 2. It is a `ValueError`, so library callers may catch it as one.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints instead of a traceback (a public hook in spite of its name)."""
        return [f"{type(self).__name__}: {self}"]


class PartError(RuntimeError):
    """Raised when a part that the user chose, such as a model or a callback, fails during a run.

    The message is one sentence that names the part and its line. The command line prints it without a traceback, unless
    `HYDRA_FULL_ERROR=1` is set, and exits with code 1. The original error is its cause.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints: the sentence, or the traceback if the environment asks for it."""
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            return traceback.format_exception(self)
        return [f"{type(self).__name__}: {self} (%env HYDRA_FULL_ERROR=1 shows the traceback.)"]


@contextmanager
def warn_on_failure(what: str) -> Iterator[None]:
    """Turn an error in the block into a warning: a failed plot or sample must not end the run."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logging.getLogger("charlab").warning("The %s failed (%s); the run continues without it.", what, reason)
