"""Evaluation in the course of training."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, Trainer

from charlab.evaluation.protocols import Blocks, Estimate, Protocol, Score, evaluate
from charlab.training.callbacks.metrics import log_metrics
from charlab.training.callbacks.progress import show_scores
from charlab.training.module import LanguageModelModule
from charlab.types import PositiveInt


class Evaluation(Callback):
    """Estimates the loss on random windows of train and validation text before, during and after training.

    The windows are the same every time and for every model, so the curves of two runs differ by what differs
    between the runs. Where the data have a dev split, all of it is scored as well (`blocks`), and the evaluation at
    which that was lowest is remembered. The validation text is for reporting and never chooses.

    Args:
        every_n_steps: how many optimizer steps lie between two estimates.
        num_batches: how many batches of windows an estimate takes from each text.

    Attributes:
        results: the latest figures, one entry per split, ready for the run's record.
        best: step and nll (nats per character) of the lowest figure on the dev split; None without one.
    """

    def __init__(self, *, every_n_steps: PositiveInt, num_batches: PositiveInt) -> None:
        self.every_n_steps, self.num_batches = every_n_steps, num_batches
        self.last_step: int | None = None
        self.results: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        if trainer.global_step == 0:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LanguageModelModule, *_: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        self._evaluate(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step, "results": self.results, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_step, self.results, self.best = state_dict["last_step"], state_dict["results"], state_dict["best"]

    def _evaluate(self, trainer: Trainer, module: LanguageModelModule) -> None:
        if trainer.global_step == self.last_step:
            return  # another batch of the same step, or the end of training right after a step
        self.last_step = trainer.global_step
        data = trainer.datamodule
        estimate = Estimate(num_batches=self.num_batches, batch_size=data.batch_size, seed=data.seed)
        protocols: dict[str, Protocol] = {"train": estimate, "validation": estimate}
        if "dev" in data.splits:
            protocols["dev"] = Blocks()
        scores: dict[str, Score] = {}
        with module.evaluating():
            for split, protocol in protocols.items():
                scores[split] = evaluate(
                    module.model,
                    data.ids(split, module.device),
                    protocol,
                    context_length=data.context_length,
                    batch_size=data.micro_batch_size,
                    rank=trainer.global_rank,
                    world_size=trainer.world_size,
                )
        self.results = [{"split": split, **score.as_dict()} for split, score in scores.items()]
        nll = {f"{score.protocol}/{split}/nll": score.nll for split, score in scores.items()}
        perplexity = {f"{score.protocol}/{split}/perplexity": score.perplexity for split, score in scores.items()}
        log_metrics(trainer, module, nll | perplexity)
        show_scores(trainer, scores)
        if "dev" in scores and scores["dev"].nll < (self.best["nll"] if self.best else math.inf):
            self.best = {"step": trainer.global_step, "nll": scores["dev"].nll}
