"""Embeddings of n-grams, one position, one order and one digit at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from charlab.models.ngram_embedding import NGramEmbedding


def embed_slowly(model: NGramEmbedding, tokens: Tensor) -> Tensor:
    """Return (B, T, D), from the model's weights alone."""
    tables = model.tables.weight.view(len(model.orders), model.num_rows, -1)
    texts = []
    for text in tokens.tolist():
        positions = []
        for t in range(len(text)):
            total = torch.zeros(tables.shape[-1], dtype=tables.dtype)
            for table, order in zip(tables, model.orders, strict=True):
                key = 0
                for place in range(t, t - order, -1):  # from the last character to the first
                    key = (key * model.base + (text[place] + 1 if place >= 0 else 0)) % (2**31 - 1)
                total = total + table[((key * 0x9E3779B1) % 2**32) * model.num_rows // 2**32]
            positions.append(model.projection.weight @ total)
        texts.append(torch.stack(positions))
    return torch.stack(texts)
