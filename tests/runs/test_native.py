"""Lightning's own callbacks, loggers and Trainer arguments in a run of charlab's."""

import datetime
import json
import logging
import os
import re
import signal
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

import charlab
from charlab import cli
from charlab.configuration.compose import compose
from charlab.errors import PartError, UserError
from charlab.runs.identity import fingerprint
from charlab.runs.record import Record
from charlab.training.callbacks.checkpointing import Checkpointing
from tests.helpers.tiny_runs import assert_same_outcome, curves, weights
from tests.helpers.tracker import Tracker

LIGHTNING = "lightning.pytorch.callbacks"
DEV = ("data.dev_fraction=0.1", "evaluate_every=2")
EARLY = (
    *DEV,
    "optimizer.lr=0.02",
    f"+callbacks.early={{_target_: {LIGHTNING}.EarlyStopping, monitor: dev/nll, patience: 1}}",
)


class PowerFailure(RuntimeError):
    """End a run where SIGKILL would."""


@pytest.fixture
def fails(monkeypatch):
    """Make a hook of charlab's checkpoints fail at a step, before or after its own work."""

    def fail(hook, step, *, after):
        original = getattr(Checkpointing, hook)

        def failing(self, trainer, *arguments):
            if after:
                original(self, trainer, *arguments)
            if trainer.state.fn == "fit" and trainer.global_step == step:
                raise PowerFailure
            if not after:
                original(self, trainer, *arguments)

        monkeypatch.setattr(Checkpointing, hook, failing)
        return lambda: monkeypatch.setattr(Checkpointing, hook, original)

    return fail


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 12], ids=["at an evaluation", "at the last step"])
@pytest.mark.parametrize(
    ("hook", "after"),
    [
        ("on_train_batch_end", False),
        ("on_train_batch_end", True),
        ("on_validation_end", False),
        ("on_validation_end", True),
    ],
    ids=["before the save", "between save and evaluation", "after the evaluation", "after its save"],
)
def test_killed_around_an_evaluation_a_run_ends_in_the_same_bits(run_tiny, finished_run, fails, step, hook, after):
    every = ("callbacks.checkpointing.every_n_steps=4",)
    restore = fails(hook, step, after=after)
    with pytest.raises(PowerFailure):
        run_tiny(*every)
    restore()
    assert_same_outcome(run_tiny(*every), finished_run)


@pytest.mark.slow
@pytest.mark.parametrize("epoch_steps", [2, 3, 5])
@pytest.mark.parametrize("micro_batch", [5, *(pytest.param(n, marks=pytest.mark.thorough) for n in (8, 13, 20))])
def test_epochs_leave_no_trace_in_a_run_that_is_killed(run_tiny, interrupt_at, micro_batch, epoch_steps, tmp_path):
    epochs = (f"data.epoch_steps={epoch_steps}", "trainer.accumulate_grad_batches=1")
    whole = run_tiny(*epochs, f"output_dir={tmp_path / 'whole'}", "trainer.max_steps=24")
    restore = interrupt_at(micro_batch, PowerFailure())
    with pytest.raises(PowerFailure):
        run_tiny(*epochs, "trainer.max_steps=24")
    restore()
    assert_same_outcome(run_tiny(*epochs, "trainer.max_steps=24"), whole)


def test_early_stopping_reads_dev_text_and_ends_a_run(run_tiny):
    record = run_tiny(*EARLY)
    figures = [float(value) for _, _, metric, value in curves(record) if metric == "dev/nll"]
    assert record.status == "finished"
    assert record.steps < 12
    assert figures[-1] >= min(figures[1:-1])  # no better than before, once


