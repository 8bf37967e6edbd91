"""A run small enough for a test: its datamodule, module and trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from torch import nn

from charlab.data.corpora import Corpus
from charlab.data.datamodule import CharacterDataModule
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.models.mixers.attention import Attention
from charlab.training.loggers import CSVLogger, TensorBoardLogger
from charlab.training.module import LanguageModelModule
from charlab.training.schedules import Constant

TEXT = "\nthe quick brown fox jumps over the lazy dog.\nhow vexingly quick daft zebras jump!" * 8


class TextInMemory:
    def __init__(self, text: str = TEXT) -> None:
        self.text = text

    def load(self) -> Corpus:
        return Corpus.of("small", self.text)


class SmallAttention(AutoregressiveModel):
    """Embedding, dropout, attention, readout: random numbers in training mode, and something to look at."""

    context_length = 8

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, 8)
        self.dropout = nn.Dropout(0.2)
        self.mixer = Attention(8, 8, num_heads=2)
        self.readout = nn.Linear(8, vocab_size)

    def forward(self, tokens):
        return self.readout(self.mixer(self.dropout(self.embedding(tokens))))


def datamodule(text: str = TEXT, batch_size: int = 4, **changes: Any) -> CharacterDataModule:
    settings = {
        "context_length": 8,
        "batch_size": batch_size,
        "train_fraction": 0.9,
        "validation_fraction": 0.1,
        "dev_fraction": 0.0,
        "seed": 0,
        **changes,
    }
    data = CharacterDataModule(corpus=TextInMemory(text), **settings)
    data.setup()
    return data


def module(model: LanguageModel, *, lr: float = 0.1) -> LanguageModelModule:
    return LanguageModelModule(model, optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=lr), schedule=Constant())


def tensorboard(folder: Path, **settings) -> TensorBoardLogger:
    return TensorBoardLogger(save_dir=str(folder), name="", version="", **settings)


def trainer(
    folder: Path, callbacks: list[Callback], *, max_steps: int, loggers: list[Logger] | None = None, **settings
) -> Trainer:
    warnings.filterwarnings(
        "ignore", message=".*(LeafSpec|many workers|not resumable).*"
    )  # Lightning's own, until the test ends
    loggers = [CSVLogger(save_dir=str(folder))] if loggers is None else loggers
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=-1,
        max_steps=max_steps,
        callbacks=callbacks,
        logger=loggers,
        limit_val_batches=settings.pop("limit_val_batches", 0),
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        log_every_n_steps=settings.pop("log_every_n_steps", 1),
        **settings,
    )


def fit(folder: Path, model_class: type[LanguageModel], callbacks: list[Callback], **settings) -> LanguageModelModule:
    """Train a seeded model, and return its module."""
    data = datamodule(batch_size=4 * settings.get("accumulate_grad_batches", 1))
    torch.manual_seed(0)
    trained = module(model_class(len(data.vocabulary)))
    trainer(folder, callbacks, **settings).fit(trained, datamodule=data)
    return trained
