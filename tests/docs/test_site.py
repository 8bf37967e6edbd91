"""The documentation site, in a real browser."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import charlab
from tests.helpers.browser import visit

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("index", "how-to/study", "reference/api", "reference/configuration/model", "results", "tutorials/part1")
PROBE = """
  document.documentElement.dataset.theme = "{theme}";
  const article = document.querySelector("article");
  const seen = {{
    page: document.documentElement.scrollWidth, width: innerWidth, errors: window.errors,
    images: [...document.images].filter((image) => !image.naturalWidth).map((image) => image.src),
    letters: article.innerText.length, color: getComputedStyle(article).color,
    background: getComputedStyle(document.body).backgroundColor,
  }};
"""


def test_every_public_name_has_its_place_in_the_reference():
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    assert [name for name in charlab.__all__ if not re.search(rf":: charlab\.{name}\b(?!\.)", page)] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site without the outputs of the tutorials, which have a test of their own."""
    pytest.importorskip("myst_nb")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "--keep-going", "-b", "html", DOCS, folder]
    done = subprocess.run(command, env={**os.environ, "CHARLAB_NOTEBOOKS": "off"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.rendering
@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1280, "light"), (390, "dark"), (1280, "dark")])
def test_a_page_is_readable_on_any_screen(site, width, theme):
    for name in PAGES:
        path = site / f"{name}.html"
        page = path.read_text(encoding="utf-8").replace("<head>", f'<head><base href="{path.as_uri()}">', 1)
        seen = visit(page, PROBE.format(theme=theme), width)
        assert seen["errors"] == [], name
        assert seen["images"] == [], name
        assert seen["width"] == width
        assert seen["page"] <= width, name  # only tables and code scroll sideways
        assert seen["letters"] > 500, name
        ink, paper = (sum(map(int, seen[key].strip("rgba()").split(",")[:3])) for key in ("color", "background"))
        assert (ink < paper) == (theme == "light"), name
        assert abs(ink - paper) > 300, name