@pytest.mark.slow
def test_a_run_that_was_stopped_early_is_not_trained_on_after_a_kill(run_tiny, monkeypatch, tmp_path):
    whole = run_tiny(*EARLY, f"output_dir={tmp_path / 'whole'}")
    from charlab.runs.train import _Training

    original = _Training._finish
    monkeypatch.setattr(_Training, "_finish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_tiny(*EARLY)
    monkeypatch.setattr(_Training, "_finish", original)
    resumed = run_tiny(*EARLY)
    assert resumed.steps == whole.steps
    assert_same_outcome(resumed, whole)


@pytest.mark.slow
def test_early_stopping_goes_on_counting_after_a_kill(run_tiny, interrupt_at, tmp_path):
    whole = run_tiny(*EARLY, f"output_dir={tmp_path / 'whole'}")
    restore = interrupt_at(2 * whole.steps - 1, PowerFailure())
    with pytest.raises(PowerFailure):
        run_tiny(*EARLY)
    restore()
    assert_same_outcome(run_tiny(*EARLY), whole)


@pytest.mark.slow
def test_early_stopping_after_each_epoch_goes_on_after_a_kill(run_tiny, interrupt_at, tmp_path):
    epochs = (*EARLY, "optimizer.lr=0.002", "data.epoch_steps=3", "trainer.check_val_every_n_epoch=1")
    whole = run_tiny(*epochs, f"output_dir={tmp_path / 'whole'}")
    restore = interrupt_at(9, PowerFailure())  # in the second epoch, after the checkpoint at the end of the first
    with pytest.raises(PowerFailure):
        run_tiny(*epochs)
    restore()
    assert_same_outcome(run_tiny(*epochs), whole)


@pytest.mark.slow
def test_a_plateau_lowers_the_rate_and_goes_on_after_a_kill(run_tiny, interrupt_at, tmp_path):
    plateau = (
        *DEV,
        "optimizer.lr=0.02",
        "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
        "+scheduler={patience: 0, factor: 0.5}",
    )
    whole = run_tiny(*plateau, f"output_dir={tmp_path / 'whole'}")
    rates = [float(value) for _, _, metric, value in curves(whole) if metric == "learning_rate"]
    assert rates[0] == 0.02
    assert rates[-1] in (0.01, 0.005, 0.0025, 0.00125)
    restore = interrupt_at(17, PowerFailure())
    with pytest.raises(PowerFailure):
        run_tiny(*plateau)
    restore()
    assert_same_outcome(run_tiny(*plateau), whole)


class Counts(Callback):
    """Count the batches of a run over all attempts at it."""

    batches = 0

    def on_train_batch_end(self, *_):
        self.batches += 1

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state_dict):
        self.batches = state_dict["batches"]


WORST = (*DEV, f"+callbacks.worst={{_target_: {LIGHTNING}.ModelCheckpoint, monitor: dev/nll, mode: max}}")
LAST_LINE = "finished  12/12"  # of charlab's progress display


def kept(record, name):
    """Return the state of a callback in the last checkpoint of a run."""
    checkpoint = torch.load(record.folder / "checkpoints" / "last.ckpt", weights_only=True)
    (state,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith(name))
    return state


def measured(record, name):
    """Return a metric by step; of several that begin with the name, the last one."""
    return {int(step): float(value) for step, _, metric, value in curves(record) if metric.startswith(name)}


def kept_step(record):
    """Return the step of the evaluation in training with the highest figure, which `ModelCheckpoint` must have."""
    figures = {step: nll for step, nll in measured(record, "dev/nll").items() if step > 0}
    step = max(figures, key=figures.get)
    state = kept(record, "ModelCheckpoint")
    assert float(state["best_model_score"]) == pytest.approx(figures[step], rel=1e-6)
    assert Path(state["best_model_path"]).parent == record.folder / "checkpoints"
    assert torch.load(state["best_model_path"], weights_only=True)["global_step"] == step
    return step


@pytest.mark.slow
def test_callbacks_do_their_work_and_keep_their_state_after_a_kill(run_tiny, interrupt_at, tmp_path, capsys):
    chosen = (
        *WORST,
        "scheduler=warmup_cosine",
        f"+callbacks.rate={{_target_: {LIGHTNING}.LearningRateMonitor}}",
        f"+callbacks.device={{_target_: {LIGHTNING}.DeviceStatsMonitor}}",
        f"+callbacks.summary={{_target_: {LIGHTNING}.RichModelSummary}}",
        f"+callbacks.counts={{_target_: {__name__}.Counts}}",
    )
    whole = run_tiny(*chosen, f"output_dir={tmp_path / 'whole'}")
    printed = capsys.readouterr().out
    assert "Trainable params" in printed
    assert LAST_LINE in printed
    rates = measured(whole, "lr-")
    assert len(set(rates.values())) > 6
    assert {step + 1: rate for step, rate in rates.items()} == measured(whole, "learning_rate")
    memory = measured(whole, "DeviceStatsMonitor.on_train_batch_end/cpu_vm_percent")
    assert len(memory) >= 12
    assert all(0 < percent <= 100 for percent in memory.values())
    assert kept(whole, "Counts") == {"batches": 24}

    restore = interrupt_at(13, PowerFailure())  # in step 7, after a checkpoint of step 6
    with pytest.raises(PowerFailure):
        run_tiny(*chosen)
    restore()
    resumed = run_tiny(*chosen)
    assert measured(resumed, "lr-") == rates
    assert kept_step(resumed) == kept_step(whole) < 6
    assert kept(resumed, "Counts") == {"batches": 24}


