"""The Makefile is short, and whatever tells people or machines to run a target names one that exists."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):.* ## ", MAKEFILE, flags=re.M)
SOURCES = (".ci/run", ".github/workflows/ci.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml")
PAGES = [*SOURCES, *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md")))]


def test_there_are_at_most_a_dozen_targets():
    assert len(TARGETS) == len(set(TARGETS)) <= 12
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.M)
    assert phony.split() == TARGETS


@pytest.mark.parametrize("page", PAGES)
def test_targets_that_are_named_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"(?:^|[`(]|run: |=\w+ |\"\w+=\w+ )make ([a-z][a-z-]*)", text, flags=re.M)
    assert set(named) <= set(TARGETS)
    if page in SOURCES[:3]:
        assert "test" in named


def test_tests_that_are_skipped_are_named_with_the_reason():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert "-rs" in settings["addopts"].split()


@pytest.mark.parametrize("page", SOURCES[:2])
def test_what_checks_a_change_uses_the_makefile_alone(page):
    """A check that is not a target could not be repeated by hand."""
    for tool in ("pytest", "ruff", "mypy", "lint-imports", "pip install"):
        assert tool not in (ROOT / page).read_text(encoding="utf-8")
