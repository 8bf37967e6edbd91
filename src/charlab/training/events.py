"""TensorBoard's events, as the bytes of its event files.

They are written by hand, rather than with `SummaryWriter`, so that a file's length is known at any moment and can be
cut back to. This module imports TensorBoard, which takes a moment.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter


def beginning() -> bytes:
    """Returns what an event file starts with."""
    return _record(Event(wall_time=time.time(), file_version="brain.Event:2"))


def scalars(values: Mapping[str, float], step: int) -> bytes:
    """Returns an event with numbers by tag."""
    return _event([Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()], step)


def text(tag: str, content: str, step: int) -> bytes:
    """Returns an event with a text, which is shown line by line in a fixed-width font."""
    markdown = "\n".join(f"    {line}" for line in content.split("\n"))  # a code block: line breaks stay
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()], tensor_shape={})
    plugin = SummaryMetadata(plugin_data={"plugin_name": "text"})
    return _event([Summary.Value(tag=tag, metadata=plugin, tensor=tensor)], step)


def image(tag: str, pixels: UInt8[np.ndarray, "height width 3"], step: int) -> bytes:
    """Returns an event with an image in red, green and blue."""
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG", optimize=True)
    height, width, colors = pixels.shape
    encoded = Summary.Image(height=height, width=width, colorspace=colors, encoded_image_string=png.getvalue())
    return _event([Summary.Value(tag=tag, image=encoded)], step)


def hyperparameters(hparams: Mapping[str, Any], *, started: float, step: int) -> bytes:
    """Returns an event that makes a finished run a row in TensorBoard's HParams tab.

    No experiment summary is written, the description of all columns that `SummaryWriter.add_hparams` writes:
    TensorBoard believes the first one that it finds, and then hides what other runs have besides. Without one it
    collects the columns from all runs.

    Args:
        hparams: the run's hyper-parameters. Nested ones get dotted names; those that are None are left out, since
            TensorBoard gives a column one type.
        started: when the run began, in seconds since 1970.
        step: number of optimizer steps done.
    """
    start = SessionStartInfo(start_time_secs=started)
    for name, value in _flatten(hparams).items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, int | float) and math.isfinite(value):
            start.hparams[name].number_value = value
        elif value is not None:
            start.hparams[name].string_value = str(value)
    end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    session = {
        metadata.SESSION_START_INFO_TAG: HParamsPluginData(session_start_info=start),
        metadata.SESSION_END_INFO_TAG: HParamsPluginData(session_end_info=end),
    }
    values = [
        Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
        for tag, data in session.items()
    ]
    return _event(values, step)


def _event(values: list[Summary.Value], step: int) -> bytes:
    return _record(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


def _record(event: Event) -> bytes:
    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
