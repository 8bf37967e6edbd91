import subprocess
import sys

import pytest

CHECK = """
import sys
from charlab.imports import import_lightning
import_lightning()
import lightning.pytorch
assert "torchmetrics" in sys.modules
assert not [name for name in sys.modules if name.startswith("scipy.signal")]
import scipy.signal
assert scipy.signal.butter(1, 0.5) is not None and not hasattr(scipy.signal, "hamming")
"""

BEFORE = """
import sys
import scipy.signal
from charlab.imports import import_lightning
import_lightning()
assert scipy.signal.butter is not None and sys.modules["scipy.signal"] is scipy.signal
"""


@pytest.mark.parametrize("program", [CHECK, BEFORE], ids=["spared", "there before"])
def test_scipy_signal_is_spared_and_remains_what_it_is(program: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_a_run_is_checked_without_lightning() -> None:
    check = """
import sys
from charlab.configuration.compose import compose
from charlab.runs.identity import fingerprint
fingerprint(compose(["data=play"]))
sys.exit("lightning" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", check], check=True)
