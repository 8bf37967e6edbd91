"""Settings for all tests."""

import contextlib
import gc
import logging
import os
import pickle

import hypothesis
import psutil
import pytest
from omegaconf import OmegaConf

from tests.helpers import warm

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes must not fight for the cores

# No deadlines, since a busy machine must not fail a test; fewer examples than hypothesis's 100, different each time.
hypothesis.settings.register_profile("charlab", deadline=None, max_examples=40)
hypothesis.settings.load_profile("charlab")


def remembering(load):
    """Wrap OmegaConf.load: parsing the same files of conf/ took a quarter of each of the tests' compositions."""
    known = {}

    def remembered(file):
        if not hasattr(file, "seek"):
            return load(file)
        text = file.read()
        if text not in known:
            file.seek(0)
            known[text] = pickle.dumps(load(file))
        return pickle.loads(known[text])

    return remembered


OmegaConf.load = remembering(OmegaConf.load)


def pytest_configure():
    warm.offer()


def pytest_exception_interact():
    """Kill the processes of a test that fails: they would slow the others down, or hold a pipe open forever."""
    for child in psutil.Process().children():
        if child.pid not in {server.pid for server in warm.STARTED}:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [child, *child.children(recursive=True)]:
                    process.kill()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Freeze imported objects so that the garbage collector never scans them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def logging_as_before():
    """Undo what Hydra changes about logging when an application of it runs in the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
