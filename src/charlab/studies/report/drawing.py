"""What all figures have in common: colors, labels beside the lines, files that are the same each time."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT_INK, GRID = "0.2", "0.5", "0.92"
LABEL_SIZE = 7.0  # points
ALARM = "#B00020"

# Okabe and Ito (2008); their yellow is left out, for it cannot be read on white. The baseline is black.
BASELINE_COLOR = "#000000"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("solid", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

# Without these, each drawing of the same figure would be another file.
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
    "pdf.fonttype": 42,  # TrueType, as publishers ask for
    "svg.hashsalt": "charlab",
}


class Look(NamedTuple):
    """How an arm is drawn in every figure."""

    color: str
    line: Any
    marker: str
    label: str


def looks(arms: Sequence[str], baseline: str, labels: Mapping[str, str]) -> dict[str, Look]:
    """Returns each arm's look: colors first, then lines and markers too tell arms apart."""
    others = [arm for arm in arms if arm != baseline]
    found = {baseline: Look(BASELINE_COLOR, "solid", MARKERS[0], labels[baseline])}
    for index, arm in enumerate(others):
        line = LINES[index // len(COLORS) % len(LINES)]
        found[arm] = Look(COLORS[index % len(COLORS)], line, MARKERS[(index + 1) % len(MARKERS)], labels[arm])
    return found


@contextmanager
def drawing() -> Iterator[None]:
    """Sets the style of figures made and saved in this context."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # names are the user's
        yield


def new_figure(
    width: float, height: float, panels: int = 1, *, left: float = 0.6, right: float = 0.1, bottom: float = 0.38
) -> tuple[Figure, list[Axes]]:
    """Returns a figure of so many inches with panels side by side, which share their vertical axis.

    Args:
        width: of the figure.
        height: of the figure.
        panels: how many.
        left: margin for the vertical axis.
        right: margin for labels; see `label_width`.
        bottom: margin for the horizontal axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=200)
    grid = figure.add_gridspec(
        1,
        panels,
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - 0.14 / height,
        wspace=0.2,
    )
    axes = [figure.add_subplot(grid[0, 0])]
    axes += [figure.add_subplot(grid[0, column], sharey=axes[0]) for column in range(1, panels)]
    for panel in axes[1:]:
        panel.tick_params(labelleft=False)
    return figure, axes


def label_width(labels: Iterable[str], size: float = LABEL_SIZE) -> float:
    """Returns how many inches the widest label takes, with the space before it."""
    from matplotlib.textpath import TextPath

    return (
        0.2 + max((TextPath((0, 0), label, size=size).get_extents().width for label in labels if label), default=0) / 72
    )


def as_address(figure: Figure) -> str:
    """Returns a figure as an address that holds the whole picture, for a page that loads nothing."""
    return f"data:image/svg+xml;base64,{base64.b64encode(picture(figure, 'svg')).decode()}"


def picture(figure: Figure, kind: str) -> bytes:
    """Returns a figure as a file of that kind: png, pdf or svg."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata=_NO_DATE[kind])
    return file.getvalue()


def label_at_right(axes: Axes, ends: Sequence[tuple[float, str, str]], size: float = LABEL_SIZE) -> None:
    """Writes labels beside the right edge, each at its height, moved apart where they would overlap.

    Args:
        axes: whose limits are final.
        ends: height in data, text and color of each label.
        size: of the letters, in points; smaller if there is no room for all.
    """
    low, high = axes.get_ylim()
    inches = axes.get_position().height * axes.get_figure().get_figheight()  # type: ignore[union-attr]
    size = max(3.0, min(size, 0.95 * 72 * inches / (1.2 * max(len(ends), 1))))
    ordered = sorted(ends, key=lambda end: end[0])
    wanted = [min(max(height, low), high) for height, _, _ in ordered]
    heights = _apart(wanted, gap=1.2 * size / 72 / inches * (high - low), low=low, high=high)
    for at, height, (_, text, color) in zip(wanted, heights, ordered, strict=True):
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)}
        axes.annotate(
            text,
            xy=(1, at),
            xycoords=("axes fraction", "data"),
            xytext=(1 + 0.16 / _width(axes), height),
            textcoords=("axes fraction", "data"),
            color=color,
            fontsize=size,
            va="center",
            arrowprops=line,
            annotation_clip=False,
        )


def _width(axes: Axes) -> float:
    """Returns the width of a panel in inches."""
    return axes.get_position().width * axes.get_figure().get_figwidth()  # type: ignore[union-attr]


def _apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns sorted heights at least a gap apart, moved as little as can be, within [low, high] if they fit.

    Clusters of labels that touch are centered on where they want to be, which is what least squares asks for.
    """
    clusters: list[list[float]] = []  # [sum of (wanted - offset), number]
    for height in heights:
        clusters.append([height, 1])
        while len(clusters) > 1 and _start(clusters[-2]) + clusters[-2][1] * gap > _start(clusters[-1]):
            total, number = clusters.pop()
            before = clusters[-1]
            before[0] += total - number * before[1] * gap
            before[1] += number
    found = [_start(cluster) + index * gap for cluster in clusters for index in range(int(cluster[1]))]
    last = len(found) - 1
    return [min(max(at, low + index * gap), high - (last - index) * gap) for index, at in enumerate(found)]


def _start(cluster: Sequence[float]) -> float:
    return cluster[0] / cluster[1]
