"""Take the picture in README.md, the top of the demo study's report: `python -m tools.picture`. It needs Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from charlab.errors import UserError
from tools import run_tool
from tools.results.__main__ import DOCS

PICTURE = DOCS / "studies" / "demo" / "report.png"
SIZE = "1180,1115"  # pixels: down to the table of verdicts
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Run the demo study, and take a picture of its report.

    Raises:
        UserError: if there is no Chromium.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"No Chromium was found: install one of {', '.join(BROWSERS)}.")
    with tempfile.TemporaryDirectory() as folder:
        study = [sys.executable, "-m", "charlab", "train", "-m", "study=demo", "launcher.at_once=null"]
        subprocess.run(study, check=True, cwd=folder)  # where there are neither outputs nor records
        page = Path(folder, "outputs", "studies", "demo", "report", "report.html")
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
        taken = Path(folder, "report.png")
        subprocess.run([browser, *flags, f"--window-size={SIZE}", f"--screenshot={taken}", page.as_uri()], check=True)
        PICTURE.write_bytes(taken.read_bytes())


if __name__ == "__main__":
    run_tool(lambda _: main())
