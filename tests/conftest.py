"""Settings for all tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes must not fight for the cores
