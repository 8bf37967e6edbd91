"""What is installed: everything that a user runs, nothing that only this repository needs, and one version."""

import re
import zipfile
from pathlib import Path

import pytest

import charlab
from tests.helpers.wheel import build

ROOT = Path(__file__).parents[1]
PACKAGES = ("charlab", "hydra_plugins")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    with zipfile.ZipFile(build(tmp_path_factory.mktemp("wheel"))) as archive:
        yield archive


def committed(folder: Path) -> set[str]:
    """Return the files below `folder` but for caches and one machine's own settings."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in paths
        if "__pycache__" not in path.parts and (path.parts[0] != "local" or path.name == ".gitkeep")
    }


def test_the_wheel_holds_what_a_user_runs_and_nothing_else(wheel):
    expected = {f"charlab/conf/{path}" for path in committed(ROOT / "conf")}
    for package in PACKAGES:
        expected |= {f"{package}/{path}" for path in committed(ROOT / "src" / package)}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {"charlab/py.typed", "charlab/conf/train.yaml"} <= found


def test_the_wheel_says_what_it_is(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = wheel.read(name).decode()
    for line in (
        "Name: charlab",
        f"Version: {charlab.__version__}",
        "License-Expression: Apache-2.0",
        "Author: The charlab developers",
    ):
        assert line in metadata.splitlines()
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_the_citation_and_the_changelog_name_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, flags=re.M)[1] == charlab.__version__
    assert f"## {charlab.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
