"""The table of Part 2: which runs it takes, that they are made once, and what becomes of those that fail.

No model is trained here: where `scripts/table.py` would start a process, a finished record is made up.
"""

import sys
from pathlib import Path

import pytest

from charlab.errors import UserError
from charlab.runs.record import Record
from charlab.runs.results import making, table

NLL = {"ngram_kneser_ney": 1.52, "gru": 1.4, "lstm": 1.3, "rnn": 1.5, "masked_diffusion": 1.2}


class Processes:
    """Stands for the processes of a table: makes up what they would leave behind, and remembers what was asked."""

    def __init__(self, outputs, known):
        self.known = known
        self.outputs, self.trained, self.evaluated, self.fails = outputs, [], [], set()

    def __call__(self, command):
        words = [word for word in command if "=" in word]
        if "protocol=online" in words:
            return self.evaluate(Path(words[0].removeprefix("run=").strip('"')))
        assert command[1:3] == ["-m", "charlab.cell"]
        assert words.pop() == f'output_dir="{self.outputs}"'
        self.trained.append(" ".join(words))
        if any(word in self.fails for word in words):
            return 1
        (cell,) = {cell for cells in self.known.values() for cell in cells if list(cell.overrides) == words}
        seed, seconds = int(words[-1].removeprefix("seed=")) if cell.seconds else 305, cell.seconds or 60
        folder = self.outputs / "runs" / cell.run
        likelihood = "bound" if cell.family == "masked_diffusion" else "exact"
        nll = NLL[cell.family] - (0.1 if seconds > 60 else 0.0) + (seed - 305) / 1000
        figures = {"nll": nll, "bpc": nll, "perplexity": nll, "likelihood": likelihood, "split": "validation"}
        record = Record(
            folder=folder,
            name=folder.parent.name,
            fingerprint=folder.name,
            status="finished",
            overrides=words,
            config={"trainer": {"max_seconds": seconds}},
            seed=seed,
            parameters=10 if cell.seconds else 0,
            time={"training_s": 1.0},
            metrics=[{"protocol": protocol, **figures} for protocol in ("blocks", "sliding")],
        )
        record.save()
        (folder / "metrics.csv").write_text("step,metric,value\n")
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        return 0

    def evaluate(self, folder):
        record = Record.load(folder)
        self.evaluated.append(f"{record.name} {record.config['trainer']['max_seconds']:g} {record.seed}")
        record.add_metric(record.metric("blocks") | {"protocol": "online", "nll": 1.23456})
        record.save()
        return 0


@pytest.fixture(scope="module")
def known():
    """The runs of each family, composed once."""
    return {}


@pytest.fixture
def processes(tmp_path, monkeypatch, known):
    compose = table.Table._cells

    def cells(self, *key):
        if key not in known:
            known[key] = compose(self, *key)
        return known[key]

    for module in (table, making):
        monkeypatch.setattr(module, "families", lambda: list(NLL))
        monkeypatch.setattr(module, "NUM_LEADERS", 2)
        monkeypatch.setattr(module, "SEEDS", (305, 306))
    monkeypatch.setattr(table, "NUM_ONLINE", 1)
    monkeypatch.setattr(table.Table, "_cells", cells)
    monkeypatch.chdir(tmp_path)
    return Processes(tmp_path / "outputs", known)


@pytest.fixture
def make(processes, text_path, tmp_path):
    """Runs `scripts/table.py` in an empty folder."""
    text = [f"data.path={text_path}", "data=textfile"]
    places = [f"--output-dir={tmp_path / 'outputs'}", f"--records={tmp_path / 'records'}", "--page=results.md"]
    settings = [part for setting in text for part in ("--set", setting)]
    return lambda *arguments: making.main([*arguments, *places, *settings], tmp_path, processes)


def families_of(commands, *, long):
    return {line.split()[0].partition("/")[2] for line in commands if ("max_seconds=300" in line) == long}


@pytest.mark.slow
def test_the_leaders_go_on_and_nothing_is_made_twice(make, processes, tmp_path):
    assert make() == 0
    assert families_of(processes.trained, long=False) == set(NLL)
    assert families_of(processes.trained, long=True) == {"lstm", "gru"}  # a bound does not lead, nor do counts
    assert len(processes.trained) == 1 + 4 * 2 + 2 * 2
    assert processes.evaluated == ["part2-ngram_kneser_ney 60 305", "part2-lstm 300 305"]
    minute, five = (tmp_path / "results.md").read_text().split("### After 5 minutes")
    assert "| gru | 10 | 0 | 1.0 | 1.4005 ± 0.0007 |" in minute
    assert "| gru | 10 | 0 | 1.0 | 1.3005 ± 0.0007 |" in five
    assert "-m experiment=part2/gru trainer.threads=2" in minute
    assert "trainer.max_seconds=300 seed=305,306" in five
    assert "| lstm | 5 minutes | 1.2346 |" in five
    done = list(processes.trained)
    (tmp_path / "outputs").rename(tmp_path / "gone")  # the records that were kept are enough
    assert make() == 0
    assert processes.trained == done
    assert len(processes.evaluated) == 2


def test_a_run_that_fails_is_named_and_the_others_are_made(make, processes, capsys):
    processes.fails = {"experiment=part2/lstm"}
    assert make() == 1
    assert "Failed: python scripts/train.py experiment=part2/lstm trainer.threads=2" in capsys.readouterr().out
    assert families_of(processes.trained, long=True) == {"gru", "rnn"}
    processes.fails, processes.trained = set(), []
    assert make() == 0
    assert families_of(processes.trained, long=False) == families_of(processes.trained, long=True) == {"lstm"}


def test_it_can_be_made_in_parts(make, processes, capsys):
    assert make("gru", "lstm", "--budget", "60") == 0
    assert make("rnn") == 0
    assert "Which families lead is open" in capsys.readouterr().out
    assert make("--budget", "300", "gru") == 0
    assert families_of(processes.trained, long=False) == {"gru", "lstm", "rnn"}
    assert make("--budget", "60") == 0
    assert families_of(processes.trained, long=True) == set()
    make("--budget", "300", "gru")
    assert families_of(processes.trained, long=True) == {"gru"}
    assert not processes.evaluated
    with pytest.raises(UserError, match="There is no family gur; did you mean gru"):
        make("gur")


def test_a_rehearsal_runs_nothing(make, processes, capsys, tmp_path):
    make("gru")
    former = list(processes.trained)
    assert make("--dry-run") == 0
    printed = capsys.readouterr().out
    assert processes.trained == former
    assert printed.count("\nmissing ") == 7
    assert printed.count("by other code") == 2  # the made-up ones name none
    assert "open                    the 2 that lead, for 300 seconds" in printed
    assert "About 0:31:30 to go." in printed  # 30 s of counting, six runs of 60 + 30 s and four of 300 + 30 s


def test_records_of_other_settings_are_pointed_out(make, processes, capsys, tmp_path):
    make()
    (kept,) = {path.parent for path in (tmp_path / "records").glob("part2-ngram_kneser_ney/*/record.json")}
    old = Record.load(kept)
    old.folder = kept.with_name("000000000000")
    old.save()
    capsys.readouterr()
    make()
    assert "000000000000 is not a run of this table" in capsys.readouterr().out


def test_a_process_has_an_input_that_stays_open():
    waits = "import os, select, sys; sys.exit(3 if not select.select([0], [], [], 0.1)[0] else 0)"
    assert making.run([sys.executable, "-c", waits]) == 3
