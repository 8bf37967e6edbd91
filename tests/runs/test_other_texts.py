"""What `charlab evaluate` and `charlab generate` say of a text that a run was not trained on, and of its test split."""

import shutil

import pytest
import torch

import charlab
from charlab import cli
from charlab.errors import UserError
from charlab.evaluation.protocols import Blocks, evaluate
from charlab.generation import next_characters
from charlab.runs.folder import locked
from charlab.runs.record import Record

KNOWN = "to\nbe\nor\nnot\nto\nbe\nthat\nis\nthe\nquestion\n" * 4


@pytest.fixture
def run(finished_run, tmp_path):
    """The folder of a finished run, to be changed."""
    return shutil.copytree(finished_run.folder, tmp_path / "run")


def evaluated(run, *arguments):
    return cli.evaluate([f"run={run}", "device=cpu", *arguments])


def test_another_text_is_scored_as_a_whole_and_kept_by_its_name(run, finished_run, tmp_path, capsys):
    (tmp_path / "other.txt").write_text(KNOWN)
    assert evaluated(run, "data=textfile", f"data.path={tmp_path / 'other.txt'}") == 0
    (entry,) = [entry for entry in Record.load(run).metrics if entry not in finished_run.metrics]
    model, vocabulary = charlab.load(run)
    ids = torch.from_numpy(vocabulary.encode(KNOWN))
    assert entry["nll"] == pytest.approx(evaluate(model, ids, Blocks(), context_length=8, batch_size=2).nll)
    assert entry["characters"] == len(KNOWN) - 1
    assert entry["split"] == "other"
    assert "other" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["test", pytest.param("validation", marks=pytest.mark.slow)])
def test_another_text_that_is_called_like_a_split_is_not_taken_for_it(run, finished_run, tmp_path, capsys, name):
    (tmp_path / f"{name}.txt").write_text(KNOWN)
    assert evaluated(run, "data=textfile", f"data.path={tmp_path / name}.txt") == 0
    record = Record.load(run)
    (entry,) = [entry for entry in record.metrics if entry not in finished_run.metrics]
    assert entry["split"] == f"text {name}"
    assert record.test_looks == 0
    assert "has been scored" not in capsys.readouterr().out


def test_unknown_characters_are_a_sentence_or_left_out_with_their_share(run, finished_run, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("“" + KNOWN + "XYZ")
    text = ("data=textfile", f"data.path={tmp_path / 'other.txt'}")
    assert evaluated(run, *text) == 2
    assert (
        "does not know 4 characters of this text ('X', 'Y', 'Z', '“'): skip unknown characters"
        in capsys.readouterr().err
    )
    assert Record.load(run).metrics == finished_run.metrics
    assert evaluated(run, *text, "unknown=skip") == 0
    assert "2.44% of the text is left out: 4 characters" in capsys.readouterr().out
    entry = Record.load(run).metrics[-1]
    assert entry["left_out"] == pytest.approx(4 / (len(KNOWN) + 4))
    assert entry["characters"] == len(KNOWN) - 1


def test_a_text_of_unknown_characters_alone_is_refused(run, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("“XYZ”")
    text = ("data=textfile", f"data.path={tmp_path / 'other.txt'}", "unknown=skip")
    for protocol in ("blocks", "sliding"):
        assert evaluated(run, *text, f"protocol={protocol}") == 2
        assert "The model knows no character of this text ('X', 'Y', 'Z', '“', '”')" in capsys.readouterr().err


@pytest.mark.slow
def test_looks_at_the_test_split_are_counted(run_tiny, run, capsys):
    record = run_tiny("data.train_fraction=0.8", "data.test_fraction=0.1", "trainer.max_steps=2")
    assert record.test_looks == 0
    for looks, said in ((1, "scored 1 time."), (2, "scored 2 times.")):
        assert evaluated(record.folder, "split=test") == 0
        assert said in capsys.readouterr().out
        found = Record.load(record.folder)
        assert found.test_looks == looks
        assert [entry["split"] for entry in found.metrics].count("test") == 1
    assert evaluated(run, "split=test") == 2
    assert "no test split: train with data.test_fraction" in capsys.readouterr().err


@pytest.mark.slow
def test_a_look_that_cannot_be_counted_is_not_shown(run_tiny, capsys):
    record = run_tiny("data.train_fraction=0.8", "data.test_fraction=0.1", "trainer.max_steps=2")
    capsys.readouterr()
    with locked(record.folder):  # as while it is trained
        assert evaluated(record.folder, "split=test") == 2
    said = capsys.readouterr()
    assert "this look cannot be counted" in said.err
    assert "test" not in said.out
    assert Record.load(record.folder).test_looks == 0
    assert [entry["split"] for entry in Record.load(record.folder).metrics].count("test") == 0


def test_what_comes_next_is_shown_as_probabilities(run, capsys):
    assert cli.generate([f"run={run}", "device=cpu", "prompt=tobe", "probabilities=true"]) == 0
    shown = capsys.readouterr().out.splitlines()
    model, vocabulary = charlab.load(run)
    found = next_characters(model, vocabulary, "tobe")
    logits = model(torch.from_numpy(vocabulary.encode("tobe")).long()[None])[0, -1]
    expected = dict(zip(vocabulary.characters, logits.softmax(-1).tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    first, probability = next(iter(found.items()))
    assert shown[0].split()[:2] == [f"{probability:.2%}", repr(first)]


def test_temperature_changes_the_probabilities(run):
    model, vocabulary = charlab.load(run)
    cold, warm = (max(next_characters(model, vocabulary, "to", temperature=t).values()) for t in (0.1, 1.0))
    assert cold > warm
    with pytest.raises(UserError, match="leaves one character"):
        next_characters(model, vocabulary, "to", temperature=0.0)
