"""A run that starts from another run's weights."""

import functools
import json
import shutil

import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

import charlab
from charlab import cli
from charlab.configuration.compose import compose
from charlab.errors import UserError
from charlab.runs.identity import fingerprint
from charlab.runs.record import Record
from charlab.runs.store import with_extended

BRIEF = ["data=textfile", "data.context_length=8", "data.batch_size=4", "trainer.accelerator=cpu", "logger=csv"]
QUIET = ["~callbacks.samples", "~callbacks.attention_maps", "estimate_batches=1", "trainer.max_steps=3"]
GPT = ["model=gpt", "model.embed_dim=8", "model.num_layers=1", "model.mixer.num_heads=2"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def given(text_path, outputs):
    """Return a function that gives the command line of a tiny model on a text."""

    def given(*more, text=None):
        path = text_path
        if text is not None:
            path = outputs / "other.txt"
            path.write_text(text)
        return [*BRIEF, *QUIET, f"data.path={path}", f"output_dir={outputs}", *more]

    return given


@pytest.fixture(scope="module")
def train(given):
    """Return a function that trains it, once for all tests: no run is to be changed."""
    return functools.cache(lambda *more, text=None: charlab.run(*given(*more, text=text)))


@pytest.fixture
def copied(tmp_path):
    """Return a function that copies a run, with changes to its record."""

    def copied(record, **changes):
        folder = shutil.copytree(record.folder, tmp_path / record.fingerprint)
        stored = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps(stored | changes))
        return folder

    return copied


def weights(record):
    model, vocabulary = charlab.load(record.folder)
    return model.state_dict(), vocabulary.characters


@pytest.mark.slow
@pytest.mark.parametrize("model", [GPT, ["model=bigram"]], ids=["gpt", "bigram"])
def test_it_starts_with_the_weights_and_is_another_run(train, model):
    first = train(*model)
    again = train(*model, f"init_from={first.folder}", "optimizer.lr=1e-30", "optimizer.weight_decay=0")
    assert again.fingerprint != first.fingerprint
    assert again.config["init_from"] == str(first.folder)
    for (name, value), other in zip(weights(first)[0].items(), weights(again)[0].values(), strict=True):
        assert torch.equal(value, other), name
    same = train(*model, f"init_from={first.fingerprint[:8]}", "optimizer.lr=1e-30", "optimizer.weight_decay=0")
    assert same.folder == again.folder  # a name, or the folder, means the same


@pytest.mark.slow
def test_what_it_starts_from_is_part_of_the_identity(train, given, copied):
    def named(*more):
        return fingerprint(compose(given("model=bigram", *more)))

    first, second = train("model=bigram"), train("model=bigram", "seed=2")
    from_first, from_second = (named(f"init_from={run.folder}") for run in (first, second))
    assert len({first.fingerprint, second.fingerprint, from_first, from_second}) == 4
    other = copied(first)
    assert named(f"init_from={other}") == from_first
    shutil.rmtree(other)
    assert named(f"init_from={copied(first, code='0123456789ab')}") != from_first  # other code trained it


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        GPT,
        ["model=bigram"],
        ["model=gru", "model.embed_dim=8"],
    ],
    ids=lambda model: model[0],
)
def test_characters_are_mapped_by_what_they_are(train, model):
    first = train(*model)
    text = "be quiet or not to be: that, or this\n" * 30
    still = ["optimizer.lr=1e-30", "optimizer.weight_decay=0"]
    new, mapped = train(*model, *still, text=text), train(*model, *still, f"init_from={first.folder}", text=text)
    (theirs, old), (fresh, ours), (found, _) = weights(first), weights(new), weights(mapped)
    common = [character for character in ours if character in old]
    assert 0 < len(common) < len(ours)
    here, there = ([text.index(character) for character in common] for text in (ours, old))
    added = [index for index, character in enumerate(ours) if character not in old]
    assert len(old) != len(ours)
    for name, value in found.items():
        grown = [
            axis for axis, size in enumerate(value.shape) if size == len(ours) and theirs[name].shape[axis] == len(old)
        ]
        a, b = value, theirs[name]
        for axis in grown:
            a, b = a.index_select(axis, torch.tensor(here)), b.index_select(axis, torch.tensor(there))
            index = torch.tensor(added)
            assert torch.equal(value.index_select(axis, index), fresh[name].index_select(axis, index)), name
        assert torch.equal(a, b), name


