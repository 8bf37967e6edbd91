"""A user's part that fails only while a run trains: one sentence, with his line first and the name of the part."""

import math
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import charlab
from charlab import cli
from charlab.errors import PartError
from charlab.models.contract import AutoregressiveModel
from charlab.runs.failure import failed_part
from charlab.runs.record import Record


class InTraining(AutoregressiveModel):
    """Has a mistake in a branch that only training takes."""

    context_length = None

    def __init__(self, vocab_size: int, *, fails: str = "forward"):
        super().__init__()
        self.vocab_size, self.table, self.fails = vocab_size, nn.Embedding(vocab_size, vocab_size), fails

    def forward(self, tokens):
        logits = self.table(tokens)
        return logits @ logits if torch.is_grad_enabled() and self.fails == "forward" else logits

    def loss(self, window):
        if torch.is_grad_enabled() and self.fails == "loss":
            return {}["weight"]
        return super().loss(window)


class Descent(torch.optim.SGD):
    """Ask for the loss itself, and fail in its second step if it is told to."""

    def __init__(self, params, *, lr: float, fails: bool = False):
        super().__init__(params, lr=lr)
        self.fails, self.steps = fails, 0

    def step(self, closure=None):
        loss = closure()
        self.steps += 1
        if self.fails and self.steps == 2:
            raise ValueError("no\nsecond step")
        super().step()
        return loss


class Schedule:
    def __call__(self, spent: float) -> float:
        return math.sqrt(0.1 - spent)


def line(method, number: int) -> str:
    return f"{__file__}, line {method.__code__.co_firstlineno + number}, in {method.__name__}"


SPARSE = "torch.optim.SparseAdam"
CHOICES = {
    "model/mine": f"{{_target_: {__name__}.InTraining, fails: nothing}}",
    "optimizer/mine": f"{{_target_: {__name__}.Descent, lr: 0.1, fails: false}}",
    "optimizer/sparse": f"{{_target_: {SPARSE}, lr: 0.1}}",
    "scheduler/mine": f"{{_target_: {__name__}.Schedule}}",
}


@pytest.fixture
def train(overrides, tmp_path, monkeypatch):
    """Train a tiny run with these parts, in a working folder that has them in its `conf`."""
    for name, node in CHOICES.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(node)
    monkeypatch.chdir(tmp_path)
    kept = [override for override in overrides if not override.startswith(("model", "trainer.accumulate"))]
    return lambda *more: cli.train([*kept, "model=mine", *more])


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.fails=forward", f"{line(InTraining.forward, 2)}, with model: RuntimeError: "),
        slow("model.fails=loss", f"{line(InTraining.loss, 2)}, with model: KeyError: 'weight'."),
        slow("optimizer.fails=true", f"{line(Descent.step, 4)}, with optimizer: ValueError: no second step."),
        ("scheduler=mine", f"{line(Schedule.__call__, 1)}, with scheduler: ValueError: "),
        ("optimizer=sparse", "optimizer (torch.optim.sparse_adam) failed in step: RuntimeError: SparseAdam does not "),
    ],
)
def test_it_is_named_with_its_own_line(train, tmp_path, capfd, override, sentence):
    more = ("optimizer=mine", override)[override.startswith("optimizer=") :]  # which asks for the failing loss itself
    assert train(*more) == 1
    _, told = capfd.readouterr().err.splitlines()  # the first says that `conf` is read
    assert told.startswith(sentence)
    (record,) = tmp_path.glob("outputs/runs/*/*/record.json")
    record = Record.load(record.parent)
    assert record.status == "failed"
    assert told.startswith(record.error.splitlines()[-1])


def broken(self, tokens):
    return self.table(tokens)[{}["weights"]]


@pytest.mark.slow
def test_a_model_that_fails_after_training_is_named_too(train, tmp_path, capfd, monkeypatch):
    assert train("optimizer=mine") == 0
    (record,) = tmp_path.glob("outputs/runs/*/*/record.json")
    monkeypatch.setattr(InTraining, "forward", broken)
    run = f"run={record.parent}"
    programs = (["evaluate", run], ["generate", run], ["export", run, "format=torch"])
    for arguments in (*programs, ["runs", "show", str(record.parent)]):
        capfd.readouterr()
        assert cli.main(arguments) == 2
        told = capfd.readouterr().err
        assert f"{line(broken, 1)}" in told
        assert "'weights'" in told
        assert told.count("\n") == 1
    assert not (record.parent / "export").exists()


def test_a_notebook_shows_the_sentence_without_frames(monkeypatch):
    error = PartError("mine.py, line 3, in forward, with model: KeyError: 'weights'.")
    assert error._render_traceback_() == [f"PartError: {error} (%env HYDRA_FULL_ERROR=1 shows the traceback.)"]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    error.__cause__ = KeyError("weights")
    assert "direct cause" in "".join(error._render_traceback_())


@pytest.mark.slow
def test_an_optimizer_is_not_blamed_for_what_fails_below_it(train, interrupt_at, capfd):
    interrupt_at(3, RuntimeError("a defect of charlab"))
    assert train("optimizer=mine") == 1
    told = capfd.readouterr().err
    assert "Traceback" in told
    assert told.endswith("RuntimeError: a defect of charlab\n")


def test_a_function_without_a_module_hides_no_error():
    config = OmegaConf.create({"model": {"activation": {"_target_": "torch.tanh", "_partial_": True}}})
    assert failed_part(RuntimeError("a defect"), config, {}, None) is None


def test_the_line_that_torchs_compiler_names_counts():
    message = f"""Dynamo failed to run matmul: got RuntimeError('sizes')
  Hint: Your code may fail in eager mode, too.

from user code:
   File "{charlab.__path__[0]}/training/objectives.py", line 24, in __call__
    return model.loss(window)
  File "/home/me/mine.py", line 22, in forward
    return logits @ logits"""
    failed = failed_part(RuntimeError(message), OmegaConf.create({}), {}, None)
    sentence = (
        "/home/me/mine.py, line 22, in forward: RuntimeError: Dynamo failed to run matmul: got RuntimeError('sizes')"
    )
    assert str(failed) == sentence
    assert failed_part(RuntimeError("a defect"), OmegaConf.create({}), {}, None) is None
