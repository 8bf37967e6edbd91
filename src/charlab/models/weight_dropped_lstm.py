"""An LSTM whose dropout also reaches its recurrence, for many passes over a small text."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from charlab.models.rnn import LSTM
from charlab.types import PositiveInt, Probability, checked


class WeightDroppedLSTM(LSTM):
    """The regularized LSTM of Merity et al. 2017 (arXiv 1708.02182), without its optimizer.

    In training, `weight_dropout` zeroes recurrent weights, the same ones in the whole window, and `dropout` zeroes the
    same components of a layer's output at all of a window's positions (Gal and Ghahramani 2015, arXiv 1512.05287). So
    nothing disturbs the state from one step to the next. With the same weights, it predicts what an `LSTM` predicts.

    Args:
        vocab_size: number of distinct characters V.
        embed_dim: size of the embeddings.
        hidden_dim: size of each layer's hidden state, and of its cell.
        num_layers: number of recurrent layers.
        embed_dropout: probability of zeroing a component of the embeddings in training.
        dropout: probability of zeroing a component of a layer's output.
        weight_dropout: probability of zeroing a weight from a layer's hidden state to itself.
    """

    @checked
    def __init__(
        self,
        vocab_size: int,
        *,
        embed_dim: PositiveInt,
        hidden_dim: PositiveInt,
        num_layers: PositiveInt,
        embed_dropout: Probability,
        dropout: Probability,
        weight_dropout: Probability,
    ) -> None:
        super().__init__(vocab_size, embed_dim=embed_dim, hidden_dim=hidden_dim, num_layers=num_layers, dropout=dropout)
        self.embed_dropout, self.weight_dropout = embed_dropout, weight_dropout

    def extend(self, tokens: Int[Tensor, "B n"], state: Any) -> tuple[Float[Tensor, "B n V"], Any]:
        if not self.training:
            return super().extend(tokens, state)
        hidden, cells = [], []
        x = _drop_components(self.embedding(tokens), self.embed_dropout)
        for weights, *initial in zip(self.recurrence.all_weights, *(part.split(1) for part in state), strict=True):
            weights[1] = F.dropout(weights[1], self.weight_dropout)
            # What `nn.LSTM` calls; its attributes are bias, num_layers, dropout, training, bidirectional, batch_first.
            x, last_hidden, last_cell = torch.lstm(x, initial, weights, True, 1, 0.0, True, False, True)
            x = _drop_components(x, self.dropout.p)
            hidden.append(last_hidden)
            cells.append(last_cell)
        return self.readout(x), (torch.cat(hidden), torch.cat(cells))


def _drop_components(x: Float[Tensor, "B n D"], probability: float) -> Float[Tensor, "B n D"]:
    """Return a sequence without some of its components, the same ones at all positions, and with the others scaled."""
    return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), probability)
