"""Text from any model, in pieces as it is drawn or as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from charlab.data.vocabulary import Vocabulary
from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.models.decoding import Overflow, check_choice, check_length, stream
from charlab.models.inference import device_of, evaluation_mode
from charlab.seeding import derive_seed

START = "\n"  # where a text begins if there is no prompt


def generate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    num_samples: int = 1,
    overflow: Overflow = "slide",
    seed: int = 305,
) -> Iterator[tuple[str, ...]]:
    """Continues `prompt`, and yields what is drawn as soon as it is drawn.

    The pieces of one sample, joined, are its continuation; the prompt is not part of it. An autoregressive model
    gives one character at a time, any other model the whole text at once. All samples are drawn as one batch. The
    model is in evaluation mode until the last piece has been taken or the iterator is closed.

    Args:
        model: any language model.
        vocabulary: the one that the model was trained with.
        prompt: the text to continue; if empty, the text begins after one newline.
        length: number of characters to draw, ≥ 0.
        temperature: divides the logits; 0 takes the most probable character.
        top_k: draw among the k most probable characters only.
        top_p: draw among the fewest characters whose probabilities sum to at least p.
        greedy: always take the most probable character, whatever the three options above say.
        num_samples: number of texts to draw.
        overflow: what to do once the model's context is full, see `charlab.models.decoding.stream`.
        seed: the same seed gives the same text, whatever else has drawn random numbers.

    Yields:
        A tuple of `num_samples` strings of equal length: the next piece of each sample.

    Raises:
        UserError: at the call itself, for a character that is not in the vocabulary, an empty prompt where there is
            no newline to start from, or an option out of range.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples} draws nothing; give the number of texts to draw, 1 or more.")
    if not prompt and START not in vocabulary.characters:
        raise UserError("There is no prompt, and the vocabulary has no newline to start from; give a prompt.")
    check_length(length)
    check_choice(temperature, top_k, top_p)
    device = device_of(model)
    ids = torch.as_tensor(vocabulary.encode(prompt or START, source="the prompt"), dtype=torch.long, device=device)
    prompts = ids.expand(num_samples, -1)  # (num_samples, P)
    options: dict[str, Any] = {
        "temperature": 0.0 if greedy else temperature,
        "top_k": top_k,
        "top_p": top_p,
        "generator": torch.Generator(device).manual_seed(derive_seed(seed, "generation")),
    }
    if isinstance(model, AutoregressiveModel):
        drawn = (token[:, None] for token in stream(model, prompts, length, overflow=overflow, **options))
    else:
        drawn = (model.sample(prompts, length, **options)[:, len(ids) :] for _ in range(min(length, 1)))
    return _decode(model, vocabulary, drawn)


def generate_whole(model: LanguageModel, vocabulary: Vocabulary, prompt: str, length: int, **options: Any) -> list[str]:
    """Returns `num_samples` texts, the prompt included; arguments and errors are those of `generate`."""
    num_samples = options.get("num_samples", 1)
    pieces = [(prompt,) * num_samples, *generate(model, vocabulary, prompt, length, **options)]
    return ["".join(text) for text in zip(*pieces, strict=True)]


def _decode(
    model: LanguageModel, vocabulary: Vocabulary, drawn: Iterable[Int[Tensor, "num_samples n"]]
) -> Iterator[tuple[str, ...]]:
    with evaluation_mode(model):
        for ids in drawn:
            yield tuple(vocabulary.decode(row) for row in ids.tolist())