@pytest.mark.slow
@pytest.mark.parametrize("as_many", [True, False], ids=["as many characters", "more characters"])
def test_characters_are_mapped_next_to_a_mask_too(train, text_path, as_many):
    model = ["model=masked_diffusion", "model.embed_dim=8", "model.num_layers=1", "model.mixer.num_heads=1"]
    still = ["optimizer.lr=1e-30", "optimizer.weight_decay=0"]
    text = text_path.read_text().replace("q", "z") if as_many else "be quiet or not to be: that, or this\n" * 30
    first = train(*model)
    (theirs, old), (found, ours) = (
        weights(run) for run in (first, train(*model, *still, f"init_from={first.folder}", text=text))
    )
    assert (len(ours) == len(old)) == as_many
    common = [character for character in ours if character in old]
    here, there = ([*map(known.index, common), len(known)] for known in (ours, old))  # the last row is the mask's
    name = "denoiser.embedding.weight"
    assert len(found[name]) == len(ours) + 1
    assert torch.equal(found[name][here], theirs[name][there])


@pytest.mark.slow
def test_it_is_not_judged_on_text_that_its_origin_was_trained_on(train):
    first = train("model=bigram")
    second = train("model=bigram", f"init_from={first.folder}", text="to be or not\n" * 100)
    seen = r"The run .* was trained on the characters 0 to [\d,]+ of words, and this run is to be judged on"
    for origin in (first, second):
        for splits in (["data.train_fraction=0.5", "data.validation_fraction=0.5"], ["data.dev_fraction=0.1"]):
            with pytest.raises(UserError, match=seen):
                train("model=bigram", f"init_from={origin.folder}", *splits)
    halves = ("data.validation_fraction=0.05", "data.test_fraction=0.05")
    assert train("model=bigram", f"init_from={second.folder}", *halves).status == "finished"


@pytest.mark.slow
def test_what_it_cannot_start_from_is_a_sentence(train, given, copied, outputs, capsys):
    first, counted = train(*GPT), train("model=ngram_witten_bell")
    hashed = train("model=ngram_gpt", *GPT[1:], "model.ngrams.num_rows=32")
    unfinished = copied(train("model=bigram"), status="failed")
    for origin, settings, sentence in [
        (first.folder, [*GPT[:1], "model.embed_dim=16", *GPT[2:]], "has another model, whose "),
        (counted.folder, GPT, "which has no weights to start from"),
        (unfinished, ["model=bigram"], "is failed: start from a finished run"),
        ("ffffffff", GPT, "There is no run ffffffff"),
    ]:
        with pytest.raises(UserError, match=sentence):
            train(*settings, f"init_from={origin}")
    with pytest.raises(UserError, match="has another vocabulary, and embeds n-grams"):
        train("model=ngram_gpt", *GPT[1:], "model.ngrams.num_rows=32", f"init_from={hashed.folder}", text="abc\n" * 200)
    before = sorted(outputs.rglob("*"))
    capsys.readouterr()
    assert cli.train(given("model=bigram", f"init_from={first.folder}")) == 2
    said = capsys.readouterr().err
    assert "has another model, whose " in said
    assert said.count("\n") == 1
    assert sorted(outputs.rglob("*")) == before


@pytest.mark.slow
def test_a_killed_run_resumes_with_its_own_weights(given, train, monkeypatch):
    from charlab.runs.train import _Training

    first = train("model=bigram")
    command = given("model=bigram", f"init_from={first.folder}", "seed=7")
    finish = _Training._finish
    monkeypatch.setattr(_Training, "_finish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        charlab.run(*command)
    monkeypatch.setattr(_Training, "_finish", finish)
    resumed = charlab.run(*command)
    whole = charlab.run(*command, "force=true")
    assert Record.load(whole.folder).metrics == resumed.metrics


# --- extend -----------------------------------------------------------------------------------------------------------

LONGER = ["trainer.max_steps=6", "evaluate_every=2", "trainer.log_every_n_steps=1"]


def rows(record):
    """Return what was logged in training, without clocks and final figures."""
    table = record.curves()
    seen = table[table["metric"].isin(["train/loss", "gradient_norm", "validation/nll", "learning_rate"])]
    return [tuple(row) for row in seen[["step", "metric", "value"]].sort_values(["step", "metric"]).to_numpy()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        [*GPT, "model.dropout=0.2"],
        ["model=bigram", "data.dev_fraction=0.1"],
        ["model=bigram", "data.epoch_steps=3"],
        ["model=bigram", "data.epoch_steps=1"],
    ],
    ids=["gpt", "bigram", "at the end of an epoch", "an epoch a step"],
)
def test_a_longer_run_is_what_it_would_have_been_at_once(train, model, outputs):
    first = train(*model, *LONGER[1:])
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    longer = charlab.run(f"extend={first.folder}", LONGER[0])
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == before
    assert (longer.status, longer.steps, longer.config["extend"]) == ("finished", 6, str(first.folder))
    assert longer.folder != first.folder
    at_once = train(*model, *LONGER)
    assert at_once.fingerprint != longer.fingerprint
    for (name, value), other in zip(weights(longer)[0].items(), weights(at_once)[0].values(), strict=True):
        assert torch.equal(value, other), name
    assert [row for row in rows(longer) if row[0] != 3 or row[1] != "validation/nll"] == rows(at_once)
    assert [m["nll"] for m in longer.metrics] == [m["nll"] for m in at_once.metrics]
    assert longer.characters_seen == at_once.characters_seen
    again = charlab.run(LONGER[0], extend=first.fingerprint[:8], output_dir=outputs)
    assert again.folder == longer.folder
    further = charlab.run(f"extend={longer.folder}", "trainer.max_steps=7")
    assert (further.steps, further.config["extend"]) == (7, str(longer.folder))
    assert charlab.requalify(longer.folder)


