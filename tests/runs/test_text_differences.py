"""Where two runs differ, and how surprised one is: `charlab runs compare` and `charlab runs show`."""

import dataclasses
import re
import shutil
import subprocess
import sys
from html import unescape

import numpy as np
import pytest
import torch

import charlab
from charlab.cli import main
from charlab.data.windows import adjacent_windows
from charlab.errors import UserError
from charlab.evaluation.bootstrap import bootstrap_text
from charlab.runs.record import Record
from charlab.runs.surprisal import LONGEST, surprisal
from charlab.runs.text_differences import compare_runs, compared_text_of
from tests.references.breakdown import describe, exact_sum


@pytest.fixture
def pair(finished_run, tmp_path):
    """A run, and one that differs by known nats at each character of a text of several scenes."""
    other = tmp_path / "other"
    shutil.copytree(finished_run.folder, other)
    record = Record.load(other)
    kept = np.load(other / "nll.npy")
    np.save(other / "nll.npy", kept + np.random.default_rng(0).normal(size=kept.shape).astype(np.float32))
    return finished_run, record


def validation_of(record, text_path):
    text = text_path.read_text()
    assert record.config["data"]["train_fraction"] == 0.9
    cut = len(text) * 9 // 10
    return text[:cut], text[cut : cut + len(text) // 10 + 1]


def test_two_runs_are_compared_on_the_characters_that_they_were_scored_on(pair, text_path, monkeypatch):
    first, second = pair
    monkeypatch.setattr("charlab.runs.text_differences.SCENE_LENGTH", 50)
    where = compare_runs(first, second)
    train, text = validation_of(first, text_path)
    nats = np.load(second.folder / "nll.npy").astype(float) - np.load(first.folder / "nll.npy")
    assert where.text == text[1 : len(nats) + 1]
    assert where.whole.mean == pytest.approx(nats.mean(), abs=1e-8)
    assert {part.split for part in where.parts} == {way.name for way in compared_text_of(first).groupings[1:]}
    for split in {part.split for part in where.parts}:
        parts = [part for part in where.parts if part.split == split]
        assert sum(part.nats for part in parts) == where.whole.nats
        assert sum(part.characters for part in parts) == len(nats)
    parts = [describe(text, index + 1, index % 8 + 1, train, train[-3:]) for index in range(len(nats))]
    for label, column in (("4–7", 0), ("second letter", 1), ("newline", 2), ("10 to 99 times", 3)):
        [part] = [part for part in where.parts if part.label == label]
        is_in = np.array([str(part[column]) == label.partition("–")[0] for part in parts])
        assert part.nats == pytest.approx(nats[is_in].sum(), abs=1e-6)
        blocks = np.arange(len(nats)) // 50
        sums = np.array([[nats[is_in & (blocks == block)].sum() for block in range(blocks[-1] + 1)]])
        expected = bootstrap_text(sums, np.zeros_like(sums), np.bincount(blocks)).interval_95
        assert part.interval == pytest.approx(expected, abs=1e-6)
    assert where.whole.interval[0] < where.whole.mean < where.whole.interval[1]
    passage = where.passages[0]
    assert passage.nats == pytest.approx(float(exact_sum(nats[passage.start : passage.stop])), abs=1e-6)


def test_they_are_compared_on_the_command_line(pair, capsys, tmp_path):
    first, second = pair
    assert main(["runs", "compare", str(first.folder), str(second.folder), f"plot={tmp_path / 'x.png'}"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"place in the word:\s+first letter\s+[\d.]+%\s+[+−][\d.]+", printed)
    assert "all characters" in printed
    assert "Where they differ most" in printed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"corpus": {"sha256": "0"}}, "different texts or splits"),
        ({"causality": {"leaks": True}}, "sees what it has to predict"),
        ({"metrics": [{"protocol": "blocks", "split": "validation", "likelihood": "bound"}]}, "only their sum"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(pair, change, said):
    first, second = pair
    with pytest.raises(UserError, match=said):
        compare_runs(first, dataclasses.replace(second, **change))


def test_without_the_nll_of_characters_the_rest_is_still_compared(pair, capsys, tmp_path):
    first, second = pair
    (second.folder / "nll.npy").unlink()
    assert main(["runs", "compare", str(first.folder), str(second.folder), f"plot={tmp_path / 'x.png'}"]) == 0
    printed = capsys.readouterr().out
    assert "Where they differ is not known. The run in" in printed
    assert "Their code is the same." in printed


def test_a_passage_shows_what_the_model_expected_instead(finished_run, text_path):
    shown = surprisal(finished_run, start=5, length=20)
    _, text = validation_of(finished_run, text_path)
    assert shown.text == text[6:26]
    assert finished_run.surprisal(5, 20)._repr_html_() == shown._repr_html_()
    assert np.array_equal(shown.nll, np.load(finished_run.folder / "nll.npy")[5:25])
    model, vocabulary = charlab.load(finished_run.folder)
    ids = torch.from_numpy(vocabulary.encode(text)).long()
    for index, expected in enumerate(shown.expected, start=6):
        begin = (index - 1) // 8 * 8
        with torch.no_grad():
            shares = model(ids[None, begin:index])[0, -1].softmax(-1)
        best = sorted(range(len(vocabulary)), key=lambda token: -shares[token])[:3]
        names = [vocabulary.decode([token]).replace(" ", "␣").replace("\n", "↵") for token in best]
        assert re.findall(r"(\S+) \d+%", expected) == names
        assert -torch.log(shares[ids[index]]).item() == pytest.approx(float(shown.nll[index - 6]), abs=1e-4)


def test_a_passage_of_a_model_that_leaks_says_so(finished_run):
    leaking = dataclasses.replace(finished_run, causality={"leaks": True, "reason": "It looks ahead."})
    said = surprisal(leaking, length=10).note
    assert said.startswith("The model leaks, so its figures mean nothing: It looks ahead. Characters 1 to 10 of")
    assert "leaks" not in surprisal(finished_run, length=10).note


def test_a_page_holds_the_passage_and_loads_nothing(finished_run, tmp_path, capsys, text_path):
    page = tmp_path / "page.html"
    assert main(["runs", "show", str(finished_run.folder), "start=0", "length=40", f"page={page}"]) == 0
    html = page.read_text()
    _, text = validation_of(finished_run, text_path)
    marked = re.findall(r'<i class="c\d+[^>]*data-e="[^>]*>(.*?)</i>', html, flags=re.S)
    assert unescape("".join(marked)) == text[1:41]
    assert not re.search(r"https?:|<script|<link|src=", html)


def test_the_pages_of_a_run_and_of_the_same_by_other_code_are_apart(finished_run, tmp_path):
    outputs = tmp_path / "outputs"
    for name in (finished_run.fingerprint, f"{finished_run.fingerprint}-0123456789ab"):
        shutil.copytree(finished_run.folder, outputs / "runs" / "tiny" / name)
        assert main(["runs", "show", name, "length=10", f"output_dir={outputs}"]) == 0
    pages = [f"show-{finished_run.fingerprint[:8]}.html", f"show-{finished_run.fingerprint}-0123.html"]
    assert [path.name for path in sorted(outputs.glob("*.html"), key=lambda path: len(path.name))] == pages


def test_the_longest_page_has_at_most_two_megabytes(finished_run):
    shown = surprisal(finished_run, length=100)
    times = LONGEST // 100
    longest = dataclasses.replace(
        shown, text=shown.text * times, nll=np.tile(shown.nll, times), expected=shown.expected * times
    )
    assert len(longest.page().encode()) < 2_000_000


def test_a_character_that_the_model_finds_impossible_has_the_strongest_color(pair):
    _, copied = pair
    kept = np.load(copied.folder / "nll.npy")
    kept[:2] = np.inf, np.nan
    np.save(copied.folder / "nll.npy", kept)
    marked = re.findall(r'<i class="c(\d+)[^>]*data-e="([^>]*)">', surprisal(copied, length=10)._repr_html_())
    assert [level for level, _ in marked[:2]] == ["11", "11"]
    assert ["∞ nats" in said for _, said in marked[:2]] == [True, False]


def test_a_run_without_its_weights_shows_its_nll_alone(pair):
    _, copied = pair
    shutil.rmtree(copied.folder / "checkpoints")
    shown = surprisal(copied, length=10)
    assert shown.expected == ()
    assert "is not known" in shown.note
    assert "nats" in shown._repr_html_()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["start=1000000"], "outside the text"),
        (["length=0"], "does not fit a page"),
        (["start=-1"], "start must be a number"),
        (["another"], "takes one run, not 2"),
    ],
)
def test_mistakes_are_a_sentence(finished_run, options, said, capsys):
    assert main(["runs", "show", str(finished_run.folder), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_runs_are_compared_without_torch(pair):
    first, second = pair
    program = (
        "import sys; from pathlib import Path; from charlab.runs.record import Record\n"
        "from charlab.runs.text_differences import compare_runs\n"
        f"compare_runs(*(Record.load(Path(run)) for run in {[str(first.folder), str(second.folder)]}))\n"
        "print({'torch', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [["bytes"], ["bpe", "data.tokenizer.vocab_size=40"]])
def test_positions_and_expectations_are_those_of_tokens(run_tiny, tmp_path, tokenizer):
    text = tmp_path / "ä.txt"
    text.write_text("Äpfel und Öl für zwölf Bürger, süß.\n" * 60)
    record = run_tiny(f"data.path={text}", f"data/tokenizer={tokenizer[0]}", *tokenizer[1:])
    shown = surprisal(record, length=50)
    _, vocabulary = charlab.load(record.folder)
    whole = text.read_text()
    validation = whole[len(whole) * 9 // 10 :]
    given = len(validation) - len(record_nll := np.load(record.folder / "nll.npy"))  # characters of the first token
    assert shown.text == validation[given : given + 50]
    assert ("≤" in shown.title) == (tokenizer[0] == "bpe")
    assert all(re.search(r"expected \S+ \d+%", said) for said in shown.expected)
    if tokenizer[0] == "bpe":
        with pytest.raises(UserError, match="upper bound"):
            compare_runs(record, record)
        return
    ids = vocabulary.encode(validation)
    [windows, *rest] = adjacent_windows(len(ids), 8)
    counted = {}
    for group in (windows, *rest):
        for start in group.starts:
            counted |= {int(start) + position: position for position in range(1, group.length + 1)}
    position, at = [], 0
    for character in validation:
        position.append(counted.get(at))
        at += len(character.encode())
    where = compared_text_of(record)
    labels = [where.groupings[1].labels[part] for part in where.groupings[1].part]
    firsts = [int(label.partition("–")[0]) for label in labels]
    assert firsts == [1 << (number.bit_length() - 1) for number in position[1:]]
    assert len(record_nll) == len(firsts)
