"""The page of results: figures come from the records, bounds and leaks are marked, online figures stand apart."""

import json

import pytest

from charlab.errors import UserError
from charlab.runs.record import Record
from tools.results.__main__ import keep, results_page, thin


@pytest.fixture
def records(tmp_path):
    """Returns a function that writes a finished run's record below `docs/records`."""

    def write(
        name,
        nll,
        *,
        seed=305,
        seconds=60.0,
        parameters=1000,
        likelihood="exact",
        online=None,
        status="finished",
        overrides=(),
    ):
        figures = {"bpc": nll * 1.4427, "perplexity": 2.718**nll, "likelihood": likelihood, "standard_error": None}
        protocols = {"blocks": nll, "sliding": nll - 0.05} | ({"online": online} if online else {})
        record = Record(
            folder=tmp_path / "docs" / "records" / name / f"{nll}-{seed}-{seconds}",
            name=name,
            fingerprint="f",
            status=status,
            overrides=[f"experiment={name.replace('-', '/')}", f"seed={seed}", *overrides],
            config={"trainer": {"max_seconds": seconds}, "output_dir": "/somewhere/else"},
            seed=seed,
            parameters=parameters,
            characters_seen=123456,
            time={"training_s": seconds},
            machine={"threads": 2, "device": "cpu"},
            metrics=[
                {"protocol": p, "split": "validation", "nll": v, "context_length": 128, **figures}
                for p, v in protocols.items()
            ],
        )
        record.save()
        (record.folder / "metrics.csv").write_text("step,metric,value\n")
        return record

    return write


def page(tmp_path):
    return results_page(tmp_path / "docs" / "records", tmp_path / "docs")


def row(text, label):
    return [
        cell.strip() for cell in next(line for line in text.splitlines() if line.startswith(f"| {label}")).split("|")
    ]


def test_seeds_are_averaged_with_their_spread(records, tmp_path):
    for seed, nll in ((1, 1.5), (2, 1.6), (3, 1.7)):
        records("part2-gru", nll, seed=seed)
    cells = row(page(tmp_path), "gru")
    assert cells[5] == "1.6000 ± 0.1000"
    assert cells[8] == "1.5500 ± 0.1000"
    assert cells[9] == "3"
    assert "-m study=table/one_minute\n" in page(tmp_path)


def test_budgets_have_tables_of_their_own(records, tmp_path):
    records("part2-gru", 1.7)
    records("part2-gru", 1.4, seconds=300.0)
    text = page(tmp_path)
    minute, five = text.split("### After 5 minutes")
    assert "After 60 seconds" in minute
    assert row(minute, "gru")[5] == "1.7000"
    assert row(five, "gru")[5] == "1.4000"


def test_counts_are_the_floor_that_families_are_sorted_by(records, tmp_path):
    records("part2-ngram_kneser_ney", 1.52, seconds=60.0, parameters=0)
    records("part2-gru", 1.45)
    records("part2-rnn", 1.7)
    text = page(tmp_path)
    assert "By *blocks* counting characters for seconds gives 1.520. Better than that: gru. Not better: rnn." in text
    assert "By *sliding* counting characters for seconds gives 1.470. Better than that: gru. Not better: rnn." in text
    assert [text.index(f"| {label}") for label in ("gru", "ngram kneser ney", "rnn")] == sorted(
        text.index(f"| {label}") for label in ("gru", "ngram kneser ney", "rnn")
    )


def test_a_bound_is_marked_and_not_ranked(records, tmp_path):
    records("part2-ngram_kneser_ney", 1.52, parameters=0)
    records("part2-masked_diffusion", 1.3, likelihood="bound")
    records("part2-gru", 1.6)
    text = page(tmp_path)
    assert row(text, "masked diffusion")[5].startswith("≤ ")
    assert text.index("| masked diffusion") > text.index("| gru")
    assert "Better than that: none. Not better: gru." in text
    assert "Known by an upper bound only: masked diffusion." in text


def test_online_figures_stand_apart(records, tmp_path):
    records("part2-gru", 1.6, online=1.4321)
    text = page(tmp_path)
    static, online = text.split("### Online")
    assert "1.4321" not in static
    assert "1.4321" in online


def test_only_a_finished_run_is_kept(records, tmp_path):
    running = records("part2-gru", 1.6, status="running")
    with pytest.raises(UserError, match="is running: finish it"):
        keep(running.folder, tmp_path / "kept")
    finished = records("part2-rnn", 1.6, overrides=["output_dir=/somewhere/else"])
    keep(finished.folder, tmp_path / "kept")
    assert json.loads((tmp_path / "kept/part2-rnn/f/record.json").read_text())["metrics"] == finished.metrics
    assert "/somewhere/else" not in (tmp_path / "kept/part2-rnn/f/record.json").read_text()


def test_curves_are_thinned_each_by_itself():
    rows = [f"{step},train/loss,{step / 1000}\n" for step in range(1000)] + ["999,blocks/validation/nll,1.5\n"]
    kept = thin(["step,metric,value\n", *rows], points=10).splitlines()
    assert kept[0] == "step,metric,value"
    assert kept[1:] == [f"{step},train/loss,{step / 1000}" for step in range(99, 1000, 100)] + [
        "999,blocks/validation/nll,1.5"
    ]


def test_a_loss_within_a_time_has_its_command(records, tmp_path):
    assert "A loss within a time" not in page(tmp_path)
    records("benchmark-four_minutes", 1.4963, overrides=["model.ngrams.orders=[2,3]"])
    text = page(tmp_path)
    assert row(text, "four minutes")[5:7] == ["128", "1.4963"]
    assert "python scripts/train.py experiment=benchmark/four_minutes seed=305 'model.ngrams.orders=[2,3]'" in text
