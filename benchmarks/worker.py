"""Measure generation and evaluation of an untrained model: `python -m benchmarks.worker TASK MODEL`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

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
ESTIMATED_CHARACTERS = 200 * 64 * 256  # by nanoGPT's GPU recipe, at each evaluation, of each text
MODELS = {  # overrides by name; any other name is a model with its defaults
    "large": ["model=gpt", "model.embed_dim=384", "model.num_layers=6", "model.mixer.num_heads=6"],
    "recipe": ["experiment=benchmark/recipe"],
}


class Worker:
    """Run tasks with a model, given by its name, and report how long they took."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        config = compose(MODELS.get(name, [f"model={name}"]))
        self.model: AutoregressiveModel = build(config.model, VOCABULARY).eval()
        self.length, self.batch_size = config.data.context_length, config.data.batch_size
        self.tasks: dict[str, Callable[[], Mapping[str, float]]] = {
            "first": lambda: self._draw(_newline(1), self.length),
            "first_plainly": lambda: _timed(self.length, lambda: list(self._draw_plainly(_newline(1), self.length))),
            "first_of_64": lambda: self._draw(_newline(64), self.length),
            "sliding": self._sliding,
            "rebasing": lambda: self._draw(self._full(), 2 * self.length, "rebase"),
            "difference": self._difference,
            "growth": self._growth,
            "blocks": self._blocks,
            "estimate_plainly": lambda: _timed(
                ESTIMATED_CHARACTERS, lambda: self._estimate_plainly(ESTIMATED_CHARACTERS)
            ),
        }

    @torch.no_grad()
    def __call__(self, task: str) -> Mapping[str, float]:
        """Return the measurements of a task, such as characters per second and seconds."""
        list(stream(self.model, _newline(1), 2))  # warm up
        self.model(self._full())
        return self.tasks[task]()

    def _full(self) -> Tensor:
        return torch.randint(VOCABULARY, (1, self.length))

    def _draw(self, prompt: Tensor, count: int, overflow: str = "slide") -> Mapping[str, float]:
        drawn = stream(self.model, prompt, count, overflow=overflow)  # type: ignore[arg-type]
        return _timed(len(prompt) * count, lambda: list(drawn))

    def _draw_plainly(self, text: Tensor, count: int) -> Iterator[Tensor]:
        """Sample as nanoGPT does: recompute the whole context for every character, without a cache."""
        for _ in range(count):
            probabilities = F.softmax(self.model(text[:, -self.length :])[:, -1], dim=-1)
            drawn = torch.multinomial(probabilities, num_samples=1)
            text = torch.cat([text, drawn], dim=1)
            yield drawn

    def _sliding(self) -> Mapping[str, float]:
        """Return characters per second beyond a full context, with an exact slide and plainly, alternating."""
        prompt = self._full()
        sides = {"exactly": stream(self.model, prompt, 64), "plainly": self._draw_plainly(prompt, 64)}
        seconds = _alternate({side: drawn.__next__ for side, drawn in sides.items()}, 64)
        return {side: 1 / taken for side, taken in seconds.items()}

    def _difference(self) -> Mapping[str, float]:
        """Return the largest difference between logits with and without the cache, relative to the largest logit."""
        text, state, logits = self._full(), self.model.init_state(1), []
        for position in range(self.length):
            after, state = self.model.advance(text[:, position], state)
            logits.append(after)
        expected = self.model(text)
        return {"difference": ((torch.stack(logits, dim=1) - expected).abs().max() / expected.abs().max()).item()}

    def _growth(self) -> Mapping[str, float]:
        """Return the time per character after 1,024 others, as a multiple of that after 64, alternating."""
        states = {
            read: self.model.extend(torch.randint(VOCABULARY, (1, read)), self.model.init_state(1))[1]
            for read in (64, 1024)
        }
        tokens = torch.randint(VOCABULARY, (512, 1))

        def advance(read: int, given: Iterator[Tensor]) -> None:
            _, states[read] = self.model.advance(next(given), states[read])

        seconds = _alternate({read: partial(advance, read, iter(tokens)) for read in states}, len(tokens))
        return {"growth": seconds[1024] / seconds[64]}

    def _blocks(self) -> Mapping[str, float]:
        """Return the time of an evaluation, and its rate and a plain loop's, alternating."""
        ids = torch.randint(VOCABULARY, (VALIDATION_CHARACTERS,))

        def score() -> float:
            return evaluate(self.model, ids, Blocks(), context_length=self.length, batch_size=self.batch_size).nll

        plainly = partial(self._estimate_plainly, VALIDATION_CHARACTERS)
        seconds = _alternate({"seconds": score, "seconds_plainly": plainly}, 5)
        plain = 0.0
        for start in range(0, len(ids) - 1, self.length):
            window = ids[None, start : start + self.length + 1]
            losses = F.cross_entropy(self.model(window[:, :-1])[0], window[0, 1:], reduction="none")
            plain += losses.double().sum().item()
        return {
            "seconds": seconds["seconds"],
            "characters_per_second": VALIDATION_CHARACTERS / seconds["seconds"],
            "characters_per_second_plainly": VALIDATION_CHARACTERS / seconds["seconds_plainly"],
            "difference": abs(score() - plain / (len(ids) - 1)),
        }

    def _estimate_plainly(self, characters: int) -> None:
        for _ in range(characters // (self.batch_size * self.length)):
            self.model.loss(torch.randint(VOCABULARY, (self.batch_size, self.length + 1))).item()


def _newline(batch_size: int) -> Tensor:
    return torch.zeros(batch_size, 1, dtype=torch.long)


def _alternate(sides: Mapping[Any, Callable[[], object]], times: int) -> dict[Any, float]:
    """Call the sides alternately, and return the median seconds of each."""
    taken: dict[Any, list[float]] = {side: [] for side in sides}
    for _ in range(times):
        for side, work in sides.items():
            taken[side].append(_timed(1, work)["seconds"])
    return {side: statistics.median(seconds) for side, seconds in taken.items()}


def _timed(characters: int, work: Callable[[], object]) -> Mapping[str, float]:
    since = time.perf_counter()
    work()
    seconds = time.perf_counter() - since
    return {"characters_per_second": characters / seconds, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(Worker(sys.argv[2])(sys.argv[1])))
