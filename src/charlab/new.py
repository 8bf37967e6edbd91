"""`charlab new`: write a model, a study or a project for the user to start from."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

from charlab.command import command
from charlab.configuration.sources import conf_folder
from charlab.errors import UserError

USAGE = """\
charlab new model NAME      write NAME.py and conf/model/NAME.yaml: train it by model=NAME
charlab new study NAME      write conf/study/NAME.yaml: run it by -m study=NAME
charlab new project NAME    write the folder NAME with a package, a model, a study and a notebook

The files go into the working folder. No file is overwritten."""

MODEL = '''\
"""A language model of my own."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.models.contract import AutoregressiveModel
from charlab.types import PositiveInt


class $title(AutoregressiveModel):
    """Predict the next character from the last `width` ones, by one convolution over their embeddings.

    Args:
        vocab_size: number of distinct characters V.
        embed_dim: size of the embeddings.
        width: number of characters that a prediction looks at.
        context_length: largest number of characters in a window.
    """

    def __init__(
        self, vocab_size: int, *, embed_dim: PositiveInt, width: PositiveInt, context_length: PositiveInt
    ) -> None:
        super().__init__()
        self.vocab_size, self.context_length, self.width = vocab_size, context_length, width
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.convolution = nn.Conv1d(embed_dim, embed_dim, width)
        self.readout = nn.Linear(embed_dim, vocab_size)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits of the character that follows each position, from no later position."""
        self.check_length(tokens.shape[1])
        embedded = self.embedding(tokens).transpose(1, 2)  # (B, embed_dim, T)
        mixed = self.convolution(F.pad(embedded, (self.width - 1, 0)))  # nothing before the first character
        return self.readout(F.gelu(mixed).transpose(1, 2))
'''

MODEL_OPTION = """\
# model=$option
_target_: $module.$title
embed_dim: 64
width: 8
context_length: $${data.context_length}
"""

STUDY = """\
# A question, its runs and a report: -m study=$name
defaults: [_base, _self_]

hypothesis: A wider view of the past predicts better.   # what the verdict is about
overrides:                                              # what all runs share
  - data=play                                           # embedded text; data=tinyshakespeare is downloaded
  - data.context_length=32
  - data.batch_size=32
  - $choice
  - optimizer.lr=0.01
  - trainer.max_steps=200
  - evaluate_every=50
baseline: narrow
arms:
  narrow: [$narrow]
  wide: [$wide]
seeds: 6       # the fewest that can distinguish one arm from a baseline
margin: 0.02   # the smallest difference that matters, in nats per character
budget: steps
"""

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$name"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["charlab"]

[tool.hatch.build.targets.wheel]
packages = ["src/$package"]
"""

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

    A mistake is said before anything is written.
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
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
    print(f"Next: {following}")
    return 0


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
    values = {"module": module, "option": option, "title": _title(option)}
    yaml = root / "conf" / "model" / f"{option}.yaml"
    return {root / file: _filled(MODEL, **values), yaml: _filled(MODEL_OPTION, **values)}


def _study(name: str) -> tuple[dict[Path, str], str]:
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise UserError(f"{name!r} is no name for a study: use letters, digits, _ and -.")
    _check_option("study", name)
    arms = {"narrow": "model/mixer=running_average", "wide": "model/mixer=attention"}
    text = _filled(STUDY, name=name, choice="model=gpt\n  - model.embed_dim=32\n  - model.num_layers=2", **arms)
    return {Path("conf", "study", f"{name}.yaml"): text}, command("train", "-m", f"study={name}")


def _project(name: str) -> tuple[dict[Path, str], str]:
    package = name.replace("-", "_")
    _check_module(package)
    _check_option("model", package)
    _check_option("study", package)
    root = Path(name)
    if root.exists():
        raise UserError(f"{root} exists already: choose another name, or move it away.")
    study = _filled(STUDY, name=package, choice=f"model={package}", narrow="model.width=2", wide="model.width=8")
    cells: list[dict[str, Any]] = []
    for number, (kind, text) in enumerate(NOTEBOOK):
        source = _filled(text, name=name, package=package)
        cells.append({"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source})
        if kind == "code":
            cells[-1] |= {"execution_count": None, "outputs": []}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    files = {
        root / "pyproject.toml": _filled(PYPROJECT, name=name, package=package),
        root / ".gitignore": "outputs/\n__pycache__/\n",
        root / "src" / package / "__init__.py": "",
        **_files_of_model(root, Path("src", package, "model.py"), f"{package}.model", package),
        root / "conf" / "study" / f"{package}.yaml": study,
        root / f"{package}.ipynb": json.dumps(notebook, indent=1) + "\n",
    }
    return files, f"cd {name} && {_train(package)}"


def _train(model: str) -> str:
    return command("train", f"model={model}", "data=play", "data.context_length=32", "trainer.max_steps=200")


def _filled(text: str, **values: str) -> str:
    return Template(text).substitute(values)


def _title(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _check_module(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"{name!r} is no name for a module: use small letters, digits and _, and begin with a letter.")
    if find_spec(name) is not None:
        raise UserError(f"There is a module {name} already: choose another name.")


def _check_option(group: str, name: str) -> None:
    if (conf_folder() / group / f"{name}.yaml").exists():
        raise UserError(f"charlab has a {group}={name} of its own: choose another name.")
