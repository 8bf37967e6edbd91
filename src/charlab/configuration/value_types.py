"""Types of the values in each program's configuration that are not constructor arguments, by dotted key."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from charlab.types import LARGEST, NonNegativeInt, PositiveFloat, PositiveInt, PositiveOrInfinite

TRAIN: dict[str, Any] = {
    "seed": int,
    "name": str,
    "force": bool,
    "resume": Literal["same_code", "any_code"],
    "init_from": str | None,
    "extend": str | None,
    "output_dir": str,
    "dry_run": bool,
    "debug": str | None,
    "tags": list[str],
    "note": str | None,
    "data": dict,
    "model": dict,
    "optimizer": dict,
    "scheduler": dict,
    "objective": dict | None,
    "averaging": dict | None,
    "trainer": dict,
    "callbacks": dict | None,
    "logger": dict | None,
    "budget.max_seconds": PositiveOrInfinite | None,
    "compute.threads": PositiveInt | None,
    "compute.compile": bool | Literal["auto", "cuda_graphs"],
    "evaluate_every": PositiveInt,
    "estimate_batches": PositiveInt,
    "at_end": list[Literal["sliding", "samples", "attention_maps", "loss_plot"]],
    "plot.log_steps": bool,
    "study": dict | None,
    "search": dict | None,
    "launcher": dict,
}

_TRAINED: dict[str, Any] = {
    "run": str,
    "trust": bool,
    "checkpoint": Literal["last", "best"],
    "seed": int,
    "device": Literal["auto", "cpu", "gpu", "mps"],
}

EVALUATE: dict[str, Any] = {
    **_TRAINED,
    "data.path": str | None,
    "split": Literal["validation", "train", "dev", "test"],
    "unknown": Literal["error", "skip"],
    "protocol": Literal["blocks", "sliding", "estimate", "online"],
    "stride": PositiveInt | None,
    "block_length": PositiveInt | None,
    "learning_rate": PositiveFloat,
    "steps_per_block": PositiveInt,
    "num_batches": PositiveInt,
    "context_length": PositiveInt | None,
    "batch_size": PositiveInt | None,
}

GENERATE: dict[str, Any] = {
    **_TRAINED,
    "prompt": str | None,
    "length": NonNegativeInt,
    "infill": str | None,
    "blank": str,
    "temperature": Annotated[float, Ge(0), Le(LARGEST)],  # a value that rounds to 0 in float32 is greedy
    "top_k": PositiveInt | None,
    "top_p": Annotated[float, Gt(0), Le(1)] | None,
    "greedy": bool,
    "num_samples": PositiveInt,
    "overflow": Literal["slide", "rebase"],
    "probabilities": bool,
}

REPORT: dict[str, Any] = {
    "name": str | None,
    "output": str | None,
    "formats": list[Literal["markdown", "html", "latex"]],
    "output_dir": str,
    "studies": str,
}

EXPORT: dict[str, Any] = {
    "run": str,
    "format": Literal["safetensors", "torch", "onnx"],
    "output": str | None,
    "trust": bool,
    "checkpoint": Literal["last", "best"],
}

VALUES = {"train": TRAIN, "evaluate": EVALUATE, "generate": GENERATE, "report": REPORT, "export": EXPORT}
"""The types of the values, by program."""
