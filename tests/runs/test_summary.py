import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from charlab.evaluation.metric import Score
from charlab.runs.display import print_summary
from charlab.runs.record import Record


def entry(split: str, protocol: str, nll: float, **details) -> dict:
    return {"split": split, **Score(protocol, nll, 1000, **details).as_dict()}


def record(folder: Path, **details) -> Record:
    fields = {
        "name": "part1/transformer",
        "status": "finished",
        "parameters": 19_636_289,
        "steps": 1800,
        "characters_seen": 14_745_600,
        "time": {"setup_s": 4.21, "training_s": 128.0, "evaluation_s": 12.3},
        "metrics": [entry("train", "estimate", 1.42), entry("validation", "blocks", 1.5)],
    }
    return Record(folder=folder, fingerprint="x", **fields | details)


def printed(record: Record, *, width: int = 80, **options) -> str:
    console = Console(file=io.StringIO(), width=width, _environ={}, **options)
    print_summary(record, console)
    return console.file.getvalue()


def row(text: str, *beginning: str) -> list[str]:
    """Return the words of the one line that begins so."""
    (found,) = [words for words in map(str.split, text.splitlines()) if words[: len(beginning)] == list(beginning)]
    return found[len(beginning) :]


def test_every_figure_is_in_its_row(tmp_path):
    shown = printed(record(tmp_path))
    assert row(shown, "split") == ["protocol", "nats/char", "bits/char", "perplexity"]
    assert row(shown, "train", "estimate") == ["1.4200", f"{1.42 / math.log(2):.4f}", f"{math.exp(1.42):.3f}"]
    assert row(shown, "validation", "blocks") == ["1.5000", f"{1.5 / math.log(2):.4f}", f"{math.exp(1.5):.3f}"]


def test_an_online_figure_says_what_it_is(tmp_path):
    settings = {"context_length": None, "block_length": 8, "optimizer": "Adam", "learning_rate": 0.01}
    blocks, online = entry("validation", "blocks", 1.5), entry("validation", "online", 1.4, settings=settings)
    shown = printed(record(tmp_path, metrics=[blocks, online]))
    assert row(shown, "validation", "online")[0] == "1.4000"
    (words,) = [" ".join(part.split()) for part in shown.split("\n\n") if part.startswith("online")]
    assert "adapts to the text while it reads it (block_length=8, optimizer=Adam, learning_rate=0.01)" in words
    assert "adapts" not in printed(record(tmp_path, metrics=[blocks]))


def test_a_known_entropy_is_shown_with_the_gap_to_it(tmp_path):
    shown = printed(record(tmp_path, floor={"train": 0.9, "validation": 1.52}))
    assert row(shown, "split")[-2:] == ["floor", "gap"]
    assert row(shown, "train", "estimate")[-2:] == ["0.9000", "+0.5200"]
    assert row(shown, "validation", "blocks")[-2:] == ["1.5200", "-0.0200"]


def test_a_bound_says_so_and_has_its_error(tmp_path):
    metrics = [entry("train", "estimate", 1.42, likelihood="bound", standard_error=0.00312)]
    shown = printed(record(tmp_path, metrics=metrics, floor={"train": 0.9}))
    assert row(shown, "train", "estimate") == (
        f"≤ 1.4200 0.0031 ≤ {1.42 / math.log(2):.4f} ≤ {math.exp(1.42):.3f} 0.9000 +0.5200".split()
    )
    assert "≤" not in printed(record(tmp_path))


def test_a_leak_is_struck_through_next_to_the_honest_figure(tmp_path):
    causality = {"leaks": True, "reason": "Position 3 depends on position 7.", "honest_nll": 4.6, "honest_error": 0.1}
    leaking = record(tmp_path, causality=causality, floor={"train": 0.9})
    shown = printed(leaking)
    assert row(shown, "train", "estimate")[2:] == ["4.137", "leaks,", "honest", "99.5", "±", "9.9"]
    assert row(shown, "split")[-1] == "perplexity"  # no gap of a false figure
    assert "Position 3 depends on position 7. Scored character by character" in " ".join(shown.split())
    styled = printed(leaking, force_terminal=True, color_system="standard")
    strike = "\x1b[2;9m"
    for figure in ("1.4200", "2.0486", "4.137", "1.5000"):
        assert f"{strike}{figure}\x1b[0m" in styled
    assert f"{strike}99.5" not in styled
    assert "leaks" not in printed(record(tmp_path, causality={"leaks": False, "reason": ""}))


def test_a_leak_whose_honest_figure_is_not_known_is_still_one(tmp_path):
    shown = printed(record(tmp_path, causality={"leaks": True, "reason": "It looks ahead."}))
    assert row(shown, "train", "estimate")[2:] == ["4.137", "leaks"]


def test_a_figure_that_is_not_finite_is_called_so(tmp_path):
    shown = printed(record(tmp_path, metrics=[entry("train", "estimate", math.nan)], floor={"train": 1.0}))
    assert row(shown, "train", "estimate") == ["not", "finite", "not", "finite", "not", "finite", "1.0000"]


