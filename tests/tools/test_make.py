"""`make results`: says what is missing or stale, and makes it in order, each run kept as soon as it is finished."""

import dataclasses
import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from charlab.runs.archive import Archive
from charlab.runs.record import Record
from charlab.runs.requalify import repeat
from tests.helpers.warm import warm
from tools.results import __main__ as program
from tools.results import rates
from tools.results.make import Choice, FailedError, Maker, table
from tools.results.marks import Marks, unmarked
from tools.results.states import has_figure, states
from tools.results.wanted import FIVE_MINUTES, LIST, Item, Wanted, wanted

pytestmark = pytest.mark.slow

ANOTHER = {"name": "another"}  # a machine


@pytest.fixture(scope="session")
def items(tmp_path_factory):
    """A list of three tiny runs."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(random.Random(0).choices(["to", "be", "or", "not", "that", "is"], k=600)))
    shared = (
        *("model=bigram", "data=textfile", f"data.path={path}", "data.context_length=8", "data.batch_size=4"),
        *("trainer.accelerator=cpu", "trainer.max_steps=4", "estimate_batches=2", "trainer.log_every_n_steps=1"),
        *("~logger.tensorboard", "compute.threads=1"),
    )
    return (
        Item("First", (*shared, "name=part1-bigram")),
        Item("First", (*shared, "name=part1-other", "optimizer.lr=0.1"), seconds=7200.0),
        Item("Second", (*shared, "name=part2-gru"), figures=("sliding", "online learning_rate=0.001")),
    )


@pytest.fixture(scope="session")
def finished(items, tmp_path_factory):
    """The folder of a working copy in which the first run is made."""
    home = tmp_path_factory.mktemp("finished")
    maker = _maker(home)
    maker.make(states(wanted(items[:1], home / "outputs"), Archive(home / "records")), Choice())
    assert maker.failed == 0
    return home


def _maker(home):
    return Maker(home / "records", home / "outputs", program.keep, tuple(warm([sys.executable, "-m", "charlab"])))


@pytest.fixture
def home(finished, tmp_path):
    """A copy of that folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def maker(home):
    return _maker(home)


@pytest.fixture
def look(home, items):
    """Return a function that returns the states of the list."""
    return lambda: states(wanted(items, home / "outputs"), Archive(home / "records"))


@pytest.fixture
def rewrite(home):
    """Return a function that changes fields of the record that is kept."""

    def rewrite(**fields):
        path = home / "records" / "runs.jsonl"
        line = json.loads(path.read_text()) | fields
        path.write_text(json.dumps(line) + "\n")

    return rewrite


def test_a_run_is_current_by_todays_code_alone(look, rewrite):
    assert [state.status for state in look()] == ["current", "missing", "missing"]
    code = look()[0].wanted.code
    rewrite(code="0" * 12)
    assert [state.status for state in look()] == ["stale", "missing", "missing"]
    rewrite(requalified=[{"code": code, "fingerprint": look()[0].wanted.fingerprint}])
    assert look()[0].status == "current"


def test_a_record_belongs_to_the_run_that_its_command_means_today(look, rewrite):
    own = look()[0].wanted
    rewrite(fingerprint="0" * 12)
    (stale, *_) = look()
    assert (stale.status, stale.record.fingerprint, stale.wanted.key) == ("stale", "0" * 12, own.key)
    assert not stale.is_same_run  # its configuration was another, whatever it repeats
    rewrite(sources={}, code=None)  # a record whose fingerprint had another form
    assert look()[0].is_same_run
    entry = {"code": own.code, "fingerprint": own.fingerprint}
    rewrite(requalified=[entry])
    assert look()[0].status == "current"
    rewrite(requalified=[], overrides=["model=lstm", "model.hidden_dim=0"])  # a command that means nothing today
    assert look()[0].status == "missing"


