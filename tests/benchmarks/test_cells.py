"""Cells that do no work go through runner, store and report."""

from pathlib import Path

import pytest

from benchmarks.cells import simulate

pytestmark = pytest.mark.slow


def test_a_simulated_study_is_finished_and_reported(tmp_path: Path) -> None:
    measured = simulate(50, tmp_path)
    assert len(list(tmp_path.glob("runs/simulated/*/record.json"))) == 50
    assert (tmp_path / "studies/simulated/report/report.md").exists()
    assert measured["cells"] == 50
    assert measured["files"] < 12
