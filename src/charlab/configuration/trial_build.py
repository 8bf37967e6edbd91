"""Build the model, optimizer, schedule, data module, objective and averaging before a run, to find errors early.

They are built on torch's `meta` device, where tensors have shapes but no values. This takes a fraction of a second for
a model of any size and finds the same shape mismatches as training would.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from torch import nn

from charlab.configuration.build import (
    INSTRUCTIONS,
    KNOWN_AT_RUN_TIME,
    build,
    build_scheduler,
    code_of,
    find,
    first_parameter,
    nodes,
)
from charlab.configuration.messages import line_of_user, one_sentence
from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.models.mixture import Ensemble
from charlab.module_loads import MODULE_LOADS

VOCAB_SIZE = 65  # any number would do: whether shapes match does not depend on it
BATCH_SIZE = 2
SMALL = 20_000_000  # a model of at most as many parameters is built on the CPU if it cannot be built on meta

_LIBRARIES = tuple(str(Path(file).parent) for file in (torch.__file__, hydra.__file__, __file__) if file)
_CHARLAB = str(Path(__file__).parents[1])


_MOST_KEPT = 256
_MODELS: dict[tuple[Any, ...], LanguageModel | None] = {}
"""Models that have been checked, on the meta device, where they take no memory; by description and loaded classes."""


def build_model(tree: dict[str, Any]) -> LanguageModel | None:
    """Build the model of a configuration, compute the loss of one batch, and build its optimizer and schedule.

    Args:
        tree: the resolved configuration.

    Returns:
        The model, on the meta device where possible; None if it cannot be built before the run.
    """
    described = json.dumps([tree["model"], tree["data"].get("context_length")], default=repr, sort_keys=True)
    classes = (find(node["_target_"]) for _, node in nodes(tree["model"], "model"))
    known = (described, MODULE_LOADS.reloads, *classes)
    if known not in _MODELS:
        if len(_MODELS) == _MOST_KEPT:
            _MODELS.clear()
        model = _model(tree)
        _MODELS[known] = model if model is None else model.to("meta")
    model = _MODELS[known]
    optimizer = None
    if model is not None and any(parameter.requires_grad for parameter in model.parameters()):
        try:
            optimizer = _attempt(tree, "optimizer", lambda: _optimizer(tree["optimizer"], model))
        except _NotOnMetaError:  # the optimizer reads the weights, as EM does
            if _size(model) <= SMALL:
                on_cpu = _attempt(tree, "model", partial(_construct, tree), "cpu")
                _attempt(tree, "optimizer", lambda: _optimizer(tree["optimizer"], on_cpu), "cpu")
    if not _takes(tree["scheduler"], "optimizer") and "schedulers" not in tree["scheduler"]:
        _attempt_anywhere(tree, "scheduler", lambda: build(tree["scheduler"]))
    elif optimizer is not None:
        with suppress(_NotOnMetaError):  # a scheduler that reads the weights is built when training begins
            _attempt(tree, "scheduler", lambda: build_scheduler(tree["scheduler"], optimizer))
    return model


def _optimizer(node: dict[str, Any], model: LanguageModel) -> Any:
    """Build an optimizer: charlab's own take the model, those of other libraries take its parameters."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return build({**node, "_partial_": True})(weights if _takes(node, "params") else model)


def _takes(node: dict[str, Any], name: str) -> bool:
    """Return whether the first parameter of the node's `_target_` has that name."""
    return "_target_" in node and first_parameter(node["_target_"]) == name


def build_data_and_objective(tree: dict[str, Any], model: LanguageModel | None) -> None:
    """Build data module (without reading any text), objective and averaging; check the kind of Lightning's parts."""
    data = _attempt_anywhere(tree, "data", lambda: build(tree["data"]))
    from lightning.pytorch import Callback  # imported here: it is slow, and building the data module imports it anyway
    from lightning.pytorch.profilers import Profiler
    from lightning.pytorch.strategies import Strategy

    from charlab.data.datamodule import CharacterDataModule

    _check_kind(tree["data"], "data", "CharacterDataModule", data is None or isinstance(data, CharacterDataModule))
    if tree.get("objective") is not None:
        objective = _attempt_anywhere(tree, "objective", lambda: build(tree["objective"]))
        _check_kind(tree["objective"], "objective", "Objective", objective is None or hasattr(objective, "check"))
        if model is not None and data is not None and objective is not None:
            with suppress(_NotOnMetaError):  # checked again before the run
                _attempt(tree, "objective", lambda: objective.check(model, data.order))
    trainer = tree.get("trainer") or {}
    parts = {"averaging": (tree, Callback), "profiler": (trainer, Profiler), "strategy": (trainer, Strategy)}
    for key, (part, kind) in parts.items():
        if isinstance(node := part.get(key), dict):
            path = key if part is tree else f"trainer.{key}"
            if "_target_" not in node:
                raise UserError(f"{path} has no _target_: give it one, {{_target_: MODULE.CLASS}}.")
            made = find(node["_target_"])
            _check_kind(node, path, kind.__name__, not isinstance(made, type) or issubclass(made, kind))
            if (start := node.get("start_method", "popen")) != "popen":
                raise UserError(
                    f"{path}.start_method={start} starts processes from the memory of this one, and what they learn "
                    f"would be lost with them: set {path}.start_method=popen."
                )
    if tree.get("averaging") is not None:
        _attempt_anywhere(tree, "averaging", lambda: build(tree["averaging"]))
    _check_processes(tree["model"], model, trainer)


