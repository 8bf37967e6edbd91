"""Load a trained model, without a Trainer."""

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
from charlab.data.tokenizers import Characters, Vocabulary
from charlab.errors import UserError
from charlab.models.contract import LanguageModel
from charlab.runs import definitions
from charlab.runs.store import OUTPUTS, Store
from charlab.training.checkpoint_file import BEST, LAST, read_checkpoint, unpruned


def load(
    run: str | Path,
    *,
    checkpoint: Literal["last", "best"] = "last",
    device: str | torch.device = "cpu",
    trust: bool = False,
) -> tuple[LanguageModel, Vocabulary]:
    """Return the trained model of a run, in evaluation mode, and its vocabulary.

    Args:
        run: the run's folder, the beginning of its fingerprint, or a checkpoint file.
        checkpoint: the checkpoint to load from the folder: the last one, or the best one on the dev split.
        device: device to put the model on.
        trust: whether to import code from the run's folder if the model's class was defined in a notebook or script
            and is not defined in the current one, and to call functions that its configuration names.

    Raises:
        UserError: if there is no such checkpoint, or it is truncated, contains code or does not fit the model.
    """
    model, contents = load_with_checkpoint(run, checkpoint, trust=trust)
    return model.to(device).eval(), vocabulary_of(contents, run)


def load_with_checkpoint(
    run: str | Path, checkpoint: Literal["last", "best"] = "last", *, trust: bool = False
) -> tuple[LanguageModel, dict[str, Any]]:
    """Return the trained model of a run, on the CPU, and the contents of its checkpoint; see `load`."""
    path = Path(run)
    if not path.exists():
        path = Store(OUTPUTS).named(run)
    if path.is_dir():
        files = {"last": LAST, "best": BEST}
        if checkpoint not in files:
            raise UserError(f"There is no checkpoint={checkpoint}: choose one of {', '.join(files)}.")
        folder, path = path, path / files[checkpoint]
        if checkpoint == "best" and not path.exists() and (folder / LAST).exists():
            raise UserError(
                f"The run in {folder} kept no best checkpoint, since it had no dev split to choose it on: train with "
                "data.dev_fraction above 0 (0.05, say), or use checkpoint=last."
            )
    contents = read_checkpoint(path)
    config = contents.get("model_config")
    if not (isinstance(config, dict) and "_target_" in config):
        raise UserError(f"The checkpoint {path} does not say which model it belongs to: use one that charlab wrote.")
    _define(config, path.absolute().parent.parent, trust=trust)
    if not trust:
        _refuse_code(config, path)
    try:
        model = build_model(config, vocabulary_of(contents, path))
    except InstantiationException as error:  # the constructor takes other arguments now
        raise UserError(
            f"The model of {path} cannot be built here ({one_sentence(error)[:-1]}): "
            "use the version of charlab, and of your own code, that it was trained with."
        ) from error
    load_weights(model, contents, path)
    return model, contents


def vocabulary_of(checkpoint: dict[str, Any], path: str | Path) -> Vocabulary:
    """Return the vocabulary in the contents of a checkpoint.

    Raises:
        UserError: if the checkpoint describes none, or one that cannot be built here.
    """
    node = checkpoint["vocabulary"]
    if isinstance(node, str):  # of an earlier version; the first ones knew no start
        return Characters(node, checkpoint.get("start"))
    target = node.get("_target_") if isinstance(node, dict) else None
    if isinstance(target, str):
        try:
            known = get_object(target)
            if isinstance(known, type) and issubclass(known, Vocabulary):
                return known(**{name: value for name, value in node.items() if name != "_target_"})
        except (ImportError, ValueError, TypeError) as error:
            raise UserError(f"The vocabulary {target} in {path} cannot be built here: {one_sentence(error)}") from error
    raise UserError(f"The checkpoint {path} does not say which tokens it knows: use one that charlab wrote.")


def _define(config: dict[str, Any], folder: Path, *, trust: bool) -> None:
    """Define the classes that the model needs from the notebook or script that trained it.

    Raises:
        UserError: if a class is not defined here, and the run's folder is not trusted or does not have it.
    """
    missing = definitions.missing_from_main(config)
    if not missing:
        return
    file = folder / definitions.FILE_NAME
    if not trust or not file.exists():
        way = f"import it from {file} with trust=true" if file.exists() else "define it here first"
        raise UserError(f"{missing[0]} was defined in the notebook or script that trained {folder}: {way}.")
    definitions.import_into_main(file.read_text(encoding="utf-8"), folder)


def build_model(config: dict[str, Any], vocabulary: Vocabulary) -> LanguageModel:
    """Return the untrained model that `config` describes.

    Raises:
        UserError: if `config` does not describe a language model, or its sizes do not fit.
    """
    model = build(config, len(vocabulary))
    if not isinstance(model, LanguageModel):
        raise UserError(f"model._target_={config['_target_']} is not a charlab LanguageModel: name a class that is.")
    return model


def load_weights(model: LanguageModel, checkpoint: dict[str, Any], path: Path) -> None:
    """Load a checkpoint's weights into the model.

    Raises:
        UserError: if the weights do not fit the model.
    """
    prefix = "model."
    saved = unpruned(checkpoint)  # also what a callback has added to the Lightning module
    weights = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
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
    """Refuse a checkpoint whose configuration calls anything but modules, optimizers and charlab's own functions.

    A checkpoint may come from an untrusted source, and `_target_` can name any function of any library.

    Raises:
        UserError: if `_target_` names something else.
    """
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for part in parts:
        _refuse_code(part, path)
    if not isinstance(config, dict) or "_target_" not in config:
        return
    target = config["_target_"]
    try:
        constructor = get_object(target)
    except Exception as error:  # importing a user's module can raise any exception
        raise UserError(f"{target} in {path} cannot be imported: install what defines it.") from error
    is_harmless = isinstance(constructor, type) and issubclass(constructor, nn.Module | torch.optim.Optimizer)
    home = str(getattr(constructor, "__module__", ""))  # or None
    if not is_harmless and not home.startswith("charlab.models.") and home != "charlab.training.optimizers":
        raise UserError(
            f"{target} in {path} is neither a torch.nn.Module nor an optimizer, so it was not called: give trust=true "
            "if the run is yours."
        )
