from collections.abc import Callable

import pytest
from omegaconf import OmegaConf

from charlab.configuration.compose import Composer
from charlab.errors import UserError
from charlab.studies.definition import Definition, define, grid_arms

Write = Callable[..., str]
Define = Callable[..., Definition]


def test_a_study_is_read_with_its_baseline_first(write_study: Write, define_study: Define) -> None:
    definition = define_study(write_study("margin: 0.02\nseeds: [3, 1]", baseline="rotary"))
    assert [arm.name for arm in definition.arms] == ["rotary", "learned", "none"]
    assert [arm.expect for arm in definition.arms] == ["improve", "improve", "worsen"]
    assert definition.arms[2].overrides == ("model/position=none",)
    assert (definition.name, definition.seeds, definition.margin, definition.protocol) == (
        "mine",
        (3, 1),
        0.02,
        "blocks",
    )


def test_an_arm_may_change_nothing(write_study: Write, define_study: Define) -> None:
    definition = define_study(write_study(arms="{learned: , same: {expect: worsen}, rotary: [a=1]}"))
    assert [arm.overrides for arm in definition.arms] == [(), (), ("a=1",)]


def test_a_number_of_seeds_is_the_first_ones(write_study: Write, define_study: Define) -> None:
    assert define_study(write_study()).seeds == tuple(range(305, 313))
    assert define_study(write_study(), seeds=3, rerun="older").seeds == (305, 306, 307)


def test_a_grid_makes_an_arm_of_each_combination(write_study: Write, define_study: Define) -> None:
    grid = "grid: {model: [gpt, gru], optimizer.lr: [1.0e-3, 0.01], optimizer.decayed: [all]}"
    definition = define_study(write_study(grid, arms="", baseline="gru+lr=0.01+all"))
    names = ["gru+lr=0.01+all", "gpt+lr=0.001+all", "gpt+lr=0.01+all", "gru+lr=0.001+all"]
    assert [arm.name for arm in definition.arms] == names
    assert definition.arms[1].overrides == ("model=gpt", "optimizer.lr=0.001", "optimizer.decayed=all")
    assert definition.arms[1].factors == {"model": "gpt", "lr": "0.001", "decayed": "all"}


def test_factors_with_the_same_last_name_keep_their_whole_ones() -> None:
    (arm,) = grid_arms({"optimizer.lr": ["0.1"], "model.lr": ["true"], "experiment": ["part1/bigram"]})
    assert arm.name == "optimizer.lr=0.1+model.lr=true+part1-bigram"
    assert list(arm.factors) == ["optimizer.lr", "model.lr", "experiment"]


@pytest.mark.parametrize(
    ("body", "more", "sentence"),
    [
        ("basline: a", {}, "There is no key study.basline (in study/mine.yaml); did you mean study.baseline?"),
        ("margin: 0", {}, "study.margin (in study/mine.yaml) must be a number > 0, not 0."),
        ("protocol: block", {}, "study.protocol (in study/mine.yaml) must be one of 'blocks', 'sliding', 'estimate'"),
        ("rerun: [old]", {}, "study.rerun (in study/mine.yaml) must be a list of values, each one of 'older', "),
        ("seeds: 1", {}, "study.seeds=1 is one seed, too few for a verdict: give at least six."),
        ("seeds: [7]", {}, "study.seeds=[7] is one seed"),
        ("seeds: [7, 8, 7]", {}, "study.seeds has 7 twice: give each seed once."),
        ("seeds: 1000000000", {}, "study.seeds is 1,000,000,000: no study has more than 10,000 seeds."),
        ("name: a/b", {}, "study.name='a/b' is not a valid folder name"),
        ("", {"baseline": None}, "study.baseline (in study/mine.yaml) is missing; known are learned, none and rotary."),
        (
            "",
            {"baseline": "learnt"},
            "study.baseline=learnt (in study/mine.yaml) is none of the arms; did you mean learned?",
        ),
        (
            "",
            {"arms": "{learned: []}"},
            "study.arms (in study/mine.yaml) must be a baseline and at least one more, not 1.",
        ),
        ("", {"arms": ""}, "study.arms (in study/mine.yaml) must be a baseline and at least one more, not 0."),
        ("", {"arms": "{learned: [], Learned: [a=1]}"}, "Two arms of the study are named learned and Learned"),
        ("", {"arms": "{learned: [], a b: [x=1]}"}, "The arm a b (in study/mine.yaml) does not have a valid folder"),
        ("", {"arms": "{learned: [], rot: model=gru}"}, "The arm rot (in study/mine.yaml) must be a list of overrides"),
        (
            "",
            {"arms": "{learned: [], rot: [{model: gru}]}"},
            "The arm rot (in study/mine.yaml) must be a list of overrides",
        ),
        (
            "",
            {"arms": "{learned: [], rot: {override: [model=gru]}}"},
            "The arm rot (in study/mine.yaml) has no key override; did you mean overrides?",
        ),
        (
            "",
            {"arms": "{learned: [], rot: {overrides: [model=gru], expect: improves}}"},
            "The arm rot (in study/mine.yaml) has expect='improves'",
        ),
        ("grid: {model: [gpt]}", {}, "study.arms and study.grid (in study/mine.yaml) exclude each other"),
        (
            "grid: {model: gpt}",
            {"arms": ""},
            "study.grid.model (in study/mine.yaml) must be a list of values, not 'gpt'.",
        ),
    ],
)
def test_a_mistake_in_a_study_is_told_in_a_sentence(
    write_study: Write, define_study: Define, body: str, more: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError) as raised:
        define_study(write_study(body, **more))
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("arms: {a: [], a: [x=1]}", "Two arms are named a (in study/mine.yaml, line 4): give each a name of its own."),
        ("margin: 1\nmargin: 2", "The key margin is given twice (in study/mine.yaml, line 5): keep one of them."),
    ],
)
def test_what_is_given_twice_is_named(write_study: Write, composer: Composer, body: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        composer.master([f"study={write_study(body, arms='')}"])
    assert str(raised.value) == sentence


def test_a_file_without_the_base_is_told_so() -> None:
    with pytest.raises(UserError, match=r"^study.baseline \(in study/own.yaml\) is missing: begin the file with def"):
        define(OmegaConf.create({"name": "own", "hypothesis": ""}), "own")
