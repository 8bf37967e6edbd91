import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_run_is_checked_without_lightning() -> None:
    check = """
import sys
from charlab.configuration.compose import Composer
from charlab.runs.identity import fingerprint
fingerprint(Composer().job(["data=play"], build=False))
sys.exit("lightning" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.slow
def test_a_run_needs_no_module_that_only_unix_has() -> None:
    check = """
import sys
sys.modules |= dict.fromkeys(["resource"])  # it cannot be imported
import torch
import charlab.runs.train, charlab.studies.runner
from charlab.runs.machine import peak_memory
assert peak_memory(torch.device("cpu")) is None
"""
    subprocess.run([sys.executable, "-c", check], check=True)
