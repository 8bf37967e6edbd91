"""Check the initial weights and loss: no learning rate mends a model that starts broken."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor, nn

from charlab.data.windows import gather_windows
from charlab.errors import UserError
from charlab.models.contract import LanguageModel
from charlab.models.inference import device_of, evaluation_mode, untouched_randomness

NUM_WINDOWS = 16
FAR = 3.0  # nats above ln V that are worth a warning


@torch.no_grad()
def check_initial(model: LanguageModel, *, ids: Int[Tensor, " N"], context_length: int) -> str | None:
    """Check a model's initial weights and loss.

    Args:
        model: about to be trained.
        ids: (N,) character ids of the train text.
        context_length: T of the windows that are scored.

    Returns:
        A warning if the loss starts far above ln V, with the cause if it is known; else None.

    Raises:
        UserError: if a weight is infinite or nan, or the loss is nan.
    """
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if weight.is_floating_point() and (weight.isnan() | weight.isposinf()).any():
            owner = type(model.get_submodule(name.rpartition(".")[0])).__name__
            raise UserError(
                f"The initial values of {name} are infinite or nan, so training cannot start: the sizes of the model, "
                f"or the initialization of its {owner}, are wrong, not the learning rate."
            )
    device, length = device_of(model), min(context_length, len(ids) - 1)
    starts = torch.linspace(0, len(ids) - length - 1, NUM_WINDOWS).long()
    windows = gather_windows(ids.to(device), starts.to(device), length)
    generator = torch.Generator(device).manual_seed(0)
    with evaluation_mode(model), untouched_randomness(device):
        nll = model.nll(windows, generator=generator).double().mean().item()
    if math.isnan(nll):
        raise UserError(
            f"The loss of {type(model).__name__} is nan before the first step, although all its weights are numbers: "
            "its forward computes something undefined, which no learning rate can mend."
        )
    excess = nll - math.log(model.vocab_size)
    if excess <= FAR:
        return None
    return (
        f"The untrained model is at {nll:.1f} nats per character, {excess:.1f} above ln {model.vocab_size}, which "
        f"guessing costs.{_cause(model)}"
    )


def _cause(model: nn.Module) -> str:
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    readouts = {module.weight for module in model.modules() if isinstance(module, nn.Linear)}
    if not embeddings & readouts:
        return ""
    return (
        " Its readout shares the weights of its embedding, whose initial values are large: "
        "model/initialization=gpt2 starts with small ones."
    )
