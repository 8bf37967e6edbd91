"""A git repository in a temporary folder."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

WHO = {f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
SETTINGS = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


class Repository:
    """A new repository in `folder`; a test that needs one is skipped where git is not installed."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("git") is None:
            pytest.skip("git is not installed")
        self.folder = folder
        self._git("init", "--quiet")

    def commit(self, file: str, date: str = "2026-12-01T00:00:00+00:00") -> None:
        """Commit a file at a date, which is also its text."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(date)
        self._git("add", file)
        self._git("commit", "--quiet", "--message", file, GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)

    def _git(self, *arguments: str, **environment: str) -> None:
        environment = {**os.environ, **WHO, **SETTINGS, **environment}
        subprocess.run(["git", *arguments], cwd=self.folder, env=environment, check=True)