def _check_processes(node: dict[str, Any], model: LanguageModel | None, trainer: dict[str, Any]) -> None:
    """Refuse distributed training of a model without gradients to exchange, for which torch would raise later.

    Devices count as far as they are numbers; what "auto" means depends on the machine.
    """
    if find(node["_target_"]) is Ensemble and node.get("runs"):  # whose weights stay as they are
        name = "An ensemble of finished runs"
    elif model is not None and not any(parameter.requires_grad for parameter in model.parameters()):
        name = type(model).__name__
    else:
        return
    numbers = [trainer.get(key) for key in ("devices", "num_nodes")]
    several = any(isinstance(number, int) and number > 1 for number in numbers)
    if several or str(trainer.get("strategy")).startswith("ddp"):
        raise UserError(
            f"{name} is not trained by gradients, which are all that several processes exchange: train it in one, "
            "with trainer.devices=1, trainer.num_nodes=1 and trainer.strategy=auto."
        )


def _check_kind(node: dict[str, Any], path: str, kind: str, holds: bool) -> None:
    if not holds:
        raise UserError(f"{path}._target_={node['_target_']} is not a {kind}: name a class that is.")


class _NotOnMetaError(Exception):
    """Raised when code needs the values of tensors, which meta tensors do not have."""


def _model(tree: dict[str, Any]) -> LanguageModel | None:
    context_length = tree["data"].get("context_length")
    if tree["model"].get("runs") or not isinstance(context_length, int):  # runs: the members are finished runs
        return None
    model: LanguageModel | None = None
    for device in ("meta", "cpu"):
        try:
            model = _attempt(tree, "model", partial(_construct, tree), device)
            _attempt(tree, "model", partial(_read_window, model, context_length), device)
            return model
        except _NotOnMetaError:
            if model is None or _size(model) > SMALL:
                return None
    return model


