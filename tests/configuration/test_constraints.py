import builtins
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from charlab.configuration.compose import compose
from charlab.configuration.constraints import check_constraints
from charlab.errors import UserError

from .conftest import write

MODELS = "charlab.models"
ALIBI, ROTARY, SINUSOIDAL, LEARNED = (
    {"_target_": f"{MODELS}.positions.{name}"} for name in ("ALiBi", "Rotary", "Sinusoidal", "Learned")
)
ATTENTION = {"_target_": f"{MODELS}.mixers.attention.Attention"}
S4D = {"_target_": f"{MODELS}.mixers.s4d.S4D"}
DIFFUSION = f"{MODELS}.masked_diffusion.MaskedDiffusion"


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
        (
            {"model": {"mixer": {"num_heads": 6, "projection": False}}},
            "model.mixer.projection=false leaves model.mixer.num_heads=6 heads side by side, wider than the embedding: "
            "set one to true or the other to 1.",
        ),
        (
            {"model": {"mixer": {"min_step": 0.2, "max_step": 0.1}}},
            "model.mixer.min_step=0.2 is above model.mixer.max_step=0.1: exchange them.",
        ),
        (
            {"model": {"position": ALIBI, "mixer": {"_target_": f"{MODELS}.mixers.minimal_rnn.MinGRU"}}},
            "model.position is ALiBi, which acts on attention scores, but model.mixer is MinGRU, which has none: "
            "choose another of either, model/position=none for instance.",
        ),
        (
            {"position": ROTARY, "mixer": [S4D, {"_target_": f"{MODELS}.mixers.minimal_rnn.MinGRU"}, S4D]},
            "position is Rotary, which acts on attention scores, but mixer is S4D and MinGRU, which has none: "
            "choose another of either, position=none for instance.",
        ),
        (
            {
                "model": {
                    "_target_": DIFFUSION,
                    "mixer": [{**ATTENTION, "causal": False}, {**ATTENTION, "causal": True}],
                }
            },
            "model.mixer[1] is Attention, which looks to the left only, but model._target_ is MaskedDiffusion, which "
            "fills in from both sides: choose model/mixer=bidirectional_attention.",
        ),
        (
            {"_target_": DIFFUSION, "mixer": S4D},
            "mixer is S4D, which looks to the left only, but _target_ is MaskedDiffusion, which "
            "fills in from both sides: choose mixer=bidirectional_attention.",
        ),
        (
            {"model": {"mixer": {**S4D, "state_dim": 7}}},
            "model.mixer.state_dim=7 is odd, but the states of S4D come in conjugate pairs: make it even.",
        ),
        (
            {"model": {"position": ROTARY, "embed_dim": 12, "mixer": {**ATTENTION, "num_heads": 4}}},
            "model.position is Rotary, which needs an even model.mixer.head_dim, not 3: change the one or the other.",
        ),
        (
            {"model": {"position": ROTARY, "embed_dim": 12, "mixer": {**ATTENTION, "num_heads": 4, "head_dim": 5}}},
            "model.position is Rotary, which needs an even model.mixer.head_dim, not 5: change the one or the other.",
        ),
        (
            {"model": {"position": SINUSOIDAL, "embed_dim": 5, "mixer": ATTENTION}},
            "model.position is Sinusoidal, which needs an even model.embed_dim, not 5: change the one or the other.",
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
        {"mixer": {"num_heads": 1, "projection": False}},
        {"mixer": {"num_heads": 6, "projection": True}},
        {"position": ALIBI, "embed_dim": 12, "mixer": {**ATTENTION, "num_heads": 4}},
        {"position": ROTARY, "embed_dim": 12, "mixer": [{**ATTENTION, "num_heads": 6}, {**ATTENTION, "head_dim": 2}]},
        {"position": SINUSOIDAL, "embed_dim": 6, "mixer": {"_target_": f"{MODELS}.mixers.minimal_rnn.MinGRU"}},
        {"position": LEARNED, "embed_dim": 5, "mixer": {"_target_": f"{MODELS}.mixers.minimal_rnn.MinGRU"}},
        {"position": None, "mixer": {"_target_": f"{MODELS}.mixers.minimal_rnn.MinGRU"}},
        {"position": ROTARY, "mixer": [ATTENTION, S4D]},
        {"_target_": DIFFUSION, "mixer": {**ATTENTION, "causal": False}},
        {"mixer": {**S4D, "state_dim": 8}},
        {"mixer": {"_target_": f"{MODELS}.mixers.selective_scan.SelectiveScan", "state_dim": 7}},
        {"position": ALIBI, "mixer": {"_target_": "nowhere.at.all.Mixer"}},  # another check's business
        {"name": "part1-bigram_2.0+x"},
        {"model": None, "mixer": [1, None, "a"]},
    ],
)
def test_kept(config: dict[str, object]) -> None:
    check_constraints(OmegaConf.create(config))


def test_a_newcomers_mixer_takes_part(package: Path) -> None:
    write(
        package,
        {
            "newcomers.py": """
                from charlab.models.mixers import attention
                from charlab.models.mixers.contract import Mixer

                raise ImportError("the check must not import anything")

                class Plain(Mixer):
                    pass

                class Scoring(Mixer):
                    has_scores: bool = True

                class Derived(attention.Attention):
                    pass

                class Unknown:
                    pass

                def build(embed_dim, context_length): ...
            """
        },
    )
    with pytest.raises(UserError, match=r"model\.position is ALiBi.*model\.mixer is Plain"):
        check_constraints(OmegaConf.create({"model": {"position": ALIBI, "mixer": {"_target_": "newcomers.Plain"}}}))
    for name in ("Scoring", "Derived", "Unknown", "build"):
        config = {"model": {"position": ALIBI, "mixer": {"_target_": f"newcomers.{name}"}}}
        check_constraints(OmegaConf.create(config))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"name": "a" * 300}, "name has 300 characters, too many for a folder: use 200 at most."),
        ({"seed": 2**63}, "seed=9223372036854775808 is too large for a random-number generator: give at most 18"),
        ({"output_dir": ""}, "output_dir is empty: name a folder, or output_dir=. for the one you are in."),
        ({"callbacks": {"samples": 3}}, "callbacks.samples must be a mapping with a _target_, or null, which leaves"),
        ({"logger": {"csv": {"path": "x"}}}, "logger.csv must be a mapping with a _target_, or null, which leaves"),
    ],
)
def test_what_a_run_could_not_begin_with(config: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        check_constraints(OmegaConf.create(config))
    assert str(raised.value).startswith(sentence)


def test_components_may_be_left_out() -> None:
    check_constraints(OmegaConf.create({"callbacks": {"samples": None}, "logger": None}))


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every import of torch fail, even where another test has imported it."""
    original = builtins.__import__

    def guarded(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> object:
        assert level or name.partition(".")[0] != "torch"
        return original(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", guarded)


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (
            ["model=gpt", "model.mixer.num_heads=4", "model.mixer.num_key_value_heads=8"],
            r"model\.mixer\.num_key_value_heads=8 .*model\.mixer\.num_heads=4",
        ),
        (["model=hmm", "model.num_states=0"], r"model\.num_states must be an integer"),
        (["model=masked_diffusion", "model/mixer=attention"], r"model\.mixer .*bidirectional_attention"),
        (["model=s4d", "model.mixer.state_dim=7"], r"model\.mixer\.state_dim=7"),
    ],
)
def test_what_cannot_be_built_is_refused_before_torch_is_imported(overrides: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        compose(overrides)
