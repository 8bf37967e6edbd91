"""Figures that a model's results are held against: the entropy of the text, and what counting characters reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from charlab.runs.record import Record
    from charlab.studies.results import StudyResults

# The text's SHA-256 → the best n-gram on the last tenth of it, counted on the rest, in nats per character.
_NGRAMS = {
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed": ("Kneser–Ney n-gram of order 7", 1.516),
}


class Reference(NamedTuple):
    """A figure to hold results against, in nats per character."""

    name: str
    nll: float
    note: str


def entropy(results: StudyResults) -> float | None:
    """Returns the entropy of the validation text in nats per character, where all cells know the same."""
    floors = {record.floor.get("validation") for record in _records(results)}
    return floors.pop() if len(floors) == 1 else None


def references(results: StudyResults) -> list[Reference]:
    """Returns what is known of the text that all cells were scored on, the lowest first."""
    found = []
    floor = entropy(results)
    if floor is not None:
        found.append(Reference("entropy of the text", floor, "no model can be expected to be below"))
    texts = {record.corpus.get("sha256") for record in _records(results)}
    if len(texts) == 1 and results.plan.protocol != "estimate" and all(map(_is_usual_split, _records(results))):
        ngram = _NGRAMS.get(str(texts.pop()))
        if ngram is not None:
            found.append(Reference(*ngram, "counts only, no training; figure measured elsewhere"))
    return found


def _records(results: StudyResults) -> list[Record]:
    return [result.record for result in results.cells if result.record is not None and result.status == "finished"]


def _is_usual_split(record: Record) -> bool:
    data = record.config.get("data", {})
    return data.get("train_fraction") == 0.9 and not data.get("dev_fraction")