def _size(model: LanguageModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _construct(tree: dict[str, Any]) -> LanguageModel:
    model = build(tree["model"], VOCAB_SIZE)
    if not isinstance(model, LanguageModel):
        raise UserError(f"_target_={tree['model']['_target_']} is not a charlab LanguageModel: name a class that is.")
    for name in ("vocab_size", "context_length"):
        if not hasattr(model, name):
            raise UserError(f"_target_={tree['model']['_target_']} has no attribute {name}: set it in __init__.")
    return model


def _read_window(model: Any, context_length: int) -> None:
    """Compute the loss of a batch of windows, and check the shapes of the logits and the loss."""
    if model.context_length is not None and context_length > model.context_length:
        raise UserError(
            f"data.context_length={context_length} is more than the model looks at, "
            f"context_length={model.context_length}: lower one or raise the other."
        )
    window = torch.zeros((BATCH_SIZE, context_length + 1), dtype=torch.long)
    seen = []

    def check_logits(_: nn.Module, arguments: tuple[Any, ...], logits: Any) -> None:
        if not arguments or not isinstance(arguments[0], torch.Tensor):
            return
        seen.append(arguments[0].shape == window[:, :-1].shape)
        expected = (*arguments[0].shape, VOCAB_SIZE)
        _check_shape(model.forward, logits, expected, "windows, characters, vocabulary")

    with ExitStack() as hooks:
        for layer in model.modules():
            if isinstance(layer, nn.RNNBase) and window.is_meta:
                _shorten(layer, hooks)
        if isinstance(model, AutoregressiveModel):
            hooks.enter_context(model.register_forward_hook(check_logits))
        loss = model.loss(window)
        if isinstance(model, AutoregressiveModel) and not any(seen):
            model(window[:, :-1])  # a loss of the model's own need not call it
    _check_shape(model.loss, loss, (), "a single number")


def _shorten(layer: nn.RNNBase, hooks: ExitStack) -> None:
    """Make torch's own recurrent layer compute only its first step: on meta, computing all of them is slow."""
    lengths: list[int] = []

    def first_step(_: nn.Module, arguments: tuple[Any, ...]) -> Any:
        lengths.append(arguments[0].shape[time(arguments[0])])
        return arguments[0].narrow(time(arguments[0]), 0, 1), *arguments[1:]

    def all_steps(_: nn.Module, arguments: tuple[Any, ...], results: tuple[torch.Tensor, Any]) -> Any:
        output, state = results
        time_first = output.transpose(0, time(output))
        whole = time_first.new_empty(lengths.pop(), *time_first.shape[1:])
        return whole.transpose(0, time(output)), state

    def time(sequence: torch.Tensor) -> int:
        return int(layer.batch_first and sequence.dim() == 3)

    hooks.enter_context(layer.register_forward_pre_hook(first_step))
    hooks.enter_context(layer.register_forward_hook(all_steps))


def _check_shape(method: Any, value: Any, expected: tuple[int, ...], meaning: str) -> None:
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
    if shape != expected:
        code = method.__func__.__code__
        raise UserError(
            f"{code.co_filename}, line {code.co_firstlineno}: {method.__qualname__} returns {shape} "
            f"where {expected} ({meaning}) is expected."
        )


def _attempt(tree: dict[str, Any], path: str, action: Callable[[], Any], device: str = "meta") -> Any:
    """Run `action` on a device and return its result; None if the part depends on values known only during a run.

    Raises:
        _NotOnMetaError: if it fails because meta tensors have no values.
    """
    if _has_run_time_value(tree[path]):
        return None
    try:
        with torch.device(device), torch.random.fork_rng(devices=()), torch.no_grad():
            return action()
    except Exception as raised:
        error: BaseException = raised
        while isinstance(error, InstantiationException) and error.__cause__ is not None:
            error = error.__cause__
        if isinstance(error, UserError):
            raise UserError(_with_path(str(error), _failing_node(error, tree, path), tree)) from None
        if device == "meta" and "meta" in str(error).lower():
            raise _NotOnMetaError from None
        where = _failing_node(error, tree, path)
        place = f"{frame}, with {where}" if (frame := _frame(error)) else where
        raise UserError(f"{place}: {type(error).__name__}: {one_sentence(error)}") from error


def _attempt_anywhere(tree: dict[str, Any], path: str, action: Callable[[], Any]) -> Any:
    """Run `action` as `_attempt` does; on the CPU if it computes with the values of tensors."""
    try:
        return _attempt(tree, path, action)
    except _NotOnMetaError:
        return _attempt(tree, path, action, "cpu")


def _frame(error: BaseException) -> str | None:
    """Return where an error was raised: the innermost line of the user's code, or else of a package; None for torch."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
    frames = [f for f in frames if not f.filename.startswith(_CHARLAB)] or frames
    innermost = f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else None
    return line_of_user(error) or innermost


def _failing_node(error: BaseException, tree: dict[str, Any], path: str) -> str:
    """Return the dotted path of the node whose constructor raised the error."""
    constructors = [
        (code, where, node)
        for where, node in nodes(tree[path], path)
        if (code := getattr(code_of(find(node["_target_"])), "__code__", None)) is not None
    ]
    found = path
    for frame, _ in traceback.walk_tb(error.__traceback__):
        same = [(where, node) for code, where, node in constructors if code is frame.f_code]
        values = frame.f_locals
        fitting = [where for where, node in same if all(values.get(k, v) == v for k, v in node.items() if _is_plain(v))]
        found = (fitting or [where for where, _ in same] or [found])[0]
    return found


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)


def _with_path(sentence: str, path: str, tree: dict[str, Any]) -> str:
    """Return a constructor's error message with each parameter name replaced by its dotted path.

    A word counts as a parameter name if it contains an underscore (`num_heads`) or a value follows it (`bias=true`).
    """
    enclosing = {"": tree} | dict(nodes(tree[path.partition(".")[0].partition("[")[0]], path.partition(".")[0]))
    chain = sorted((where for where in enclosing if where and path.startswith(where)), key=len, reverse=True)

    def dotted(match: re.Match[str]) -> str:
        for where in chain:
            if match[0] in enclosing[where] and match[0] not in INSTRUCTIONS - {"_target_"}:
                return f"{where}.{match[0]}"
        return match[0]

    told = re.sub(r"(?<![\w./])(\w+(?==)|[a-z]+(_[a-z]+)+)(?![\w/(]|\.\w)", dotted, sentence)
    return told if told != sentence or f"{path}" in told or "line " in told else f"{path}: {sentence}"


def _has_run_time_value(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is KNOWN_AT_RUN_TIME or any(map(_has_run_time_value, parts))