def test_a_run_without_a_figure_that_is_shown_is_missing(finished, items, home):
    online = dataclasses.replace(items[0], figures=("online",))
    (state,) = states(wanted([online], home / "outputs"), Archive(home / "records"))
    assert state.status == "missing"


def test_a_figure_is_measured_as_it_is_shown():
    metrics = [{"protocol": "online", "split": "dev", "learning_rate": 2e-4}]
    record = Record(folder=Path(), name="a", fingerprint="b", metrics=metrics)
    assert has_figure(record, "online split=dev learning_rate=0.0002")
    others = ("online split=dev learning_rate=0.0001", "online learning_rate=0.0002", "sliding split=dev")
    assert not any(has_figure(record, other) for other in others)


@pytest.fixture
def rated(monkeypatch, home, maker):
    """The file of rates, and the names of the runs that are made to choose them, which are made up."""
    monkeypatch.setattr(rates, "FAMILIES", ("lstm", "rnn"))
    monkeypatch.setattr(rates, "wanted", lambda items, _: _made_up(*items))
    made = []

    def finish(self, run):
        if run.name in made:
            raise FailedError("it was made before.")
        made.append(run.name)
        found = [
            {"split": "dev", "learning_rate": rate, "nll": 1 + 1000 * abs(rate - 4e-4)} for rate in rates.CANDIDATES
        ]
        worse = {"split": "validation", "learning_rate": 1e-4, "nll": 0.0}
        metrics = [{"protocol": "online", **entry} for entry in (*found, worse)]
        return Record(folder=home, name=run.name, fingerprint="0", metrics=metrics)

    monkeypatch.setattr(Maker, "finish", finish)
    return home / "records" / "online_rates.json", made


def _made_up(item):
    commands = [item.overrides] if item.overrides else [("experiment=part2/lstm",), ("experiment=part2/rnn",)]
    names = [command[0].replace("experiment=part2/", "part2-") for command in commands]
    about = zip(names, commands, strict=True)
    return [Wanted(item.group, name, 305, "0", "1", command, item.figures) for name, command in about]


def test_the_rate_with_the_lowest_figure_on_dev_text_is_chosen_once(maker, rated, capsys):
    file, made = rated
    rates.choose_rates(maker, file)
    chosen = json.loads(file.read_text())
    assert {family: entry["rate"] for family, entry in chosen.items()} == {"lstm": 4e-4, "rnn": 4e-4}
    assert len(chosen["lstm"]["dev"]) == len(rates.CANDIDATES)
    assert capsys.readouterr().out.startswith("lstm: 0.0004 of 5e-05 (1.3500), 0.0001 (1.3000), ")
    assert made == ["part2-lstm", "part2-rnn"]
    rates.choose_rates(maker, file)
    assert len(made) == 2
    del chosen["rnn"]
    file.write_text(json.dumps(chosen))
    with pytest.raises(FailedError):
        rates.choose_rates(maker, file)


@pytest.mark.corpus
def test_runs_of_five_minutes_have_the_online_figure_of_their_rate(monkeypatch, tmp_path):
    monkeypatch.setattr("tools.results.wanted.RATES", tmp_path / "rates.json")
    (tmp_path / "rates.json").write_text('{"lstm": {"rate": 0.0004}}')
    figures = {run.name: run.figures for run in wanted([FIVE_MINUTES], tmp_path)}
    assert figures["part2-lstm"] == ("sliding", "online learning_rate=0.0004")
    assert figures["part2-ngram_kneser_ney"] == ("sliding", "online")
    assert figures["part2-rnn"] == ("sliding",)


def test_the_list_goes_on_where_it_was_interrupted(maker, look, monkeypatch, capsys):
    def interrupted(self, *arguments):
        if "name=part2-gru" in arguments:
            raise KeyboardInterrupt
        return charlab(self, *arguments)

    charlab = Maker._charlab
    monkeypatch.setattr(Maker, "_charlab", interrupted)
    with pytest.raises(KeyboardInterrupt):
        maker.make(look(), Choice())
    assert [state.status for state in look()] == ["current", "current", "missing"]  # kept at once
    monkeypatch.undo()
    capsys.readouterr()
    maker.make(look(), Choice())
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["part2-gru, seed 305"]
    assert [state.status for state in look()] == ["current"] * 3
    record = look()[2].record
    assert record.has_figure("sliding")
    assert record.metric("online")["learning_rate"] == 0.001