def test_what_concerned_only_the_former_call_is_left_out(tmp_path):
    overrides = ["model=bigram", "force=true", "resume=any_code", "hydra.run.dir=here", "trainer.max_steps=3"]
    Record(tmp_path / "run", "bigram-play", "f" * 12, "finished", overrides=overrides).save()
    given = [f"extend={tmp_path / 'run'}", "trainer.max_steps=6"]
    assert with_extended(given) == ["model=bigram", *given]
    assert with_extended([*given, "force=true"]) == ["model=bigram", *given, "force=true"]


class Unreachable(DummyLogger):
    def __init__(self) -> None:
        raise ConnectionError("nobody answers")


@pytest.mark.slow
def test_an_extended_run_is_only_replaced_by_one_that_can_begin(train):
    longer = charlab.run(f"extend={train('model=bigram', *LONGER[1:]).folder}", LONGER[0])
    results = [longer.folder / name for name in ("record.json", "metrics.csv", "checkpoints/last.ckpt")]
    before = [path.read_bytes() for path in results]
    broken = f"+logger.broken._target_={__name__}.{Unreachable.__name__}"
    with pytest.raises(UserError, match="nobody answers"):
        charlab.run(f"extend={longer.config['extend']}", LONGER[0], "force=true", broken)
    assert [path.read_bytes() for path in results] == before


@pytest.mark.slow
def test_what_cannot_be_extended_is_a_sentence(train, copied, outputs, capsys):
    constant = train("model=bigram")
    cosine = train("model=bigram", "scheduler=warmup_cosine")
    averaged = train("model=bigram", "averaging=ema")
    epochs = train("model=bigram", "data.epoch_steps=3", "trainer.max_epochs=1")
    moving = train("model=bigram", "+callbacks.ema={_target_: lightning.pytorch.callbacks.EMAWeightAveraging}")
    before = sorted(outputs.rglob("*"))
    for record, more, sentence in [
        (cosine, LONGER[:1], "has the scheduler WarmupCosine, which followed the budget to its end"),
        (averaged, LONGER[:1], "has the averaging Averaging, which followed the budget"),
        (moving, LONGER[:1], "has callbacks.ema (EMAWeightAveraging), which replaced the weights"),
        (constant, ["trainer.max_steps=3"], "has trained for 3 steps already: give more"),
        (epochs, ["trainer.max_steps=9", "trainer.max_epochs=1"], "has trained for 1 epoch already: give more"),
        (constant, [*LONGER[:1], "optimizer.lr=0.5"], "but this one has another optimizer: leave it as it was"),
        (
            constant,
            ["trainer.max_steps=5", "trainer.accumulate_grad_batches=2"],
            "accumulate_grad_batches=1, not 2: give it.",
        ),
    ]:
        capsys.readouterr()
        assert cli.train([f"extend={record.folder}", *more]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert said.count("\n") == 1
        assert sorted(outputs.rglob("*")) == before
    other = copied(constant, code="0123456789ab")
    with pytest.raises(UserError, match=r"was trained by different code .*: extend it with resume=any_code"):
        charlab.run(f"extend={other}", LONGER[0])
    extended = charlab.run(f"extend={other}", LONGER[0], "resume=any_code")
    assert (extended.steps, extended.begun_by) == (6, ["0123456789ab"])
