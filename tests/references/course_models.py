"""The ladder's multi-head model and transformer as one writes them first: a matrix for each head and each part.

    python -m tests.references.course_models {multi_head,transformer} STEPS TEXT

trains for some steps, with batches of 32 windows of 256 characters, and prints what they took as one line of JSON.
"""

import json
import math
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D, H, T, BATCH, LAYERS = 384, 6, 256, 32, 6


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(D, D // H, bias=False)
        self.key = nn.Linear(D, D // H, bias=False)
        self.value = nn.Linear(D, D, bias=False)
        self.register_buffer("past", torch.tril(torch.ones(T, T)))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(-2, -1) / math.sqrt(D // H)
        scores = scores.masked_fill(self.past[:length, :length] == 0, float("-inf"))
        return F.softmax(scores, dim=-1) @ self.value(x)


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head() for _ in range(H))
        self.projection = nn.Linear(H * D, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(torch.cat([head(x) for head in self.heads], dim=-1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(D), MultiHead()
        self.feed_forward_norm = nn.LayerNorm(D)
        self.feed_forward = nn.Sequential(nn.Linear(D, 4 * D), nn.ReLU(), nn.Linear(4 * D, D))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Model(nn.Module):
    def __init__(self, vocab_size: int, body: nn.Module) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, D), nn.Embedding(T, D)
        self.body, self.readout = body, nn.Linear(D, vocab_size)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
        return self.readout(self.body(x))


def multi_head(vocab_size: int) -> Model:
    return Model(vocab_size, MultiHead())


def transformer(vocab_size: int) -> Model:
    return Model(vocab_size, nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(D)))


def train(name: str, steps: int, text: str) -> dict[str, float]:
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(character) for character in text])
    model = {"multi_head": multi_head, "transformer": transformer}[name](len(characters))
    if name == "transformer":
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4)
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        starts = torch.randint(len(ids) - T, (BATCH,))
        inputs = torch.stack([ids[start : start + T] for start in starts])
        targets = torch.stack([ids[start + 1 : start + T + 1] for start in starts])
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return {
        "step_ms": 1e3 * statistics.median(seconds[1:]),  # the first one of a process is slower
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    print(json.dumps(train(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_text(encoding="utf-8"))))
