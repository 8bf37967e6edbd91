"""What keeps a cell's process, and a launcher's worker, from outliving the process that they work for."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time

SECONDS_BETWEEN_LOOKS = 1.0


def end_with_watcher() -> None:
    """Has this process, and all of its group if it leads one, killed when the writing end of its input is closed.

    Whoever starts it keeps that end of a pipe open and never writes to it. The system closes it however that process
    ends, so this works on every system, from every thread, and after SIGKILL, too.
    """
    threading.Thread(target=_wait_for_end, name="end-with-watcher", daemon=True).start()


@functools.cache
def end_with_parent() -> None:
    """Has this process end when the one that has started it does; joblib's workers would wait for work for ever."""
    threading.Thread(target=_watch_parent, args=(os.getppid(),), name="end-with-parent", daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _wait_for_end() -> None:
    while os.read(0, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
