"""What makes two runs the same, and what does not."""

import pytest
from omegaconf import open_dict

from charlab.configuration.compose import compose
from charlab.runs.fingerprint import fingerprint


@pytest.fixture
def fingerprint_of(overrides):
    return lambda *more: fingerprint(compose([*overrides, *more]))


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "model.embed_dim=32",
        "model/position=rotary",
        "data.batch_size=4",
        "data.context_length=4",
        "data.dev_fraction=0.1",
        "optimizer.lr=0.002",
        "optimizer=adam",
        "scheduler=warmup_cosine",
        "objective=label_smoothing",
        "averaging=ema",
        "data.order=contiguous",
        "trainer.max_steps=13",
        "trainer.precision=bfloat16",
        "trainer.accumulate_grad_batches=3",
        "trainer.gradient_clip_val=1.0",
    ],
)
def test_what_decides_the_outcome_changes_the_fingerprint(fingerprint_of, override):
    assert fingerprint_of(override) != fingerprint_of()


@pytest.mark.parametrize(
    "override",
    [
        "trainer.threads=1",
        "trainer.precision=float32",
        "logger=csv",
        "callbacks.evaluation.every_n_steps=7",
        "name=other",
        "output_dir=elsewhere",
        "force=true",
    ],
)
def test_what_does_not_decide_it_does_not(fingerprint_of, override):
    assert fingerprint_of(override) == fingerprint_of()


def test_what_was_added_later_and_is_not_chosen_leaves_it_as_it_was(overrides):
    config = compose(overrides)
    before = fingerprint(config)
    with open_dict(config):
        del config.data["order"]
    assert fingerprint(config) == before


def test_the_text_counts_and_not_where_it_lies(fingerprint_of, text_path, tmp_path):
    copy, other = tmp_path / "copy.txt", tmp_path / "other.txt"
    copy.write_bytes(text_path.read_bytes())
    other.write_bytes(text_path.read_bytes()[:-1] + b"!")
    assert fingerprint_of(f"data.path={copy}") == fingerprint_of()
    assert fingerprint_of(f"data.path={other}") != fingerprint_of()
