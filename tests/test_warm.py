"""Programs in processes of their own that start warm end as those of a new interpreter do."""

import subprocess
import sys

import pytest

from tests.helpers.warm import warm

POOL = "from concurrent.futures import ThreadPoolExecutor as Pool; pool = Pool(1); pool.submit(print, 'done').result()"
LAST = "import atexit, threading, time; atexit.register(print, 'last'); "
LATE = f"{LAST}threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("program", "code", "out", "err"),
    [
        ("print('so far'); import sys; sys.exit(3)", 3, "so far\n", ""),
        ("import sys; sys.exit('a reason')", 1, "", "a reason\n"),
        (POOL, 0, "done\n", ""),
        (LATE, 0, "late\nlast\n", ""),
        ("import os; os.kill(os.getpid(), 9)", -9, "", ""),
    ],
    ids=["with a code", "with a reason", "with an idle pool of threads", "after its threads", "killed"],
)
def test_a_program_ends(program, code, out, err):
    done = subprocess.run(warm([sys.executable, "-c", program]), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_an_exception_is_shown_without_the_servers_frames():
    done = subprocess.run(warm([sys.executable, "-c", "raise ValueError('no')"]), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: no\n")
    assert "warm_server" not in done.stderr
