"""The classic recurrent networks, with torch's fused layers."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.models.contract import AutoregressiveModel
from charlab.models.linear import Linear
from charlab.types import PositiveInt, Probability, checked


class RecurrentModel(AutoregressiveModel):
    """Embedding, `num_layers` recurrent layers, readout; the state has a fixed size.

    A subclass names torch's layer. There is no context length: a prediction may depend on the whole text, and one
    window's last state can start the next window.

    Args:
        vocab_size: number of distinct characters V.
        embed_dim: size of the embeddings.
        hidden_dim: size of each layer's state.
        num_layers: number of recurrent layers.
        dropout: probability of zeroing a component of the embeddings or of a layer's output in training.
    """

    context_length = None
    layer: type[nn.RNN | nn.GRU | nn.LSTM]

    @checked
    def __init__(
        self,
        vocab_size: int,
        *,
        embed_dim: PositiveInt,
        hidden_dim: PositiveInt,
        num_layers: PositiveInt,
        dropout: Probability,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        between_layers = dropout if num_layers > 1 else 0.0  # with one layer torch would warn
        self.recurrence = self.layer(embed_dim, hidden_dim, num_layers, batch_first=True, dropout=between_layers)
        self.dropout = nn.Dropout(dropout)
        self.readout = Linear(hidden_dim, vocab_size)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        return self.extend(tokens, self.init_state(tokens.shape[0]))[0]

    def init_state(self, batch_size: int) -> Any:
        """Return the zero state, (layers, B, hidden)."""
        return self.readout.weight.new_zeros(self.recurrence.num_layers, batch_size, self.recurrence.hidden_size)

    def extend(self, tokens: Int[Tensor, "B n"], state: Any) -> tuple[Float[Tensor, "B n V"], Any]:
        hidden, state = self._read(tokens, state)  # (B, n, hidden)
        return self.readout(self.dropout(hidden)), state

    def read_prompt(self, tokens: Int[Tensor, "B n"], state: Any) -> tuple[Float[Tensor, "B V"], Any]:
        hidden, state = self._read(tokens, state)  # (B, n, hidden)
        return self.readout(self.dropout(hidden[:, -1])), state

    def _read(self, tokens: Int[Tensor, "B n"], state: Any) -> tuple[Float[Tensor, "B n hidden"], Any]:
        embedded = self.dropout(self.embedding(tokens))
        if self.training and self.recurrence.dropout and embedded.is_cuda:
            # cuDNN keeps random numbers of its own for the dropout between layers, which a checkpoint does not hold.
            # Setting the generator's state, even to itself, has torch draw their seed from the generator again.
            torch.cuda.set_rng_state(torch.cuda.get_rng_state(embedded.device), embedded.device)
        hidden, state = self.recurrence(embedded, state)
        return hidden, state

    def loss_with_state(self, window: Int[Tensor, "B T+1"], state: Any) -> tuple[Float[Tensor, ""], Any]:
        """Return the loss of a window that continues the text of `state`, and the state for the next window.

        For truncated backpropagation through time: rows of consecutive windows continue one another (a window's last
        character is the next one's first), and no gradient flows into the previous window.

        Args:
            window: (B, T+1) character ids.
            state: as returned for the previous window; `init_state(B)` for the first.

        Returns:
            The mean nll in nats per character, and the detached state after T characters.
        """
        logits, state = self.extend(window[:, :-1], state)  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten().long())
        return loss, state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)


class RNN(RecurrentModel):
    """h_t = tanh(W·x_t + U·h_{t−1} + b) (Elman 1990).

    Its arguments are those of `RecurrentModel`.
    """

    layer = nn.RNN


class GRU(RecurrentModel):
    """h_t = z_t ⊙ h_{t−1} + (1 − z_t) ⊙ n_t, where n_t = tanh(W·x_t + b + r_t ⊙ (U·h_{t−1} + c)).

    Reset gate r and update gate z are sigmoids of x_t and h_{t−1} (Cho et al., arXiv 1406.1078, equations 5 to 8;
    there r acts on h_{t−1} before U, in torch after it).

    Its arguments are those of `RecurrentModel`.
    """

    layer = nn.GRU


class LSTM(RecurrentModel):
    """c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t and h_t = o_t ⊙ tanh(c_t).

    Input, forget and output gates i, f, o are sigmoids of x_t and h_{t−1}, the candidate g their tanh (Hochreiter &
    Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Its arguments are those of `RecurrentModel`.
    """

    layer = nn.LSTM

    def init_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return the zero state: hidden and cell, both (layers, B, hidden)."""
        zeros = super().init_state(batch_size)
        return zeros, torch.zeros_like(zeros)
