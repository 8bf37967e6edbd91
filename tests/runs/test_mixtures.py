"""Mixtures from the command line: what is fitted to what, ensembles of finished runs, what is refused."""

import csv
import json
import shutil

import pytest
import torch

import charlab
from charlab.configuration.compose import compose
from charlab.errors import UserError
from charlab.evaluation.protocols import Blocks, evaluate
from charlab.runs.identity import fingerprint
from charlab.runs.record import ENSEMBLE, Record, runs_of
from charlab.training.counts_module import MixtureModule
from charlab.training.module import LanguageModelModule
from tests.helpers.tiny_runs import assert_same_outcome, weights

pytestmark = pytest.mark.slow

TINY = (
    "data=textfile",
    "data.context_length=8",
    "data.batch_size=8",
    "data.dev_fraction=0.1",
    "logger=csv",
    "optimizer.lr=0.02",
    "trainer.accelerator=cpu",
    "trainer.max_steps=28",
    "evaluate_every=14",
    "estimate_batches=2",
    "callbacks.checkpointing.every_n_steps=10",
    "callbacks.samples.length=20",
)
SMALL_GRU = ("model=gru", "model.embed_dim=8", "model.hidden_dim=16", "model.num_layers=1")
NEURAL_NGRAM = (
    "model=neural_ngram",
    "model@model.neural=gru",
    "model.neural.embed_dim=8",
    "model.neural.hidden_dim=16",
    "model.neural.num_layers=1",
    "model.ngram.order=2",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def run(text_path, outputs):
    return lambda *more: charlab.run(*TINY, f"data.path={text_path}", f"output_dir={outputs}", *more)


@pytest.fixture(scope="module")
def gru_run(run):
    return run(*SMALL_GRU)


@pytest.fixture(scope="module")
def ngram_run(run):
    return run("model=ngram_witten_bell", "model.order=2")


@pytest.fixture(scope="module")
def neural_ngram_run(run):
    return run(*NEURAL_NGRAM)


def split(text_path, vocabulary, start, stop):
    ids = torch.from_numpy(vocabulary.encode(text_path.read_text()))
    return ids[int(start * len(ids)) : int(stop * len(ids))]


def nll(model, ids):
    return evaluate(model, ids, Blocks(), context_length=8, batch_size=4).nll


def test_weights_are_those_that_suit_the_dev_split(neural_ngram_run, text_path):
    model, vocabulary = charlab.load(neural_ngram_run.folder)
    dev = split(text_path, vocabulary, 0.0, 0.1)
    fitted = nll(model, dev)
    assert fitted == pytest.approx(neural_ngram_run.metric("blocks", "dev")["nll"], abs=1e-6)
    assert fitted <= min(nll(member, dev) for member in model.members.values()) + 1e-5
    best = model.weights.clone()
    assert 0.05 < best[0] < 0.95
    for shift in (-0.02, 0.02):
        model.weights.copy_(best + torch.tensor([shift, -shift]))
        assert nll(model, dev) > fitted
    with (neural_ngram_run.folder / "metrics.csv").open() as lines:
        logged = {row["metric"]: float(row["value"]) for row in csv.DictReader(lines)}
    assert [logged["weight/neural"], logged["weight/ngram"]] == pytest.approx(best.tolist())


def test_counts_are_those_of_the_train_split(neural_ngram_run, text_path):
    model, vocabulary = charlab.load(neural_ngram_run.folder)
    ngram = model.members["ngram"]
    counted = type(ngram)(len(vocabulary), order=2, smoothing=ngram.smoothing)
    counted.fit(split(text_path, vocabulary, 0.1, 0.9))
    window = split(text_path, vocabulary, 0.9, 1.0).long()[None]
    torch.testing.assert_close(ngram.nll(window), counted.nll(window))


def test_the_neural_part_learns_what_it_would_learn_alone(neural_ngram_run, gru_run):
    alone, mixed = weights(gru_run), weights(neural_ngram_run)
    for name, value in alone.items():
        assert torch.equal(value, mixed[name.replace("model.", "model.members.neural.")]), name
    assert neural_ngram_run.parameters == gru_run.parameters
    assert neural_ngram_run.characters_seen == gru_run.characters_seen


def test_interrupted_and_continued_it_ends_in_the_same_bits(neural_ngram_run, run, tmp_path, monkeypatch):
    original = LanguageModelModule.training_step

    def training_step(self, window, batch_idx):
        if self.micro_batches == 17:
            raise RuntimeError("the power failed")
        return original(self, window, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", training_step)
        with pytest.raises(RuntimeError, match="the power failed"):
            run(*NEURAL_NGRAM, f"output_dir={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr(MixtureModule, "count", lambda self: pytest.fail("the counts are in the checkpoint"))
        resumed = run(*NEURAL_NGRAM, f"output_dir={tmp_path}")
    assert_same_outcome(resumed, neural_ngram_run)


def test_weights_are_saved_though_nothing_is_evaluated(run, neural_ngram_run, tmp_path):
    bare = ("trainer.limit_val_batches=0", "~callbacks.samples", "~callbacks.attention_maps", f"output_dir={tmp_path}")
    unevaluated = run(*NEURAL_NGRAM, *bare)
    assert torch.equal(weights(unevaluated)["model.weights"], weights(neural_ngram_run)["model.weights"])


def test_without_a_dev_split_weights_are_equal_and_that_is_said(run, capsys, tmp_path):
    record = run(*NEURAL_NGRAM, "data.dev_fraction=0", "trainer.max_steps=1", f"output_dir={tmp_path}")
    assert weights(record)["model.weights"].tolist() == [0.5, 0.5]
    printed = " ".join(capsys.readouterr().out.split())
    assert "All members of this mixture will have equal weights: there is no dev split" in printed
    assert "weights neural 0.500 ngram 0.500" in printed


def test_weights_that_are_given_stay(run):
    record = run(*NEURAL_NGRAM, "model.weights=[1,3]", "trainer.max_steps=1")
    assert weights(record)["model.weights"].tolist() == [0.25, 0.75]


@pytest.fixture(scope="module")
def ensemble_run(run, gru_run, ngram_run):
    return run("model=ensemble", "trainer.gradient_clip_val=1", f"model.runs=[{gru_run.folder},{ngram_run.folder}]")


def test_an_ensemble_is_the_mixture_of_its_runs_and_needs_them_no_more(
    ensemble_run, gru_run, ngram_run, text_path, tmp_path
):
    members = [charlab.load(member.folder)[0] for member in (gru_run, ngram_run)]
    copy = shutil.copytree(ensemble_run.folder, tmp_path / "copy")
    hidden = [member.folder.rename(member.folder.with_name("hidden")) for member in (gru_run, ngram_run)]
    try:
        model, vocabulary = charlab.load(copy)
    finally:
        for member, folder in zip((gru_run, ngram_run), hidden, strict=True):
            folder.rename(member.folder)
    ids = split(text_path, vocabulary, 0.9, 1.0)
    window = ids.long()[None]
    p = sum(w * m.nll(window).neg().exp() for w, m in zip(model.weights, members, strict=True))
    torch.testing.assert_close(model.nll(window), -p.log())
    assert ensemble_run.metric("blocks")["nll"] == pytest.approx(nll(model, ids), abs=1e-6)
    dev = split(text_path, vocabulary, 0.0, 0.1)
    assert nll(model, dev) <= min(nll(member, dev) for member in members) + 1e-5


def test_an_ensembles_record_has_its_members_and_their_cost(ensemble_run, gru_run, ngram_run):
    stored = json.loads((ensemble_run.folder / "record.json").read_text())
    assert stored["parameters"] == gru_run.parameters
    assert stored["characters_seen"] == gru_run.characters_seen + ngram_run.characters_seen
    assert stored["time"]["training_s"] >= gru_run.time["training_s"] + ngram_run.time["training_s"]
    assert stored["config"]["model"]["runs"] == [str(gru_run.folder), str(ngram_run.folder)]
    assert [member["_target_"] for member in stored["config"]["model"]["members"]] == [
        "charlab.models.rnn.GRU",
        "charlab.models.ngram.NGram",
    ]
    assert stored["status"] == "finished"
    assert not stored["causality"]["leaks"]


def test_an_ensemble_is_named_by_what_its_runs_are(ensemble_run, gru_run, ngram_run, text_path, tmp_path):
    def of(*runs):
        more = ["trainer.gradient_clip_val=1", f"model.runs=[{','.join(map(str, runs))}]"]
        return fingerprint(compose([*TINY, f"data.path={text_path}", "model=ensemble", *more]))

    moved = shutil.copytree(gru_run.folder, tmp_path / "moved")
    assert of(moved, ngram_run.folder) == of(gru_run.folder, ngram_run.folder) == ensemble_run.fingerprint
    assert of(gru_run.folder) != ensemble_run.fingerprint


def test_an_ensemble_of_an_ensemble(run, ensemble_run, gru_run):
    record = run("model=ensemble", f"model.runs=[{ensemble_run.folder},{gru_run.folder}]")
    model, _ = charlab.load(record.folder)
    assert list(model.members["1"].members) == ["1", "2"]
    assert record.metric("blocks", "dev")["nll"] <= ensemble_run.metric("blocks", "dev")["nll"] + 1e-5


@pytest.mark.parametrize("runs", ["outputs/runs/gru/0123456789ab", None, [12]])
def test_runs_that_are_no_list_are_told_so(runs):
    with pytest.raises(UserError, match=r"model\.runs must be a list of the folders of runs"):
        runs_of({"_target_": ENSEMBLE, "runs": runs})


def unfinished(record):
    stored = Record.load(record.folder)
    stored.status = "running"
    stored.save()


def without_a_letter(record):
    path = record.folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["vocabulary"] = {
        key: value.replace("u", "v") if key == "characters" else value
        for key, value in checkpoint["vocabulary"].items()
    }
    torch.save(checkpoint, path)


def deleted(record):
    shutil.rmtree(record.folder)


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (unfinished, [], "is running: an ensemble takes finished ones"),
        (without_a_letter, [], r"has another vocabulary, with 'v' and without 'u'"),
        (deleted, [], "There is no run in"),
        (
            lambda _: None,
            ["data.dev_fraction=0.2"],
            r"was trained on the characters [\d,]+ to [\d,]+ of words.*data\.dev_fraction",
        ),
        (lambda _: None, ["data.train_fraction=0.7"], r"was trained on the characters [\d,]+ to [\d,]+ of words"),
        (lambda _: None, ["data.context_length=4", "model=neural_ngram", "model@model.neural=ensemble"], "one list"),
    ],
)
def test_runs_that_do_not_fit_are_refused(run, gru_run, tmp_path, change, more, message):
    folder = shutil.copytree(gru_run.folder, tmp_path / "run")
    record = Record.load(folder)
    change(record)
    key = "model.neural.runs" if "model=neural_ngram" in more else "model.runs"
    with pytest.raises(UserError, match=message):
        run("model=ensemble", *more, f"{key}=[{folder}]", f"output_dir={tmp_path / 'outputs'}")
    assert not list((tmp_path / "outputs").glob("runs/*/*/record.json"))
