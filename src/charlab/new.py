"""`charlab new`: write a model, a study or a project for the user to start from."""

from __future__ import annotations

import contextlib
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

from charlab.command import command
from charlab.configuration.sources import conf_folder
from charlab.errors import UserError

USAGE = """\
charlab new model NAME      write NAME.py and conf/model/NAME.yaml: train it with model=NAME
charlab new study NAME      write conf/study/NAME.yaml: run it with -m study=NAME
charlab new project NAME    write the folder NAME with a package, a model, a study and a notebook

The files go into the working folder. No file is overwritten."""

TEMPLATES = Path(__file__).parent / "templates"
TAKEN = ("AutoregressiveModel", "F", "Float", "Int", "PositiveInt", "Tensor")  # names that the file of a model imports
NOTEBOOK = (
    ("markdown", "# $name"),
    ("code", 'import sys\n\nsys.path.append("src")  # not needed after pip install -e .\n\nimport charlab'),
    ("markdown", "A run is found again if neither its configuration nor its code has changed."),
    (
        "code",
        'record = charlab.run("model=$package", "data=play", "trainer.max_steps=200")\nrecord',
    ),
    ("markdown", "The study in `conf/study/$package.yaml`: `dry_run=true` shows its runs without training."),
    ("code", 'charlab.study("$package", "dry_run=true")'),
)


def new(arguments: Sequence[str]) -> int:
    """Write the files of `charlab new KIND NAME`, print the next command and return the exit code.

    A mistake is reported before anything is written.
    """
    if not arguments or arguments[0] in ("--help", "-h"):
        print(USAGE)
        return 0
    kinds = {"model": _model, "study": _study, "project": _project}
    if arguments[0] not in kinds:
        raise UserError(f"There is no `new {arguments[0]}`: write model, study or project, and a name.")
    if len(arguments) != 2:
        raise UserError(f"Give one name: {command('new', arguments[0])} NAME.")
    files, following = kinds[arguments[0]](arguments[1])
    existing = [path for path in files if path.exists()]
    if existing:
        raise UserError(f"{existing[0]} exists already: choose another name, or move it away.")
    _write(files)
    for path in files:
        print(f"wrote {path}")
    print(f"Next: {following}")
    return 0


def _write(files: Mapping[Path, str]) -> None:
    """Write files; if one cannot be written, remove the files and folders that were made before it.

    Raises:
        UserError: if one cannot be written.
    """
    made: list[Path] = []
    for path, text in files.items():
        missing = [parent for parent in path.parents if not parent.exists()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            made += [*reversed(missing), path]
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            for each in reversed(made):
                with contextlib.suppress(OSError):
                    each.rmdir() if each.is_dir() else each.unlink()
            way = "make room for it, or work in another folder"
            raise UserError(f"{path} cannot be written ({error.strerror}), so nothing was: {way}.") from error


def _model(name: str) -> tuple[dict[Path, str], str]:
    _check_module(name)
    _check_option("model", name)
    if Path("conf").resolve() == conf_folder():
        folder, package = Path("src/charlab/models"), "charlab.models."
    else:
        packages = sorted(path.parent for path in Path("src").glob("*/__init__.py"))
        folder, package = (packages[0], f"{packages[0].name}.") if packages else (Path(), "")
    return _files_of_model(Path(), folder / f"{name}.py", f"{package}{name}", name), _train(name)


def _files_of_model(root: Path, file: Path, module: str, option: str) -> dict[Path, str]:
    title = "".join(part.capitalize() for part in option.split("_"))
    if title in TAKEN or keyword.iskeyword(title):
        title += "Model"
    values = {"module": module, "option": option, "title": title}
    yaml = root / "conf" / "model" / f"{option}.yaml"
    return {root / file: _template("model.py.txt", **values), yaml: _template("model.yaml", **values)}


def _study(name: str) -> tuple[dict[Path, str], str]:
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise UserError(f"{name!r} is not a valid study name: use letters, digits, _ and -.")
    _check_option("study", name)
    choice = "model=gpt\n  - model.embed_dim=32\n  - model.num_layers=2"
    arms = {"averaging": "model/mixer=running_average", "attention": "model/mixer=attention"}
    text = _study_file(name, "Attention predicts better than an average of all that precedes.", choice, arms)
    return {Path("conf", "study", f"{name}.yaml"): text}, command("train", "-m", f"study={name}")


def _study_file(name: str, hypothesis: str, choice: str, arms: Mapping[str, str]) -> str:
    """Return the file of a study; the first arm is the baseline."""
    listed = "\n".join(f"  {arm}: [{override}]" for arm, override in arms.items())
    values = {"hypothesis": hypothesis, "choice": choice, "baseline": next(iter(arms)), "arms": listed}
    return _template("study.yaml", name=name, **values)


def _project(name: str) -> tuple[dict[Path, str], str]:
    package = name.replace("-", "_")
    _check_module(package)
    _check_option("model", package)
    _check_option("study", package)
    if not name[-1].isalnum():
        raise UserError(f"{name!r} is not a valid project name: end with a letter or a digit.")
    root = Path(name)
    if root.exists():
        raise UserError(f"{root} exists already: choose another name, or move it away.")
    arms = {"narrow": "model.width=2", "wide": "model.width=8"}
    study = _study_file(package, "A wider view of the past predicts better.", f"model={package}", arms)
    cells: list[dict[str, Any]] = []
    for number, (kind, text) in enumerate(NOTEBOOK):
        source = Template(text).substitute(name=name, package=package)
        cells.append({"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source})
        if kind == "code":
            cells[-1] |= {"execution_count": None, "outputs": []}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    files = {
        root / "pyproject.toml": _template("pyproject.toml.txt", name=name, package=package),
        root / ".gitignore": "outputs/\n__pycache__/\n",
        root / "src" / package / "__init__.py": "",
        **_files_of_model(root, Path("src", package, "model.py"), f"{package}.model", package),
        root / "conf" / "study" / f"{package}.yaml": study,
        root / f"{package}.ipynb": json.dumps(notebook, indent=1) + "\n",
    }
    return files, f"cd {name} && {_train(package)}"


def _train(model: str) -> str:
    return command("train", f"model={model}", "data=play", "data.context_length=32", "trainer.max_steps=200")


def _template(file: str, **values: str) -> str:
    return Template((TEMPLATES / file).read_text(encoding="utf-8")).substitute(values)


def _check_module(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} is not a valid module name: use lowercase letters, digits and _, and begin with a letter."
        )
    if find_spec(name) is not None:
        raise UserError(f"There is a module {name} already: choose another name.")


def _check_option(group: str, name: str) -> None:
    if name.lower() == "null":
        raise UserError(f"{group}={name} means none: choose another name.")
    if (conf_folder() / group / f"{name}.yaml").exists():
        raise UserError(f"charlab has a {group}={name} of its own: choose another name.")
