"""What is read from sources is what Python would say after importing them."""

import importlib
import inspect
from pathlib import Path

import pytest
import yaml

from charlab.configuration.compose import Composer
from charlab.configuration.loader import search_path
from charlab.configuration.location import conf_folder
from charlab.configuration.modules import find
from charlab.configuration.signatures import signature
from charlab.errors import UserError

from .conftest import write


def targets() -> list[str]:
    named: set[str] = set()

    def walk(node: object) -> None:
        if isinstance(node, dict):
            named.update([node["_target_"]] if "_target_" in node else [])
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(child)

    for file in conf_folder().rglob("*.yaml"):
        walk(yaml.safe_load(file.read_text(encoding="utf-8")))
    others = ["torch.optim.AdamW", "lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.Trainer"]
    return sorted([*named, *others])


@pytest.mark.parametrize("target", targets())
def test_what_is_read_is_what_an_import_gives(target: str) -> None:
    module, _, name = target.rpartition(".")
    real = inspect.signature(getattr(importlib.import_module(module), name))
    read = signature(target)
    assert read is not None
    plain = {n: p for n, p in real.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    assert list(read.parameters) == list(plain)
    for name, parameter in plain.items():
        assert read.parameters[name].kind == parameter.kind
        assert (read.parameters[name].default is inspect.Parameter.empty) == (
            parameter.default is inspect.Parameter.empty
        )
    assert read.open == any(p.kind is p.VAR_KEYWORD for p in real.parameters.values())


def test_forms_of_definition(package: Path) -> None:
    inherited, record, opened = (signature(f"toy.parts.{name}") for name in ("Inherits", "Record", "Open"))
    assert inherited is not None
    assert list(inherited.parameters) == ["width"]
    assert record is not None
    assert record.required == {"size"}
    assert set(record.parameters) == {"size", "tags"}  # neither the class variable nor what is not initialized
    assert opened is not None
    assert opened.open
    assert signature("math.sqrt") is None  # compiled


def test_only_charlabs_own_code_keeps_its_positional_parameters_from_the_configuration(package: Path) -> None:
    net, bigram = signature("toy.parts.Net"), signature("charlab.models.bigram.Bigram")
    assert net is not None
    assert net.supplied == set()
    assert bigram is not None
    assert bigram.supplied == {"vocab_size"}


def test_files_edited_meanwhile_are_read_again(package: Path) -> None:
    write(package, {"edited.py": "def build(*, a): ..."})
    assert list(signature("edited.build").parameters) == ["a"]  # type: ignore[union-attr]
    write(package, {"edited.py": "def build(*, b): ..."})
    Composer("train", search_path(), {})  # each begins afresh
    assert list(signature("edited.build").parameters) == ["b"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("charlab.models.bigrm.Bigram", "There is no bigrm in charlab.models; did you mean bigram"),
        ("charlab.models.bigram.Bigrm", "There is no Bigrm in charlab.models.bigram; did you mean Bigram"),
        ("charlb.models", "There is no module charlb (for charlb.models); did you mean charlab?"),
    ],
)
def test_names_that_do_not_exist(name: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        find(name)
    assert str(raised.value).startswith(sentence)
