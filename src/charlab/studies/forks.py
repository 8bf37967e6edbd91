"""Start cells by forking a process that has already imported what training needs (Linux only).

    study's process ── keeper ── fork server ── cells

The fork server is `multiprocessing`'s. A keeper, a separate process of charlab, starts it, so the user's `__main__`
never runs again. The server imports no user modules, does not initialize CUDA and runs no parallel region, so a forked
cell behaves like one in a new interpreter. When the study's process dies, the keeper's standard input closes, and all
cells end with the keeper.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from charlab.studies import cell
from charlab.studies.runner import END_OF_LOG, Process, Slot, cell_environment, start_interpreter

PACKAGE = Path(__file__).parents[1]
KEEPER = "from charlab.studies.forks import keep; keep()"

Stamp = tuple[int, int]  # modification time and size of a file


class Forks:
    """Start cells as forks; `close`, or the end of the process, ends all of them."""

    def __init__(self) -> None:
        self._keepers: list[_Keeper] = []
        self._lock = threading.Lock()
        self._impossible = False

    def prepare(self) -> None:
        """Start the fork server, without waiting for it to import what it needs."""
        with self._lock:
            self._keepers.append(_Keeper())

    def close(self) -> None:
        """End the fork servers and the remaining cells."""
        for keeper in self._keepers:
            keeper.close()
        self._keepers = []

    def start(self, file: Path, log: IO[bytes], slot: Slot) -> Process:
        """Start a cell; see `charlab.studies.runner.Start`.

        If a fork server ends before it has started the cell, the next one does. If none can be started, this prints
        why, once, and each cell starts in a new interpreter.

        Raises:
            OSError: if no process can be started.
        """
        for last in (False, True):
            with self._lock:
                if self._impossible:
                    return start_interpreter(file, log, slot)
                if not self._keepers or self._keepers[-1].is_outdated():
                    self._keepers.append(_Keeper())  # earlier keepers may have running cells
                keeper = self._keepers[-1]
            try:
                return keeper.start(file, log, slot)
            except OSError:
                if not keeper.has_started:
                    break
                if last:
                    raise
        with self._lock:
            if not self._impossible:
                self._impossible = True
                print(f"Cells start in new interpreters, as none can be forked: {keeper.errors()}", file=sys.stderr)
        return start_interpreter(file, log, slot)


class Forked:
    """A forked process that implements `charlab.studies.runner.Process`."""

    def __init__(self, pid: int, exit_code: Future[int]) -> None:
        self.pid, self._exit_code = pid, exit_code
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raise `subprocess.TimeoutExpired` after `timeout` seconds."""
        try:
            self.returncode = self._exit_code.result(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0) from None
        return self.returncode


class _Keeper:
    """The study's end of the connection to a keeper; requests and replies are lines of JSON."""

    def __init__(self) -> None:
        # With a single thread, no library starts a thread pool, which would not survive a fork. The path is that of a
        # new interpreter, which may include a cluster's packages, without what the user's program has added to it.
        entries = [str(PACKAGE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = cell_environment(Slot(1)) | {"PYTHONPATH": os.pathsep.join(filter(None, entries))}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-c", KEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
        )
        self._files: dict[str, Stamp] = {}
        self._numbers = itertools.count()
        self._awaited: dict[int, tuple[Future[int], Future[int]]] = {}  # pid and exit code by a cell's number
        self._ended = False
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="forks", daemon=True)
        self._reader.start()

    def is_outdated(self) -> bool:
        """Return whether the keeper has ended, or a file has changed since the server imported it."""
        changed = any(_stamp(path) != tuple(stamp) for path, stamp in self._files.items())
        return changed or self._ended or self._process.poll() is not None

    @property
    def has_started(self) -> bool:
        """Whether the fork server has been started."""
        return bool(self._files)

    def errors(self) -> str:
        """Return the end of what a keeper that has ended wrote to standard error."""
        self._process.wait()
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-END_OF_LOG:]

    def start(self, file: Path, log: IO[bytes], slot: Slot) -> Forked:
        request = {"file": str(file), "log": log.name, "cores": slot.cores, "environment": cell_environment(slot)}
        pid, exit_code = Future[int](), Future[int]()
        with self._lock:
            if self._ended:  # nothing would read the request, which its pipe may still take
                raise OSError("the fork server has ended")
            number = next(self._numbers)
            self._awaited[number] = pid, exit_code
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([number, request]).encode() + b"\n")
            self._process.stdin.flush()
        return Forked(pid.result(), exit_code)

    def close(self) -> None:
        """End the keeper and its remaining cells."""
        assert self._process.stdin is not None
        if not self.has_started:  # it has no cells, and would finish its imports first
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._errors.close()

    def _read(self) -> None:
        """Handle the keeper's replies until it ends."""
        assert self._process.stdout is not None
        with self._process.stdout as replies, contextlib.suppress(ValueError):  # half a line, if the keeper is killed
            for line in replies:
                what, number, value = json.loads(line)
                if what == "files":
                    self._files = value
                else:
                    self._awaited[number][("pid", "exit code").index(what)].set_result(value)
        with self._lock:
            self._ended = True
            for pid, exit_code in self._awaited.values():
                if not pid.done():
                    pid.set_exception(OSError("the fork server has ended"))
                if not exit_code.done():
                    exit_code.set_result(-signal.SIGKILL)  # cells are killed when their keeper ends


def keep() -> None:
    """Run the keeper: fork the cells requested on standard input until it closes."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep the fork server's output apart from the replies
    requests = os.dup(0)
    with open(os.devnull, "rb") as nothing:  # cells and their programs must not read the requests
        os.dup2(nothing.fileno(), 0)

    def reply(what: str, number: int, value: object) -> None:
        replies.write(json.dumps([what, number, value]) + "\n")

    context = get_context("forkserver")
    context.set_forkserver_preload(["charlab.studies.preload"])
    receiver, sender = context.Pipe(duplex=False)
    first = context.Process(target=_send_stamps, args=(sender,))
    first.start()
    sender.close()  # so that `recv` does not wait forever if the child sends nothing
    reply("files", -1, receiver.recv())
    first.join()
    cells: dict[int, Any] = {}
    unread = b""
    try:
        while True:
            ready = wait([requests, *(process.sentinel for process in cells.values())])
            for number, process in list(cells.items()):
                if process.sentinel in ready:
                    process.join()
                    reply("exit code", number, process.exitcode)
                    del cells[number]
            if requests in ready:
                asked = os.read(requests, 2**16)
                if not asked:
                    break
                *lines, unread = (unread + asked).split(b"\n")
                for number, request in map(json.loads, lines):
                    process = context.Process(target=_run_cell, kwargs=request)
                    process.start()
                    cells[number] = process
                    reply("pid", number, process.pid)
    finally:  # also if a reply fails because the study has ended; at exit, `multiprocessing` waits for running cells
        for process in cells.values():
            with contextlib.suppress(ProcessLookupError):  # it has ended, or does not lead its process group yet
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()


def _send_stamps(sender: Connection) -> None:
    """Send a stamp of each file that the fork server has imported; runs in its first child, with the same modules."""
    paths = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    sender.send({path: _stamp(path) for path in paths if path})


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _run_cell(file: str, log: str, cores: list[int], environment: dict[str, str]) -> None:
    """Set up a fork like the new interpreter of `start_interpreter`, then run the cell."""
    os.setsid()
    keeper = parent_process()
    assert keeper is not None
    cell.exit_with(lambda: wait([keeper.sentinel]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    if cores:
        os.sched_setaffinity(0, cores)
    import torch

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    sys.exit(cell.run(Path(file)))
