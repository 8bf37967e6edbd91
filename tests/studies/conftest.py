"""Studies of runs that take no time, on a text made up here."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import cast

import pytest
from omegaconf import DictConfig, OmegaConf

from charlab.configuration.compose import Composer
from charlab.configuration.sources import conf_folder
from charlab.studies.definition import Definition, define
from charlab.studies.executors.local import Local
from charlab.studies.report.figures import Drawings
from tests.helpers.made_up_trials import MadeUpTrainer

OWN = conf_folder()
SHARED = ("model=gpt", "data=textfile", "trainer.accelerator=cpu", "data.context_length=8")


@pytest.fixture
def text_path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be.\n" * 100)
    return path


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A folder for studies of one's own, as --config-dir takes it."""
    (tmp_path / "conf" / "study").mkdir(parents=True)
    return tmp_path / "conf"


@pytest.fixture
def write_study(conf: Path, text_path: Path) -> Callable[..., str]:
    """Write a study's file, with a baseline and two arms unless told otherwise, and return its name."""

    def write(body: str = "", *, name: str = "mine", baseline: str | None = "learned", arms: str | None = None) -> str:
        overrides = [*SHARED, f"data.path={text_path}"]
        lines = ["defaults: [_base, _self_]", f"overrides: {overrides}"]
        lines += [f"baseline: {baseline}"] if baseline is not None else []
        default = (
            "{learned: [], rotary: [model/position=rotary], none: {overrides: [model/position=none], expect: worsen}}"
        )
        lines += [f"arms: {arms or default}"] if arms != "" else []
        (conf / "study" / f"{name}.yaml").write_text("\n".join(lines) + "\n" + dedent(body))
        return name

    return write


@pytest.fixture
def composer(conf: Path) -> Composer:
    return Composer("train", config_dir=str(conf))


@pytest.fixture
def define_study(conf: Path) -> Callable[..., Definition]:
    """Read a study's file, with what was typed of the study itself."""

    def defined(name: str, **typed: object) -> Definition:
        base, own = (
            OmegaConf.load(folder / "study" / f"{file}.yaml") for folder, file in ((OWN, "_base"), (conf, name))
        )
        own.pop("defaults")
        return define(cast(DictConfig, OmegaConf.merge(base, own, typed)), name)

    return defined


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> MadeUpTrainer:
    """Train nothing, and report on nothing."""
    trainer = MadeUpTrainer()
    monkeypatch.setattr(Local, "run", lambda self, folder, cells: trainer(folder, cells))
    monkeypatch.setattr("charlab.studies.report.writer.make_report", lambda results, console: None)
    return trainer


@pytest.fixture
def without_figures(monkeypatch):
    """Leave out what takes the most time."""
    monkeypatch.setattr(Drawings, "for_page", lambda self: {})
    monkeypatch.setattr(Drawings, "for_paper", lambda self: {})
