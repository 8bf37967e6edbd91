"""A study's own view of its runs, which lie with all others: short names, as TensorBoard shows them."""

from __future__ import annotations

import os
from pathlib import Path

from charlab.studies.state import StudyResults


def link_runs(results: StudyResults) -> None:
    """Makes `runs/ARM/SEED` in the study's folder a link to that run's folder, and removes links of former cells."""
    home = results.folder / "runs"
    wanted = {home / result.cell.key: result.folder for result in results.cells if result.folder is not None}
    for link in home.glob("*/*"):
        if link.is_symlink() and link not in wanted:
            link.unlink()
    for link, folder in wanted.items():
        target = os.path.relpath(folder.absolute(), link.parent)
        if link.is_symlink() and os.readlink(link) == target:
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path(target), target_is_directory=True)
    for arm in home.glob("*"):
        if arm.is_dir() and not any(arm.iterdir()):
            arm.rmdir()
