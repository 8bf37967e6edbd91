import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from rich.console import Console
from rich.text import Text

from charlab.evaluation.metric import Score
from charlab.models.bigram import Bigram
from charlab.notebook import Output
from charlab.training.callbacks import progress
from charlab.training.callbacks.progress import ProgressDisplay
from charlab.training.module import LanguageModelModule
from tests.helpers.warm import warm
from tests.training import small

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class StepsOfFourSeconds(Callback):
    """Put the display's clock forward by four seconds a step."""

    def __init__(self, monkeypatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(LanguageModelModule, "training_seconds", property(lambda self: self.micro_batches * 2.0))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now += 4.0


class ConstantLoss(Bigram):
    def loss(self, window, *, generator=None):
        return super().loss(window, generator=generator) * 0 + 2.0


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm"})


def log_file() -> Console:
    return Console(file=io.StringIO(), width=40, _environ={})


def test_a_log_file_gets_a_line_every_ten_seconds_and_at_the_end(tmp_path, monkeypatch):
    display = ProgressDisplay(log_file())
    small.fit(tmp_path, ConstantLoss, [StepsOfFourSeconds(monkeypatch), display], max_steps=7)
    assert display.console.file.getvalue().splitlines() == [
        "training  3/7  loss 2.000  perplexity 7.39  16 characters/s  0:00:12  0:00:16 left",
        "training  6/7  loss 2.000  perplexity 7.39  16 characters/s  0:00:24  0:00:04 left",
        "finished  7/7  loss 2.000  perplexity 7.39  16 characters/s  0:00:28  0:00:00 left",
    ]


@pytest.mark.parametrize(("peak", "shown"), [(None, "16 MFLOP/s"), (4e7, "40% MFU")])
def test_the_work_is_shown_as_a_rate_or_as_the_share_of_the_devices_peak(tmp_path, monkeypatch, peak, shown):
    data, display = small.datamodule(), ProgressDisplay(log_file())
    module = small.module(ConstantLoss(len(data.vocabulary)))
    module.flops_per_character, module.peak_flops = 1e6, peak
    small.trainer(tmp_path, [StepsOfFourSeconds(monkeypatch), display], max_steps=7).fit(module, datamodule=data)
    assert f"16 characters/s  {shown}  0:00:28" in display.console.file.getvalue()


def test_a_budget_in_seconds_has_a_remaining_time_too(tmp_path, monkeypatch):
    data = small.datamodule()
    display = ProgressDisplay(log_file())
    module = small.module(ConstantLoss(len(data.vocabulary)))
    module.max_seconds = 14.0  # of the training clock, which runs at half the speed here
    trainer = small.trainer(tmp_path, [StepsOfFourSeconds(monkeypatch), display], max_steps=-1)
    trainer.fit(module, datamodule=data)
    first, *_ = display.console.file.getvalue().splitlines()
    assert first.startswith("training  step 3  loss")
    assert first.endswith("0:00:12  0:00:16 left")


def test_a_terminal_gets_a_bar_and_gets_its_cursor_back(tmp_path, monkeypatch):
    stdout = sys.stdout
    display = ProgressDisplay(terminal())
    small.fit(tmp_path, ConstantLoss, [StepsOfFourSeconds(monkeypatch), display], max_steps=7)
    shown = display.console.file.getvalue()
    assert "━" in shown
    for figure in ("training", "finished", "7/7", "loss 2.000", "perplexity 7.39", "16 characters/s", "0:00:00 left"):
        assert figure in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    assert sys.stdout is stdout


def test_a_terminal_is_given_back_after_an_error(tmp_path):
    class Fails(Callback):
        def on_train_batch_end(self, *_):
            raise ValueError("the disk caught fire")

    stdout = sys.stdout
    display = ProgressDisplay(terminal())
    with pytest.raises(ValueError, match="fire"):
        small.fit(tmp_path, Bigram, [display, Fails()], max_steps=3)
    shown = display.console.file.getvalue()
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    assert sys.stdout is stdout


def test_the_bar_fits_into_a_narrow_terminal(tmp_path):
    display = ProgressDisplay(terminal(width=60))
    small.fit(tmp_path, Bigram, [display], max_steps=1)
    lines = Console(width=60).render_lines(display._bar())
    assert len(lines) == 2
    assert any("━" in segment.text for segment in lines[0])


@pytest.mark.slow
def test_steps_between_two_refreshes_never_wait_for_the_device(tmp_path, monkeypatch):
    readings = []
    read = ProgressDisplay._read
    monkeypatch.setattr(ProgressDisplay, "_read", lambda *args: (readings.append(1), read(*args)))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 0.0))
    small.fit(tmp_path, Bigram, [ProgressDisplay(terminal())], max_steps=20)
    assert len(readings) == 2  # before the first step and after the last


