"""Plot the loss of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from charlab.curves import FILE_NAME as CURVES
from charlab.curves import read_curves
from charlab.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from charlab.runs.record import Record

LOSS_PLOT = "loss.png"

# Distinguishable with all common kinds of color blindness (Okabe and Ito 2008).
COLORS = {"train": "#0072B2", "validation": "#D55E00", "dev": "#009E73"}
STYLES = {"train": (0, (4, 2)), "validation": "-", "dev": ":"}
INK, FAINT_INK = "0.25", "0.55"


class Curve(NamedTuple):
    """The measurements of one metric."""

    steps: Int[np.ndarray, " N"]
    values: Float[np.ndarray, " N"]


def plot_loss(record: Record) -> Path:
    """Plot a run's curves to `loss.png` in its folder, and return its path."""
    figure = record.plot(log_steps=(record.config.get("plot") or {}).get("log_steps", False))
    path = record.folder / LOSS_PLOT
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    return path


def draw_loss(
    table: pd.DataFrame,
    *,
    title: str,
    floor: float | None = None,
    likelihood: Literal["exact", "bound"] = "exact",
    leaks: bool = False,
    log_steps: bool = False,
) -> Figure:
    """Plot a run's training and validation loss over its optimizer steps.

    Args:
        table: the run's measurements, as returned by `charlab.curves.read_curves`.
        title: the run's name.
        floor: the entropy of the corpus in nats per character, a lower bound on the loss of any model.
        likelihood: "bound" if the losses are upper bounds.
        leaks: whether the model sees what it has to predict, so that its loss is meaningless.
        log_steps: whether to use a logarithmic scale for the steps.
    """
    metrics = _by_metric(table)
    raw = metrics.get("train/loss")
    protocol, curves = _evaluation_curves(metrics)

    figure, axes = _empty()
    if raw is not None:
        axes.plot(*raw, color=COLORS["train"], alpha=0.3, linewidth=0.8)
    for split, curve in curves.items():
        width = 2.6 if split == "train" else 1.6  # so that both show where they coincide
        marker = "o" if len(curve.steps) <= 40 else None
        axes.plot(*curve, color=COLORS[split], linewidth=width, marker=marker, markersize=2 * width, clip_on=False)
    if floor is not None:
        axes.axhline(floor, color=FAINT_INK, linewidth=1.2, linestyle=(0, (5, 3)))

    _scale(axes, raw, curves, floor, log_steps=log_steps)
    sign = "≤ " if likelihood == "bound" else ""
    ends = {split: (curve.values[-1], COLORS[split], sign) for split, curve in curves.items()}
    if raw is not None and "train" not in ends:
        ends["train"] = (raw.values[-1], COLORS["train"], sign)
    if floor is not None:
        ends["floor"] = (floor, FAINT_INK, "")
    _label_ends(axes, ends)
    if leaks:
        subtitle, color = "leaks: the model sees what it has to predict, so its loss says nothing", "#B00020"
    else:
        parts = [f"lines: {protocol}" * bool(curves), "faint: batches trained on" * (raw is not None)]
        subtitle, color = " · ".join(filter(None, parts)), FAINT_INK
    _decorate(axes, title, subtitle, color)
    return figure


def plot_comparison(file: Path, folders: Mapping[str, Path]) -> bool:
    """Plot the losses of several runs, given by their labels, to a PNG file; return whether there were any."""
    figure, axes = _empty()
    drawn: dict[str, Curve] = {}
    ends: dict[str, tuple[float, str, str]] = {}
    for (label, folder), color in zip(folders.items(), COLORS.values(), strict=False):
        _, curves = _evaluation_curves(_by_metric(read_curves(folder / CURVES)))
        for split, curve in curves.items():
            drawn[f"{label} {split}"] = curve
            axes.plot(*curve, color=color, linestyle=STYLES[split], linewidth=1.6, clip_on=False)
        if "validation" in curves:
            ends[label] = (curves["validation"].values[-1], color, "")
    if not drawn:
        return False
    _scale(axes, None, drawn, None, log_steps=False)
    _label_ends(axes, ends)
    _decorate(axes, " · ".join(folders), "solid: validation · dashed: train")
    write_atomically(file, lambda stream: figure.savefig(stream, format="png"))
    return True


