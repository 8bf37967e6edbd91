"""Does what docs/adding-a-model.md says, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-model.md"


@pytest.fixture
def copy(tmp_path):
    for name in ("src", "conf", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_the_page_adds_a_model_with_two_files_and_no_edit(copy):
    page = PAGE.read_text(encoding="utf-8")
    before = all_files(copy)
    for path, contents in re.findall(r"^## \d\. [^\n]*`(\S+)`\n\n```\w+\n(.*?)```", page, flags=re.M | re.S):
        assert not (copy / path).exists()
        (copy / path).write_text(contents, encoding="utf-8")
    after = all_files(copy)
    assert len(after.keys() - before.keys()) == 2
    assert all(after[path] == contents for path, contents in before.items())

    (commands,) = re.findall(r"```sh\n(.*?)```", page, flags=re.S)
    programs = {"charlab": f"{sys.executable} -m charlab", "python": sys.executable}
    train, test = (re.sub(r"^\w+", lambda word: programs[word[0]], line) for line in commands.strip().splitlines())
    environment = os.environ | {"PYTHONPATH": str(copy / "src")}
    result = subprocess.run(train, shell=True, cwd=copy, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    losses = [float(loss) for loss in re.findall(r"^step \d+ .*validation ([\d.]+)", result.stdout, flags=re.M)]
    assert losses[-1] < losses[0] - 1
    result = subprocess.run(test, shell=True, cwd=copy, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= 10
