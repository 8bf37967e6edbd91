"""The track: what is admitted, what is refused and why, and the table of the entries."""

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from charlab.configuration.compose import compose
from charlab.errors import UserError
from charlab.runs.identity import sources
from charlab.runs.record import Record
from tests.helpers.repository import Repository
from tools import track as program
from tools.results import track
from tools.results.make import Maker
from tools.results.track import CHARACTERS, LOSS, entry, faults
from tools.results.wanted import SEEDS, Wanted

pytestmark = pytest.mark.slow

LSTM, COUNTS = "charlab.models.rnn.LSTM", "charlab.models.ngram.NGram"
SHA = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
RUN = Record(
    folder=Path(),
    name="benchmark-track",
    fingerprint="0123",
    status="finished",
    overrides=["experiment=benchmark/track"],
    config={"model": {"_target_": LSTM}, "data": {"train_fraction": 0.9, "validation_fraction": 0.1}},
    corpus={"sha256": SHA},
    machine={"name": "a machine", "device": "cpu", "threads": 2, "processes": 1},
    sources={"charlab.models.rnn": "1"},
    code="today",
    git_commit="abcdef0123",
    time={"training_s": 170.0},
    finished="2026-12-01T00:00:00+00:00",
    metrics=[{"protocol": "blocks", "split": "validation", "nll": LOSS, "characters": CHARACTERS}],
)


@pytest.fixture(autouse=True)
def _code(monkeypatch):
    monkeypatch.setattr(track, "identify", lambda config: SimpleNamespace(code="today"))


def runs(seeds=(305, 306, 307)):
    return [dataclasses.replace(copy.deepcopy(RUN), seed=seed) for seed in seeds]


def _with(run, model):
    run.config["model"] = {"_target_": model, "members": [{"_target_": LSTM}]}
    return run


def test_three_runs_that_keep_the_rules_are_an_entry():
    assert faults(runs()) == []


@pytest.mark.parametrize("name", ["track", "track_counts"])
def test_the_shipped_entries_have_no_code_that_may_read_another_text(name):
    config = compose([f"experiment=benchmark/{name}"])
    found = runs()
    found[0].sources = sources(config)
    assert "charlab.models.rnn" in found[0].sources
    assert faults(found) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: setattr(run, "seed", 308), "The seeds are [308, 306, 307]: an entry is a run of each of"),
        (lambda run: run.overrides.append("optimizer.lr=1"), "The runs differ in more than their seeds."),
        (lambda run: setattr(run, "status", "failed"), "is failed."),
        (lambda run: run.corpus.update(sha256="0"), "does not read the published splits"),
        (lambda run: run.config["data"].update(train_fraction=0.95), "does not read the published splits"),
        (lambda run: run.config.update(init_from="run"), "starts from another run"),
        (lambda run: run.sources.update(mine="1"), "has code that may read another text (mine)."),
        (lambda run: run.causality.update(leaks=True), "sees what it predicts."),
        (lambda run: run.metrics[0].update(nll=1.4698), "has 1.4698 nats over 111,539 characters: 1.4697 over"),
        (lambda run: run.metrics[0].update(nll=None), "has no finite loss."),
        (lambda run: run.metrics[0].update(characters=1000), "has 1.4697 nats over 1,000 characters"),
        (lambda run: run.machine.update(threads=4), "did not run on two cores."),
        (lambda run: setattr(run, "code", "former"), "is by other code than today's."),
        (lambda run: setattr(run, "git_commit", None), "is by code that is not committed (no commit)."),
        (
            lambda run: setattr(run, "git_commit", "abcdef0123+changes"),
            "is by code that is not committed (abcdef01, with uncommitted changes).",
        ),
    ],
)
def test_every_rule_is_checked(change, said):
    found = runs()
    change(found[0])
    (fault,) = faults(found)
    assert said in fault


def test_entries_are_shown_by_class_in_order_of_time(tmp_path):
    assert "| – |" not in track.track(tmp_path / "none.jsonl")
    counting = {"_target_": "charlab.models.mixture.NeuralNGram", "ngram": {"_target_": COUNTS}}
    entries = [entry("slower", runs(), [], [])]
    for day, seconds, changed in ((3, 180.0, "later"), (2, 160.0, "sooner"), (4, 90.0, "counts")):
        found = runs()
        for run in found:
            run.time["training_s"], run.finished = seconds, f"2026-12-0{day}T00:00:00+00:00"
            run.config["model"] = counting if changed == "counts" else run.config["model"]
        entries.append(entry(changed, found, [200.0, 201.0, 202.0], [90.0, 95.0, 80.0]))
    file = tmp_path / "track.jsonl"
    file.write_text("".join(f"{json.dumps(found)}\n" for found in entries))
    assert not entry("mixed", [_with(runs()[0], "charlab.models.mixture.Ensemble")], [], [])["counts"]
    alone, counted = track.track(file).split("With counts:")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in alone.splitlines() if row.startswith("| 2026")]
    assert [row[1] for row in rows] == ["slower", "sooner", "later"]
    assert [row[3] for row in rows] == ["**170 s**", "**160 s**", "180 s"]
    assert [row[4:6] for row in rows] == [["–", "–"], ["201 s", "90"], ["201 s", "90"]]
    assert rows[1][2] == "1.4697 · 1.4697 · 1.4697"
    assert rows[1][-1] == "abcdef01"
    assert "| counts | " in counted


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """The folders of the runs that are kept, in place of the repository, in which all is committed."""
    page, kept = tmp_path / "track.md", []
    page.write_text("Entries:\n<!-- entries: written by make results -->\n<!-- end of entries -->\n")
    monkeypatch.setattr(program, "DOCS", tmp_path)
    monkeypatch.setattr(program, "RECORDS", tmp_path)
    monkeypatch.setattr(program, "keep", lambda folder, archive: kept.append(folder))
    monkeypatch.setattr(program, "uncommitted", lambda repository: [])
    return kept


