"""Text from any model, in pieces as it is drawn or as a whole; and blanks filled in within a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from charlab.data.vocabulary import Vocabulary
from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel, InfillingModel, LanguageModel
from charlab.models.decoding import Overflow, check_choice, check_length, stream
from charlab.models.inference import device_of, evaluation_mode
from charlab.seeding import derive_seed

START = "\n"  # what precedes a blank at the beginning of a text
BLANK = "_"  # a character that is to be filled in


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
        prompt: the text to continue; if empty, the text begins after `vocabulary.start`.
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
            no character to start from, or an option out of range.
    """
    prompt = prompt or vocabulary.start or ""
    if not prompt:
        raise UserError("There is no prompt, and the vocabulary has no newline to start from; give a prompt.")
    check_length(length)
    options = _options(model, temperature, top_k, top_p, greedy, num_samples, seed)
    tokens = _encode(model, vocabulary, prompt, "the prompt")[None]  # (1, P)
    if isinstance(model, AutoregressiveModel):
        drawn = stream(model, tokens, length, overflow=overflow, num_samples=num_samples, **options)
        pieces = (token[:, None] for token in drawn)
    else:
        prompts = tokens.expand(num_samples, -1)
        pieces = (model.sample(prompts, length, **options)[:, prompts.shape[1] :] for _ in range(min(length, 1)))
    return _decode(model, vocabulary, pieces)


def generate_whole(model: LanguageModel, vocabulary: Vocabulary, prompt: str, length: int, **options: Any) -> list[str]:
    """Returns `num_samples` texts, the prompt included; arguments and errors are those of `generate`."""
    num_samples = options.get("num_samples", 1)
    pieces = [(prompt,) * num_samples, *generate(model, vocabulary, prompt, length, **options)]
    return ["".join(text) for text in zip(*pieces, strict=True)]


def infill(
    model: LanguageModel,
    vocabulary: Vocabulary,
    text: str,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    num_samples: int = 1,
    seed: int = 305,
) -> list[str]:
    """Returns `num_samples` texts: `text` with a character drawn in place of each underscore.

    A text that begins with an underscore stands after a newline, which is not returned.

    Args:
        model: a model that can fill in.
        vocabulary: the one that the model was trained with.
        text: what is given; an underscore is a blank even if the vocabulary has one.
        temperature: as for `generate`, and so are all further options.
        top_k: see `generate`.
        top_p: see `generate`.
        greedy: see `generate`.
        num_samples: number of texts to draw.
        seed: see `generate`.

    Raises:
        UserError: if the model can only continue a text, nothing is to be filled in, the text begins with an
            underscore and the vocabulary has no newline, a character is not in the vocabulary, or an option is out
            of range.
    """
    if not isinstance(model, InfillingModel):
        raise UserError(
            f"A {type(model).__name__} model can only continue a text: give prompt=… in place of infill=…, "
            f"or a run of a model that fills in, such as model=masked_diffusion."
        )
    if BLANK not in text:
        raise UserError(f"The text to be filled in has no {BLANK}: put one for each character that is to be drawn.")
    context = START if text.startswith(BLANK) else ""  # a model's first character is always given
    if context and context not in vocabulary.characters:
        raise UserError(
            f"The text to be filled in begins with {BLANK}, and the vocabulary has no newline to put before it; "
            f"begin with a character that is given."
        )
    options = _options(model, temperature, top_k, top_p, greedy, num_samples, seed)
    readable = text.replace(BLANK, vocabulary.characters[0])  # what stands in a blank plays no part
    given = _encode(model, vocabulary, readable, "the text to be filled in")  # (L,)
    tokens = torch.cat([_encode(model, vocabulary, context, "the start"), given]).expand(num_samples, -1)
    mask = torch.tensor([character == BLANK for character in context + text], device=tokens.device)
    with evaluation_mode(model):
        filled = model.infill(tokens, mask.expand_as(tokens), **options)  # (num_samples, L)
    return [vocabulary.decode(row)[len(context) :] for row in filled.tolist()]


def _options(
    model: LanguageModel,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    greedy: bool,
    num_samples: int,
    seed: int,
) -> dict[str, Any]:
    """Returns the options that models draw with, once they are known to be right."""
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples} draws nothing; give the number of texts to draw, 1 or more.")
    check_choice(temperature, top_k, top_p)
    return {
        "temperature": 0.0 if greedy else temperature,
        "top_k": top_k,
        "top_p": top_p,
        "generator": torch.Generator(device_of(model)).manual_seed(derive_seed(seed, "generation")),
    }


def _encode(model: LanguageModel, vocabulary: Vocabulary, text: str, source: str) -> Int[Tensor, " L"]:
    return torch.as_tensor(vocabulary.encode(text, source=source), dtype=torch.long, device=device_of(model))


def _decode(
    model: LanguageModel, vocabulary: Vocabulary, drawn: Iterable[Int[Tensor, "num_samples n"]]
) -> Iterator[tuple[str, ...]]:
    with evaluation_mode(model):
        for ids in drawn:
            yield tuple(vocabulary.decode(row) for row in ids.tolist())
