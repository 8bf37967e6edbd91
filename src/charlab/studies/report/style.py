"""How figures look: colors, fonts, margins, labels next to lines, files without a date."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT_INK, GRID, ALARM = "0.2", "0.45", "0.92", "#B00020"
VERDICT_COLORS = {"supported": "#00694B", "equivalent": "#0072B2", "refuted": "#A94400"}

# Okabe and Ito (2008) without their yellow, which is illegible on white. The baseline is black.
BASELINE_COLOR = "#000000"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("solid", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
# Text needs a contrast of 4.5 to the page (WCAG 2.1), which most of these colors have only if they are darker.
LABEL_COLORS = {"#D55E00": "#BF5400", "#009E73": "#008360", "#CC79A7": "#A05A82", "#E69F00": "#986900",
                "#56B4E9": "#3B7AA0"}  # fmt: skip

End = tuple[float, str, str]  # of a line that is labeled: height in data, text and color
_LABEL_SIZE = 7.0  # points
_LABEL_GAP = 0.16  # inches between the axes and the labels
# A date would make each file of the same figure different.
_NO_DATE: Mapping[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}
_STYLE: Any = {
    "text.parse_math": False,  # the names of arms are the user's
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.edgecolor": "0.6",
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # TrueType, which publishers require
    "svg.hashsalt": "charlab",
}


class Look(NamedTuple):
    """How an arm is drawn in every figure."""

    color: str
    line: Any
    marker: str
    label: str


def looks(arms: Sequence[str], baseline: str) -> dict[str, Look]:
    """Return each arm's look; colors tell arms apart first, then line styles and markers."""
    names = short_names(arms)
    found = {baseline: Look(BASELINE_COLOR, "solid", MARKERS[0], names[baseline])}
    for index, arm in enumerate(arm for arm in arms if arm != baseline):
        line = LINES[index // len(COLORS) % len(LINES)]
        found[arm] = Look(COLORS[index % len(COLORS)], line, MARKERS[(index + 1) % len(MARKERS)], names[arm])
    return found


def short_names(names: Sequence[str], most: int = 24) -> dict[str, str]:
    """Return a unique name of at most `most` characters for each name; long ones lose their middle."""
    found: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        label = _shortened(name, most)
        if label in found.values():
            mark = f" ({number})"
            label = _shortened(name, most - len(mark)) + mark
        found[name] = label
    return found


def _shortened(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"


@contextmanager
def drawing() -> Iterator[None]:
    """Set the style of figures drawn and saved in this context."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # names are the user's
        yield


def new_figure(
    width: float, height: float, panels: int = 1, *, left: float = 0.6, right: float = 0.1, bottom: float = 0.38,
    below: bool = False,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Return a figure with panels that share their vertical axis.

    Args:
        width: of the figure, in inches like all others.
        right: margin for labels; see `label_width`.
        below: whether the panels are below each other instead of side by side.
    """
    from matplotlib.figure import Figure

    figure, top = Figure(figsize=(width, height), dpi=200), 0.14
    space = {"hspace": (bottom + top) / (height / panels - bottom - top)} if below else {"wspace": 0.2}
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, **space)
    shape = (panels, 1) if below else (1, panels)
    return figure, list(figure.subplots(*shape, sharey=True, squeeze=False).flat)


def picture(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file of that kind: png, pdf or svg."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata=_NO_DATE[kind])
    return file.getvalue()


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return the width of a text in inches, given its size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=size, prop=FontProperties(weight=weight)).get_extents().width / 72


def label_width(ends: Iterable[End]) -> float:
    """Return the width in inches that labels at the right edge need, with the space around them."""
    return _LABEL_GAP + 0.14 + max((text_width(label, _LABEL_SIZE) for _, label, _ in ends), default=0.0)


def label_at_right(axes: Axes, ends: Sequence[End]) -> None:
    """Write labels beyond the right edge, each at its height, moved apart where they would overlap.

    Args:
        axes: with their final limits.
    """
    low, high = axes.get_ylim()
    place, figure = axes.get_position(), axes.get_figure()
    inches = place.height * figure.get_figheight()  # type: ignore[union-attr]
    x = 1 + _LABEL_GAP / (place.width * figure.get_figwidth())  # type: ignore[union-attr]
    size = max(3.0, min(_LABEL_SIZE, 0.95 * 72 * inches / (1.2 * max(len(ends), 1))))  # room for all
    ordered = sorted(ends, key=lambda end: end[0])
    wanted = [min(max(height, low), high) for height, _, _ in ordered]
    heights = spread(wanted, gap=1.2 * size / 72 / inches * (high - low), low=low, high=high)
    for at, height, (_, text, color) in zip(wanted, heights, ordered, strict=True):
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)}
        axes.annotate(
            text, (1, at), (x, height), ("axes fraction", "data"), color=LABEL_COLORS.get(color, color), fontsize=size,
            va="center", arrowprops=line, annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """Return sorted heights at least a gap apart, moved as little as possible, within [low, high] if they fit."""
    from scipy.optimize import isotonic_regression

    offsets = gap * np.arange(len(heights))
    found = isotonic_regression(np.array(heights) - offsets).x + offsets if len(heights) else offsets
    return np.minimum(np.maximum(found, low + offsets), high - offsets[::-1])
