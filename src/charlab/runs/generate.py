"""Text from a trained model, shown as it is drawn."""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console
from rich.rule import Rule

from charlab.generation import generate, generate_whole, infill
from charlab.runs.checkpoint import load
from charlab.training.device import resolve_device


def generate_from_run(config: DictConfig, console: Console | None = None) -> list[str]:
    """Draws texts from a run's model, prints them and returns them, the prompt included.

    One continuation streams to the terminal character by character; several texts, and those with blanks filled in,
    appear one below the other once all are drawn.

    Args:
        config: a composed `conf/generate.yaml`.
        console: where to print; standard output by default.

    Raises:
        UserError: if there is no such checkpoint, the text has an unknown character, an option is out of range, or
            there are blanks to be filled in and the model cannot.
    """
    console = console or Console()
    model, vocabulary = load(config.run, checkpoint=config.checkpoint, device=resolve_device(config.device))
    options = {
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "greedy": config.greedy,
        "seed": config.seed,
    }
    if config.infill is not None:
        texts = infill(model, vocabulary, config.infill, num_samples=config.num_samples, **options)
        return _print(texts, console)
    options["overflow"] = config.overflow
    if config.num_samples > 1:
        options["num_samples"] = config.num_samples
        return _print(generate_whole(model, vocabulary, config.prompt, config.length, **options), console)
    pieces = generate(model, vocabulary, config.prompt, config.length, **options)
    text = config.prompt
    console.out(text, end="", highlight=False)
    for (piece,) in pieces:
        console.out(piece, end="", highlight=False)
        console.file.flush()
        text += piece
    console.print()
    return [text]


def _print(texts: list[str], console: Console) -> list[str]:
    for number, text in enumerate(texts, start=1):
        if len(texts) > 1:
            console.print(Rule(f"sample {number}"))
        console.out(text, highlight=False)
    return texts
