"""Measures generation and evaluation of an untrained model: `python -m charlab.benchmarks.generation WHAT SIZE`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from charlab.configuration.build import build
from charlab.configuration.compose import compose
from charlab.evaluation.protocols import Blocks, evaluate
from charlab.models.contract import AutoregressiveModel
from charlab.models.decoding import stream

VOCABULARY = 65
VALIDATION_CHARACTERS = 111_540
SIZES = {  # overrides of model=gpt, by name
    "large": ["data.context_length=256", "model.embed_dim=384", "model.num_layers=6", "model.mixer.num_heads=6"],
    "recipe": ["experiment=benchmark/recipe"],
}


@torch.no_grad()
def generate_plainly(model: AutoregressiveModel, prompt: Tensor, length: int) -> None:
    """Draws characters as nanoGPT does: the whole context again for each, without a cache."""
    text = prompt
    for _ in range(length):
        probabilities = F.softmax(model(text[:, -(model.context_length or text.shape[1]) :])[:, -1], dim=-1)
        text = torch.cat([text, torch.multinomial(probabilities, num_samples=1)], dim=1)


@torch.no_grad()
def estimate_plainly(model: AutoregressiveModel, context_length: int) -> None:
    """Scores 3.3 million characters in random windows, as nanoGPT does at each evaluation of its GPU recipe."""
    for _ in range(200 * 64 * 256 // (12 * context_length)):
        model.loss(torch.randint(VOCABULARY, (12, context_length + 1))).item()


def main(what: str, size: str) -> dict[str, float]:
    """Returns characters per second, or seconds for an evaluation."""
    torch.manual_seed(0)
    config = compose(["model=gpt", *SIZES[size]])
    model: AutoregressiveModel = build(config.model, VOCABULARY).eval()
    length = config.data.context_length

    def newline(batch_size: int) -> Tensor:
        return torch.zeros(batch_size, 1, dtype=torch.long)

    def drawn(prompt: Tensor, count: int, overflow: str = "slide") -> Callable[[], object]:
        return lambda: list(stream(model, prompt, count, temperature=1.0, overflow=overflow))  # type: ignore[arg-type]

    full = torch.randint(VOCABULARY, (1, length))
    tasks: dict[str, tuple[int, Callable[[], object]]] = {  # characters, and how they are drawn
        "first": (length, drawn(newline(1), length)),
        "first_plainly": (length, lambda: generate_plainly(model, newline(1), length)),
        "first_of_64": (64 * length, drawn(newline(64), length)),
        "sliding": (64, drawn(full, 64)),
        "sliding_plainly": (64, lambda: generate_plainly(model, full, 64)),
        "rebasing": (2 * length, drawn(full, 2 * length, "rebase")),
        "blocks": (VALIDATION_CHARACTERS, lambda: _score(model, length, config.data.batch_size)),
        "estimate_plainly": (200 * 64 * 256, lambda: estimate_plainly(model, length)),
    }
    count, task = tasks[what]
    if "estimate" not in what:
        drawn(newline(1), 2)()  # the first call of anything is slow
    since = time.perf_counter()
    task()
    seconds = time.perf_counter() - since
    return {"characters_per_second": count / seconds, "seconds": seconds}


def _score(model: AutoregressiveModel, context_length: int, batch_size: int) -> None:
    ids = torch.randint(VOCABULARY, (VALIDATION_CHARACTERS,))
    evaluate(model, ids, Blocks(), context_length=context_length, batch_size=batch_size)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
