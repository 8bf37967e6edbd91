"""Time the steps of a run, of a bare `lightning.Trainer` and of the plainest loop, alternating in one process.

    python -m benchmarks.alternation ROUNDS STEPS OVERRIDE…

trains as `charlab train OVERRIDE…` does. After every block of steps the run waits while the other two take the same
steps with copies of the model: the same initial weights, windows, learning rates and clipping, and a line in a CSV file
for every tenth step. A block is STEPS timed steps after one that warms up. One round warms up; ROUNDS more are timed.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

import charlab
from benchmarks.processes import QUIET
from charlab.data.windows import window_starts
from charlab.models.contract import LanguageModel
from charlab.training.callbacks.progress import ProgressDisplay
from charlab.training.module import LanguageModelModule
from charlab.training.schedules import Schedule
from tests.references.plain_loop import LOG_EVERY, train


class Alternation(Callback):
    """Let the other two take their steps between those of a run, and record the time of each block of steps.

    Args:
        steps: timed steps in a block.
        path: JSON file for what was measured.
    """

    def __init__(self, *, steps: int, path: str) -> None:
        self.steps, self.path = steps, Path(path)
        self._step_ms: dict[str, list[float]] = {"step_ms": [], "bare_step_ms": [], "plain_step_ms": []}
        self._plain_loss = 0.0  # of the plain loop's latest batch

    def on_train_start(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        bare, self._model = copy.deepcopy(pl_module.model), copy.deepcopy(pl_module.model)
        self._bare = _Module(bare, pl_module.optimizer(bare))
        self._optimizer = pl_module.optimizer(self._model)
        self._rate = self._optimizer.param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LanguageModelModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        place = trainer.global_step % (self.steps + 1)
        if place == 1:
            self._since = time.perf_counter()
        if place:
            return
        self._keep("step_ms", time.perf_counter() - self._since)
        displays = [part for part in trainer.callbacks if isinstance(part, ProgressDisplay)]
        for display in displays:  # its thread would redraw the bar while the others run
            display.teardown(trainer, pl_module, "fit")
        self._run_others(trainer, pl_module)
        for display in displays:
            display.on_train_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        assert pl_module.last_loss is not None
        timed = {side: times[1:] for side, times in self._step_ms.items()}
        losses = {"loss": pl_module.last_loss.item(), "bare_loss": self._bare.loss, "plain_loss": self._plain_loss}
        self.path.write_text(json.dumps({**timed, **losses}), encoding="utf-8")

    def _run_others(self, trainer: Trainer, module: LanguageModelModule) -> None:
        """Take the steps that the run has just taken."""
        data, clip = trainer.datamodule, trainer.gradient_clip_val
        ids, length, last = data.ids("train", module.device), data.context_length, trainer.global_step
        drawn = {"batch_size": data.batch_size, "num_starts": len(ids) - length}
        steps = range(last - self.steps, last + 1)  # from 1
        starts = {step: torch.from_numpy(window_starts(data.seed, step - 1, **drawn)) for step in steps}
        schedule = cast(Schedule, module.schedule)
        factors = {step: schedule(module.budget_spent(step - 1)) for step in steps}
        with tempfile.TemporaryDirectory() as folder:
            self._bare.factors = list(factors.values())
            bare = Trainer(
                accelerator="cpu",
                max_steps=len(steps),
                gradient_clip_val=clip,
                logger=CSVLogger(folder),
                log_every_n_steps=LOG_EVERY,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            bare.fit(self._bare, DataLoader(_Windows(ids, length, list(starts.values())), batch_size=None))
            self._keep("bare_step_ms", self._bare.ended[-1] - self._bare.ended[0])
            with Path(folder, "plain.csv").open("w") as log:
                rates = {step: self._rate * factor for step, factor in factors.items()}
                settings = {"rates": rates, "clip": clip, "log": log}
                train(self._model, self._optimizer, ids, length, {steps[0]: starts.pop(steps[0])}, **settings)
                since = time.perf_counter()
                self._plain_loss = train(self._model, self._optimizer, ids, length, starts, **settings)
                self._keep("plain_step_ms", time.perf_counter() - since)

    def _keep(self, side: str, seconds: float) -> None:
        self._step_ms[side].append(1e3 * seconds / self.steps)


class _Windows(Dataset[Tensor]):
    def __init__(self, ids: Tensor, length: int, starts: list[Tensor]) -> None:
        self.ids, self.offsets, self.starts = ids, torch.arange(length + 1), starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> Tensor:
        return self.ids[self.starts[number][:, None] + self.offsets].long()


class _Module(LightningModule):
    """What a user of Lightning alone would write, and the clock after each step of the latest `fit`."""

    factors: list[float]
    """Multiples of the learning rate in the steps of the next `fit`."""

    def __init__(self, model: LanguageModel, optimizer: Optimizer) -> None:
        super().__init__()
        self.model, self.optimizer = model, optimizer
        self.loss = 0.0

    def configure_optimizers(self) -> Mapping[str, Any]:
        self.ended: list[float] = []
        scheduler = LambdaLR(self.optimizer, lambda step: self.factors[min(step, len(self.factors) - 1)])
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, window: Tensor) -> Tensor:
        loss: Tensor = self.model.loss(window)
        self.log("train/loss", loss)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        self.ended.append(time.perf_counter())

    def on_train_end(self) -> None:
        self.loss = self.trainer.callback_metrics["train/loss"].item()


def measure(rounds: int, steps: int, overrides: list[str]) -> dict[str, Any]:
    """Return each side's mean step time in each timed block, and its loss on the last batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measured.json"
        callback = f"{{_target_:benchmarks.alternation.Alternation,steps:{steps},path:'{path}'}}"
        charlab.run(
            *overrides,
            f"trainer.max_steps={(rounds + 1) * (steps + 1)}",
            f"trainer.log_every_n_steps={LOG_EVERY}",
            f"+callbacks.alternation={callback}",
            "compute.compile=false",
            "trainer.accelerator=cpu",
            *QUIET,
            f"output_dir={folder}",
        )
        return dict(json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
