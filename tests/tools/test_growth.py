"""How costs grow: the tables and the picture of what the benchmarks of size measured."""

import json

import pytest

from benchmarks.pairs import OURS
from tools.results.growth import DESCRIPTION, draw, growth, pictures


@pytest.fixture
def file(tmp_path):
    """The records of counting, in two rounds, and of many cells, in one."""
    sides = {"1 million": 1.0, "10 million": 10.0, OURS: 1000.0}
    counts = [
        {
            side: {"training_s": (number + size) / 5, "counting_us": 0.2 / (number + 1), "peak_memory_mb": 10 * size}
            for side, size in sides.items()
        }
        for number in (0, 1)
    ]
    cells = {
        side: {"coordinator_ms": ms, "wall_ms": 2 * ms, "peak_memory_mb": 200.0, "files": 6.0002}
        for side, ms in {"100": 17.37, "1,000": 15.81, OURS: 9.659}.items()
    }
    file = tmp_path / "benchmarks.jsonl"
    records = [{"name": "long_counts", "rounds": counts}, {"name": "many_cells", "rounds": [cells]}]
    file.write_text("\n".join(map(json.dumps, records)))
    return file


def test_what_was_measured_is_a_table_of_medians_by_size(file, tmp_path):
    assert growth(file, tmp_path).splitlines() == [
        "| characters of text | 1 million | 10 million | 100 million |",
        "|---|---:|---:|---:|",
        "| counting 5-grams | 0.3 s | 2.1 s | 200 s |",
        "| counting 5-grams, per character | 0.15 µs | 0.15 µs | 0.15 µs |",
        "| peak memory of counting | 10 MiB | 100 MiB | 10,000 MiB |",
        "",
        "| cells of a study | 100 | 1,000 | 10,000 |",
        "|---|---:|---:|---:|",
        "| computing time of the study, per cell | 17.4 ms | 15.8 ms | 9.66 ms |",
        "| wall time, per cell | 34.7 ms | 31.6 ms | 19.3 ms |",
        "| peak memory of the study | 200 MiB | 200 MiB | 200 MiB |",
        "| files that the study adds, per cell | 6 | 6 | 6 |",
    ]


def test_a_size_that_was_not_measured_has_no_figure(tmp_path):
    file = tmp_path / "benchmarks.jsonl"
    text = {"1 million": {"peak_memory_mb": 500.0, "step_ms": 19.0}, OURS: {"peak_memory_mb": 700.0}}
    file.write_text(json.dumps({"name": "long_text", "rounds": [text]}))
    assert growth(file, tmp_path).splitlines() == [
        "| characters of text | 1 million | 100 million |",
        "|---|---:|---:|",
        "| peak memory of training a small GRU | 500 MiB | 700 MiB |",
        "| a training step | 19 ms | – |",
    ]
    assert pictures(file) == {}


def test_the_picture_is_linked_if_it_exists(file, tmp_path):
    link = f"\n\n![{DESCRIPTION}](figures/growth.png)"
    tables = growth(file, tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "growth.png").touch()
    assert growth(file, tmp_path) == tables + link
    assert growth(tmp_path / "none.jsonl", tmp_path) == ""


def test_the_picture_has_a_panel_for_each_table(file):
    text, study = draw(file).axes
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in text.lines] == [
        ([10**6, 10**7, 10**8], pytest.approx([0.15] * 3))
    ]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in study.lines] == [
        ([100, 1000, 10_000], [17.37, 15.81, 9.659])
    ]
    assert {axes.get_xscale() for axes in (text, study)} == {axes.get_yscale() for axes in (text, study)} == {"log"}
    assert [label.get_text() for label in text.get_xticklabels()] == ["1 million", "10 million", "100 million"]
    assert [axes.texts[0].get_text() for axes in (text, study)] == ["counting 5-grams", "computing time"]


@pytest.mark.slow
def test_the_picture_is_a_png_file(file, tmp_path):
    ((name, picture),) = pictures(file).items()
    assert name == "growth"
    assert picture().startswith(b"\x89PNG")
    assert pictures(tmp_path / "none.jsonl") == {}
