"""Settings for all tests."""

import gc
import os

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes must not fight for the cores

hypothesis.settings.register_profile("charlab", deadline=None)  # no timed tests: a busy machine must not fail one
hypothesis.settings.load_profile("charlab")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Spares the garbage collector what is imported, of which nothing becomes garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
