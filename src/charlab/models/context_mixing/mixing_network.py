"""The network of context mixing, which weights the counters' predictions of each decision and adds one of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

SCALE = 0.3  # factor on the log-odds that the layers read; unscaled, they reach ±10

LSTMState = tuple[Tensor, Tensor]


class Decisions(NamedTuple):
    """Binary decisions between characters, and the counters' predictions of them.

    Attributes:
        position: (R,), the position of the character that each one helps to choose.
        node: (R,), the inner node of the code's tree.
        inputs: (R, n), the log-odds of 1 under each counter; 0 if it predicts nothing.
        bit: (R,), what was decided; None if unknown.
    """

    position: Int[np.ndarray, " R"]
    node: Int[np.ndarray, " R"]
    inputs: Float[np.ndarray, "R n"]
    bit: Int[np.ndarray, " R"] | None = None

    def between(self, start: int, stop: int) -> Decisions:
        """Return the decisions about the positions start … stop − 1, counted from `start`; needs sorted positions."""
        part = slice(*np.searchsorted(self.position, [start, stop]))
        bit = None if self.bit is None else self.bit[part]
        return Decisions(self.position[part] - start, self.node[part], self.inputs[part], bit)


class MixingNetwork(nn.Module):
    """Log-odds of decisions: a weighted sum of the inputs, plus a prediction from the characters before.

    An LSTM reads the characters. Two layers, applied to each decision, see its state, the node in the code's tree and
    the inputs themselves, and return the weights. Initially, all weights are 1/n.

    Args:
        vocab_size: number of distinct characters V.
        num_inputs: number of counters n.
        embed_dim: size of the characters' embeddings.
        hidden_dim: size of the recurrent state H.
        mixing_dim: size of the layers that compute the weights.
        dropout: probability of zeroing a component of the recurrent state in training.
    """

    def __init__(
        self, vocab_size: int, num_inputs: int, embed_dim: int, hidden_dim: int, mixing_dim: int, dropout: float
    ) -> None:
        super().__init__()
        num_nodes = max(1, vocab_size - 1)
        self.embedding = nn.Embedding(vocab_size + 1, embed_dim)  # the last is for what precedes the text
        self.recurrence = nn.LSTM(embed_dim, hidden_dim, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.own = nn.Embedding(num_nodes, hidden_dim)
        self.from_node = nn.Embedding(num_nodes, mixing_dim)
        self.from_hidden = nn.Linear(hidden_dim, mixing_dim)
        self.from_inputs = nn.Linear(num_inputs, mixing_dim)
        self.between = nn.Linear(mixing_dim, mixing_dim)
        self.weights = nn.Linear(mixing_dim, num_inputs)
        nn.init.normal_(self.own.weight, std=0.01)
        nn.init.normal_(self.from_node.weight, std=0.02)
        nn.init.zeros_(self.weights.weight)
        nn.init.constant_(self.weights.bias, 1 / num_inputs)

    def read(self, characters: Int[Tensor, "B T"], state: LSTMState | None = None) -> tuple[Tensor, LSTMState]:
        """Read characters; return the hidden state after each, (B, T, H), and the state after the last."""
        hidden, state = self.recurrence(self.embedding(characters), state)
        return self.dropout(hidden), state

    def forward(self, hidden: Float[Tensor, "P H"], decisions: Decisions) -> Float[Tensor, " R"]:
        """Return the log-odds of each decision, given the hidden states before the positions."""
        position, node = (torch.from_numpy(values).long().to(hidden.device) for values in decisions[:2])
        inputs = torch.from_numpy(decisions.inputs).to(hidden)  # (R, n)
        seen = self.from_inputs(SCALE * inputs) + self.from_node(node) + self.from_hidden(hidden)[position]
        weights = self.weights(F.relu(self.between(F.relu(seen))))  # (R, n)
        return (weights * inputs).sum(1) + (self.own(node) * hidden[position]).sum(1)

    def nll(self, hidden: Float[Tensor, "P H"], decisions: Decisions) -> Float[Tensor, " P"]:
        """Return −log p of the characters that the decisions lead to, in nats."""
        bit = torch.from_numpy(decisions.bit).to(hidden)
        nll = F.binary_cross_entropy_with_logits(self(hidden, decisions), bit, reduction="none")
        position = torch.from_numpy(decisions.position).long().to(hidden.device)
        return nll.new_zeros(len(hidden)).index_add(0, position, nll)
