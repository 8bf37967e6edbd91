from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from charlab.errors import UserError
from charlab.runs.plots import draw_loss, plot_loss
from charlab.runs.record import Record
from charlab.training.loggers import CSVLogger


def log(folder: Path, curves: dict[str, dict[int, float]]) -> None:
    logger = CSVLogger(str(folder))
    for metric, curve in curves.items():
        for step, value in curve.items():
            logger.log_metrics({metric: value, "characters": step * 32, "seconds": step / 8}, step)
    logger.finalize("success")


ALL = {
    "train/loss": {10: 3.4, 20: 2.4, 30: 2.1, 40: 1.9},
    "learning_rate": {10: 1e3},
    "train/nll": {0: 4.2, 20: 2.4, 40: 2.0},
    "validation/nll": {0: 4.3, 20: 2.5, 40: 2.25},
    "blocks/validation/nll": {40: 2.3},
}


def drawn(curves: dict[str, dict[int, float]], **options) -> Figure:
    rows = [(step, name, value) for name, curve in curves.items() for step, value in curve.items()]
    table = pd.DataFrame(rows, columns=["step", "metric", "value"])
    return draw_loss(table, title="part1/bigram", **options)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def lines(figure: Figure) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


SHOWN = ("train/loss", "train/nll", "validation/nll")


def test_the_plot_shows_the_curves_and_nothing_else():
    figure = drawn(ALL)
    assert lines(figure) == [(list(ALL[m]), list(ALL[m].values())) for m in SHOWN]
    assert texts(figure) == ["train 2.000", "validation 2.250", "lines: estimate · faint: batches trained on"]
    assert figure.axes[0].get_title(loc="left") == "part1/bigram"
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss (nats per character)", "perplexity (per character)"]


def test_the_floor_is_a_line_across():
    figure = drawn(ALL, floor=1.5)
    assert lines(figure)[-1] == ([0, 1], [1.5, 1.5])
    assert "floor 1.500" in texts(figure)
    low, high = figure.axes[0].get_ylim()
    assert low < 1.5 < 4.3 < high


def test_perplexity_ticks_are_at_their_logarithms():
    loss, perplexity = drawn(ALL).axes
    assert perplexity.get_ylim() == loss.get_ylim()
    labels = [float(label.get_text()) for label in perplexity.get_yticklabels()]
    assert np.exp(perplexity.get_yticks()) == pytest.approx(labels)
    assert len(labels) >= 4


def test_steps_can_be_logarithmic_and_still_have_a_zero():
    axes = drawn(ALL, log_steps=True).axes[0]
    place = axes.transData.transform([(0, 2), (1, 2), (10, 2), (40, 2)])[:, 0]
    assert np.isfinite(place).all()
    assert place[2] - place[1] == pytest.approx((place[3] - place[1]) / np.log10(40))
    assert drawn(ALL).axes[0].get_xscale() == "linear"


def test_labels_of_lines_that_end_together_stay_apart():
    curves = {"estimate/train/nll": {0: 4.0, 9: 2.0}, "estimate/validation/nll": {0: 4.0, 9: 2.001}}
    figure = drawn(curves, floor=1.999)
    places = sorted(text.xy[1] for text in figure.axes[0].texts if text.xy[0] == 1.0)
    low, high = figure.axes[0].get_ylim()
    assert len(places) == 3
    assert min(np.diff(places)) > 0.04 * (high - low)


def test_a_bound_and_a_leak_are_called_by_their_names():
    assert "validation ≤ 2.250" in texts(drawn(ALL, likelihood="bound"))
    assert any(text.startswith("leaks") for text in texts(drawn(ALL, leaks=True)))
    assert not any(text.startswith("leaks") for text in texts(drawn(ALL)))


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"train/loss": {1: 2.0}},
        {"blocks/validation/nll": {0: 2.0}},
        {
            "train/loss": {1: 2.0, 2: float("nan"), 3: float("inf")},
            "estimate/validation/nll": {1: 2.0, 2: float("inf")},
        },
    ],
    ids=["nothing", "one batch", "one evaluation", "diverged"],
)
def test_whatever_was_measured_can_be_plotted(tmp_path, curves):
    log(tmp_path, curves)
    assert plot_loss(Record(tmp_path, "part1/bigram", "f")) == tmp_path / "loss.png"
    assert size(tmp_path / "loss.png") == (1200, 720)
    assert {path.name for path in tmp_path.iterdir()} <= {"loss.png", "metrics.csv"}


def test_a_full_disk_leaves_the_former_plot(tmp_path, monkeypatch):
    (tmp_path / "loss.png").write_text("the former plot")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"loss\.png"):
        plot_loss(Record(tmp_path, "x", "f"))
    assert (tmp_path / "loss.png").read_text() == "the former plot"
