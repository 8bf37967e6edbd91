"""Embeddings of the n-grams that end at each character, added to the character's own."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.linear import Linear
from charlab.types import PositiveInt, Probability, checked

PRIME = 2**31 - 1
HASH_FACTOR = 0x9E3779B1  # 2³² over the golden ratio, which spreads close keys (Knuth, volume 3, section 6.4)


class NGramEmbedding(nn.Module):
    """A sum of learned vectors for the n-grams that end at each position, one for each order n.

    x_t = W Σₙ Eₙ[h(c_{t−n+1} … c_t)], with a table Eₙ for each order and a hash h, since there are more n-grams than
    rows. N-grams in the same row share its vector; later layers, which see the characters, tell them apart (hash
    embeddings, arXiv 1709.03933). Padding before the first character counts as a character of its own.

    Attention first has to learn to look at the preceding characters; here a lookup is enough.

    Args:
        vocab_size: number of distinct characters.
        embed_dim: size D of the output.
        orders: the lengths n.
        num_rows: rows of each table.
        table_dim: size of a row; W projects it to D.
        dropout: probability of dropping each n-gram in training. Rows of rare n-grams soon memorize the training text;
            dropout teaches the layers above to do without them.

    Attributes:
        reach: how many characters before its own a position looks at.

    Raises:
        UserError: if there are no orders, or one is repeated.
    """

    @checked
    def __init__(
        self,
        vocab_size: int,
        embed_dim: PositiveInt,
        *,
        orders: list[PositiveInt],
        num_rows: PositiveInt,
        table_dim: PositiveInt,
        dropout: Probability,
    ) -> None:
        super().__init__()
        if not orders or len(set(orders)) < len(orders):
            raise UserError(f"model.ngrams.orders={list(orders)} must name each length once: [2,3,4] for instance.")
        self.base, self.orders, self.num_rows = vocab_size + 1, tuple(sorted(orders)), num_rows
        self.reach = self.orders[-1] - 1
        self.tables = nn.Embedding(len(orders) * num_rows, table_dim)
        self.projection = Linear(table_dim, embed_dim, bias=False)
        self.dropout = dropout

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        vectors = self.tables(self.rows(tokens))  # (B, T, N, table_dim)
        if self.training and self.dropout:
            kept = F.dropout(vectors.new_ones(vectors.shape[:-1]), self.dropout)  # (B, T, N)
            vectors = vectors * kept.unsqueeze(-1)
        return self.projection(vectors.sum(dim=-2))

    def rows(self, tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B T N"]:
        """Return each position's rows in the N stacked tables."""
        length = tokens.shape[1]
        padded = F.pad(tokens + 1, (self.reach, 0))  # 0 is the padding before the first character
        key = torch.zeros_like(tokens)
        rows: list[Tensor] = []
        for order in range(1, self.orders[-1] + 1):  # the key of an n-gram grows to the left
            start = self.reach + 1 - order
            key = (key * self.base + padded[:, start : start + length]) % PRIME
            if order in self.orders:
                spread = (key * HASH_FACTOR) & 0xFFFFFFFF
                rows.append((spread * self.num_rows >> 32) + len(rows) * self.num_rows)
        return torch.stack(rows, dim=-1)
