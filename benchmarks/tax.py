"""Time a step of charlab and of a bare `lightning.Trainer` in one process: `python -m benchmarks.tax STEPS OVERRIDE…`.

Both train the same model on windows of the same size, with the same optimizer, and log every tenth step to a CSV file.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import charlab
from benchmarks.processes import QUIET, mean_step_ms
from charlab.configuration.build import build
from charlab.configuration.compose import compose
from charlab.curves import FILE_NAME as CURVES
from charlab.runs.identity import load_corpus
from charlab.training.device import keep_freed_memory

WARM_UP = 20  # steps that are not timed
LOG_EVERY = 10  # steps


class _Windows(IterableDataset):
    def __init__(self, ids: Tensor, length: int, batch_size: int) -> None:
        self.ids, self.length, self.batch_size = ids, length, batch_size

    def __iter__(self) -> Iterator[Tensor]:
        offsets = torch.arange(self.length + 1)
        while True:
            starts = torch.randint(len(self.ids) - self.length, (self.batch_size,))
            yield self.ids[starts[:, None] + offsets].long()


class _Module(LightningModule):
    def __init__(self, config: DictConfig, vocabulary: int) -> None:
        super().__init__()
        self.config, self.model = config, build(config.model, vocabulary)
        self.started: list[float] = []

    def training_step(self, window: Tensor) -> Tensor:
        self.started.append(time.perf_counter())
        loss: Tensor = self.model.loss(window)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return build(self.config.optimizer)(self.model)


def bare_step_ms(steps: int, overrides: list[str]) -> float:
    """Return the mean time of a step of a bare trainer, in milliseconds."""
    config = compose(overrides)
    torch.manual_seed(config.seed)
    keep_freed_memory()
    data = build(config.data, corpus=load_corpus(config))
    data.setup()
    module = _Module(config, len(data.vocabulary))
    windows = _Windows(data.splits["train"], config.data.context_length, config.data.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=CSVLogger(folder),
            log_every_n_steps=LOG_EVERY,
            gradient_clip_val=config.trainer.gradient_clip_val,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(windows, batch_size=None))
    return 1e3 * (module.started[-1] - module.started[WARM_UP]) / (len(module.started) - 1 - WARM_UP)


def charlab_step_ms(steps: int, overrides: list[str]) -> float:
    """Return the mean time of a step of charlab, in milliseconds."""
    brief = (f"trainer.max_steps={steps}", f"trainer.log_every_n_steps={LOG_EVERY}", "compute.compile=false", *QUIET)
    with tempfile.TemporaryDirectory() as folder:
        record = charlab.run(*overrides, *brief, "trainer.accelerator=cpu", f"output_dir={folder}")
        return mean_step_ms(Path(record.folder) / CURVES, after=WARM_UP)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    arguments = int(sys.argv[1]), sys.argv[2:]
    print(json.dumps({"bare_step_ms": bare_step_ms(*arguments), "step_ms": charlab_step_ms(*arguments)}))
