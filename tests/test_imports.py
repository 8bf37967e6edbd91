import subprocess
import sys


def test_a_run_is_checked_without_lightning() -> None:
    check = """
import sys
from charlab.configuration.compose import compose
from charlab.runs.identity import fingerprint
fingerprint(compose(["data=play"]))
sys.exit("lightning" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", check], check=True)