def test_a_failing_run_does_not_stop_the_others(maker, look, items, home, capsys):
    broken = Item("First", (*items[0].overrides, "model._target_=charlab.models.bigram.Nothing", "name=part1-broken"))
    good = look()[1]
    bad = dataclasses.replace(good, wanted=dataclasses.replace(good.wanted, name="broken", overrides=broken.overrides))
    maker.make([bad, good], Choice())
    said = capsys.readouterr()
    assert maker.failed == 1
    assert said.err.startswith("broken, seed 305 failed: ")
    assert "(exit code 2; all of it is in " in said.err
    assert said.err.count("\n") == 1
    assert look()[1].status == "current"


def test_only_what_is_asked_for_and_ends_in_time_is_started(maker, look, capsys):
    maker.make(look(), Choice(only=["part1-*"], seconds=3600))
    assert capsys.readouterr().out == "part1-other, seed 305: left for later, as it takes 156 min.\n"
    maker.make(look(), Choice(only=["nothing"]))
    assert capsys.readouterr().out == ""


def test_a_stale_run_that_repeats_is_requalified_and_not_trained(maker, look, rewrite, home, capsys):
    shutil.rmtree(home / "outputs")
    rewrite(code="0" * 12)
    maker.make(look(), Choice(only=["First"], seconds=0))
    assert capsys.readouterr().out.startswith(
        "part1-bigram, seed 305: today's code repeats its first 9 values to the last digit.\n"
    )
    assert look()[0].status == "current"
    assert not (home / "outputs" / "runs").exists()


@pytest.mark.parametrize(("factor", "machine", "outcome"), [(1.0001, ANOTHER, "unsettled"), (1.0001, None, "trained")])
def test_what_may_be_rounding_of_another_machine_is_not_trained_unless_told_to(
    maker, look, rewrite, home, capsys, factor, machine, outcome
):
    archive = Archive(home / "records")
    (record,) = archive.records()
    curves = (home / "outputs" / "runs" / record.name / record.fingerprint / "metrics.csv").read_text().splitlines()[1:]
    changed = [f"{row.rpartition(',')[0]},{float(row.rpartition(',')[2]) * factor}" for row in curves]
    archive.add(record, curves=changed)
    rewrite(code="0" * 12, **({"machine": machine} if machine else {}))
    maker.make(look(), Choice(only=["part1-bigram"]))
    said = capsys.readouterr().out
    if outcome == "trained":
        assert ", kept after " in said
        return
    assert said.startswith("part1-bigram, seed 305: not settled on this machine, where ")
    assert "differs by 1.0e-04 from another machine's" in said
    assert look()[0].status == "stale"
    assert "1 stale run not settled on this machine" in table(look(), maker)
    maker.make(look(), Choice(only=["part1-bigram"]))  # known by now
    assert capsys.readouterr().out == said
    maker.make(look(), Choice(only=["part1-bigram"], unsettled=True))
    assert ", kept after " in capsys.readouterr().out
    assert look()[0].status == "current"


def test_a_run_replaces_the_record_of_its_former_settings(maker, look, rewrite, home):
    rewrite(fingerprint="0" * 12)
    maker.make(look(), Choice(only=["part1-bigram"]))
    assert [record.key for record in map(_Key, Archive(home / "records").records())] == [look()[0].wanted.key]
    assert Archive(home / "records").curves(look()[0].record).shape[0] > 0


class _Key:
    def __init__(self, record):
        self.key = f"{record.name}/{record.fingerprint}"


