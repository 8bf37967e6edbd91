"""Generate text with any model, streamed or as a whole, and fill in blanks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from charlab.data.tokenizers import Vocabulary, readable
from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel, InfillingModel, LanguageModel
from charlab.models.decoding import Overflow, check_choice, check_not_negative, check_predictions, stream
from charlab.models.side_effects import device_of, evaluation_mode
from charlab.seeding import derive_seed

START = "\n"  # put before a text that begins with a blank


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
    """Continue `prompt`, and yield each piece of text as soon as it is sampled.

    A sample's pieces, joined, are its continuation, without the prompt. An autoregressive model yields one token at a
    time, any other model the whole text. All samples are generated as one batch. The model is in evaluation mode until
    the iterator is exhausted or closed. A byte that is not part of a UTF-8 character is a lone surrogate, as in
    Python's "surrogateescape".

    Args:
        model: any language model.
        vocabulary: the one that the model was trained with.
        prompt: the text to continue; if empty, the text begins after `vocabulary.start`.
        length: number of characters to sample, ≥ 0.
        temperature: divides the logits; 0 takes the most probable character.
        top_k: sample from the k most probable tokens only.
        top_p: sample from the fewest tokens whose probabilities sum to at least p.
        greedy: always take the most probable token, overriding the three options above.
        num_samples: number of texts to generate.
        overflow: what to do once the model's context is full, see `charlab.models.decoding.stream`.
        seed: the same seed gives the same text, whatever the global random state.

    Yields:
        A tuple of `num_samples` strings: the next piece of each sample. If tokens are characters, all are of equal
        length.

    Raises:
        UserError: at the call itself, for a character that is not in the vocabulary, an empty prompt without a start
            in the vocabulary, or an option out of range.
    """
    prompt = prompt or vocabulary.start or ""
    if not prompt:
        raise UserError("There is no prompt, and the vocabulary has no newline to start from: give a prompt.")
    check_not_negative(length)
    options = _options(model, temperature, top_k, top_p, greedy, num_samples, seed)
    tokens = _encode(model, vocabulary, prompt, "the prompt")[None]  # (1, P)
    if isinstance(model, AutoregressiveModel):
        most = length * vocabulary.most_tokens
        drawn = stream(model, tokens, most, overflow=overflow, num_samples=num_samples, **options)
        pieces: Iterator[Tensor] = (token[:, None] for token in drawn)
    else:
        pieces = _whole(model, tokens.expand(num_samples, -1), length, options)
    return _decode(model, vocabulary, pieces, num_samples, length)


def generate_whole(model: LanguageModel, vocabulary: Vocabulary, prompt: str, length: int, **options: Any) -> list[str]:
    """Return `num_samples` texts including the prompt; arguments and errors are those of `generate`."""
    num_samples = options.get("num_samples", 1)
    pieces = [(prompt,) * num_samples, *generate(model, vocabulary, prompt, length, **options)]
    return ["".join(text) for text in zip(*pieces, strict=True)]


@torch.no_grad()
def sample_text(
    model: LanguageModel, vocabulary: Vocabulary, length: int, *, temperature: float = 1.0, seed: int
) -> str:
    """Return a text sampled without a prompt: after a newline or, if the corpus has none, its most frequent character.

    Args:
        model: any language model, in evaluation mode.
        vocabulary: the one that the model was trained with.
        length: characters in the text; fewer if a character takes several tokens.
        temperature: divides the logits.
        seed: seed of the random numbers.
    """
    device, start = device_of(model), vocabulary.start or vocabulary.decode([0])
    prompt = torch.as_tensor(vocabulary.encode(start), dtype=torch.long, device=device)[None]  # (1, P)
    generator = torch.Generator(device).manual_seed(seed)
    ids = model.sample(prompt, length, temperature=temperature, generator=generator)
    return readable(vocabulary.decode(ids[0, prompt.shape[1] :].tolist()))[:length]


@torch.no_grad()
def next_characters(
    model: LanguageModel, vocabulary: Vocabulary, prompt: str, *, temperature: float = 1.0
) -> dict[str, float]:
    """Return the probability of each token after `prompt`, the most probable first.

    Args:
        model: an autoregressive model.
        vocabulary: the one that the model was trained with.
        prompt: the text so far; a model with a context length reads its end.
        temperature: divides the logits; > 0.

    Raises:
        UserError: if the model is not autoregressive or finds the prompt impossible, the prompt is empty or has an
            unknown character, or the temperature is 0.
    """
    if not isinstance(model, AutoregressiveModel):
        raise UserError(
            f"A {type(model).__name__} model has no probabilities of the next character alone: leave out probabilities."
        )
    if not temperature > 0:
        raise UserError(f"temperature={temperature} leaves one character: give a temperature above 0.")
    prompt = prompt or vocabulary.start or ""
    tokens = _encode(model, vocabulary, prompt, "the prompt")[None]  # (1, P)
    if model.context_length is not None:
        tokens = tokens[:, -model.context_length :]
    with evaluation_mode(model):
        logits, _ = model.read_prompt(tokens, model.init_state(1))  # (1, V)
        check_predictions(logits)
        logits = logits[0].cpu().double()  # mps has no float64
        probabilities = ((logits - logits.amax()) / temperature).softmax(-1).tolist()
    ids = ([index] for index in range(len(vocabulary)))
    ranked = sorted(zip(map(vocabulary.decode, ids), probabilities, strict=True), key=lambda pair: -pair[1])
    return dict(ranked)


def infill(
    model: LanguageModel,
    vocabulary: Vocabulary,
    text: str,
    *,
    blank: str = "_",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    num_samples: int = 1,
    seed: int = 305,
) -> list[str]:
    """Return `num_samples` texts: `text` with each blank replaced by a sampled token, such as a character.

    A text that begins with a blank is filled in as if after a newline, which is not returned.

    Args:
        model: an infilling model.
        vocabulary: the one that the model was trained with.
        text: the given text.
        blank: the character that marks a blank; choose another one if the text itself has underscores.
        temperature: as for `generate`, like all further options.
        top_k: see `generate`.
        top_p: see `generate`.
        greedy: see `generate`.
        num_samples: number of texts to generate.
        seed: see `generate`.

    Raises:
        UserError: if the model can only continue a text, `blank` is not one character, the text has no blank or begins
            with one although the vocabulary has no newline, a character is not in the vocabulary, or an option is out
            of range.
    """
    if not isinstance(model, InfillingModel):
        raise UserError(
            f"A {type(model).__name__} model can only continue a text: use prompt=… instead of infill=…, "
            f"or a run of a model that fills in, such as model=masked_diffusion."
        )
    if len(blank) != 1:
        raise UserError(f"blank={blank} is not one character: name the one that marks a blank.")
    if blank not in text:
        raise UserError(f"The text to be filled in has no {blank}: put one for each character to fill in.")
    context = START if text.startswith(blank) else ""  # a model's first character must be given
    if context and not vocabulary.knows(context):
        raise UserError(
            f"The text to be filled in begins with {blank}, and the vocabulary has no newline to put before it: "
            f"begin with a given character."
        )
    options = _options(model, temperature, top_k, top_p, greedy, num_samples, seed)
    known = vocabulary.start or vocabulary.decode([0])
    vocabulary.encode(text.replace(blank, known), source="the text to be filled in")  # raises for unknown characters
    given = [vocabulary.encode(part) for part in (context + text).split(blank)]
    hidden = np.zeros(1, vocabulary.dtype)  # masked, so any token will do
    ids = np.concatenate([part for between in given for part in (between, hidden)][:-1])
    tokens = torch.as_tensor(ids, dtype=torch.long, device=device_of(model)).expand(num_samples, -1)
    places = np.cumsum([len(part) + 1 for part in given[:-1]]) - 1
    mask = torch.zeros(len(ids), dtype=torch.bool, device=tokens.device)
    mask[torch.from_numpy(places)] = True
    with evaluation_mode(model):
        filled = model.infill(tokens, mask.expand_as(tokens), **options)  # (num_samples, L)
    return [vocabulary.decode(row)[len(context) :] for row in filled.tolist()]  # a newline is a token of its own


def _options(
    model: LanguageModel,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    greedy: bool,
    num_samples: int,
    seed: int,
) -> dict[str, Any]:
    """Return checked sampling options."""
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples} generates nothing: give an integer ≥ 1.")
    check_choice(temperature, top_k, top_p)
    return {
        "temperature": 0.0 if greedy else temperature,
        "top_k": top_k,
        "top_p": top_p,
        "generator": torch.Generator(device_of(model)).manual_seed(derive_seed(seed, "generation")),
    }


def _encode(model: LanguageModel, vocabulary: Vocabulary, text: str, source: str) -> Int[Tensor, " L"]:
    return torch.as_tensor(vocabulary.encode(text, source=source), dtype=torch.long, device=device_of(model))


def _whole(
    model: LanguageModel, tokens: Int[Tensor, "num_samples P"], length: int, options: dict[str, Any]
) -> Iterator[Int[Tensor, "num_samples length"]]:
    """Yield `length` more tokens at a time, endlessly."""
    while True:
        longer = model.sample(tokens, length, **options)
        yield longer[:, tokens.shape[1] :]
        tokens = longer


def _decode(
    model: LanguageModel,
    vocabulary: Vocabulary,
    drawn: Iterable[Int[Tensor, "num_samples n"]],
    num_samples: int,
    length: int,
) -> Iterator[tuple[str, ...]]:
    """Yield the samples' text until all have `length` characters."""
    decoders, missing = [vocabulary.decoder() for _ in range(num_samples)], [length] * num_samples
    with evaluation_mode(model):
        for ids in drawn if length else ():
            rows = zip(decoders, ids.tolist(), missing, strict=True)
            texts = tuple("".join(map(decoder, row))[:most] for decoder, row, most in rows)
            yield texts
            missing = [most - len(text) for most, text in zip(missing, texts, strict=True)]
            if not any(missing):
                return