def _empty() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(8.0, 4.8), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    return figure, figure.add_subplot()


def _by_metric(table: pd.DataFrame) -> dict[str, Curve]:
    return {
        str(name): Curve(rows["step"].to_numpy(), rows["value"].to_numpy()) for name, rows in table.groupby("metric")
    }


def _evaluation_curves(metrics: Mapping[str, Curve]) -> tuple[str, dict[str, Curve]]:
    """Return the protocol with the most evaluations, and its loss curves by split."""
    by_protocol: dict[str, dict[str, Curve]] = {}
    for name, curve in metrics.items():
        match name.split("/"):
            case [split, "nll"] if split in COLORS:
                by_protocol.setdefault("estimate", {})[split] = curve
            case [protocol, split, "nll"] if split in COLORS:  # runs of earlier versions
                by_protocol.setdefault(protocol, {})[split] = curve
    if not by_protocol:
        return "", {}
    most_used = max(by_protocol, key=lambda protocol: max(len(curve.steps) for curve in by_protocol[protocol].values()))
    return most_used, {split: by_protocol[most_used][split] for split in COLORS if split in by_protocol[most_used]}


def _scale(axes: Axes, raw: Curve | None, curves: dict[str, Curve], floor: float | None, *, log_steps: bool) -> None:
    """Fit the axes to the curves; rare spikes of single batches may be cut off."""
    values = [curve.values[np.isfinite(curve.values)] for curve in curves.values()]
    if raw is not None and np.isfinite(raw.values).any():
        values.append(np.quantile(raw.values[np.isfinite(raw.values)], [0.0, 0.99]))
    if floor is not None:
        values.append(np.array([floor]))
    finite = np.concatenate([*values, np.empty(0)])
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    margin = 0.06 * max(high - low, 0.1)
    axes.set_ylim(low - margin, high + margin)
    last = max([int(curve.steps[-1]) for curve in [raw, *curves.values()] if curve is not None], default=1)
    if log_steps:
        axes.set_xscale("symlog", linthresh=1)  # a plain log scale cannot show step 0
    axes.set_xlim(0, max(last, 1))


def _label_ends(axes: Axes, ends: dict[str, tuple[float, str, str]]) -> None:
    """Label the end of each line with its name and last value, without overlap."""
    low, high = axes.get_ylim()
    gap = 0.05 * (high - low)
    previous = -np.inf
    for name, (value, color, sign) in sorted(ends.items(), key=lambda end: end[1][0]):
        if not np.isfinite(value):
            continue
        position = previous = max(value, previous + gap)
        axes.annotate(
            f"{name} {sign}{value:.3f}",
            xy=(1.0, position),
            xycoords=("axes fraction", "data"),
            xytext=(7, 0),
            textcoords="offset points",
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def _decorate(axes: Axes, title: str, subtitle: str, color: str = FAINT_INK) -> None:
    from matplotlib.ticker import StrMethodFormatter

    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=22)
    axes.annotate(subtitle, (0, 1), (0, 8), "axes fraction", "offset points", color=color, fontsize=9)
    axes.set_xlabel("optimizer steps", color=INK)
    axes.set_ylabel("loss (nats per character)", color=INK)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    perplexity = axes.twinx()
    perplexity.set_ylabel("perplexity (per character)", color=INK)
    perplexity.set_ylim(axes.get_ylim())
    shown = _perplexity_ticks(*axes.get_ylim())
    perplexity.set_yticks(np.log(shown), labels=[f"{value:g}" for value in shown])
    perplexity.spines["right"].set_position(("outward", 100))  # leave room for the labels at the ends of lines
    for scale in (axes, perplexity):
        scale.tick_params(colors=INK, labelsize=9, length=3)
        scale.spines[:].set_color("0.7")
        scale.spines["top"].set_visible(False)
    axes.spines["right"].set_visible(False)
    perplexity.spines[["left", "bottom"]].set_visible(False)


def _perplexity_ticks(low: float, high: float) -> list[float]:
    """Return round perplexities whose logs are in [low, high], with enough space between them for labels."""
    shown: list[float] = []
    for value in (base * 10**power for power in range(9) for base in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)):
        if low <= np.log(value) <= high and (not shown or np.log(value / shown[-1]) > 0.06 * (high - low)):
            shown.append(value)
    return shown
