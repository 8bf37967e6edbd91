"""Show the progress of a run: a bar on a terminal or in a notebook, periodic lines in a log file."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from charlab.notebook import Live as AnyLive
from charlab.notebook import NotebookLive, Output
from charlab.quantities import clock, flop_rate, percent
from charlab.training.module import LanguageModelModule

if TYPE_CHECKING:
    from charlab.evaluation.protocols import Score

SECONDS_BETWEEN_REFRESHES = 0.25
SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay(LightningProgressBar):
    """Show loss, perplexity, speed and remaining time of a run, on rank 0.

    A terminal or notebook shows a bar that is redrawn four times a second; between refreshes a step only reads the
    clock. In a notebook, the bar also shows the last evaluation. Any other output (a pipe, a cluster's log file) gets a
    line every ten seconds.

    Args:
        console: console to write to; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Output()
        self.enabled = True
        draws_text = self.console.is_terminal and not self.console.is_dumb_terminal
        self._draws_bar = self.console.is_jupyter or draws_text
        self._period = SECONDS_BETWEEN_REFRESHES if self._draws_bar else SECONDS_BETWEEN_LINES
        self._live: AnyLive | None = None
        self._scores = ""
        self._module: LanguageModelModule | None = None
        self._next_refresh = math.inf
        self._history: deque[_Reading] = deque(maxlen=120)  # readings of the last half minute or more
        self._started, self._ended = 0.0, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        assert isinstance(pl_module, LanguageModelModule)
        if not (trainer.is_global_zero and self.enabled):
            return
        self._module, self._started, self._ended = pl_module, time.monotonic(), False
        self._history.clear()
        self._read(trainer, pl_module)
        if self.console.is_jupyter:
            self._live = NotebookLive(self._state)
            self._live.start()
        elif self._draws_bar:  # rich's thread redraws the bar during evaluations too, but never reads the device
            refreshes_per_second = 1 / SECONDS_BETWEEN_REFRESHES
            self._live = Live(get_renderable=self._bar, console=self.console, refresh_per_second=refreshes_per_second)
            self._live.start(refresh=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() < self._next_refresh:
            return
        assert isinstance(pl_module, LanguageModelModule)
        self._read(trainer, pl_module)
        if not self._draws_bar:
            self._print_line()
        elif self.console.is_jupyter and self._live is not None:
            self._live.refresh()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the state after the last step. The bar stays visible while other callbacks finish."""
        assert isinstance(pl_module, LanguageModelModule)
        if trainer.is_global_zero and self.enabled:
            self._ended = True
            self._read(trainer, pl_module)
            if self._live is not None:
                self._live.refresh()  # a notebook keeps the last state
            else:
                self._print_line()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar, so that the terminal is usable again."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the bar, so that the terminal is usable again."""
        self._stop()

    def disable(self) -> None:
        """Turn the display off."""
        self.enabled = False

    def enable(self) -> None:
        """Turn the display on again."""
        self.enabled = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a line with the nll of every split, in nats per character."""
        is_shown = trainer.is_global_zero and self.enabled and not trainer.sanity_checking
        if is_shown and isinstance(pl_module, LanguageModelModule):
            self.show_scores(trainer.global_step, pl_module.scores)

    def show_line(self, line: str) -> None:
        """Write a line, above the bar if there is one."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show_scores(self, step: int, scores: Mapping[str, Score]) -> None:
        """Write a line with the nll of every split, in nats per character, above the bar."""
        figures = [f"{split} {'≤ ' * (score.likelihood == 'bound')}{score.nll:.3f}" for split, score in scores.items()]
        protocols = ", ".join(dict.fromkeys(score.protocol for score in scores.values()))
        self._scores = f"step {step:,}  {'  '.join(figures)}  ({protocols})"
        if not self.console.is_jupyter:
            self.show_line(self._scores)
        elif self._live is not None:  # the bar shows them; those from before the first step appear once it starts
            self._live.refresh()

    def _read(self, trainer: Trainer, module: LanguageModelModule) -> None:
        """Read the figures to show. Not called every step, since reading the loss synchronizes with the device."""
        step, seconds = trainer.global_step, module.training_seconds
        shares = [step / module.max_steps if module.max_steps else 0.0]
        shares.append(seconds / module.max_seconds if module.max_seconds else 0.0)
        reading = _Reading(
            when=time.monotonic(),
            step=step,
            loss=None if module.last_loss is None else module.last_loss.item(),
            spent=min(max(shares), 1.0),
            characters=module.characters_seen,
            training_seconds=seconds,
        )
        self._history.append(reading)
        self._next_refresh = reading.when + self._period

    def _phase(self) -> str:
        assert self._module is not None
        if self._module.evaluation_clock.running:
            return "evaluating"
        return "finished" if self._ended else "training"

    def _steps(self) -> str:
        assert self._module is not None
        step, of = f"{self._history[-1].step:,}", self._module.max_steps
        return f"{step}/{of:,}" if of else f"step {step}"

    def _figures(self) -> list[str]:
        first, last = self._history[0], self._history[-1]
        figures = []
        if last.loss is not None:
            perplexity = math.exp(last.loss) if last.loss < 700 else math.inf
            figures = [f"loss {last.loss:.3f}", f"perplexity {perplexity:.2f}"]
        if last.training_seconds > first.training_seconds:
            speed = (last.characters - first.characters) / (last.training_seconds - first.training_seconds)
            figures.append(f"{speed:,.0f} characters/s")
            if self._module is not None and self._module.flops_per_character:
                rate, peak = speed * self._module.flops_per_character, self._module.peak_flops
                figures.append(f"{percent(rate / peak)} MFU" if peak else flop_rate(rate, None))
        return figures

    def _times(self) -> list[str]:
        first, last = self._history[0], self._history[-1]
        times = [clock(time.monotonic() - self._started)]
        if last.spent > first.spent:
            pace = (last.when - first.when) / (last.spent - first.spent)  # seconds for the whole budget
            times.append(f"{clock(max(0.0, (1 - last.spent) * pace - (time.monotonic() - last.when)))} left")
        return times

    def _bar(self) -> RenderableType:
        spent = self._history[-1].spent
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(min_width=10)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=1.0, completed=spent)
        grid.add_row(Text(self._phase(), style="bold"), bar, Text("  ".join([self._steps(), *self._times()])))
        return Group(grid, Text(" " * 12 + "   ".join(self._figures()), no_wrap=True, overflow="ellipsis"))

    def _line(self) -> str:
        return "  ".join([self._phase(), self._steps(), *self._figures(), *self._times()])

    def _state(self) -> tuple[float, str]:
        """Return the spent share of the budget, and the text for a notebook: current figures and last evaluation."""
        return self._history[-1].spent, f"{self._line()}\n{self._scores}".rstrip()

    def _print_line(self) -> None:
        self.show_line(self._line())

    def _stop(self) -> None:
        self._next_refresh = math.inf
        if self._live is not None:
            self._live.stop()
            self._live = None


def show_line(trainer: Trainer, line: str) -> None:
    """Write a line through the trainer's progress display, if it has one."""
    for display in trainer.callbacks:
        if isinstance(display, ProgressDisplay) and trainer.is_global_zero:
            display.show_line(line)


class _Reading(NamedTuple):
    when: float  # seconds of the monotonic clock
    step: int
    loss: float | None  # nats per character
    spent: float  # share of the budget
    characters: int
    training_seconds: float
