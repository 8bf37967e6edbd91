"""Reading a trained model back, without a Trainer."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object
from torch import nn

from charlab.configuration.build import build
from charlab.configuration.messages import one_sentence
from charlab.data.vocabulary import Vocabulary
from charlab.errors import UserError
from charlab.models.contract import LanguageModel
from charlab.runs import definitions
from charlab.training.callbacks.checkpointing import BEST, LAST, read_checkpoint


def load(
    run: str | Path,
    *,
    checkpoint: Literal["last", "best"] = "last",
    device: str | torch.device = "cpu",
    trust: bool = False,
) -> tuple[LanguageModel, Vocabulary]:
    """Returns the trained model of a run, in evaluation mode, and its vocabulary.

    Args:
        run: the run's folder, or a checkpoint file.
        checkpoint: which of the folder's checkpoints: the last one, or the best one on the dev split.
        device: where the model is put.
        trust: whether code may be imported from the run's folder, where the model's class was defined in a notebook
            or script and is not defined in this one.

    Raises:
        UserError: if there is no such checkpoint, or it is truncated, holds code or belongs to another model.
    """
    model, contents = load_with_checkpoint(run, checkpoint, trust=trust)
    start = contents.get("start")  # checkpoints of former versions have none
    return model.to(device).eval(), Vocabulary(contents["vocabulary"], start if isinstance(start, str) else None)


def load_with_checkpoint(
    run: str | Path, checkpoint: Literal["last", "best"] = "last", *, trust: bool = False
) -> tuple[LanguageModel, dict[str, Any]]:
    """Returns the trained model of a run, on the CPU, and what else the checkpoint holds; see `load`."""
    path = Path(run)
    if not path.exists():
        raise UserError(f"There is no run {path}: name the folder of one, as scripts/train.py printed it.")
    if path.is_dir():
        folder, path = path, path / {"last": LAST, "best": BEST}[checkpoint]
        if checkpoint == "best" and not path.exists() and (folder / LAST).exists():
            raise UserError(
                f"The run in {folder} kept no best checkpoint, since it had no dev split to choose it on: train with "
                "data.dev_fraction above 0 (0.05, say), or use checkpoint=last."
            )
    contents = read_checkpoint(path)
    config, characters = contents.get("model_config"), contents["vocabulary"]
    if not (isinstance(config, dict) and "_target_" in config and isinstance(characters, str)):
        raise UserError(f"The checkpoint {path} does not say of which model it is: use one that charlab wrote.")
    _define(config, path.absolute().parents[1], trust=trust)
    _refuse_code(config, path)
    try:
        model = build_model(config, Vocabulary(characters))
    except InstantiationException as error:  # the constructor takes other arguments now
        raise UserError(
            f"The model of {path} cannot be built here ({one_sentence(error)[:-1]}): "
            "use the version of charlab, and of your own code, that it was trained with."
        ) from error
    load_weights(model, contents, path)
    return model, contents


def _define(config: dict[str, Any], folder: Path, *, trust: bool) -> None:
    """Define what the model needs of the notebook or script that it was trained from.

    Raises:
        UserError: if that is not defined here and the run's folder is not trusted or does not have it.
    """
    missing = definitions.missing_from_main(config)
    if not missing:
        return
    file = folder / definitions.FILE_NAME
    if not trust or not file.exists():
        way = f"import it from {file} with trust=true" if file.exists() else "define it here first"
        raise UserError(f"{missing[0]} was defined in the notebook or script that trained {folder}: {way}.")
    definitions.provide(file.read_text(encoding="utf-8"), folder)


def build_model(config: dict[str, Any], vocabulary: Vocabulary) -> LanguageModel:
    """Returns an untrained model from its part of a configuration.

    Raises:
        UserError: if that part does not name a language model, or gives sizes that do not fit.
    """
    model = build(config, len(vocabulary))
    if not isinstance(model, LanguageModel):
        raise UserError(f"model._target_={config['_target_']} is not a charlab LanguageModel: name a class that is.")
    return model


def load_weights(model: LanguageModel, checkpoint: dict[str, Any], path: Path) -> None:
    """Puts a checkpoint's weights into the model.

    Raises:
        UserError: if they are another model's.
    """
    prefix = "model."
    weights = {name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items()}
    if {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float64}:
        model.double()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first_difference = str(error).splitlines()[1]
        reason = textwrap.shorten(first_difference, 160, placeholder=" …").rstrip(".")
        raise UserError(
            f"The checkpoint {path} is of another model than {type(model).__name__} as configured ({reason}): "
            "use the configuration that it was trained with."
        ) from error


def _refuse_code(config: Any, path: Path) -> None:
    """Makes sure that building the model of a checkpoint calls nothing but modules and charlab's own functions.

    A checkpoint comes from anywhere, and `_target_` can name any function of any library.

    Raises:
        UserError: if it names one.
    """
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for part in parts:
        _refuse_code(part, path)
    if not isinstance(config, dict) or "_target_" not in config:
        return
    target = config["_target_"]
    try:
        constructor = get_object(target)
    except Exception as error:  # whatever importing a user's module may raise
        raise UserError(f"{target} in {path} cannot be imported: install what defines it.") from error
    is_module = isinstance(constructor, type) and issubclass(constructor, nn.Module)
    if not is_module and not getattr(constructor, "__module__", "").startswith("charlab.models."):
        raise UserError(f"{target} in {path} is no torch.nn.Module and was not called: distrust the file.")
