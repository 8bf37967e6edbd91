import subprocess
import sys


def test_a_run_is_checked_without_lightning() -> None:
    check = """
import sys
from charlab.configuration.compose import Composer
from charlab.runs.identity import fingerprint
fingerprint(Composer().job(["data=play"], build=False))
sys.exit("lightning" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", check], check=True)
