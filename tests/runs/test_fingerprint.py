"""What makes two runs the same, and what does not."""

import copy

import pytest
from omegaconf import OmegaConf, open_dict

from charlab.configuration.compose import compose
from charlab.runs.fingerprint import fingerprint
from tests.runs.conftest import TINY


@pytest.fixture(scope="module")
def overrides(text_path):
    """The command line of a tiny run; none takes place here."""
    return [*TINY, f"data.path={text_path}"]


@pytest.fixture(scope="module")
def config(overrides):
    """What it composes, not to be changed."""
    return compose(overrides)


DECISIVE = {
    "seed": "seed=1",
    "model.embed_dim": "model.embed_dim=32",
    "model.position": "model/position=rotary",
    "data.batch_size": "data.batch_size=6",
    "data.context_length": "data.context_length=4",
    "data.dev_fraction": "data.dev_fraction=0.1",
    "data.order": "data.order=contiguous",
    "optimizer.lr": "optimizer.lr=0.002",
    "optimizer": "optimizer=adam",
    "scheduler": "scheduler=warmup_cosine",
    "objective": "objective=label_smoothing",
    "averaging": "averaging=ema",
    "trainer.max_steps": "trainer.max_steps=13",
    "trainer.precision": "trainer.precision=bfloat16",
    "trainer.accumulate_grad_batches": "trainer.accumulate_grad_batches=3",
    "trainer.gradient_clip_val": "trainer.gradient_clip_val=1.0",
}


@pytest.fixture(scope="module")
def changed(overrides):
    """What the command line composes with every override there is for what decides the outcome."""
    return compose([*overrides, *DECISIVE.values()])


@pytest.mark.parametrize("key", DECISIVE)
def test_what_decides_the_outcome_changes_the_fingerprint(config, changed, key):
    assert OmegaConf.select(changed, key) != OmegaConf.select(config, key)
    other = copy.deepcopy(config)
    with open_dict(other):
        OmegaConf.update(other, key, OmegaConf.select(changed, key), merge=False)
        if key == "optimizer":  # another class alone, with the same settings
            other.optimizer.lr = config.optimizer.lr
    assert fingerprint(other) != fingerprint(config)


def test_what_does_not_decide_it_does_not(overrides, config):
    irrelevant = [
        "trainer.threads=1",
        "trainer.precision=float32",
        "logger=csv",
        "callbacks.evaluation.every_n_steps=7",
        "name=other",
        "output_dir=elsewhere",
        "force=true",
    ]
    assert fingerprint(compose([*overrides, *irrelevant])) == fingerprint(config)


def test_what_was_added_later_and_is_not_chosen_leaves_it_as_it_was(config):
    without = copy.deepcopy(config)
    with open_dict(without):
        del without.data["order"]
    assert fingerprint(without) == fingerprint(config)


def test_the_text_counts_and_not_where_it_lies(config, text_path, tmp_path):
    same, other = tmp_path / "same.txt", tmp_path / "other.txt"
    same.write_bytes(text_path.read_bytes())
    other.write_bytes(text_path.read_bytes()[:-1] + b"!")

    def fingerprint_on(path):
        elsewhere = copy.deepcopy(config)
        elsewhere.data.path = str(path)
        return fingerprint(elsewhere)

    assert fingerprint_on(same) == fingerprint(config)
    assert fingerprint_on(other) != fingerprint(config)


def test_what_was_added_later_and_is_not_chosen_does_not_count(overrides):
    """The dropout of n-grams came after the first runs that are kept."""
    today = compose([*overrides, "model/ngrams=hashed"])
    former = copy.deepcopy(today)
    with open_dict(former):
        del former.model.ngrams.dropout
    assert fingerprint(former) == fingerprint(today)
    today.model.ngrams.dropout = 0.1
    assert fingerprint(former) != fingerprint(today)