@pytest.mark.slow
def test_lightnings_checkpoints_know_an_evaluation_right_before_a_kill(run_tiny, interrupt_at):
    restore = interrupt_at(5, PowerFailure())  # in step 3, after the evaluation and the checkpoint of step 2
    with pytest.raises(PowerFailure):
        run_tiny(*WORST)
    restore()
    assert kept_step(run_tiny(*WORST)) == 2


@pytest.mark.slow
def test_lightnings_checkpoints_are_named_after_their_own_step(run_tiny):
    every = "every_n_train_steps: 1, save_top_k: -1"
    record = run_tiny(f"+callbacks.every={{_target_: {LIGHTNING}.ModelCheckpoint, {every}}}", "evaluate_every=4")
    for step in range(1, 13):
        (path,) = record.folder.glob(f"checkpoints/epoch=*-step={step}.ckpt")
        assert torch.load(path, weights_only=True)["global_step"] == step


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_lightnings_averaging_goes_on_after_a_kill(run_tiny, interrupt_at, tmp_path):
    averaging = (
        f"+callbacks.swa={{_target_: {LIGHTNING}.StochasticWeightAveraging, swa_lrs: 0.01, swa_epoch_start: 2}}",
        "data.epoch_steps=3",
        "callbacks.checkpointing.every_n_steps=4",
    )
    whole = run_tiny(*averaging, f"output_dir={tmp_path / 'whole'}")
    state = kept(whole, "StochasticWeightAveraging")
    assert state["n_averaged"] == 3
    average = state["average_model_state"]
    assert all(torch.equal(value, average[name]) for name, value in weights(whole).items())
    restore = interrupt_at(17, PowerFailure())  # in step 9, after a checkpoint in the middle of the third epoch
    with pytest.raises(PowerFailure):
        run_tiny(*averaging)
    restore()
    assert_same_outcome(run_tiny(*averaging), whole)


@pytest.mark.slow
def test_lightnings_last_checkpoint_does_not_replace_the_one_to_resume_from(run_tiny, interrupt_at, tmp_path):
    last = f"+callbacks.last={{_target_: {LIGHTNING}.ModelCheckpoint, save_last: true, save_weights_only: true}}"
    restore = interrupt_at(9, PowerFailure())  # in step 5, after a checkpoint of step 3 and an evaluation of step 4
    with pytest.raises(PowerFailure):
        run_tiny(last)
    restore()
    (folder,) = tmp_path.glob("outputs/runs/*/*/checkpoints")
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in folder.glob("last*")}
    assert steps == {"last.ckpt": 3, "last-v1.ckpt": 4}
    assert run_tiny(last).status == "finished"


class EndsItself(Callback):
    """Send SIGTERM to the process in the last step, once."""

    ends = True

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 12 and type(self).ends:
            type(self).ends = False
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_sigterm_in_the_last_step_leaves_the_same_weights(run_tiny, tmp_path, monkeypatch):
    averaging = (
        f"+callbacks.swa={{_target_: {LIGHTNING}.StochasticWeightAveraging, swa_lrs: 0.01, swa_epoch_start: 2}}",
        f"+callbacks.ends={{_target_: {__name__}.EndsItself}}",
        "data.epoch_steps=3",
    )
    monkeypatch.setattr(EndsItself, "ends", True)
    with pytest.raises(SystemExit):
        run_tiny(*averaging)
    killed = run_tiny(*averaging)
    assert killed.status == "finished"
    assert_same_outcome(killed, run_tiny(*averaging, f"output_dir={tmp_path / 'whole'}"))


class WarnsItself(Callback):
    """Sends SIGUSR1 to the process in the evaluation of step 4."""

    def on_validation_start(self, trainer, *_):
        if trainer.state.fn == "fit" and trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.fixture
