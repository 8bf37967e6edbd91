"""What keeps a cell's process from outliving the process that watches it."""

from __future__ import annotations

import os
import signal
import threading


def end_with_watcher() -> None:
    """Has this process, and all of its group if it leads one, killed when the writing end of its input is closed.

    Whoever starts it keeps that end of a pipe open and never writes to it. The system closes it however that process
    ends, so this works on every system, from every thread, and after SIGKILL, too.
    """
    threading.Thread(target=_wait_for_end, name="end-with-watcher", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
