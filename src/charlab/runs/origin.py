"""Start a run from another run's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charlab.data.vocabulary import Vocabulary
from charlab.errors import UserError
from charlab.models.contract import CountedModel, LanguageModel
from charlab.models.ngram_embedding import NGramEmbedding
from charlab.runs.checkpoint import build_model, load_with_checkpoint


def start_from(model: LanguageModel, config: Mapping[str, Any], vocabulary: Vocabulary, run: Path) -> None:
    """Give a model the weights of a run with the same architecture.

    Characters are mapped by what they are: the weights of a character that both vocabularies have are copied, and
    those of a new one keep their initial values.

    Args:
        model: the model, with its initial weights.
        config: the model's configuration.
        vocabulary: the model's vocabulary.
        run: the run's folder.

    Raises:
        UserError: if the run has no checkpoint, or its model differs in more than the vocabulary.
    """
    origin, contents = load_with_checkpoint(run)
    theirs, ours = contents["vocabulary"], vocabulary.characters
    if isinstance(origin, CountedModel) or not any(True for _ in origin.parameters()):
        raise UserError(f"init_from={run} is a run of {type(origin).__name__}, which has no weights to start from.")
    weights, initial = origin.state_dict(), model.state_dict()
    if theirs != ours:
        if any(isinstance(part, NGramEmbedding) for part in [*model.modules(), *origin.modules()]):
            raise UserError(
                f"init_from={run} has another vocabulary, and embeds n-grams, which depend on the numbers of all "
                "characters: train on a text of the same characters."
            )
        weights = _mapped(weights, initial, _vocabulary_axes(config, len(ours)), theirs, ours)
    for name in dict.fromkeys([*initial, *weights]):
        a, b = (tuple(state[name].shape) if name in state else None for state in (weights, initial))
        if a != b:
            shown = [f"{list(shape)}" if shape is not None else "none" for shape in (a, b)]
            raise UserError(
                f"init_from={run} has another model, whose {name} is {shown[0]} where this one's is {shown[1]}: "
                "give this run the same model."
            )
    model.load_state_dict(weights)


def _vocabulary_axes(config: Mapping[str, Any], size: int) -> dict[str, list[int]]:
    """Return for each weight the axes that are as long as the vocabulary: those that grow with it."""
    with torch.device("meta"):
        shapes = [
            {name: value.shape for name, value in build_model(dict(config), _numbered(n)).state_dict().items()}
            for n in (size, size + 1)
        ]
    return {
        name: [axis for axis, (n, more) in enumerate(zip(shape, shapes[1][name], strict=True)) if more != n]
        for name, shape in shapes[0].items()
    }


def _numbered(size: int) -> Vocabulary:
    return Vocabulary("".join(map(chr, range(0x100, 0x100 + size))))


def _mapped(
    weights: Mapping[str, Tensor], initial: Mapping[str, Tensor], axes: Mapping[str, list[int]], theirs: str, ours: str
) -> dict[str, Tensor]:
    """Return the weights of common characters from `weights`, and those of other characters from `initial`."""
    common = sorted({*theirs} & {*ours})
    found = dict(weights)
    for name, value in weights.items():
        target = initial.get(name)
        if target is None or not axes.get(name) or target.dim() != value.dim():
            continue
        grown = axes[name]
        if any(target.shape[axis] != len(ours) or value.shape[axis] != len(theirs) for axis in grown):
            continue  # another model, or a table that is not one of characters: its shape says so
        if any(target.shape[axis] != value.shape[axis] for axis in range(value.dim()) if axis not in grown):
            continue
        mapped = target.clone()
        to, of = (
            torch.meshgrid(
                *(rows if axis in grown else torch.arange(size) for axis, size in enumerate(value.shape)), indexing="ij"
            )
            for rows in (torch.tensor([text.index(character) for character in common]) for text in (ours, theirs))
        )
        mapped[to] = value[of].to(mapped.dtype)
        found[name] = mapped
    return found
