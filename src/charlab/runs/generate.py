"""Generate text with a trained model, on a terminal or into a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from omegaconf import DictConfig
from rich.console import Console
from rich.rule import Rule

from charlab.data.tokenizers import Vocabulary, readable
from charlab.errors import UserError
from charlab.generation import generate, generate_whole, infill, next_characters
from charlab.models.contract import LanguageModel
from charlab.quantities import count
from charlab.runs.checkpoint import load
from charlab.runs.failure import naming_part
from charlab.training.device import resolve_device

MOST_SHOWN = 20  # characters whose probability is printed


def generate_from_run(config: DictConfig, console: Console | None = None) -> list[str]:
    """Generate texts with a run's model, print them, and return them including the prompt.

    A single continuation streams to the terminal character by character. Several texts, and texts with blanks, appear
    once all are complete.

    Args:
        config: a composed `conf/generate.yaml`.
    """
    model, vocabulary = load(
        config.run, checkpoint=config.checkpoint, device=resolve_device(config.device), trust=config.trust
    )
    with naming_part(model):
        return _generated(model, vocabulary, config, console or Console())


def _generated(model: LanguageModel, vocabulary: Vocabulary, config: DictConfig, console: Console) -> list[str]:
    options = {key: config[key] for key in ("temperature", "top_k", "top_p", "greedy", "seed")}
    if config.infill is not None:
        options |= {"num_samples": config.num_samples, "blank": config.blank}
        return _print(infill(model, vocabulary, config.infill, **options), console)
    prompt = _prompt(config.prompt, vocabulary)
    if config.probabilities:
        found = next_characters(model, vocabulary, prompt, temperature=config.temperature)
        return [_show_probabilities(found, console)]
    options["overflow"] = config.overflow
    if config.num_samples > 1:
        options["num_samples"] = config.num_samples
        return _print(generate_whole(model, vocabulary, prompt, config.length, **options), console)
    pieces = generate(model, vocabulary, prompt, config.length, **options)
    text = prompt
    _write(text, console)
    for (piece,) in pieces:
        _write(piece, console)
        text += piece
    _write("\n", console)
    return [text]


def _show_probabilities(probabilities: Mapping[str, float], console: Console) -> str:
    """Print what the model thinks comes next, as bars down to 0.1%, and return the most probable character."""
    first = next(iter(probabilities))
    rest = 1.0
    for number, (character, probability) in enumerate(probabilities.items()):
        if number == MOST_SHOWN or (number and probability < 0.001):
            others = len(probabilities) - number
            console.print(f"{rest:7.2%}  {count(others, 'other character')}", highlight=False)
            break
        rest = max(0.0, rest - probability)
        bar = "█" * round(40 * probability)
        console.print(f"{probability:7.2%}  {character!r:6} {bar}", highlight=False, markup=False)
    return first


def _prompt(typed: str | None, vocabulary: Vocabulary) -> str:
    """Return the typed prompt; without one, the character that starts a text, with a note unless it is a newline."""
    if typed:
        return typed
    if vocabulary.start is None:
        raise UserError("This model's text has no newlines to begin after: give a prompt, prompt=TEXT.")
    if vocabulary.start != "\n":
        print(
            "This model's text has no newlines, so without a prompt it begins after its most frequent character, "
            f"{vocabulary.start!r}.",
            file=sys.stderr,
        )
    return vocabulary.start if typed is None else ""


def _print(texts: list[str], console: Console) -> list[str]:
    for number, text in enumerate(texts, start=1):
        if len(texts) > 1:
            console.print(Rule(f"sample {number}"))
        _write(f"{text}\n", console)
    return texts


def _write(text: str, console: Console) -> None:
    """Write text unchanged to a file, bytes that are not UTF-8 included; on a terminal, escape control characters.

    Characters missing from the output's encoding are replaced. Rich would drop control characters and expand tabs.
    """
    file, is_utf8 = console.file, console.encoding.lower().replace("-", "") == "utf8"
    if console.is_terminal:
        text = readable(text)
        text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    data = text.encode("utf-8", "surrogateescape") if is_utf8 else readable(text).encode(console.encoding, "replace")
    try:
        if hasattr(file, "buffer"):
            file.flush()
            file.buffer.write(data)
        else:
            file.write(data.decode(console.encoding, "replace"))
        file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()  # as rich does; Hydra would tell of a failed job
