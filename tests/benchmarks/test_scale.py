"""What benchmarks of size make up: runs to list."""

from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.pairs import OURS
from benchmarks.processes import run_program
from charlab.runs.listing import list_runs

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_command_lists_as_many_distinct_runs(monkeypatch):
    listed = []

    def list_twice(*command):
        listed.append(list_runs(Path(command[3].removeprefix("output_dir="))))
        return run_program(*command)

    monkeypatch.chdir(ROOT)  # where records/ is
    monkeypatch.setattr(scale, "RUNS", {OURS: 3, "an empty folder": 0})
    monkeypatch.setattr(scale, "run_program", list_twice)
    benchmark = scale.BENCHMARKS["listing"]()
    measured = {name: side(0) for name, side in benchmark.sides.items()}
    assert [len({row.record.fingerprint for row in rows}) for rows in listed] == [3, 0]
    assert all(row.record.status == "finished" for row in listed[0])
    for figure in benchmark.figures:
        assert measured[OURS][figure.key] > 0
        assert figure.compare(measured) < 60  # seconds