def test_evaluation_is_shown_as_such_and_its_scores_above_the_bar(tmp_path):
    class Watches(Callback):
        def on_validation_batch_start(self, *_):
            self.phase = display._phase()

    display, watch = ProgressDisplay(terminal()), Watches()
    module = small.fit(
        tmp_path, Bigram, [display, watch], max_steps=1, limit_val_batches=1.0, check_val_every_n_epoch=1
    )
    assert watch.phase == "evaluating"
    assert display._phase() == "finished"
    shown = display.console.file.getvalue()
    scores = [module.scores[split].nll for split in ("train", "validation")]
    assert f"step 1  train {scores[0]:.3f}  validation {scores[1]:.3f}  (estimate)\n" in shown
    assert shown.index("step 1  train") < shown.rindex("━")


def test_lightnings_check_before_training_is_not_shown_as_an_evaluation(tmp_path):
    data, display = small.datamodule(), ProgressDisplay(log_file())
    trainer = small.trainer(tmp_path, [display], max_steps=1, limit_val_batches=1.0)
    trainer.num_sanity_val_steps = 2
    trainer.fit(small.module(Bigram(len(data.vocabulary))), datamodule=data)
    evaluated = [line for line in display.console.file.getvalue().splitlines() if line.startswith("step")]
    assert [line[:6] for line in evaluated] == ["step 1"]


def test_bounds_are_shown_as_such():
    display = ProgressDisplay(log_file())
    display.show_scores(7, {"train": Score("estimate", 2.4901, 10), "dev": Score("blocks", 2.5, 10, "bound")})
    assert display.console.file.getvalue() == "step 7  train 2.490  dev ≤ 2.500  (estimate, blocks)\n"


def test_nothing_is_shown_on_other_ranks():
    display = ProgressDisplay(log_file())
    other_rank = SimpleNamespace(callbacks=[display], is_global_zero=False, global_step=1)
    module = small.module(Bigram(3))
    module.scores = {"train": Score("estimate", 2.0, 10)}
    display.on_train_start(other_rank, module)
    display.on_train_batch_end(other_rank, module, None, None, 0)
    display.on_validation_end(other_rank, module)
    display.on_train_end(other_rank, module)
    assert display.console.file.getvalue() == ""


def test_a_loss_that_is_not_a_number_is_shown(tmp_path):
    class Diverges(Bigram):
        def loss(self, window, *, generator=None):
            return super().loss(window, generator=generator) * torch.nan

    display = ProgressDisplay(log_file())
    small.fit(tmp_path, Diverges, [display], max_steps=1)
    assert "loss nan" in display.console.file.getvalue()


@pytest.mark.parametrize("opened", [os.pipe, os.openpty], ids=["pipe", "terminal"])
@pytest.mark.parametrize("errors_too", [False, True])
def test_a_reader_that_stops_reading_does_not_end_a_run(opened, errors_too):
    program = (
        "from charlab.notebook import Output\n"
        "output = Output()\n"
        "for step in range(3): output.print(step)\n"
        "import sys; print('done', file=sys.stderr)"
    )
    reading, writing = opened()
    os.close(reading)
    errors = writing if errors_too else subprocess.PIPE
    done = subprocess.run(warm([sys.executable, "-c", program]), stdout=writing, stderr=errors, text=True)
    os.close(writing)
    assert done.returncode == 0
    if not errors_too:
        told = "Nothing reads the output any more: the command continues without it."
        assert done.stderr.splitlines() == [told, "done"]


def test_in_a_notebook_a_line_is_plain_output_whatever_its_length(capsys):
    console = Output(force_jupyter=True)
    long = "This model leaks: " + "its perplexity means nothing " * 9
    console.print(f"[bold]{long}[/]")
    console.print(Text("the result"))
    shown = capsys.readouterr().out
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == f"{long}\nthe result\n"
    assert "\x1b[1m" in shown
    display = ProgressDisplay(console)
    display.show_scores(0, {"train": Score("estimate", 4.1, 10)})
    assert capsys.readouterr().out == ""  # the bar shows them
