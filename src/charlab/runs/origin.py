"""Start a run from another run: from its weights (`init_from`), or from its last step (`extend`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelPruning, StochasticWeightAveraging, Timer, WeightAveraging
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from charlab.configuration.build import find, literal, nodes, plain
from charlab.curves import FILE_NAME as CURVES
from charlab.data.tokenizers import Characters, Vocabulary
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.models.contract import CountedModel, LanguageModel
from charlab.models.ngram_embedding import NGramEmbedding
from charlab.quantities import count, joined
from charlab.runs.checkpoint import build_model, load_with_checkpoint, vocabulary_of
from charlab.runs.folder import clear
from charlab.runs.identity import WORK_DIVISION_KEYS, drop, fingerprinted_config
from charlab.runs.record import Record
from charlab.runs.store import RunLocation, differences
from charlab.training.checkpoint_file import BEST, LAST, read_resumable

BUDGET = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "budget", "init_from", "extend")
CONSTANT = "charlab.training.schedules.Constant"
REPLACES_WEIGHTS = (StochasticWeightAveraging, WeightAveraging, ModelPruning)  # callbacks, when training ends


def initialize_from(model: LanguageModel, config: Mapping[str, Any], vocabulary: Vocabulary, run: Path) -> None:
    """Give a model the weights of a run with the same architecture.

    Tokens are matched by what they are: the weights of characters, bytes or byte pairs in both vocabularies are copied,
    and new ones keep their initial weights.

    Args:
        model: the model, with its initial weights.
        config: the model's configuration.
        vocabulary: the model's vocabulary.
        run: the run's folder.

    Raises:
        UserError: if the run has no checkpoint, or its model differs in more than the vocabulary.
    """
    origin, contents = load_with_checkpoint(run)
    theirs, ours = vocabulary_of(contents, run).pieces, vocabulary.pieces
    if isinstance(origin, CountedModel) or not any(True for _ in origin.parameters()):
        raise UserError(f"init_from={run} is a run of {type(origin).__name__}, which has no weights to start from.")
    weights, initial = origin.state_dict(), model.state_dict()
    if theirs != ours:
        if any(isinstance(part, NGramEmbedding) for part in [*model.modules(), *origin.modules()]):
            raise UserError(
                f"init_from={run} has another vocabulary, and embeds n-grams, which depend on the numbers of all "
                "characters: train on a text of the same characters."
            )
        weights = _mapped(weights, initial, _vocabulary_axes(config, len(ours)), theirs, ours, run)
    for name in dict.fromkeys([*initial, *weights]):
        a, b = (tuple(state[name].shape) if name in state else None for state in (weights, initial))
        if a != b:
            shown = [f"{list(shape)}" if shape is not None else "none" for shape in (a, b)]
            raise UserError(
                f"init_from={run} has another model, whose {name} is {shown[0]} where this one's is {shown[1]}: "
                "give this run the same model."
            )
    model.load_state_dict(weights)


def extend_run(origin: Path, config: DictConfig, location: RunLocation, *, fresh: bool) -> None:
    """Put the last checkpoint and the curves of a finished run into the folder of a run that extends its budget.

    Args:
        origin: the finished run's folder.
        config: configuration of the new run.
        location: folder and identity of the new run.
        fresh: whether to replace what the folder holds.

    Raises:
        UserError: if the configurations differ in more than the budget, the budget is not larger, the schedule is not
            constant, the weights are averaged, or different code trained the finished run.
    """
    record = Record.load(origin)
    former, now = (fingerprinted_config(settings) for settings in (literal(record.config), config))
    for key in (*BUDGET, *WORK_DIVISION_KEYS):
        for values in (former, now):
            drop(values, key)
    differing = [key for key in dict.fromkeys([*former, *now]) if former.get(key) != now.get(key)]
    if differing:
        raise UserError(
            f"extend={origin} keeps the settings of that run, but this one has another {joined(differing)}: leave it "
            f"as it was, or start from the run's weights with init_from={origin}."
        )
    part = next((part for part in ("scheduler", "averaging") if not _is_extendable(config.get(part))), None)
    if part is not None:
        name = config[part]["_target_"].rpartition(".")[2]
        raise UserError(
            f"extend={origin} has the {part} {name}, which followed the budget to its end: only runs with a constant "
            f"learning rate and without averaging can be extended; init_from={origin} starts from the weights."
        )
    for name, kind in _callbacks(config):
        if issubclass(kind, REPLACES_WEIGHTS):
            raise UserError(
                f"extend={origin} has {name} ({kind.__name__}), which replaced the weights when training ended: "
                f"init_from={origin} starts from them."
            )
    if not record.is_by(location.identity.code) and config.get("resume") != "any_code":
        raise UserError(
            f"{origin} was trained by different code ({differences(record, location.identity)}): extend it with "
            "resume=any_code."
        )
    before, divided = (
        settings["trainer"].get("accumulate_grad_batches") or 1 for settings in (record.config, plain(config))
    )
    if before != divided:
        raise UserError(
            f"extend={origin} was trained with trainer.accumulate_grad_batches={before}, not {divided}: give it."
        )
    checkpoint = read_resumable(origin / LAST)
    steps = config.trainer.max_steps
    if steps is not None and 0 <= steps <= checkpoint["global_step"]:
        raise UserError(
            f"extend={origin} has trained for {checkpoint['global_step']:,} steps already: give more, "
            "trainer.max_steps=…."
        )
    seconds, spent = config.budget.max_seconds, checkpoint["progress"]["training_seconds"]
    if seconds is not None and seconds <= spent:
        raise UserError(f"extend={origin} has trained for {spent:.1f} s already: give more, budget.max_seconds=….")
    if (duration := config.trainer.get("max_time")) is not None:
        timer = Timer(plain(duration) if OmegaConf.is_config(duration) else duration)
        timer.load_state_dict(checkpoint["callbacks"].get(timer.state_key, {}))
        if timer.time_remaining() <= 0:
            raise UserError(
                f"extend={origin} has trained for {timer.time_elapsed():.1f} s already: give more, trainer.max_time=…."
            )
    loop = checkpoint["loops"]["fit_loop"]
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    limit, whole = config.trainer.max_epochs, epochs["current"]["processed"] - (not batches["is_last_batch"])
    if limit is not None and 0 <= limit <= whole:
        raise UserError(
            f"extend={origin} has trained for {count(whole, 'epoch')} already: give more, trainer.max_epochs=…."
        )
    if fresh:
        clear(location.folder)
    checkpoint["training_over"] = checkpoint["should_stop"] = False
    # Lightning has counted the last epoch, which may be cut short: as in a checkpoint of the last step, it goes on.
    for progress in (epochs["total"], epochs["current"]):
        number = progress["processed"]
        progress.update(ready=number, started=number, processed=number - 1, completed=number - 1)
    for progress in (batches["total"], batches["current"]):
        progress["completed"] -= 1
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    for name in (CURVES, BEST):
        if (origin / name).exists():
            _write(location.folder / name, (origin / name).read_bytes())
    write_atomically(location.folder / LAST, lambda file: torch.save(checkpoint, file))


def _write(path: Path, contents: bytes) -> None:
    write_atomically(path, lambda file: file.write(contents))


def _callbacks(config: DictConfig) -> Iterator[tuple[str, type]]:
    """Yield the key and the class of each callback of a configuration."""
    settings = plain(config)
    groups = {"callbacks": settings.get("callbacks"), "trainer.callbacks": settings["trainer"].get("callbacks")}
    for path, group in groups.items():
        for name, node in nodes(group, path):
            if isinstance(kind := find(node["_target_"]), type):
                yield name, kind


def _is_extendable(part: DictConfig | None) -> bool:
    return part is None or part["_target_"] == CONSTANT


def _vocabulary_axes(config: Mapping[str, Any], size: int) -> dict[str, list[int]]:
    """Return the axes of each weight that are as long as the vocabulary: those that grow with it."""
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
    return Characters("".join(map(chr, range(0x100, 0x100 + size))))


def _mapped(
    weights: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    axes: Mapping[str, list[int]],
    theirs: list[bytes],
    ours: list[bytes],
    run: Path,
) -> dict[str, Tensor]:
    """Return the weights of common tokens from `weights`, and those of other tokens from `initial`.

    Rows after those of the tokens, such as that of a mask, mean the same in both models.
    """
    common = sorted({*theirs} & {*ours})
    numbers = [{token: number for number, token in enumerate(known)} for known in (ours, theirs)]
    found = dict(weights)
    for name, value in weights.items():
        target = initial.get(name)
        if target is None or not axes.get(name) or target.dim() != value.dim():
            continue
        grown = axes[name]
        beyond = {target.shape[axis] - len(ours) for axis in grown}
        beyond |= {value.shape[axis] - len(theirs) for axis in grown}
        if len(beyond) > 1 or min(beyond) < 0:
            if target.shape == value.shape:
                raise UserError(
                    f"init_from={run} has another vocabulary, and {name} does not have a row for each character: "
                    "train on a text of the same characters."
                )
            continue  # another model, as its shape shows
        if any(target.shape[axis] != value.shape[axis] for axis in range(value.dim()) if axis not in grown):
            continue
        (more,) = beyond
        mapped = target.clone()
        to, of = (
            torch.meshgrid(
                *(rows if axis in grown else torch.arange(size) for axis, size in enumerate(value.shape)), indexing="ij"
            )
            for rows in (_rows(number, common, more) for number in numbers)
        )
        mapped[to] = value[of].to(mapped.dtype)
        found[name] = mapped
    return found


def _rows(number: Mapping[bytes, int], tokens: list[bytes], more: int) -> Tensor:
    """Return the rows of some tokens and of `more` others, which follow those of all tokens: (n,) int64."""
    others = range(len(number), len(number) + more)
    return torch.tensor([*(number[token] for token in tokens), *others], dtype=torch.long)
