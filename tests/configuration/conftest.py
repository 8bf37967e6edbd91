"""A small configuration of its own, and a package that it constructs things from."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from charlab.configuration.compose import Composer, config_loader
from charlab.errors import UserError

VALUES = {"seed": int, "name": str, "force": bool, "output_dir": str}

PACKAGE = {
    "toy/__init__.py": "",
    "toy/parts.py": """
        from __future__ import annotations
        from dataclasses import dataclass, field
        from typing import ClassVar, Literal, Optional
        import torch
        from torch import nn
        from charlab import types
        from charlab.types import PositiveInt, Probability as Chance
        from .names import Placement, Base

        Size = PositiveInt

        class Net(nn.Module):
            def __init__(
                self, vocab_size: int, *, width: PositiveInt, depth: Size = 2, placement: Placement = "pre",
                dropout: Chance = 0.0, bias: bool = True, part: nn.Module | None = None,
                betas: tuple[float, float] = (0.9, 0.99), note: Optional[str] = None, rate: "types.PositiveFloat" = 1.0,
            ) -> None: ...

        class Inherits(Base, nn.Module):
            pass

        class Open(Base):
            def __init__(self, *, depth: int = 1, **kwargs) -> None: ...

        @dataclass(kw_only=True)
        class Record(Base):
            kind: ClassVar[str] = "x"
            size: PositiveInt
            tags: list[str] = field(default_factory=list)
            hidden: int = field(init=False)

        def build(net, *, steps: PositiveInt, more: int = 0): ...
    """,
    "toy/names.py": """
        import typing
        Placement = typing.Literal["pre", "post"]
        class Base:
            def __init__(self, width: int): ...
    """,
}

FILES = {
    "train.yaml": """
        defaults:
          - _self_
          - model: net
          - logger: [one, two]
          - optional local: default
          - experiment: null
        seed: 1
        name: toy
        force: false
        output_dir: outputs
        hydra: {run: {dir: "${output_dir}/${name}"}, sweep: {dir: "${output_dir}", subdir: "${name}/${seed}"}}
    """,
    "model/net.yaml": """
        defaults:
          - part: small
          - _self_
        _target_: toy.parts.Net
        width: 8
        depth: 2
        placement: pre
        dropout: 0.0
        bias: true
        betas: [0.9, 0.99]
        note: null
        rate: 1.0
    """,
    "model/record.yaml": "{_target_: toy.parts.Record, size: 3}",
    "model/open.yaml": "{_target_: toy.parts.Open, depth: 3}",
    "model/part/small.yaml": "{_target_: toy.parts.build, _partial_: true, steps: 3}",
    "model/part/large.yaml": "{_target_: toy.parts.build, _partial_: true, steps: 30}",
    "logger/one.yaml": "one: {_target_: toy.parts.Inherits, width: 1}",
    "logger/two.yaml": "two: {_target_: toy.parts.Inherits, width: 2}",
    "experiment/part1/good.yaml": """
        # @package _global_
        name: part1-good
        model: {width: 16}
    """,
    "experiment/part1/key.yaml": """
        # @package _global_
        model: {widht: 16}
    """,
    "experiment/part1/value.yaml": """
        # @package _global_
        model: {width: wide}
    """,
    "experiment/part1/top.yaml": """
        # @package _global_
        modle: {width: 16}
    """,
    "experiment/part1/option.yaml": """
        # @package _global_
        defaults:
          - override /model: nett
    """,
    "experiment/part1/syntax.yaml": """
        # @package _global_
        model: [1
    """,
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = write(tmp_path_factory.mktemp("package"), PACKAGE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def conf(tmp_path: Path, package: Path) -> Path:
    return write(tmp_path / "conf", FILES)


@pytest.fixture
def composer(conf: Path) -> Composer:
    return Composer("train", config_loader(conf), VALUES)


@pytest.fixture
def mistake(composer: Composer) -> Callable[..., str]:
    """Return the sentence that a job's overrides end in."""

    def sentence(*overrides: str) -> str:
        with pytest.raises(UserError) as raised:
            composer.job(composer.prepare(overrides))
        return str(raised.value)

    return sentence