def saved_steps(monkeypatch):
    """The steps of the checkpoints of a run."""
    steps, save = [], Checkpointing.save

    def noting(self, trainer, pl_module):
        steps.append(trainer.global_step)
        save(self, trainer, pl_module)

    monkeypatch.setattr(Checkpointing, "save", noting)
    return steps


@pytest.mark.slow
def test_a_warning_in_an_evaluation_saves_after_the_next_step_when_all_processes_do(run_tiny, saved_steps):
    run_tiny("callbacks.checkpointing.every_n_steps=null", f"+callbacks.warns={{_target_: {__name__}.WarnsItself}}")
    assert saved_steps == [5, 12]


@pytest.mark.slow
def test_an_evaluation_between_micro_batches_leaves_no_trace_after_a_kill(run_tiny, interrupt_at, tmp_path):
    between = (*DEV, "trainer.val_check_interval=3")  # two micro-batches make a step
    whole = run_tiny(*between, f"output_dir={tmp_path / 'whole'}")
    restore = interrupt_at(9, PowerFailure())  # right after an evaluation in the middle of step 5, the best so far
    with pytest.raises(PowerFailure):
        run_tiny(*between)
    restore()
    resumed = run_tiny(*between)
    assert_same_outcome(resumed, whole)
    assert resumed.best == whole.best


@pytest.mark.slow
def test_a_run_that_may_not_stop_yet_is_saved_and_goes_on_after_a_kill(run_tiny, interrupt_at, tmp_path):
    late = (
        *DEV,
        f"+callbacks.early={{_target_: {LIGHTNING}.EarlyStopping, monitor: dev/nll, stopping_threshold: 100.0}}",
        "averaging=ema",
        "data.epoch_steps=3",
        "trainer.min_steps=9",
    )
    whole = run_tiny(*late, f"output_dir={tmp_path / 'whole'}")
    assert whole.steps == 9
    restore = interrupt_at(15, PowerFailure())  # in step 8, after a checkpoint of step 6
    with pytest.raises(PowerFailure):
        run_tiny(*late)
    restore()
    (checkpoint,) = tmp_path.glob("outputs/runs/*/*/checkpoints/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 6
    assert_same_outcome(run_tiny(*late), whole)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: validation/nll}",),
            "dev/nll",
        ),
        (("+callbacks.odd={_target_: collections.OrderedDict}",), r"callbacks\.odd is a collections\.OrderedDict"),
        pytest.param(("trainer.strategy=ddp_spawn",), "trainer.strategy=ddp", marks=pytest.mark.slow),
        (("scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",), r"data\.dev_fraction"),
    ],
)
def test_what_a_run_cannot_have_is_said_before_anything_is_written(run_tiny, tmp_path, more, message):
    with pytest.raises(UserError, match=message) as raised:
        run_tiny(*more)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("outputs/runs/*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("trainer.overfit_batches=2",),
        ("trainer.enable_model_summary=true",),
        ("trainer.check_val_every_n_epoch=1", "data.epoch_steps=5"),
        ("trainer.max_steps=-1", "trainer.max_epochs=2", "data.epoch_steps=3"),
        ("trainer.gradient_clip_val=0.1", "trainer.gradient_clip_algorithm=value"),
        ("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1", "trainer.gradient_clip_algorithm=value"),
        ("trainer.gradient_clip_val=0",),
        ("trainer.limit_val_batches=1",),
        ("trainer.reload_dataloaders_every_n_epochs=1", "data.epoch_steps=5"),
        ("trainer.logger=false",),
        ("+callbacks.bar={_target_: lightning.pytorch.callbacks.TQDMProgressBar}",),
        ("+callbacks.bar={_target_: lightning.pytorch.callbacks.RichProgressBar}",),
        ("+callbacks.timer={_target_: lightning.pytorch.callbacks.Timer, duration: '00:01:00:00'}",),
        ("optimizer._target_=torch.optim.RMSprop", "~optimizer.betas", "~optimizer.decayed"),
        ("scheduler._target_=torch.optim.lr_scheduler.StepLR", "+scheduler.step_size=1", "data.epoch_steps=4"),
    ],
    ids=lambda more: more[0],
)
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_lightnings_arguments_callbacks_and_torchs_parts_work_from_the_command_line(run_tiny, more):
    record = run_tiny(*more)
    assert record.status == "finished"
    assert record.steps == (6 if "trainer.max_epochs=2" in more else 12)
    assert record.metric("blocks")["nll"] > 0