@pytest.fixture
def documents(home, items, monkeypatch):
    """The program, for the list and the documents of the copy."""
    docs = home / "docs"
    docs.mkdir()
    parts = (f"<!-- {part}: written by make results -->\n<!-- end of {part} -->\n" for part in ("headline", "models"))
    (home / "README.md").write_text(f"Models:\n{''.join(parts)}End.\n")
    (docs / "results.md").write_text("")
    for page, part in (("track", "entries"), ("performance", "growth")):
        (docs / f"{page}.md").write_text(f"<!-- {part}: written by make results -->\n<!-- end of {part} -->\n")
    for name, value in {
        "ROOT": home,
        "DOCS": docs,
        "RECORDS": home / "records",
        "README": home / "README.md",
        "LIST": items[:1],
    }.items():
        monkeypatch.setattr(program, name, value)
    return lambda *arguments: program.main([*arguments, "--output-dir", str(home / "outputs")])


def test_documents_are_written_and_stale_rows_marked_which_a_check_passes(documents, rewrite, home, capsys):
    page = home / "docs" / "results.md"
    assert documents("--check") == 1
    assert documents() == 0
    written = page.read_text()
    assert "| bigram | " in written
    assert "†" not in written
    rewrite(code="0" * 12)
    assert documents("--hours", "0", "--no-requalify") == 0
    marked = page.read_text()
    assert "| bigram † | " in marked
    assert "\n† made at least in part by earlier code: 1 run.\n" in marked
    assert unmarked(marked) == written
    assert documents("--check") == 0
    page.write_text(marked.replace("| bigram †", "| bigrams †"))
    assert documents("--check") == 1
    capsys.readouterr()
    assert documents("--list") == 0
    assert "| bigrams †" in page.read_text()
    said = capsys.readouterr().out.splitlines()
    assert said[1].split()[:4] == ["First", "0", "1", "0"]
    assert any(line.startswith("Benchmarks not measured (python -m benchmarks NAME): recipe_step, ") for line in said)


def test_pictures_are_drawn_and_linked_and_missed(documents, home, monkeypatch, capsys):
    monkeypatch.setattr("tools.results.part1.DRAWN", ("part1-bigram",))
    assert documents() == 0
    picture = home / "docs" / "figures" / "part1-bigram.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "](figures/part1-bigram.png)\n" in (home / "docs" / "results.md").read_text()
    picture.write_bytes(b"by another version of matplotlib")
    assert documents("--check") == 0
    capsys.readouterr()
    picture.unlink()
    assert documents("--check") == 1
    assert "docs/figures/part1-bigram.png differs from the records: run make results.\n" in capsys.readouterr().err


def test_a_table_fits_the_terminal_and_adds_up(maker, look):
    lines = table(look(), maker).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:4] for line in lines[1:]] == [
        ["First", "1", "0", "1"],
        ["Second", "0", "0", "1"],
        ["all", "1", "0", "2"],
    ]


def test_a_mark_is_of_every_row_that_shows_a_former_run(finished):
    (record,) = Archive(finished / "records").records()
    marks = Marks({f"{record.name}/{record.fingerprint}"})
    assert (marks.of([record]), Marks().of([record])) == (" †", "")


def test_repeating_leaves_out_evaluations_and_changes_no_step(finished, tmp_path, monkeypatch):
    (record,) = Archive(finished / "records").records()
    path = finished / "records" / record.name / record.fingerprint
    quick = repeat(path)
    monkeypatch.setattr("charlab.runs.requalify.reads_evaluations", lambda config: True)
    slow = repeat(path)
    assert quick.values == slow.values
    assert quick.differing == []


@pytest.mark.corpus
def test_every_record_in_the_repository_belongs_to_the_list():
    archive = Archive(program.RECORDS)
    found = states(wanted(LIST, program.ROOT / "outputs"), archive)
    used = {f"{state.record.name}/{state.record.fingerprint}" for state in found if state.record is not None}
    assert {f"{record.name}/{record.fingerprint}" for record in archive.records()} == used
