"""The network of context mixing that weights what the counters and a recurrent model predict of each decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.models.precision import full_precision

SCALE = 0.3  # factor on the log-odds that the layers read; unscaled, they exceed ±10
SHARE = 0.7  # of the recurrent model in the initial weights
TINY = 1e-7  # added to both sides of a decision, because the odds of two tiny probabilities mean little


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

    @classmethod
    def joined(cls, rows: Sequence[Decisions], length: int) -> Decisions:
        """Return known decisions about rows of `length` characters each as those about one row after the other."""
        positions = [row.position + number * length for number, row in enumerate(rows)]
        node, inputs, bit = (np.concatenate(parts) for parts in zip(*(row[1:] for row in rows), strict=True))
        return cls(np.concatenate(positions), node, inputs, bit)

    def between(self, start: int, stop: int) -> Decisions:
        """Return the decisions about the positions start … stop − 1, counted from `start`; needs sorted positions."""
        part = slice(*np.searchsorted(self.position, [start, stop]))
        bit = None if self.bit is None else self.bit[part]
        return Decisions(self.position[part] - start, self.node[part], self.inputs[part], bit)


class DecisionMixer(nn.Module):
    """Log-odds of decisions: a weighted sum of those that the counters and a recurrent model predict.

    Two layers, applied to each decision, see the node in the code's tree, the recurrent model's logits and all the
    log-odds to be mixed, and return the weights (gated mixing: Veness et al. 2017, arXiv 1712.01897).

    Args:
        vocab_size: number of distinct characters V.
        num_inputs: number of counters n.
        hidden_dim: size of the layers that compute the weights.
    """

    def __init__(self, vocab_size: int, num_inputs: int, hidden_dim: int) -> None:
        super().__init__()
        self.from_node = nn.Embedding(max(1, vocab_size - 1), hidden_dim)
        self.from_logits = nn.Linear(vocab_size, hidden_dim)
        self.from_inputs = nn.Linear(num_inputs + 1, hidden_dim)
        self.between = nn.Linear(hidden_dim, hidden_dim)
        self.weights = nn.Linear(hidden_dim, num_inputs + 1)
        nn.init.normal_(self.from_node.weight, std=0.02)
        nn.init.zeros_(self.weights.weight)
        nn.init.constant_(self.weights.bias, (1 - SHARE) / num_inputs)
        nn.init.constant_(self.weights.bias[-1:], SHARE)

    def forward(
        self, logits: Float[Tensor, "P V"], decisions: Decisions, bits: Int[np.ndarray, "V V-1"]
    ) -> Float[Tensor, " R"]:
        """Return the log-odds of 1 at each decision.

        Args:
            logits: the recurrent model's logits of the character at each position.
            decisions: the decisions at these positions.
            bits: the code's decisions that lead to each character, see `HuffmanCode`.
        """
        position, node = (torch.from_numpy(values).long().to(logits.device) for values in decisions[:2])
        logits = logits.log_softmax(-1)
        own = decision_odds(logits, bits)[position, node, None]  # (R, 1)
        odds = torch.cat([torch.from_numpy(decisions.inputs).to(logits), own], dim=1)  # (R, n+1)
        seen = self.from_inputs(SCALE * odds) + self.from_node(node) + self.from_logits(SCALE * logits)[position]
        weights = self.weights(F.relu(self.between(F.relu(seen))))  # (R, n+1)
        return (weights * odds).sum(1)

    def nll(
        self, logits: Float[Tensor, "P V"], decisions: Decisions, bits: Int[np.ndarray, "V V-1"]
    ) -> Float[Tensor, " P"]:
        """Return −log p of the characters that the decisions lead to, in nats."""
        bit = torch.from_numpy(decisions.bit).to(logits)
        nll = F.binary_cross_entropy_with_logits(self(logits, decisions, bits), bit, reduction="none")
        position = torch.from_numpy(decisions.position).long().to(logits.device)
        return nll.new_zeros(len(logits)).index_add(0, position, nll)


@full_precision
def decision_odds(logits: Float[Tensor, "P V"], bits: Int[np.ndarray, "V V-1"]) -> Float[Tensor, "P V-1"]:
    """Return the log-odds of 1 at each node of a code, under distributions over the characters.

    They are log (Σ p(v) + ε) / (Σ p(u) + ε), over the characters v that a 1 at the node leads to, and those u that a 0
    leads to.
    """
    probabilities = logits.softmax(-1)
    one, zero = (probabilities @ torch.from_numpy(bits == value).to(logits) for value in (1, 0))
    return (one + TINY).log() - (zero + TINY).log()