class Notes(Callback):
    """Note the epoch and the number of each batch, and whether torch looks for anomalies."""

    seen: ClassVar[list[tuple[int, int, bool]]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append((trainer.current_epoch, batch_idx, torch.is_anomaly_enabled()))


@pytest.mark.slow
def test_lightnings_arguments_have_their_effects(run_tiny, capsys):
    Notes.seen.clear()
    record = run_tiny(
        "trainer.detect_anomaly=true",
        "trainer.enable_progress_bar=false",
        "trainer.limit_train_batches=4",
        "trainer.val_check_interval=4",
        f"+callbacks.notes={{_target_: {__name__}.Notes}}",
    )
    assert Notes.seen == [(epoch, batch, True) for epoch in range(6) for batch in range(4)]
    assert list(measured(record, "validation/nll")) == [0, 2, 4, 6, 8, 10, 12]  # after every 4 batches, 2 a step
    assert LAST_LINE not in capsys.readouterr().out


class Slow(Callback):
    """Take 0.4 seconds a batch."""

    def on_train_batch_start(self, *_):
        time.sleep(0.4)


@pytest.mark.slow
@pytest.mark.timeout(120)  # nothing else would end the run
def test_max_time_is_a_budget(run_tiny):
    record = run_tiny(
        "trainer.max_steps=-1",
        "trainer.max_time=00:00:00:01",
        "trainer.accumulate_grad_batches=1",
        f"+callbacks.slow={{_target_: {__name__}.Slow}}",
    )
    assert record.status == "finished"
    assert 1 <= record.steps <= 3
    assert list(measured(record, "validation/nll")) == [0, record.steps]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_schedule_follows_max_time(run_tiny):
    record = run_tiny(
        "trainer.max_steps=-1",
        "trainer.max_time=00:00:00:02",
        "trainer.accumulate_grad_batches=1",
        "scheduler=warmup_cosine",
        f"+callbacks.slow={{_target_: {__name__}.Slow}}",
    )
    rates = list(measured(record, "learning_rate").values())
    assert max(rates) > 0.1 * record.config["optimizer"]["lr"]
    assert rates[-1] < max(rates)


@pytest.mark.slow
def test_fast_dev_run_leaves_no_finished_record(run_tiny, capsys):
    record = run_tiny("trainer.fast_dev_run=true", "trainer.accumulate_grad_batches=1")
    assert Record.load(record.folder).status == record.status == "tried"
    assert record.steps == 1
    assert not record.metrics
    assert not (record.folder / "checkpoints").exists()
    again = run_tiny("trainer.fast_dev_run=true", "trainer.accumulate_grad_batches=1")
    assert (again.folder, again.status, again.error) == (record.folder, "tried", None)
    assert "continuing" not in capsys.readouterr().out


class Keeps(Callback):
    """Keep what no checkpoint can hold."""

    kinds: ClassVar[dict[str, object]] = {
        "numpy": np.float64(3.0),
        "path": Path("somewhere"),
        "datetime": datetime.datetime(2026, 1, 1),
    }

    def __init__(self, *, kind="datetime"):
        self.kind = kind

    def state_dict(self):
        return {"kept": self.kinds[self.kind]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["datetime", "numpy", "path"])
def test_a_state_that_could_not_be_read_back_is_refused_before_training(run_tiny, tmp_path, kind):
    with pytest.raises(UserError, match=r"Keeps.*more than numbers, text, lists"):
        run_tiny(f"+callbacks.mine={{_target_: tests.runs.test_native.Keeps, kind: {kind}}}")
    (record,) = tmp_path.glob("outputs/runs/*/*/record.json")
    assert Record.load(record.parent).steps == 0


class Learns(Callback):
    """Come to hold what no checkpoint can, in the middle of training."""

    kept: object = None

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 8:
            self.kept = np.float64(3.0)

    def state_dict(self):
        return {"kept": self.kept}


@pytest.mark.slow
def test_a_checkpoint_that_could_not_be_read_back_does_not_replace_the_former(run_tiny, tmp_path):
    with pytest.raises(UserError, match=r"Learns.*more than numbers, text, lists"):
        run_tiny("+callbacks.mine={_target_: tests.runs.test_native.Learns}")
    (record,) = tmp_path.glob("outputs/runs/*/*/record.json")
    checkpoint = record.parent / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 6
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.ckpt"]


class Careless(Callback):
    """Fail in code of its own, or in a library that it calls."""

    def __init__(self, *, text="{"):
        if text == "none":
            raise ValueError("nothing to read")
        self.text = text

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            self.read()

    def read(self):
        return json.loads(self.text)


@pytest.mark.slow
def test_a_callback_that_fails_is_named_with_its_own_line(run_tiny, overrides, capfd, monkeypatch):
    careless = "+callbacks.mine={_target_: tests.runs.test_native.Careless}"
    line = Careless.read.__code__.co_firstlineno + 1
    sentence = f"{__file__}, line {line}, in read, with callbacks.mine: JSONDecodeError: Expecting property name"
    with pytest.raises(PartError) as raised:
        run_tiny(careless)
    assert str(raised.value).startswith(sentence)
    assert isinstance(raised.value.__cause__, json.JSONDecodeError)
    capfd.readouterr()
    assert cli.train([*overrides, careless]) == 1
    said = capfd.readouterr().err
    assert said.startswith(sentence)
    assert said.count("\n") == 1
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert cli.train([*overrides, careless]) == 1
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.slow
def test_a_callback_of_a_library_that_fails_is_named_with_its_hook(run_tiny, tmp_path):
    with pytest.raises(PartError) as raised:
        run_tiny(f"+callbacks.fine={{_target_: {LIGHTNING}.BackboneFinetuning}}")
    sentence = f"callbacks.fine ({LIGHTNING}.finetuning.BackboneFinetuning) failed in "
    assert str(raised.value).startswith(sentence)
    assert str(raised.value).endswith("AttributeError: 'LanguageModelModule' object has no attribute 'backbone'.")
    (record,) = tmp_path.glob("outputs/runs/*/*/record.json")
    assert Record.load(record.parent).error.splitlines()[-1] == str(raised.value)


@pytest.mark.slow
def test_a_callback_that_cannot_be_built_is_named_before_anything_is_written(run_tiny, tmp_path):
    line = Careless.__init__.__code__.co_firstlineno + 2
    sentence = f"{__file__}, line {line}, in __init__, with callbacks.mine: ValueError: nothing to read."
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        run_tiny("+callbacks.mine={_target_: tests.runs.test_native.Careless, text: none}")
    assert not list(tmp_path.glob("outputs/runs/*"))


@pytest.mark.slow
def test_a_limit_that_lightning_refuses_in_an_evaluation_is_one_sentence(run_tiny, tmp_path):
    with pytest.raises(UserError, match=r"0\.1 of the `val_dataloader`.*increase the `limit_val_batches`") as raised:
        run_tiny("trainer.limit_val_batches=0.1")
    assert "\n" not in str(raised.value)
    (record,) = tmp_path.glob("outputs/runs/*/*/record.json")
    assert Record.load(record.parent).error == str(raised.value)


@pytest.mark.slow
def test_the_last_step_is_evaluated_whatever_the_interval(run_tiny):
    record = run_tiny("evaluate_every=5", "trainer.max_steps=7")
    steps = [int(step) for step, _, metric, _ in curves(record) if metric == "validation/nll"]
    assert steps == [0, 5, 7]


class Watch(Callback):
    """Keep what a run is trained on."""

    seen: ClassVar[list[torch.Tensor]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(batch.clone())


@pytest.mark.slow
def test_overfitted_batches_repeat(run_tiny):
    Watch.seen.clear()
    record = run_tiny(
        "trainer.overfit_batches=2", "trainer.max_steps=3", f"+callbacks.watch={{_target_: {__name__}.Watch}}"
    )
    seen = Watch.seen
    assert len(seen) == 6
    assert record.callbacks == [f"{__name__}.Watch"]
    for later in (2, 4):
        assert torch.equal(torch.stack(seen[:2]), torch.stack(seen[later : later + 2]))


@pytest.mark.slow
@pytest.mark.parametrize("answers", [0, 3])
def test_a_run_goes_on_without_its_tracker(run_tiny, answers):
    node = f"{{_target_: tests.helpers.tracker.Tracker, answers: {answers}}}"
    record = run_tiny(f"+logger.mine={node}", "trainer.max_steps=4")
    assert record.status == "finished"
    assert [int(step) for step, _, metric, _ in curves(record) if metric == "train/loss"] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_callback_that_logs_does_not_end_a_run_whose_only_tracker_does_not_answer(run_tiny):
    tracker = "+logger.mine={_target_: tests.helpers.tracker.Tracker}"
    rate = f"+callbacks.rate={{_target_: {LIGHTNING}.LearningRateMonitor}}"
    assert run_tiny("~logger.csv", tracker, rate, "trainer.max_steps=4").status == "finished"


class Uploads(Tracker):
    """Keeps the paths of the checkpoints that it is told of."""

    paths: ClassVar[list[Path]] = []

    def after_save_checkpoint(self, checkpoint_callback):
        self.paths.append(Path(checkpoint_callback.last_model_path))


@pytest.mark.slow
def test_a_tracker_is_told_of_every_checkpoint(run_tiny):
    Uploads.paths.clear()
    record = run_tiny(f"+logger.mine={{_target_: {__name__}.Uploads, answers: 1000}}")
    assert Uploads.paths == 4 * [record.folder / "checkpoints" / "last.ckpt"]  # of steps 3, 6, 9 and 12


@pytest.mark.slow
def test_checkpoints_are_in_the_runs_folder_whatever_logger_comes_first(run_tiny, capsys):
    tracker = "+logger.mine={_target_: tests.helpers.tracker.Tracker, answers: 1000}"
    record = run_tiny("~logger.csv", tracker, "trainer.max_steps=4")
    assert (record.folder / "checkpoints" / "last.ckpt").exists()
    capsys.readouterr()
    assert run_tiny("~logger.csv", tracker, "trainer.max_steps=4").folder == record.folder
    assert " ".join(capsys.readouterr().out.split()).startswith("This run is finished already")


@pytest.mark.slow
def test_lightnings_csv_logger_leaves_the_curves_alone(run_tiny):
    record = run_tiny("+logger.mine={_target_: lightning.pytorch.loggers.CSVLogger}", "trainer.max_steps=4")
    assert [int(step) for step, _, metric, _ in curves(record) if metric == "train/loss"] == [1, 2, 3, 4]
    header, *_ = (record.folder / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert {"train/loss", "validation/nll"} <= set(header.split(","))


@pytest.fixture
def logged():
    """What Lightning's profilers log in the test."""
    texts = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())
    logging.getLogger("lightning.pytorch.profilers").addHandler(handler)
    yield texts
    logging.getLogger("lightning.pytorch.profilers").removeHandler(handler)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
@pytest.mark.parametrize(("profiler", "shown"), [("advanced", "ncalls"), ("pytorch", "aten::")])
def test_a_profile_of_training_is_logged(run_tiny, logged, profiler, shown):
    run_tiny(f"trainer.profiler={profiler}")
    assert any("FIT Profiler Report" in text and shown in text for text in logged)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize(
    ("preset", "status", "steps"),
    [
        ("fast", "tried", 1),
        ("overfit", "tried", 12),
        ("profile", "tried", 100),
        ("anomaly", "tried", 100),
    ],
)
def test_runs_for_debugging_live_apart(preset, status, steps, overrides, tmp_path, monkeypatch, logged):
    monkeypatch.chdir(tmp_path)
    kept = [override for override in overrides if not override.startswith(("output_dir=", "trainer.accum"))]
    if steps == 100:
        kept = [override for override in kept if not override.startswith("trainer.max_steps")]
    record = charlab.run(*kept, f"debug={preset}")
    assert (record.status, record.steps) == (status, steps)
    assert record.folder.parents[2].absolute() == tmp_path / "outputs" / "debug"
    assert charlab.runs().empty
    assert charlab.runs(f"debug={preset}", output_dir="outputs/debug")["status"].tolist() == [status]
    assert any("training_step" in text for text in logged) == (preset == "profile")
    ordinary = compose([*kept, f"output_dir={tmp_path / 'outputs'}"])
    assert record.fingerprint != fingerprint(ordinary)
    if preset == "overfit":  # the same command trains again
        again = charlab.run(*kept, f"debug={preset}")
        assert (again.folder, again.status, again.steps) == (record.folder, status, steps)
        assert again.time["training_s"] != record.time["training_s"]
