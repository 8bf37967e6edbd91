"""Fork a process with torch, Lightning and charlab imported for each program that is asked for on a socket.

    server ── one guard for each program ── the program

The guard waits for its program, says how it ended, and kills it if the process that asked is killed.
"""

import atexit
import contextlib
import gc
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import types

LIBRARIES = ("torch.utils.tensorboard", "lightning.pytorch", "matplotlib.figure", "pandas", "scipy.stats")
exit_code = 1  # of a program


def main() -> None:
    """Serve until standard input closes; in a forked process, run the program."""
    atexit.register(finish)  # the first that is registered is the last that is called
    gc.disable()
    del sys.path[0]  # the folder of this file
    for name in LIBRARIES:
        __import__(name)
    import charlab

    for module in pkgutil.walk_packages(charlab.__path__, "charlab."):
        if not module.name.endswith("__main__") and "executors" not in module.name:
            __import__(module.name)
    gc.freeze()
    gc.enable()
    folder = sys.argv[1]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/starting")
    listener.listen(64)
    os.rename(f"{folder}/starting", f"{folder}/socket")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the guards
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            os._exit(0)
        asked, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            guard(asked)
        asked.close()


def guard(asked: socket.socket) -> None:
    """Fork the program, and return in it; in this process, wait for its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(asked, 8, 3)
    reader = asked.makefile("rb")
    arguments, place, environment = json.loads(reader.read(int.from_bytes(length, "big")))
    program = os.fork()
    if program == 0:
        asked.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        start(arguments, place, environment)
    for file in files:
        os.close(file)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # from a terminal: the program decides
    asked.sendall(f"{program}\n".encode())
    threading.Thread(target=kill_with, args=(asked, program), daemon=True).start()
    _, status = os.waitpid(program, 0)
    try:
        asked.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    finally:
        os._exit(0)


def kill_with(asked: socket.socket, program: int) -> None:
    """Kill the program once the process that asked for it is gone."""
    asked.recv(1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(program, signal.SIGKILL)


def start(arguments: list[str], place: str, environment: dict[str, str]) -> None:
    """Run the program in this process as a new interpreter would, and exit."""
    global exit_code
    import torch

    signal.signal(signal.SIGINT, signal.default_int_handler)  # off if a shell started the server in the background
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    encoding = environment.get("PYTHONIOENCODING")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        codec, _, errors = (encoding or "").partition(":")
        stream = io.FileIO(number, "w" if number else "r", closefd=False)
        sys.__dict__[name] = io.TextIOWrapper(
            io.BufferedWriter(stream) if number else io.BufferedReader(stream),
            codec or "utf-8",
            errors or ("backslashreplace" if name == "stderr" else "strict"),
            line_buffering=name == "stderr" or os.isatty(number),
            write_through="PYTHONUNBUFFERED" in environment,
        )
    sys.path[:0] = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.orig_argv[1:] = arguments
    try:
        execute(arguments, place)
        exit_code = 0
    except SystemExit as ended:
        exit_code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException as error:
        trace = error.__traceback__
        while trace.tb_next and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    sys.exit()  # `finish` is called after its threads and what it has registered


def execute(arguments: list[str], place: str) -> None:
    """Execute the program that `python ARGUMENTS…` would."""
    program, *rest = arguments
    if program == "-m":
        sys.path.insert(0, place)
        sys.argv[:] = rest
        if not hasattr(sys.modules.get(rest[0]), "__path__"):
            sys.modules.pop(rest[0], None)  # runpy warns of a module that is there already
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif program == "-c":
        sys.path.insert(0, "")
        sys.argv[:] = ["-c", *rest[1:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), module.__dict__)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
        sys.argv[:] = arguments
        runpy.run_path(program, run_name="__main__")


def finish() -> None:
    """End this process without the seconds of taking torch's modules apart."""
    code = exit_code
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = 120
    os._exit(code)


main()
