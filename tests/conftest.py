"""Settings for all tests."""

import os

import hypothesis

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes must not fight for the cores

hypothesis.settings.register_profile("charlab", deadline=None)  # no timed tests: a busy machine must not fail one
hypothesis.settings.load_profile("charlab")
