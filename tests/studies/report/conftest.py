"""Studies to report on, read once."""

from __future__ import annotations

import contextlib

import pytest

from charlab.studies.report.contents import Contents, gather
from charlab.studies.report.writer import write_report
from charlab.studies.state import StudyResults, read_results
from tests.helpers.made_up_study import LONG, NASTY, MadeUpArm, make_study


def read(root, arms, **options) -> StudyResults:
    return read_results(make_study(root, arms, **options), root / "outputs", root / "records")


@pytest.fixture
def make(tmp_path):
    """Make a study in this test's own folder."""
    return lambda *arms, **options: read(tmp_path, arms, **options)


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> StudyResults:
    """Three arms of eight seeds, nothing wrong with them."""
    arms = [MadeUpArm("learned", 1.70), MadeUpArm("rotary", 1.67), MadeUpArm("none", 1.75, expect="worsen")]
    return read(tmp_path_factory.mktemp("plain"), arms, name="plain")


@pytest.fixture(scope="session")
def troubled(tmp_path_factory) -> StudyResults:
    """One of everything that can be wrong."""
    failed = (
        'Traceback (most recent call last):\n  File "/home/someone/lab/x.py", line 3\nRuntimeError: <b>100%</b> & $1'
    )
    arms = [
        MadeUpArm("gpt", 1.62),
        MadeUpArm("diffusion", 1.95, likelihood="bound"),
        MadeUpArm("wrong axis", 0.05, honest=4.03),
        MadeUpArm("counts", 1.52, parameters=0, seconds=0.7, steps=1, code="older"),
        MadeUpArm(NASTY, 1.6, fates={306: ("diverged", "The loss became nan at step 120."), 307: ("failed", failed)}),
        MadeUpArm(LONG, 1.61, fates={305: ("missing", ""), 308: ("killed", "Killed by signal 9.")}),
    ]
    options = {"name": "troubled", "seeds": 10, "budget": "seconds", "floor": 0.7, "planned_seeds": 6, "looks": (6,)}
    return read(tmp_path_factory.mktemp("troubled"), arms, **options)


@pytest.fixture(scope="session")
def told(troubled) -> Contents:
    """What the report says of it."""
    return gather(troubled)


@pytest.fixture(scope="session")
def folder(troubled, tmp_path_factory):
    """The report on it, in all formats; not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    with contextlib.chdir(troubled.folder.parents[2]):  # where the study was run
        write_report(troubled, folder)
    return folder
