"""`charlab new`: what it writes works as it is, from an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from charlab.cli import main
from charlab.configuration.sources import conf_folder
from charlab.new import new
from tests.helpers.warm import warm

BRIEF = ["trainer.max_steps=3", "trainer.accelerator=cpu", "estimate_batches=1", "data.corpus.length=20000"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def charlab(*arguments, folder="."):
    environment = {key: value for key, value in os.environ.items() if key != "CHARLAB_CALLED_BY"}
    command = warm([sys.executable, "-m", "charlab", *arguments])
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def next_command(output):
    """The arguments of the command that it prints as the next one."""
    return re.search(r"charlab (train .*)", output)[1].split()


@pytest.fixture
def run(capsys, monkeypatch, folder):
    """Run a command in this process and return what it printed."""
    monkeypatch.syspath_prepend(folder)  # as `python -m` does
    monkeypatch.setattr("sys.argv", ["charlab"])

    def run(*arguments):
        capsys.readouterr()
        assert main([*arguments]) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_a_new_model_trains(folder, run):
    output = run("new", "model", "wide_view")
    written = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    assert written == {"wide_view.py", "conf/model/wide_view.yaml"}
    run(*next_command(output), *BRIEF)
    (record,) = folder.glob("outputs/runs/wide_view-play/*/record.json")
    assert json.loads(record.read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_new_study_has_its_cells(folder, run):
    output = run("new", "study", "wider")
    assert next_command(output) == ["train", "-m", "study=wider"]
    assert "12 cells" in run(*next_command(output), "dry_run=true")
    written = (folder / "conf" / "study" / "wider.yaml").read_text()
    assert "baseline: averaging\n" in written  # what the hypothesis compares attention with
    assert not (folder / "outputs").exists()


@pytest.mark.slow
def test_a_new_project_trains_and_has_a_study_and_a_notebook(folder):
    output = charlab("new", "project", "my-views")
    assert "Next: cd my-views && python -m charlab train model=my_views data=play " in output
    project = folder / "my-views"
    charlab(*next_command(output), *BRIEF, folder=project)
    assert list(project.glob("outputs/runs/my_views-play/*/record.json"))
    assert "12 cells" in charlab("train", "-m", "study=my_views", "dry_run=true", folder=project)
    notebook = json.loads((project / "my_views.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    program = "\n".join(cells).replace('"trainer.max_steps=200"', ", ".join(map(repr, BRIEF)))
    done = subprocess.run(warm([sys.executable, "-c", program]), cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(project.glob("outputs/runs/my_views-play/*/record.json"))) == 2


def test_a_model_goes_where_its_package_is(folder, capsys):
    assert main(["new", "project", "views"]) == 0
    os.chdir("views")
    assert main(["new", "model", "another"]) == 0
    assert "_target_: views.another.Another" in Path("conf/model/another.yaml").read_text()
    assert Path("src/views/another.py").is_file()


def test_a_model_goes_into_charlab_in_a_checkout(monkeypatch):
    monkeypatch.chdir(conf_folder().parent)
    from charlab.new import _model

    files, _ = _model("mine")
    assert [str(path) for path in files] == ["src/charlab/models/mine.py", "conf/model/mine.yaml"]
    assert "charlab.models.mine.Mine" in files[Path("conf/model/mine.yaml")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["modle", "x"], "There is no `new modle`: write model, study or project, and a name."),
        (["model"], "Give one name: charlab new model NAME."),
        (["model", "a", "b"], "Give one name: charlab new model NAME."),
        (
            ["model", "Mine"],
            "'Mine' is not a valid module name: use lowercase letters, digits and _",
        ),
        (["model", "class"], "'class' is not a valid module name"),
        (["model", "../x"], "'../x' is not a valid module name"),
        (["model", "torch"], "There is a module torch already: choose another name."),
        (["model", "gpt"], "charlab has a model=gpt of its own: choose another name."),
        (["study", "demo"], "charlab has a study=demo of its own: choose another name."),
        (["study", "a/b"], "'a/b' is not a valid study name: use letters, digits, _ and -."),
        (["project", "charlab"], "There is a module charlab already: choose another name."),
        (["project", "views-"], "'views-' is not a valid project name: end with a letter or a digit."),
        (["model", "null"], "model=null means none: choose another name."),
    ],
)
def test_a_name_that_cannot_be_used_is_told_in_a_sentence(folder, arguments, sentence, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["charlab"])
    assert main(["new", *arguments]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(sentence)
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("name", "title"), [("f", "FModel"), ("none", "NoneModel"), ("wide_f", "WideF")])
def test_the_class_of_a_model_has_a_name_of_its_own(folder, name, title):
    assert main(["new", "model", name]) == 0
    assert f"class {title}(AutoregressiveModel):" in (folder / f"{name}.py").read_text()


@pytest.mark.slow
def test_a_study_may_be_named_by_a_number(folder, run):
    assert "12 cells" in run(*next_command(run("new", "study", "2024")), "dry_run=true")


def test_nothing_is_overwritten(folder, capsys):
    (folder / "conf/model").mkdir(parents=True)
    (folder / "conf/model/mine.yaml").write_text("kept")
    assert main(["new", "model", "mine"]) == 2
    assert capsys.readouterr().err == "conf/model/mine.yaml exists already: choose another name, or move it away.\n"
    assert not (folder / "mine.py").exists()
    (folder / "views").mkdir()
    assert main(["new", "project", "views"]) == 2
    assert list((folder / "views").iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_nothing_behind(folder, capsys):
    (folder / "conf").mkdir()
    (folder / "conf/model").write_text("a file where a folder is needed")
    assert main(["new", "model", "mine"]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("conf/model/mine.yaml cannot be written (")
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert sorted(folder.rglob("*")) == [folder / "conf", folder / "conf/model"]


def test_help(capsys):
    new(["--help"])
    assert "charlab new project NAME" in capsys.readouterr().out
