"""Runs the tutorials from top to bottom, small and from the wheel, and looks at the site's pages in a browser."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.helpers.wheel import build

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_kept_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["source"][0].startswith("# ")
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(build(tmp_path_factory.mktemp("wheel"))) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module", params=TUTORIALS, ids=lambda path: path.stem)
def executed(request, installed, tmp_path_factory):
    """A tutorial's name, the texts and pages that its cells show, and the folder that it ran in."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    folder = tmp_path_factory.mktemp(request.param.stem)
    notebook = nbformat.read(request.param, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print(charlab.__file__)"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLAB_BRIEF", "1")
        patch.setenv("PYTHONWARNINGS", "ignore")
        patch.setenv("PYTHONPATH", str(installed))
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    return request.param.stem, "\n".join(texts), "\n".join(pages), pictures, folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tutorial_does_what_it_says(executed, installed):
    name, texts, pages, pictures, folder = executed
    assert f"{installed}/charlab/__init__.py" in texts
    assert "data:image/svg+xml;base64," in pages  # the card's loss curve
    assert pages.count("<progress") < 20  # one for each run, redrawn in place
    assert "[!" not in pages
    if name == "part1":
        assert "log V = log" in texts
        assert "<strong>leaks</strong>" in pages
        assert pictures >= 2
    else:
        assert "There is no key optimizer.learning_rate; did you mean optimizer.lr?" in texts
        assert 'class="charlab-report"' in pages
        assert re.search("supported|refuted|equivalent|inconclusive", pages)
        assert pictures >= 1
        study = (folder / "conf" / "study" / "decay.yaml").read_text()
        assert study.count("optimizer.lr=0.0") == 2  # each arm has the rate that was chosen for it
        paper = folder / "outputs" / "studies" / "decay" / "report" / "latex" / "report.tex"
        assert paper.exists()
        assert paper.with_suffix(".pdf").exists() or shutil.which("pdflatex") is None
