"""Objectives that training minimizes. Evaluations report the model's `nll` whatever the objective."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.types import Probability

Order = Literal["random", "contiguous"]


class Objective:
    """The model's own loss, and the base class of all other objectives."""

    def __call__(self, model: LanguageModel, window: Int[Tensor, "B T+1"]) -> Float[Tensor, ""]:
        """Return the loss in nats per character. An optimizer may call this several times per batch."""
        return model.loss(window)

    def check(self, model: LanguageModel, order: Order) -> None:
        """Raise `UserError` if the objective does not support the model or the order of the windows."""

    def begin_batch(self, part: int) -> None:
        """Prepare for a micro-batch; `part` is its number within the optimizer step."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, made of numbers and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""


class LabelSmoothing(Objective):
    """Cross-entropy with smoothed targets (Szegedy et al., arXiv 1512.00567, section 7).

    The target distribution puts 1 − amount on the correct character and spreads the rest uniformly over all characters.
    `train/loss` is this loss, not the negative log-likelihood.

    Args:
        amount: probability that is spread over all characters.
    """

    def __init__(self, *, amount: Probability) -> None:
        self.amount = amount

    def check(self, model: LanguageModel, order: Order) -> None:
        if not isinstance(model, AutoregressiveModel) or type(model).loss is not LanguageModel.loss:
            raise UserError(
                f"objective=label_smoothing is for models that give the next character's logits and train by them, "
                f"and {type(model).__name__} has a loss of its own: choose objective=none."
            )

    def __call__(self, model: LanguageModel, window: Int[Tensor, "B T+1"]) -> Float[Tensor, ""]:
        logits = model(window[:, :-1]).flatten(0, 1).float()  # (B·T, V)
        return F.cross_entropy(logits, window[:, 1:].flatten(), label_smoothing=self.amount)


@runtime_checkable
class CarriesState(Protocol):
    """A model whose state at the end of one window can be the initial state of the next."""

    def init_state(self, batch_size: int) -> Any: ...

    def loss_with_state(self, window: Int[Tensor, "B T+1"], state: Any) -> tuple[Float[Tensor, ""], Any]: ...


class TruncatedBackpropagation(Objective):
    """Truncated backpropagation through time (Williams & Peng 1990): each window starts from the previous state.

    Each window must continue the previous one in its row of the batch. Gradients flow back to the start of the window,
    while the state carries information from earlier windows. Checkpoints hold the state.
    """

    def __init__(self) -> None:
        self._part = 0
        self._begins_with: Any = None
        self._ends_with: dict[int, Any] = {}  # by the number of the micro-batch, whose rows the states belong to

    def check(self, model: LanguageModel, order: Order) -> None:
        if not isinstance(model, CarriesState):
            raise UserError(
                f"objective=truncated_backpropagation is for recurrent networks, and {type(model).__name__} carries "
                "no state from window to window: choose objective=none."
            )
        if order != "contiguous":
            raise UserError(
                f"objective=truncated_backpropagation needs windows that continue one another, and data.order={order} "
                "serves others: set data.order=contiguous."
            )

    def begin_batch(self, part: int) -> None:
        self._part, self._begins_with = part, self._ends_with.get(part)

    def __call__(self, model: LanguageModel, window: Int[Tensor, "B T+1"]) -> Float[Tensor, ""]:
        assert isinstance(model, CarriesState)
        state = self._begins_with
        state = model.init_state(len(window)) if state is None else move_data_to_device(state, window.device)
        loss, self._ends_with[self._part] = model.loss_with_state(window, state)
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"states": dict(self._ends_with)}  # compilation restores it after a trial

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ends_with = state.get("states", {})
