"""Training of models that count rather than descend a gradient."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from charlab.training.module import LanguageModelModule


@runtime_checkable
class CountedModel(Protocol):
    """A model that is fitted in one pass over the training text."""

    def fit(self, ids: Int[Tensor, " N"]) -> None: ...


class CountsModule(LanguageModelModule):
    """Fits the model once, to the whole training text. There are no steps, no optimizer and no schedule."""

    def on_train_start(self) -> None:
        super().on_train_start()
        ids = self.trainer.datamodule.ids("train", self.device)
        cast(CountedModel, self.model).fit(ids)
        self.characters_seen = len(ids) - 1

    def training_step(self, window: Int[Tensor, "B T+1"], batch_idx: int) -> None:  # type: ignore[override]
        self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        return None
