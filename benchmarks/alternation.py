"""Time the steps of a run next to the plainest loop's, alternating in one process.

    python -m benchmarks.alternation ROUNDS STEPS OVERRIDE…

trains as `charlab train OVERRIDE…` does. After every STEPS steps the run waits while the plain loop takes as many, with
the same initial weights, windows, learning rates and clipping. One round warms up; ROUNDS more are timed.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer

import charlab
from benchmarks.processes import QUIET
from charlab.data.windows import window_starts
from charlab.training.callbacks.progress import ProgressDisplay
from charlab.training.module import LanguageModelModule
from charlab.training.schedules import Schedule
from tests.references.plain_loop import train


class Alternation(Callback):
    """Let the plain loop take its steps between those of a run, and keep the time of each block of steps.

    Args:
        steps: steps in a block.
        path: JSON file for what was measured.
    """

    def __init__(self, *, steps: int, path: str) -> None:
        self.steps, self.path = steps, Path(path)
        self._step_ms: dict[str, list[float]] = {"step_ms": [], "plain_step_ms": []}
        self._loss = 0.0  # of the plain loop's latest batch

    def on_train_start(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        self._model = copy.deepcopy(pl_module.model)
        self._optimizer = pl_module.optimizer(self._model)
        self._rate = self._optimizer.param_groups[0]["lr"]
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LanguageModelModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.steps:
            return
        self._keep("step_ms", self._since)
        displays = [part for part in trainer.callbacks if isinstance(part, ProgressDisplay)]
        for display in displays:  # its thread would redraw the bar while the plain loop runs
            display.teardown(trainer, pl_module, "fit")
        self._run_plainly(trainer, pl_module)
        for display in displays:
            display.on_train_start(trainer, pl_module)
        self._since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        assert pl_module.last_loss is not None
        timed = {side: times[1:] for side, times in self._step_ms.items()}
        losses = {"loss": pl_module.last_loss.item(), "plain_loss": self._loss}
        self.path.write_text(json.dumps({**timed, **losses}), encoding="utf-8")

    def _run_plainly(self, trainer: Trainer, module: LanguageModelModule) -> None:
        """Take the steps that the run has just taken."""
        data = trainer.datamodule
        ids, length = data.ids("train", module.device), data.context_length
        drawn = {"batch_size": data.batch_size, "num_starts": len(ids) - length}
        steps = range(trainer.global_step - self.steps, trainer.global_step)
        starts = [torch.from_numpy(window_starts(data.seed, step, **drawn)) for step in steps]
        schedule = cast(Schedule, module.schedule)
        rates = [self._rate * schedule(module.budget_spent(step)) for step in steps]
        since = time.perf_counter()
        self._loss = train(self._model, self._optimizer, ids, length, starts, rates, trainer.gradient_clip_val)
        self._keep("plain_step_ms", since)

    def _keep(self, side: str, since: float) -> None:
        self._step_ms[side].append(1e3 * (time.perf_counter() - since) / self.steps)


def measure(rounds: int, steps: int, overrides: list[str]) -> dict[str, Any]:
    """Return the mean time of a step in each timed block of both sides, and the loss of their last batches."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measured.json"
        callback = f"{{_target_:benchmarks.alternation.Alternation,steps:{steps},path:'{path}'}}"
        charlab.run(
            *overrides,
            f"trainer.max_steps={(rounds + 1) * steps}",
            f"+callbacks.alternation={callback}",
            "compute.compile=false",
            "trainer.accelerator=cpu",
            *QUIET,
            f"output_dir={folder}",
        )
        return dict(json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
