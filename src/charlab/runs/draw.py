"""Draw a finished run on request: a sample of its text, its loss curves and its attention."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from charlab.command import command
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.folder import CHECKPOINT, SAMPLES
from charlab.runs.identity import changed_since
from charlab.runs.plots import LOSS_PLOT, plot_loss
from charlab.runs.record import Record
from charlab.runs.store import Store, changes

if TYPE_CHECKING:
    import numpy as np

    from charlab.data.tokenizers import Vocabulary
    from charlab.models.contract import LanguageModel


def sample(record: Record, *, trust: bool = False) -> str:
    """Return the text in a run's `samples.txt`, sampled and saved first if there is none; "" if that fails.

    It fails, with a warning, if the model's code has changed since the run: the text would be another model's.
    """
    path = record.folder / SAMPLES
    if path.exists():
        return path.read_text(encoding="utf-8", errors="replace")
    if record.status != "finished" or not (record.folder / CHECKPOINT).is_file():
        return ""
    from charlab.generation import sample_text
    from charlab.models.side_effects import device_of, untouched_randomness
    from charlab.runs.checkpoint import load

    try:
        _check_code(record)
        model, vocabulary = load(record.folder, trust=trust)
        chosen = {"length": 500, "temperature": 1.0, "seed": record.seed} | _settings(record, "samples")
        length, temperature, seed = (chosen[name] for name in ("length", "temperature", "seed"))
        with untouched_randomness(device_of(model)):
            text = sample_text(model, vocabulary, length, temperature=temperature, seed=seed) + "\n"
    except Exception as error:  # a sample must not end a report; a user's model can raise any exception
        logging.getLogger("charlab").warning("There is no sample of %s (%s).", record.folder, error)
        return ""
    with suppress(UserError):
        write_atomically(path, lambda file: file.write(text.encode()))
    return text


def _check_code(record: Record) -> None:
    """Raise `UserError` if the code of a run's model has changed since: what it draws would be another model's."""
    if record.sources and (names := changed_since(record, {"model": record.config["model"]})):
        raise UserError(f"its model has {changes(names)}")


def _settings(record: Record, callback: str) -> dict[str, Any]:
    """Return the arguments of a callback in a run's configuration; none if it was left out."""
    return (record.config.get("callbacks") or {}).get(callback) or {}


def complete(record: Record, at_end: Collection[str]) -> None:
    """Add the outputs in `at_end` that a finished run lacks; only `charlab runs draw` draws attention maps."""
    if "sliding" in at_end:
        record.metric("sliding")
    if "samples" in at_end:
        sample(record)
    if "loss_plot" in at_end and not (record.folder / LOSS_PLOT).exists():
        plot_loss(record)


def draw(runs: Sequence[str], output_dir: Path, console: Console, *, trust: bool = False) -> None:
    """Write the loss plot, a sample and the attention maps of runs into their folders, and print their paths.

    Code that their folders hold runs only with `trust`; see `charlab.load`.
    """
    if not runs:
        raise UserError(f"draw takes the runs to look at: {command('runs', 'draw', 'RUN')}.")
    for record in [Record.load(Store(output_dir).named(run)) for run in runs]:
        for what, path in _drawn(record, trust):
            console.print(f"{what:<10} {path}", highlight=False, markup=False, soft_wrap=True)


def _drawn(record: Record, trust: bool) -> Iterator[tuple[str, Path]]:
    from matplotlib.image import imsave

    from charlab.runs.checkpoint import load

    if len(record.curves()):
        yield "loss plot", plot_loss(record)
    model, vocabulary = load(record.folder, trust=trust)  # first: it defines what the sample needs as well
    if sample(record, trust=trust):
        yield "sample", record.folder / SAMPLES
    for name, image in _attention(record, model, vocabulary):
        path = record.folder / "attention" / (re.sub(r"[^\w.-]", "_", name) + ".png")
        write_atomically(path, partial(imsave, arr=image, format="png"))
        yield "attention", path


def _attention(
    record: Record, model: LanguageModel, vocabulary: Vocabulary
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield an image for each module that exposes its attention, on the beginning of the validation text."""
    import torch

    from charlab.data.encoding import encode_part
    from charlab.runs.text import own_corpus, own_slices
    from charlab.training.callbacks.attention_maps import attention_images

    if not any(hasattr(part, "attention_weights") for part in model.modules()):
        return
    try:
        _check_code(record)
    except UserError as error:
        logging.getLogger("charlab").warning("There are no attention maps of %s (%s).", record.folder, error)
        return
    corpus = own_corpus(record)
    ids = torch.from_numpy(encode_part(corpus, own_slices(record, corpus)["validation"], vocabulary)).long()
    length = min(_settings(record, "attention_maps").get("length", 32), record.config["data"]["context_length"])
    yield from attention_images(model, vocabulary, ids[: length + 1], f"step {record.steps:,}")
