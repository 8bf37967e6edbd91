"""Figures that `scripts/evaluate.py` adds to the record of a finished run."""

import shutil

import pytest

import charlab
from charlab import cli
from charlab.evaluation.causality import check_causality
from charlab.runs.record import Record
from tools.results.__main__ import keep

pytestmark = pytest.mark.slow


@pytest.fixture
def run(finished_run, tmp_path):
    """The folder of a finished run, to be changed."""
    return shutil.copytree(finished_run.folder, tmp_path / "run")


def evaluate(run, *arguments):
    assert cli.evaluate([f"run={run}", "device=cpu", *arguments]) == 0
    return Record.load(run)


def test_an_online_figure_is_added_once_and_is_never_taken_for_another(run, finished_run, tmp_path, capfd):
    evaluate(run, "protocol=online", "learning_rate=1e-3")
    evaluate(run, "protocol=online", "learning_rate=1e-3")
    record = evaluate(run, "protocol=online", "learning_rate=1e-2")
    assert record.metrics[: len(finished_run.metrics)] == finished_run.metrics
    added = record.metrics[len(finished_run.metrics) :]
    assert [(entry["protocol"], entry["learning_rate"]) for entry in added] == [("online", 1e-3), ("online", 1e-2)]
    assert {entry["split"] for entry in added} == {"validation"}
    assert record.status == "finished"
    for protocol in ("blocks", "sliding", "estimate"):
        assert record.metric(protocol) == finished_run.metric(protocol)
    assert keep(run, tmp_path / "records").metric("online") == added[0]
    assert not list(run.parent.glob(".*.lock"))


def test_what_is_measured_again_takes_its_former_place(run, finished_run):
    former = Record.load(run)
    index = former.metrics.index(former.metric("blocks"))
    former.metrics[index] = former.metrics[index] | {"nll": 99.0}
    former.save()
    record = evaluate(run, "protocol=blocks")
    assert [entry["protocol"] for entry in record.metrics] == [entry["protocol"] for entry in finished_run.metrics]
    assert record.metrics[index]["nll"] == pytest.approx(finished_run.metrics[index]["nll"], abs=1e-6)
    assert len(evaluate(run, "protocol=blocks", "split=train").metrics) == len(record.metrics) + 1


def test_a_figure_by_other_settings_is_not_taken_for_the_usual_one(run, finished_run):
    usual = finished_run.metric("sliding")
    record = Record.load(run)
    record.metrics = [entry for entry in record.metrics if entry["protocol"] != "sliding"]
    record.save()
    record = evaluate(run, "protocol=sliding", "stride=1")
    assert record.metrics[-1]["nll"] != usual["nll"]
    assert not record.has_figure("sliding")
    assert record.metric("sliding")["nll"] == pytest.approx(usual["nll"], abs=1e-6)
    (run / "checkpoints/last.ckpt").unlink()
    assert Record.load(run).has_figure("sliding")


def test_an_estimate_reads_the_windows_of_training_however_that_divided_its_batches(run, finished_run):
    record = evaluate(run, "protocol=estimate", "num_batches=2", f"seed={finished_run.seed}")
    assert len(record.metrics) == len(finished_run.metrics)  # in its former place
    assert record.metric("estimate")["nll"] == pytest.approx(finished_run.metric("estimate")["nll"], abs=1e-6)


def test_a_figure_of_weights_that_were_replaced_since_is_not_kept(run, monkeypatch, capfd):
    record = Record.load(run)

    def finish_again(*arguments, **options):
        record.finished = "2030-01-01T00:00:00+00:00"
        record.save()
        return check_causality(*arguments, **options)

    monkeypatch.setattr("charlab.runs.evaluate.check_causality", finish_again)
    assert evaluate(run, "protocol=blocks", "split=train").metrics == record.metrics
    assert "The run has been trained again since its weights were read" in " ".join(capfd.readouterr().out.split())


def test_an_unfinished_run_keeps_its_record(run):
    record = Record.load(run)
    record.status = "running"
    record.save()
    assert evaluate(run, "protocol=online").metrics == record.metrics


def test_the_text_is_found_from_another_folder_and_where_it_has_moved(tmp_path, monkeypatch, capfd):
    (tmp_path / "work").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "work" / "text.txt").write_text("to be or not to be\n" * 40)
    monkeypatch.chdir(tmp_path / "work")
    overrides = ["data=textfile", "data.path=text.txt", "data.context_length=8", "model=bigram", "trainer=cpu"]
    record = charlab.run(*overrides, "trainer.max_steps=2", "logger=[]")
    folder = record.folder.absolute()
    monkeypatch.chdir(tmp_path / "other")
    assert evaluate(folder).metric("blocks") == record.metric("blocks")
    (tmp_path / "work" / "text.txt").rename(tmp_path / "other" / "moved.txt")
    assert cli.evaluate([f"run={folder}", "device=cpu"]) == 2
    assert "data.path=FILE" in capfd.readouterr().err
    assert evaluate(folder, "data.path=moved.txt").metric("blocks") == record.metric("blocks")


def test_the_texts_of_a_pattern_are_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "work" / "texts").mkdir(parents=True)
    (tmp_path / "work" / "texts" / "one.txt").write_text("to be or not to be\n" * 40)
    monkeypatch.chdir(tmp_path / "work")
    overrides = ["data=textfile", "data.path=texts/**/*.txt", "data.context_length=8", "model=bigram", "trainer=cpu"]
    record = charlab.run(*overrides, "trainer.max_steps=2", "logger=[]")
    folder = record.folder.absolute()
    monkeypatch.chdir(tmp_path)
    assert evaluate(folder).metric("blocks") == record.metric("blocks")