@pytest.fixture
def admit(kept, monkeypatch, tmp_path):
    """Enter runs that are not trained; return the exit code, the file of entries, the page and what is kept."""
    page = tmp_path / "track.md"

    def admit(found):
        measured = found, [200.0] * 3, [90.0] * 3
        monkeypatch.setattr(program, "_measure", lambda overrides, maker: measured)
        return program.main(["what it changed", "experiment=benchmark/track"]), tmp_path / "track.jsonl", page, kept

    return admit


def test_an_entry_is_admitted_with_its_runs(admit):
    code, file, page, kept = admit(runs())
    assert code == 0
    assert [json.loads(line)["changed"] for line in file.read_text().splitlines()] == ["what it changed"]
    assert "| what it changed | 1.4697 · 1.4697 · 1.4697 | **170 s** | 200 s | 90 |" in page.read_text()
    assert len(kept) == 3


def test_what_breaks_a_rule_is_not_admitted(admit, capsys):
    code, file, page, kept = admit(runs((305, 306, 306)))
    assert (code, file.exists(), kept) == (1, False, [])
    assert "what it changed" not in page.read_text()
    assert capsys.readouterr().err.startswith("The seeds are [305, 306, 306]")


def test_no_run_is_kept_before_all_are_measured(kept, monkeypatch, tmp_path):
    """Each run that is kept changes records/, and so the commit of the next one."""
    kept_before, found = [], iter(runs())
    items = [Wanted("The track", "benchmark-track", seed, str(seed), "today", ()) for seed in SEEDS]
    monkeypatch.setattr(program, "wanted", lambda asked, outputs: items)
    monkeypatch.setattr(program, "yardstick", lambda: 90.0)
    monkeypatch.setattr(Maker, "train", lambda maker, run, *more: kept_before.append(len(kept)))
    monkeypatch.setattr(Maker, "finish", lambda maker, run: next(found))
    assert program.main(["what it changed", "experiment=benchmark/track", "--output-dir", str(tmp_path)]) == 0
    assert (kept_before, len(kept)) == ([0, 0, 0], 3)


def test_nothing_is_trained_before_all_is_committed(kept, monkeypatch, tmp_path):
    monkeypatch.setattr(program, "_measure", lambda overrides, maker: pytest.fail("It was trained."))
    monkeypatch.setattr(program, "uncommitted", lambda repository: ["src/charlab/models/rnn.py", "conf/mine.yaml"])
    said = r"^Commit your changes first: an entry names its commit, which lacks src/charlab/models/rnn.py and conf/mine"
    with pytest.raises(UserError, match=said):
        program.main(["what it changed", "experiment=benchmark/track"])
    assert (kept, (tmp_path / "track.jsonl").exists()) == ([], False)


def test_changed_and_new_files_are_uncommitted(tmp_path):
    with pytest.raises(UserError, match=r"An entry names its commit, but .* has none: run this in a clone"):
        program.uncommitted(tmp_path)
    repository = Repository(tmp_path)
    repository.commit("a.py")
    assert program.uncommitted(tmp_path) == []
    (tmp_path / "a.py").write_text("changed")
    (tmp_path / "b.py").write_text("new")
    assert program.uncommitted(tmp_path) == ["a.py", "b.py"]


def test_finished_runs_can_be_checked_alone(tmp_path, capsys):
    folders = []
    for run in runs():
        run.folder = tmp_path / str(run.seed)
        run.save()
        folders.append(str(run.folder))
    assert program.main(["--check", *folders]) == 0
    assert program.main(["--check", *folders[:2]]) == 1
    assert capsys.readouterr().out.count("benchmark-track, seed 305: 1.4697 after 170.0 s") == 2


def test_the_yardstick_is_a_speed(monkeypatch):
    monkeypatch.setattr(program, "SIZE", 16)
    threads = torch.get_num_threads()
    assert program.yardstick() > 0
    assert torch.get_num_threads() == threads
