"""Runs whose tokens are not characters, from training to text."""

import io
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import charlab
from charlab import cli
from charlab.configuration.compose import compose
from charlab.data.tokenizers import Bytes
from charlab.errors import UserError
from charlab.runs.draw import sample
from charlab.runs.evaluate import evaluate_run
from charlab.runs.generate import generate_from_run
from charlab.runs.record import Record
from tests.helpers.warm import warm

RUN = (
    "data=textfile",
    "data.context_length=8",
    "data.batch_size=4",
    "optimizer.lr=0.3",
    "trainer.accelerator=cpu",
    "trainer.max_steps=20",
    "logger=csv",
)
WORDS = ["你好", "世界", "学习", "語言。\n", "Größe ", "𝔘"]


def write(path: Path, words: list[str], number: int) -> Path:
    path.write_text("".join(random.Random(number).choices(words, k=number)), encoding="utf-8")
    return path


def train(path: Path, folder: Path, *overrides: str):
    return charlab.run(*RUN, f"data.path={path}", f"output_dir={folder}", *overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def words(folder):
    return write(folder / "words.txt", WORDS, 2000)


@pytest.fixture(scope="module")
def in_bytes(words, folder):
    return train(words, folder, "model=bigram", "data/tokenizer=bytes", "data.dev_fraction=0.1")


@pytest.mark.slow
def test_on_ascii_a_run_in_bytes_has_the_figures_of_one_in_characters(folder):
    path = write(folder / "ascii.txt", ["to be ", "or\n", "not "], 1000)
    runs = [
        train(path, folder, "model=gru", "model.hidden_dim=8", f"data/tokenizer={kind}")
        for kind in ("characters", "bytes")
    ]

    assert runs[0].fingerprint != runs[1].fingerprint
    assert runs[0].metrics == runs[1].metrics
    samples = [sample(run) for run in runs]
    assert samples[0] == samples[1]
    assert runs[0].characters_seen == runs[1].characters_seen == 20 * 4 * 8


def test_a_run_in_bytes_is_measured_in_characters(in_bytes, words):
    text = words.read_text(encoding="utf-8")
    part = text[int(0.9 * len(text)) :]
    model, vocabulary = charlab.load(in_bytes.folder)
    ids = torch.from_numpy(vocabulary.encode(part)).long()[None]
    nll = model.double().nll(ids).sum().item() / (len(part) - 1)
    kept = np.load(in_bytes.folder / "nll.npy")

    assert isinstance(vocabulary, Bytes)
    assert in_bytes.metric("blocks")["nll"] == pytest.approx(nll, rel=1e-5)
    assert in_bytes.metric("blocks")["likelihood"] == "exact"
    assert len(kept) == len(part) - 1
    assert kept.mean() == pytest.approx(nll, rel=1e-5)
    assert sum(in_bytes.scenes) == pytest.approx(kept.sum(dtype=np.float64))
    ratio = len(text[: int(0.9 * len(text))]) / len(text[: int(0.9 * len(text))].encode())
    assert in_bytes.characters_seen == pytest.approx(20 * 4 * 8 * ratio, rel=0.05)


def test_evaluating_again_gives_the_same_figure(in_bytes):
    again = evaluate_run(compose([f"run={in_bytes.folder}", "device=cpu"], "evaluate"))

    assert again.nll == in_bytes.metric("blocks")["nll"]


def test_generation_counts_characters(in_bytes):
    for number in (1, 3):
        chosen = [f"run={in_bytes.folder}", "device=cpu", "prompt=你好", "length=50", f"num_samples={number}"]
        texts = generate_from_run(compose(chosen, "generate"))
        assert [len(text) for text in texts] == [52] * number
    assert sample(in_bytes)


@pytest.mark.slow
def test_invalid_bytes_reach_a_file_as_they_are(in_bytes):
    options = ["length=400", "temperature=9", "device=cpu"]
    command = [sys.executable, "-m", "charlab", "generate", f"run={in_bytes.folder}", *options]
    written = subprocess.run(warm(command), capture_output=True, check=True).stdout
    (text,) = generate_from_run(compose([f"run={in_bytes.folder}", *options], "generate"))

    assert written == text.encode("utf-8", "surrogateescape") + b"\n"
    with pytest.raises(UnicodeDecodeError):
        written.decode()
    assert len(text) == 401  # after a newline


def test_on_a_terminal_invalid_bytes_are_replacement_characters(in_bytes):
    file = io.StringIO()
    options = ["length=400", "temperature=9", "device=cpu"]
    generate_from_run(
        compose([f"run={in_bytes.folder}", *options], "generate"), Console(file=file, force_terminal=True)
    )

    assert "\ufffd" in file.getvalue()
    assert file.getvalue().isascii() is False
    file.getvalue().encode()


@pytest.mark.slow
def test_a_model_that_is_not_autoregressive_counts_characters_too(words, folder):
    small = ["model=masked_diffusion", "model.embed_dim=8", "model.num_layers=1", "model.mixer.num_heads=1"]
    record = train(words, folder, *small, "data/tokenizer=bytes", "trainer.max_steps=2", "optimizer.lr=1e-3")
    chosen = [f"run={record.folder}", "device=cpu", "length=30"]

    assert record.metric("blocks")["likelihood"] == "bound"
    assert len(generate_from_run(compose(chosen, "generate"))[0]) == 31
    (filled,) = generate_from_run(compose([f"run={record.folder}", "device=cpu", "infill=你__"], "generate"))
    data = filled.encode("utf-8", "surrogateescape")
    assert (data.decode("utf-8", "ignore")[:1], len(data)) == ("你", 5)  # a blank is a byte


@pytest.mark.slow
def test_an_ensemble_takes_runs_with_its_own_tokens(in_bytes, words, folder):
    chosen = ["model=ensemble", f"model.runs=[{in_bytes.folder}]", "data.dev_fraction=0.1"]
    record = train(words, folder, *chosen, "data/tokenizer=bytes")

    assert record.metric("blocks")["nll"] == pytest.approx(in_bytes.metric("blocks")["nll"], rel=1e-6)
    with pytest.raises(UserError, match=r"has another vocabulary, 32 bytes instead of 17 characters: .*data/tokenizer"):
        train(words, folder, *chosen)


def test_an_unknown_tokenizer_is_told_what_there_is(capsys):
    assert cli.train(["data/tokenizer=words", "model=bigram"]) == 2
    assert "bytes" in capsys.readouterr().err


# Byte pairs


@pytest.fixture(scope="module")
def in_pairs(words, folder):
    pytest.importorskip("tokenizers", reason="the extra charlab[bpe] is not installed")
    size = ["data/tokenizer=bpe", "data.tokenizer.vocab_size=48"]
    splits = ["data.test_fraction=0.1", "data.train_fraction=0.8"]
    return train(words, folder, "model=gru", "model.hidden_dim=16", *splits, *size)


@pytest.mark.slow
def test_the_figures_of_byte_pairs_are_bounds_everywhere(in_pairs, words, capsys):
    text = words.read_text(encoding="utf-8")
    part = text[int(0.8 * len(text)) : int(0.9 * len(text))]
    model, vocabulary = charlab.load(in_pairs.folder)
    ids = torch.from_numpy(vocabulary.encode(part)).long()[None]
    nats = model.double().nll(ids).sum().item()
    characters = len(part) - len(vocabulary.decode(ids[0, :1]))
    score = evaluate_run(compose([f"run={in_pairs.folder}", "device=cpu", "protocol=sliding"], "evaluate"))

    assert {entry["likelihood"] for entry in in_pairs.metrics} == {"bound"}
    assert {entry["standard_error"] for entry in in_pairs.metrics} == {None}
    assert score.nll == pytest.approx(nats / characters, rel=1e-5)  # in one pass
    assert score.characters == characters
    assert f"≤ {score.nll:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_passage_of_byte_pairs_begins_after_the_first_token(in_pairs, words):
    text = words.read_text(encoding="utf-8")
    part = text[int(0.8 * len(text)) : int(0.9 * len(text))]
    _, vocabulary = charlab.load(in_pairs.folder)
    given = int(vocabulary.lengths[vocabulary.encode(part)[0]])
    shown = in_pairs.surprisal(3, 50)

    assert shown.text == part[given + 3 : given + 53]
    np.testing.assert_array_equal(shown.nll, np.load(in_pairs.folder / "nll.npy")[3:53])


@pytest.mark.slow
def test_byte_pairs_need_no_text_to_generate(in_pairs, words):
    moved = words.rename(words.with_suffix(".moved"))
    try:
        chosen = [f"run={in_pairs.folder}", "device=cpu", "prompt=Größe", "length=30", "num_samples=2"]
        texts = generate_from_run(compose(chosen, "generate"))
    finally:
        moved.rename(words)

    assert [len(text) for text in texts] == [35, 35]


@pytest.mark.slow
def test_counts_of_byte_pairs_are_a_model_too(in_pairs, words, folder):
    size = ["data/tokenizer=bpe", "data.tokenizer.vocab_size=48"]
    record = train(words, folder, "model=ngram_kneser_ney", *size)

    assert record.metric("blocks")["likelihood"] == "bound"
    assert record.metric("blocks")["nll"] < in_pairs.metric("blocks")["nll"]
    online = evaluate_run(compose([f"run={record.folder}", "device=cpu", "protocol=online"], "evaluate"))
    assert online.likelihood == "bound"


@pytest.mark.slow
def test_looks_at_the_test_text_are_counted(in_pairs):
    def looks():
        return Record.load(in_pairs.folder).test_looks

    before = looks()
    for _ in range(2):
        evaluate_run(compose([f"run={in_pairs.folder}", "device=cpu", "split=test"], "evaluate"))

    assert looks() == before + 2


def test_a_vocabulary_too_large_for_the_text_is_refused_before_anything_is_written(words, tmp_path):
    pytest.importorskip("tokenizers", reason="the extra charlab[bpe] is not installed")
    with pytest.raises(UserError, match=r"vocab_size=5000 is too large for this text: only \d+ tokens occur more than"):
        train(words, tmp_path / "outputs", "model=bigram", "data/tokenizer=bpe", "data.tokenizer.vocab_size=5000")
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.slow
def test_a_folder_of_texts_is_trained_on_and_found_again(folder, tmp_path):
    for number in range(3):
        (tmp_path / "texts").mkdir(exist_ok=True)
        write(tmp_path / "texts" / f"{number}.txt", WORDS, 300)
    record = train(tmp_path / "texts", folder, "model=bigram", "data/tokenizer=bytes")
    again = evaluate_run(compose([f"run={record.folder}", "device=cpu"], "evaluate"))

    assert record.corpus["characters"] == sum(len(path.read_text()) for path in (tmp_path / "texts").iterdir())
    assert record.config["data"]["path"] == str(tmp_path / "texts")
    assert again.nll == record.metric("blocks")["nll"]
    (tmp_path / "texts" / "3.txt").write_text("more\n")
    with pytest.raises(UserError, match="has changed since"):
        evaluate_run(compose([f"run={record.folder}", "device=cpu"], "evaluate"))
