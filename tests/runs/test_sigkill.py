"""Killed with SIGKILL at random moments, a run continues with the same command and ends in the same bits."""

import random
import signal
import subprocess
import sys
import time

import pytest

from charlab.runs.record import Record
from tests.helpers.tiny_runs import SCRIPT, TINY, assert_same_outcome, event_steps
from tests.helpers.warm import warm

MORE = (
    "trainer.max_steps=400",
    "evaluate_every=50",
    "callbacks.checkpointing.every_n_steps=20",
    "compute.threads=1",
)


@pytest.mark.slow
def test_three_kills_at_random_moments(text_path, tmp_path):
    def command(output):
        return [sys.executable, str(SCRIPT), *TINY, *MORE, f"data.path={text_path}", f"output_dir={tmp_path / output}"]

    def record(output):
        (folder,) = (tmp_path / output).glob("runs/*/*/record.json")
        return Record.load(folder.parent)

    subprocess.run(warm(command("whole")), check=True, capture_output=True)
    seed = random.SystemRandom().randrange(2**32)
    moments = sorted(random.Random(seed).sample(range(5, 395), 3))
    for moment in moments:
        process = subprocess.Popen(warm(command("killed")), stdout=subprocess.DEVNULL)
        while process.poll() is None:  # until the curves say that the moment has come
            curves = list((tmp_path / "killed").glob("runs/*/*/metrics.csv"))
            last = curves[0].read_text().rpartition("\n")[0].rpartition("\n")[2] if curves else ""
            if last[:1].isdigit() and int(last.partition(",")[0]) >= moment:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL, f"it ended before it was killed (seed {seed})"
        assert record("killed").status == "running"
    subprocess.run(warm(command("killed")), check=True, capture_output=True)
    whole, killed = record("whole"), record("killed")
    assert killed.status == "finished", f"seed {seed}"
    assert_same_outcome(whole, killed)
    assert event_steps(killed.folder) == list(range(1, 401))
    assert event_steps(whole.folder) == list(range(1, 401))