def test_a_text_is_called_as_its_file_is(tmp_path):
    shown = printed(record(tmp_path, metrics=[entry("[b]draft", "blocks", 1.5)]))
    assert row(shown, "[b]draft", "blocks")[0] == "1.5000"


def test_costs_are_told_by_part(tmp_path):
    shown = printed(record(tmp_path))
    assert row(shown, "parameters") == ["19,636,289"]
    assert "14,745,600 characters in 1,800 steps  115,200 per second" in shown
    assert "set-up 4.2 s · training 128 s · evaluation 12 s" in shown


def test_the_best_weights_are_told_where_there_are_any(tmp_path):
    assert "best on dev" not in printed(record(tmp_path))
    shown = printed(record(tmp_path, best={"step": 1200, "nll": 1.48768}))
    assert row(shown, "best", "on", "dev") == "1.4877 nats/char after step 1,200: checkpoint=best".split()
    bound = [entry("validation", "blocks", 1.5, likelihood="bound", standard_error=0.01)]
    shown = printed(record(tmp_path, best={"step": 1200, "nll": 1.48768}, metrics=bound))
    assert row(shown, "best", "on", "dev")[:2] == ["≤", "1.4877"]


def test_a_model_that_took_no_time_has_no_speed(tmp_path):
    shown = printed(record(tmp_path, time={"setup_s": 0.1, "training_s": 0.0}))
    assert "per second" not in shown


def test_a_sample_that_is_not_utf8_is_shown_with_replaced_characters(tmp_path):
    (tmp_path / "samples.txt").write_bytes(b"caf\xe9 au lait")
    assert "caf\ufffd au lait" in printed(record(tmp_path))


def test_the_sample_has_500_characters_and_no_control_codes(tmp_path):
    (tmp_path / "samples.txt").write_text("[bold]a[/]\x1b[2J\x07" + "x" * 600, encoding="utf-8")
    shown = printed(record(tmp_path), width=1000)
    (line,) = [line for line in shown.splitlines() if "[bold]" in line]
    assert line.strip("│ ") == "[bold]a[/]�[2J�" + "x" * (500 - 15)


def test_it_says_where_to_look_for_what_is_there(tmp_path):
    folder = tmp_path / ("a folder whose name is so long that no terminal shows it in one line " * 2).strip()
    folder.mkdir()
    shown = printed(record(folder), width=60)
    assert f"record     {folder}/record.json\n" in shown
    assert "loss plot" not in shown
    assert "tensorboard" not in shown
    (folder / "loss.png").touch()
    (folder / "events.out.tfevents.0001").touch()
    shown = printed(record(folder), width=60)
    assert f"loss plot  {folder}/loss.png\n" in shown
    assert f"curves     tensorboard --logdir '{folder}'\n" in shown


@pytest.mark.parametrize("likelihood", ["exact", "bound"])
def test_the_table_fits_into_80_columns(tmp_path, likelihood):
    metrics = [
        entry(split, protocol, 1.5, likelihood=likelihood, standard_error=0.01 if likelihood == "bound" else None)
        for split, protocol in (("validation", "estimate"), ("validation", "sliding"))
    ]
    shown = printed(record(tmp_path, metrics=metrics, floor={"validation": 1.0}))
    assert row(shown, "validation", "sliding")[-1] == "+0.5000"


def test_the_table_and_the_main_figure_come_last(tmp_path):
    (tmp_path / "samples.txt").write_text("a sample\n" * 30, encoding="utf-8")
    metrics = [entry("train", "estimate", 1.4), entry("validation", "estimate", 1.5), entry("validation", "sliding", 2)]
    lines = printed(record(tmp_path, metrics=metrics)).rstrip().splitlines()
    assert lines[-1].split() == ["result", f"{math.exp(2):.3f}", "perplexity", "on", "validation", "(sliding)"]
    assert all(" sliding " in "\n".join(lines[-8:]) and len(line) <= 80 for line in lines[-8:])
    leaks = {"leaks": True, "reason": "It looks ahead."}
    assert "result " not in printed(record(tmp_path, metrics=metrics, causality=leaks))


def test_the_main_figure_is_by_the_runs_own_settings(tmp_path):
    own, other = entry("validation", "blocks", 1.5), entry("validation", "blocks", 1.9, settings={"context_length": 4})
    lines = printed(record(tmp_path, metrics=[own, other])).rstrip().splitlines()
    assert lines[-1].split() == ["result", f"{math.exp(1.5):.3f}", "perplexity", "on", "validation", "(blocks)"]


def test_a_note_comes_last(tmp_path):
    shown = printed(record(tmp_path, config={"note": "counting reaches 3.1 [here]"}))
    assert shown.rstrip().endswith("note       counting reaches 3.1 [here]")
    assert "note  " not in printed(record(tmp_path, config={"note": None}))
