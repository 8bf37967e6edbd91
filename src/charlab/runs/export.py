"""Export a trained model: its weights, or a program that computes its logits without charlab."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import util
from pathlib import Path
from typing import Any, Literal, cast

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from charlab.configuration.messages import line_of_user
from charlab.data.tokenizers import Characters, to_config
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.notebook import Output
from charlab.runs.checkpoint import load_with_checkpoint, vocabulary_of
from charlab.runs.folder import EXPORT
from charlab.runs.identity import changed_since
from charlab.runs.record import Record
from charlab.runs.store import OUTPUTS, Store, changes

Format = Literal["safetensors", "torch", "onnx"]
FILES: dict[str, str] = {"safetensors": "model.safetensors", "torch": "model.pt2", "onnx": "model.onnx"}
PACKAGES = {"safetensors": ["safetensors"], "torch": [], "onnx": ["onnx", "onnxscript", "onnxruntime"]}
DESCRIPTION = "charlab.json"
TOLERANCE = 1e-5  # between the logits of the model and of the program
BATCH, LENGTH = 2, 7  # of the example input that a program is exported with
SHORTEST = 2  # example length for a program of any length: torch.export would specialize on a length of 1

Program = Callable[[Tensor], Tensor]
"""A function from (B, T) character ids to (B, T, V) logits."""


def export_run(config: DictConfig, console: Console | None = None) -> Path:
    """Export the model of a run, print where, and return the file.

    Args:
        config: a composed `conf/export.yaml`.

    Raises:
        UserError: for the reasons given in `export`.
    """
    console = console or Output()
    file = export(config.run, config.format, output=config.output, checkpoint=config.checkpoint, trust=config.trust)
    for path in (file, file.with_name(DESCRIPTION)):
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    return file


def export(
    run: str | Path,
    format: Format = "safetensors",
    *,
    output: str | Path | None = None,
    checkpoint: Literal["last", "best"] = "last",
    trust: bool = False,
) -> Path:
    """Export the model of a run, and return the file.

    `safetensors` holds the weights; `torch` (a program of `torch.export`) and `onnx` map (B, T) int64 character ids to
    (B, T, V) float32 logits of the character that follows each. Configuration, vocabulary and accepted sizes are in
    the file's metadata and in `charlab.json` next to it. If the model's code has changed since the run, a warning says
    so, and `run.changed_since` there names what has changed.

    Args:
        run: the run's folder, or the beginning of its fingerprint.
        format: "safetensors", "torch" or "onnx".
        output: folder to write into; by default, `export` in the run's folder.
        checkpoint: the checkpoint to export: the last one, or the best one on the dev split.
        trust: whether code that the run's folder holds may run; see `charlab.load`.

    Raises:
        UserError: if there is no such run, a package is missing, the format cannot hold the model, or the model's code
            was edited since this process loaded it.
    """
    if format not in FILES:
        raise UserError(f"There is no format={format}: choose one of {', '.join(FILES)}.")
    missing = [name for name in PACKAGES[format] if util.find_spec(name) is None]
    if missing:
        raise UserError(f"format={format} needs {' and '.join(missing)}: pip install 'charlab[export]'.")
    folder = Store(OUTPUTS).named(run)
    record = Record.load(folder)
    model, contents = load_with_checkpoint(folder, checkpoint, trust=trust)
    vocabulary = vocabulary_of(contents, folder)
    found = changed_since(record, {"model": contents["model_config"]})  # with the models of an ensemble's members
    changed = [name for name in found if name in record.sources or not record.sources]
    model.eval().requires_grad_(False)  # a program must run without torch.no_grad()
    description = {
        "format": format,
        "run": {
            "name": record.name,
            "fingerprint": record.fingerprint,
            "code": record.code,
            "changed_since": changed if record.sources or not changed else None,  # None: what is unknown
            "checkpoint": checkpoint,
        },
        "model": contents["model_config"],
        "vocabulary": vocabulary.characters if isinstance(vocabulary, Characters) else to_config(vocabulary),
        "start": vocabulary.start,
        "context_length": model.context_length,
    }
    if format == "safetensors":
        packed = _safetensors(model, description)
    else:
        packed, sizes = _program(model, format, record.config["data"]["context_length"], description)
        description |= sizes
    target = Path(output) if output is not None else folder / EXPORT
    write_atomically(target / DESCRIPTION, lambda file: file.write(_text(description).encode()))
    write_atomically(target / FILES[format], lambda file: file.write(packed))
    if changed:
        told = changes(changed) if record.sources else "that of an earlier version"
        logging.getLogger("charlab").warning(
            "The run %s was trained by different code (%s): its weights are exported with today's model.", folder, told
        )
    return target / FILES[format]


def _text(description: Mapping[str, Any]) -> str:
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"


def _safetensors(model: LanguageModel, description: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    weights = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}  # untied
    try:
        return save(weights, metadata={"charlab": _text(description)})
    except (KeyError, TypeError, ValueError) as error:  # a dtype that safetensors does not support
        raise UserError(f"format=safetensors cannot hold this model ({error}): keep its checkpoint.") from error


def _program(
    model: LanguageModel, format: str, context_length: int, description: Mapping[str, Any]
) -> tuple[bytes, dict[str, Any]]:
    """Return the model as a program, and the sizes that its input may have: as few fixed as the model allows.

    Raises:
        UserError: if the model has no logits or cannot be exported, or its program computes something else.
    """
    name = type(model).__name__
    if not isinstance(model, AutoregressiveModel):
        raise UserError(
            f"{name} has no logits of the next character, which format={format} holds: use format=safetensors."
        )
    reason: Exception | None = None
    longest = model.context_length or context_length
    for batch, length in ((None, None), (None, longest), (1, longest)):
        lengths = [length or SHORTEST, length or model.context_length]  # null: any
        sizes: dict[str, Any] = {"batch": [batch or 1, batch], "length": lengths}
        try:
            with _quietly():
                return _exported(model, format, batch, length, {**description, **sizes}), sizes
        except Exception as error:  # an exporter passes on whatever an operation of the model raises
            reason = error
    raise UserError(f"format={format} cannot hold {name} ({_said(reason)}): use format=safetensors.") from reason


def _said(error: BaseException | None) -> str:
    """Return the first line of the original error, and the line of the user's code that raised it."""
    where = line_of_user(error) if error is not None else None
    while error is not None and error.__cause__ is not None:  # exporters wrap it in errors that name their failed step
        error = error.__cause__
    told = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"{where}: {told}" if where else told


