import pytest
from omegaconf import OmegaConf

from charlab.configuration.constraints import check_constraints
from charlab.errors import UserError


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"model": {"embed_dim": 384, "mixer": {"num_heads": 5, "head_dim": None}}},
            "model.mixer.num_heads=5 does not divide model.embed_dim=384; the nearest that do are 4 and 6.",
        ),
        (
            {"model": {"embed_dim": 8, "mixer": [{"num_heads": 2}, {"num_heads": 16}]}},
            "model.mixer[1].num_heads=16 does not divide model.embed_dim=8; the nearest that does is 8.",
        ),
        (
            {"model": {"embed_dim": 10, "num_heads": 4}},
            "model.num_heads=4 does not divide model.embed_dim=10; the nearest that do are 2 and 5.",
        ),
        (
            {"size": 10, "model": {"embed_dim": "${size}", "mixer": {"num_heads": 3}}},
            "model.mixer.num_heads=3 does not divide model.embed_dim=10; the nearest that do are 2 and 5.",
        ),
        (
            {"mixer": {"num_heads": 6, "num_key_value_heads": 4}},
            "mixer.num_key_value_heads=4 does not divide mixer.num_heads=6; the nearest that do are 3 and 6.",
        ),
        (
            {"scheduler": {"warmup": 0.5, "decay": 0.6}},
            "scheduler.warmup=0.5 and scheduler.decay=0.6 are more than the whole; let them sum to at most 1.",
        ),
        ({"name": "../x"}, "name='../x' is no name for a folder: use letters, digits and the signs _ . + - only."),
        ({"name": ""}, "name='' is no name for a folder: use letters, digits and the signs _ . + - only."),
    ],
)
def test_broken(config: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        check_constraints(OmegaConf.create(config))
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"embed_dim": 384, "mixer": {"num_heads": 6, "head_dim": None}}},
        {"model": {"embed_dim": 384, "mixer": {"num_heads": 5, "head_dim": 64}}},
        {"mixer": {"num_heads": 5}},
        {"embed_dim": "???", "mixer": {"num_heads": 5}},
        {"mixer": {"num_heads": 6, "num_key_value_heads": None}},
        {"scheduler": {"warmup": 0.4, "decay": 0.6}},
        {"data": {"train_fraction": 0.7, "validation_fraction": 0.3}},
        {"name": "part1-bigram_2.0+x"},
        {"model": None, "mixer": [1, None, "a"]},
    ],
)
def test_kept(config: dict[str, object]) -> None:
    check_constraints(OmegaConf.create(config))
