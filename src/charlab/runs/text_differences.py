"""Find where in the validation text two runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from charlab.configuration.build import build
from charlab.errors import UserError
from charlab.evaluation.bootstrap import bootstrap_text
from charlab.evaluation.breakdown import CONTEXT, Grouping, Passage, differences, groupings, passages
from charlab.runs.identity import CHARACTERS
from charlab.runs.record import SCENE_LENGTH, Record
from charlab.runs.text import own_corpus, own_nll, own_slices


class Part(NamedTuple):
    """What a part of the text contributes to a difference.

    Attributes:
        split: the property that splits the text, such as the position in the window.
        label: the name of the part.
        characters: number of characters in it.
        nats: the difference, summed over them and over all pairs of runs; the parts of a split add up to the whole
            exactly.
        mean: the same for one pair, in nats per character of the whole text.
        interval: 95% interval of that mean; None if unknown.
    """

    split: str
    label: str
    characters: int
    nats: float
    mean: float
    interval: tuple[float, float] | None


class TextDifferences(NamedTuple):
    """Where in the validation text two runs differ.

    Attributes:
        text: the validation text, without its first character.
        whole: the whole difference.
        parts: its parts by position, place in the word, kind of character and occurrences of the context.
        passages: where the two differ most.
    """

    text: str
    whole: Part
    parts: tuple[Part, ...]
    passages: tuple[Passage, ...]

    def shown(self, passage: Passage) -> str:
        """Return the text of a passage on one line."""
        text = self.text[passage.start : passage.stop].replace("\n", "↵")
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class ComparedText(NamedTuple):
    """The text on which runs are compared, and the ways to split it; the first is the whole text."""

    text: str
    groupings: tuple[Grouping, ...]


def compared_text_of(record: Record) -> ComparedText:
    """Return the text that a run was scored on, split by the windows that it was scored in."""
    corpus = own_corpus(record)
    slices = own_slices(record, corpus)
    part, train = slices["validation"], slices["train"]
    text = "".join(corpus.between(part.start, part.stop))
    before = "".join(corpus.between(max(0, part.start - CONTEXT), part.start))
    number = np.arange(len(text))  # the token in which each character begins
    node = record.config["data"].get("tokenizer") or {"_target_": CHARACTERS}
    if node["_target_"] != CHARACTERS:
        vocabulary = build(node)(corpus, train)
        if vocabulary.lengths is not None:
            lengths = vocabulary.lengths[vocabulary.encode(text).astype(np.int64)]
            number = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.maximum(number[1:] - 1, 0) % record.metric("blocks")["context_length"] + 1
    found = groupings(text, before, corpus.between(train.start, train.stop), positions)
    everything = Grouping("", ("all characters",), np.zeros(len(text) - 1, dtype=np.int64))
    return ComparedText(text[1:], (everything, *found))


def comparable_nll(record: Record) -> Float[np.ndarray, " N"]:
    """Return a run's nll of each character, in nats.

    Raises:
        UserError: if the run did not keep it, its figures are a bound, its model leaks, or a character is impossible.
    """
    nll = own_nll(record)
    if record.metric("blocks")["likelihood"] == "bound":
        raise UserError(f"The figures of {record.folder} are an upper bound, and only their sum has a meaning.")
    if record.causality.get("leaks"):
        raise UserError(f"The model of {record.folder} sees what it has to predict, so its figures say nothing.")
    if not np.isfinite(nll).all():
        raise UserError(f"The model of {record.folder} finds a character impossible, so no difference is finite.")
    return nll


def check_length(compared: ComparedText, *kept: Float[np.ndarray, " N"]) -> None:
    """Raise `UserError` unless runs kept the nll of every character of the text but the first."""
    for nll in kept:
        if len(nll) != len(compared.text):
            raise UserError(
                f"A run kept the nll of {len(nll):,} characters of a text of {len(compared.text):,}: charlab verify "
                "tells what is wrong with it."
            )


def same_text(a: Record, b: Record) -> bool:
    """Return whether two runs were scored on the same part of the same text."""
    return a.corpus.get("sha256") == b.corpus.get("sha256") and _split(a) == _split(b)


def _split(record: Record) -> tuple[object, ...]:
    return tuple(record.config["data"].get(f"{name}_fraction") for name in ("train", "validation", "dev"))


def compare_runs(first: Record, second: Record) -> TextDifferences:
    """Return where the second run differs from the first: nats of the second minus those of the first.

    Intervals are over texts of the same kind, by `bootstrap_text`.

    Raises:
        UserError: if the runs were scored on different texts or splits, or their figures cannot be compared.
    """
    if not same_text(first, second):
        raise UserError("The runs were scored on different texts or splits, so no character can be compared.")
    old, new = comparable_nll(first), comparable_nll(second)
    compared = compared_text_of(first)
    check_length(compared, old, new)
    nats = differences(new, old)
    sizes = np.bincount(np.arange(len(nats)) // SCENE_LENGTH)

    def intervals(grouping: Grouping) -> list[tuple[float, float] | None]:
        if len(sizes) < 2:
            return [None] * len(grouping.labels)
        sums = grouping.add_up(nats, SCENE_LENGTH)  # (G, K)
        return [bootstrap_text(part[None], np.zeros((1, len(sizes))), sizes).interval_95 for part in sums]

    sums = [grouping.add_up(nats)[:, 0] for grouping in compared.groupings]
    return gather_parts(compared, sums, [intervals(grouping) for grouping in compared.groupings], nats)


def gather_parts(
    compared: ComparedText,
    sums: Sequence[Float[np.ndarray, " G"]],
    intervals: Sequence[Sequence[tuple[float, float] | None]],
    nats: Float[np.ndarray, " N"],
    *,
    pairs: int = 1,
    most: int = 20,
) -> TextDifferences:
    """Return a difference with its parts.

    Args:
        sums: for each grouping, the nats in each part.
        intervals: for each grouping, the 95% interval of each part in nats per character of the text; None if unknown.
        nats: the difference at each character, for the passages.
        pairs: number of pairs of runs over which `sums` and `nats` were added up.
        most: number of passages.
    """
    whole, *parts = (
        Part(grouping.name, label, int(number), float(total), float(total) / (len(nats) * pairs), ends)
        for grouping, total_of, ends_of in zip(compared.groupings, sums, intervals, strict=True)
        for label, number, total, ends in zip(grouping.labels, grouping.count(), total_of, ends_of, strict=True)
        if number
    )
    found = (passage._replace(nats=passage.nats / pairs) for passage in passages(nats, most=most))
    return TextDifferences(compared.text, whole, tuple(parts), tuple(found))
