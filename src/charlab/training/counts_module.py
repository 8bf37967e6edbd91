"""Lightning modules for models that are fitted to the whole text at once: count-based models and mixtures."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from charlab.evaluation.protocols import Blocks, evaluate
from charlab.models.contract import CountedModel, LanguageModel, TokenAware
from charlab.models.mixture import Mixture
from charlab.models.side_effects import evaluation_mode
from charlab.training.module import LanguageModelModule


def module_for(model: LanguageModel) -> type[LanguageModelModule]:
    """Return the class of Lightning module that trains `model`."""
    if isinstance(model, Mixture):
        return MixtureModule
    return CountsModule if isinstance(model, CountedModel) else LanguageModelModule


class CountsModule(LanguageModelModule):
    """Count the whole training text before the first step.

    A model without trainable parameters takes no step and has neither optimizer nor schedule.
    """

    @property
    def has_gradients(self) -> bool:
        """Whether any parameter is left to train after counting."""
        return any(parameter.requires_grad for parameter in self.model.parameters())

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.trainer.global_step == 0:  # a resumed run loads its counts from the checkpoint
            self.count()

    def count(self) -> None:
        """Fit the counts to the train split."""
        for part in self.model.modules():
            if isinstance(part, TokenAware):
                part.know_tokens(self.trainer.datamodule.vocabulary.pieces)
        ids = self.trainer.datamodule.ids("train", self.device)
        cast(CountedModel, self.model).fit(ids)
        if not self.has_gradients:
            self.characters_seen = round((len(ids) - 1) * self.trainer.datamodule.characters_per_token)

    def training_step(self, window: Int[Tensor, "B T+1"], batch_idx: int) -> Float[Tensor, ""] | None:  # type: ignore[override]
        if self.has_gradients:
            return super().training_step(window, batch_idx)
        self.trainer.should_stop = True
        return None

    def configure_optimizers(self) -> Any:
        return super().configure_optimizers() if self.has_gradients else None

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        if self.has_gradients:  # else Lightning would warn that there is nothing to clip
            super().configure_gradient_clipping(*args, **kwargs)


class MixtureModule(CountsModule):
    """Train the members of a mixture, unless they are frozen, and fit the mixture weights to the dev split.

    The weights maximize the likelihood of the dev split under the current members, and are refitted whenever the
    mixture is evaluated or saved. They do not affect the members' training. Without a dev split (text that the members
    are not trained on) all members have the same weight. Weights set by the user are kept.
    """

    model: Mixture
    _weighed_step: int | None = None  # the optimizer step at which the weights were fitted

    def count(self) -> None:
        if not self.model.frozen:
            super().count()
        self._weighed_step = None

    def prepare_evaluation(self) -> None:
        if self._weighed_step != self.trainer.global_step:
            self._weighed_step = self.trainer.global_step
            with evaluation_mode(self.model), torch.no_grad(), self.trainer.precision_plugin.forward_context():
                self._fit_weights()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        with self.evaluating():  # refits the tensor that `checkpoint` refers to
            pass
        super().on_save_checkpoint(checkpoint)

    def _fit_weights(self) -> None:
        data = self.trainer.datamodule
        if "dev" not in data.splits or self.model.weights_are_given:
            return
        sizes = {"context_length": data.context_length, "batch_size": data.micro_batch_size}
        ids = data.ids("dev", self.device)
        nll = [evaluate(member, ids, Blocks(), **sizes).per_token for member in self.model.members.values()]
        self.model.fit_weights(torch.stack([torch.from_numpy(values) for values in nll]))
