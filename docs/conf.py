"""Settings of the documentation site: `make docs`."""

from __future__ import annotations

import os
import re
import sys
from itertools import takewhile
from pathlib import Path

import charlab

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
CONF = DOCS.parent / "conf"

project, author, release = "charlab", "The charlab developers", charlab.__version__
copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "studies/*/plan.json"]
nitpicky = True
default_role = "code"
# Types of other libraries, whose pages are not read here, so that the site builds without a network.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(torch|lightning|numpy|pandas|np|pd|matplotlib|omegaconf|collections|pathlib|typing|rich|jaxtyping)\b.*",
    ),
    ("py:.*", r"(Tensor|ndarray|nn|Module|Figure|DataFrame|DictConfig|Path|Console|Float|Int|Generator|pd)\b.*"),
    ("py:exc", "DivergedError"),
    ("py:class", r"(Budget|PositiveFloat)"),
    ("py:class", r"(optional|Value|charlab\.runs\.archive\.Archive|\w|[BTVNS](, [BTVNS])*|'\w'|.*[\[\]\"].*)"),
]

html_theme = "pydata_sphinx_theme"
html_title = "charlab"
html_static_path = ["_static"]
html_css_files = ["charlab.css"]
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("index", "results", "background")}  # which have no section to navigate in
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "friendly",
    "pygments_dark_style": "github-dark",
}

myst_enable_extensions = ["colon_fence", "dollarmath", "strikethrough"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "myst.strikethrough"]  # struck-through text is for HTML only
nb_execution_mode = os.environ.get("CHARLAB_NOTEBOOKS", "cache")  # CHARLAB_NOTEBOOKS=off leaves out the outputs
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
os.environ["CHARLAB_BRIEF"] = "1"

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_use_rtype = False


def options(group: Path) -> str:
    """Return a page on a group of configuration files: what the comment at the head of each says, and the file."""
    name = group.relative_to(CONF).as_posix()
    lines = [f"# {name}", ""]
    for file in sorted(group.rglob("*.yaml") if name in ("experiment", "study") else group.glob("*.yaml")):
        option = file.relative_to(group).with_suffix("").as_posix()
        text = file.read_text(encoding="utf-8")
        head = takewhile(lambda line: line.startswith("#"), text.splitlines())
        said = [line[1:].strip() for line in head if not line.startswith("# @")]
        lines += [f"## {name}={option}", "", " ".join(said), "", f"```yaml\n{text.strip()}\n```", ""]
    return "\n".join(lines)


def write_options(app: object) -> None:
    """Write a page for each group of `conf/`, and one for the programs' own files."""
    folder = DOCS / "reference" / "configuration"
    folder.mkdir(parents=True, exist_ok=True)
    groups = [path for path in sorted(CONF.rglob("*")) if path.is_dir() and list(path.glob("*.yaml"))]
    groups = [path for path in groups if path.relative_to(CONF).parts[0] not in ("experiment", "study", "hydra")]
    pages = {path.relative_to(CONF).as_posix().replace("/", "-"): options(path) for path in groups}
    pages |= {name: options(CONF / name) for name in ("experiment", "study")}
    for program in ("train", "evaluate", "generate", "report", "export"):
        text = (CONF / f"{program}.yaml").read_text(encoding="utf-8").strip()
        pages[f"program-{program}"] = f"# charlab {program}\n\n```yaml\n{text}\n```\n"
    for name, page in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            path.write_text(page, encoding="utf-8")
    for stale in set(folder.glob("*.md")) - {folder / f"{name}.md" for name in pages}:
        stale.unlink()


def from_readme(app: object, name: str, source: list[str]) -> None:
    """Put the beginning of the README on the first page, with links that work from `docs/`."""
    if name == "index":
        readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
        readme = re.sub(r"^# charlab\n", "", readme).partition("## Where to go next")[0]
        readme = re.sub(r"<!--.*?-->\n", "", readme).replace("](docs/", "](")
        source[0] = source[0].replace("{readme}", readme)


def setup(app: object) -> None:
    """Register what writes pages."""
    app.connect("builder-inited", write_options)  # type: ignore[attr-defined]
    app.connect("source-read", from_readme)  # type: ignore[attr-defined]