def _exported(
    model: AutoregressiveModel, format: str, batch: int | None, length: int | None, description: Mapping[str, Any]
) -> bytes:
    """Return the program for this batch size and length (None: any), checked on sizes that it should accept."""
    longest = model.context_length or 3 * LENGTH
    example = _ids(model, batch or BATCH, length or min(LENGTH, longest))
    free = {axis: torch.export.Dim.AUTO for axis, size in enumerate((batch, length)) if size is None}
    program = torch.export.export(model, (example,), dynamic_shapes=(free or None,), strict=False)
    file = io.BytesIO()
    compute: Program
    if format == "torch":
        torch.export.save(program, file, extra_files={DESCRIPTION: _text(description)})
        compute = cast(Program, program.module())
        packed = file.getvalue()
    else:
        import onnxruntime

        onnx = torch.onnx.export(program, (), dynamo=True, verbose=False, input_names=["ids"], output_names=["logits"])
        assert onnx is not None
        onnx.model.metadata_props["charlab"] = _text(description)
        packed = onnx.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(packed, providers=["CPUExecutionProvider"])

        def compute(ids: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: ids.numpy()})[0])

    batches = (batch,) if batch else (1, BATCH + 1)
    lengths = [length] if length else [n for n in (SHORTEST, LENGTH - 2, longest) if n <= longest] or [longest]
    for ids in (_ids(model, b, n) for b in batches for n in lengths):
        expected = model(ids)
        difference = (compute(ids) - expected).abs()[expected.isfinite()].max().item()
        if not difference <= TOLERANCE * max(1.0, expected[expected.isfinite()].abs().max().item()):
            raise ArithmeticError(f"its logits would differ by {difference:.1e}")
    return packed


def _ids(model: LanguageModel, batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    return torch.randint(model.vocab_size, (batch, length), generator=generator)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporters while the block runs: their messages are about the insides of torch and onnx."""
    logger = logging.getLogger("torch")
    level = logger.level
    silent = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
