"""Runs that take a second: a tiny transformer on a text made up here."""

import random
import shutil

import pytest

import charlab
from charlab.runs.record import Record
from charlab.training.module import LanguageModelModule
from tests.helpers.tiny_runs import BARE, EVERYTHING, TINY


@pytest.fixture(scope="session")
def text_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    words = random.Random(0).choices(["to", "be", "or", "not", "that", "is", "the", "question"], k=400)
    path.write_text("\n".join(words))
    return path


@pytest.fixture
def overrides(text_path, tmp_path):
    """The command line of a tiny run."""
    return [*TINY, *BARE, f"data.path={text_path}", f"output_dir={tmp_path / 'outputs'}"]


@pytest.fixture
def run_tiny(overrides):
    """Run it in this process, with more overrides."""
    return lambda *more: charlab.run(*overrides, *more)


@pytest.fixture(scope="session")
def finished_run(text_path, tmp_path_factory):
    """The record of a tiny run, with everything that a run leaves behind; neither is to be changed."""
    return charlab.run(*TINY, EVERYTHING, f"data.path={text_path}", f"output_dir={tmp_path_factory.mktemp('outputs')}")


@pytest.fixture
def copied(finished_run, tmp_path):
    """The record of a copy of that run where `run_tiny` finds it; a test may change it."""
    outputs = finished_run.folder.parents[2]
    shutil.copytree(outputs, tmp_path / "outputs")
    return Record.load(tmp_path / "outputs" / finished_run.folder.relative_to(outputs))


@pytest.fixture
def interrupt_at(monkeypatch):
    """Make training end with an exception in the given micro-batch, as if the process had been killed there."""
    original = LanguageModelModule.training_step

    def interrupt(micro_batch, error):
        def training_step(self, window, batch_idx):
            if self.micro_batches == micro_batch:
                raise error
            return original(self, window, batch_idx)

        monkeypatch.setattr(LanguageModelModule, "training_step", training_step)
        return lambda: monkeypatch.setattr(LanguageModelModule, "training_step", original)

    return interrupt
