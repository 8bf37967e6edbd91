import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from charlab.configuration.compose import Composer, config_loader
from charlab.errors import UserError

from .conftest import VALUES, write


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model=nte", "There is no model=nte; did you mean net?"),
        ("model=xyz", "There is no model=xyz; known are net, open and record."),  # not part/small: a part of a model
        ("model=3", "There is no model=3; known are"),
        ("model/part=null", "There is no model/part=null; known are"),
        ("logger=one,tow", "There is no logger=tow; did you mean two?"),
        ("model/part=smal", "There is no model/part=smal; did you mean small?"),
        ("model/prt=small", "There is no group model/prt; did you mean model/part"),
        ("experiment=god", "There is no experiment=god; did you mean part1/good?"),
        ("experiment=part1", "There is no experiment=part1; known are part1/good, part1/key,"),
        ("experiment=part1/option", "There is no model=nett (in experiment/part1/option.yaml); did you mean net?"),
        ("+model=record", "+model=record adds a second choice for the group: leave out the +."),
        ("++model=record", "++model=record chooses an option of a group: leave out the ++."),
        (
            "seed=1,2",
            "seed=1,2 has several values: sweep over them with -m (charlab.study in Python), or make them a list, "
            "seed=[1,2].",
        ),
        ("model=net,record", "model=net,record has several values: sweep over them with -m"),
        ("seed=range(1,3)", "seed=range(1,3) has several values: sweep over them with -m (charlab.study in Python)."),
        ("seed", "'seed' is not of the form key=value."),
        ("seed.x=3", "There is no key seed.x: seed is a single value."),
        ("model.betas.5=3", "There is no key model.betas.5; known are model.betas.0 and model.betas.1."),
        ("model.betas.x=3", "There is no key model.betas.x; known are model.betas.0 and model.betas.1."),
        ("hydra.job.env_copy=[NOT_SET]", "hydra.job.env_copy names 'NOT_SET', which is not set: "),
        ("=3", "'=3' has no key before its =: write key=value."),
        ("se ed=3", "'se ed=3' has no valid key: write key=value."),
        ("seed=[1,2", "The value of 'seed=[1,2' cannot be read: close its brackets and quotes"),
        ("seed='1", 'The value of "seed=\'1" cannot be read: close its brackets and quotes'),
        ("seed=range(1,x)", "The value of 'seed=range(1,x)' cannot be read: mismatch type"),
        ("hydra.job.chdir=abc", "Error merging override hydra.job.chdir=abc: Value 'abc' is not a valid bool"),
    ],
)
def test_sentences(mistake: Callable[..., str], conf: Path, override: str, sentence: str) -> None:
    told = mistake(override).replace(f" in {conf}", "")
    assert told.startswith(sentence)
    assert "\n" not in told


def test_a_part_that_the_chosen_whole_does_not_have(mistake: Callable[..., str]) -> None:
    assert mistake("model=record", "model/part=small") == (
        "model/part=small changes nothing: the other choices have no model/part."
    )


def test_a_file_that_is_not_yaml_is_located(mistake: Callable[..., str], conf: Path) -> None:
    told = mistake("experiment=part1/syntax")
    assert f'{conf}/experiment/part1/syntax.yaml", line 3' in told
    assert "\n" not in told


def test_a_file_that_includes_itself(mistake: Callable[..., str], conf: Path) -> None:
    write(conf, {"model/circle.yaml": "defaults: [circle, _self_]\nsize: 3\n"})
    assert mistake("model=circle") == (
        "The defaults list of model/circle.yaml has the file itself: leave it out there."
    )
    write(conf, {"model/first.yaml": "defaults: [second]\n", "model/second.yaml": "defaults: [first]\n"})
    assert mistake("model=first").startswith("A defaults list leads back to its own file, or a value is nested too")


def test_a_group_that_a_file_names_by_a_number(mistake: Callable[..., str], conf: Path) -> None:
    write(conf, {"model/numbered.yaml": "defaults: [{1: small}, _self_]\nsize: 3\n"})
    told = mistake("model=numbered")
    assert told.endswith(".")
    assert "\n" not in told


def test_a_file_that_is_not_utf8_is_named(mistake: Callable[..., str], conf: Path) -> None:
    (conf / "model" / "cafe.yaml").write_bytes("# café\n_target_: toy.parts.Record\nsize: 3\n".encode("latin-1"))
    assert mistake("model=cafe") == (
        f"{conf}/model/cafe.yaml is not UTF-8 text (invalid continuation byte): convert it to UTF-8."
    )


def test_options_of_a_further_folder_are_known(composer: Composer, mistake: Callable[..., str], tmp_path: Path) -> None:
    extra = write(tmp_path / "extra", {"model/extra.yaml": "{_target_: toy.parts.Record, size: 5}"})
    searched = f"hydra.searchpath=[{extra}]"
    assert composer.job([searched, "model=extra"]).model.size == 5
    extr = f"There is no model=extr in {tmp_path}/conf or {extra}; did you mean extra?"
    assert mistake(searched, "model=extr") == extr


@pytest.mark.parametrize("config_dir", [None, "."])
def test_a_search_path_that_is_no_list_is_told(conf: Path, config_dir: str | None) -> None:
    composer = Composer("train", config_loader(conf), VALUES, config_dir=config_dir)
    with pytest.raises(UserError, match=r"hydra\.searchpath must be a list of strings"):
        composer.job(["hydra.searchpath=a"])
    for composed in (composer.job, composer.master):
        with pytest.raises(UserError, match=r"The value of 'hydra\.searchpath=\[a' cannot be read"):
            composed(["hydra.searchpath=[a", "seed=1"])


def test_a_group_of_a_package_may_declare_keys(composer: Composer, package: Path) -> None:
    write(package, {"toyconf/__init__.py": "", "toyconf/paths/__init__.py": "", "toyconf/paths/here.yaml": "notes: a"})
    importlib.invalidate_caches()
    config = composer.job(["hydra.searchpath=[pkg://toyconf]", "+paths=here", "model.note=${paths.notes}"])
    assert config.model.note == "a"


def test_the_search_path_of_a_file_is_kept_with_a_further_folder(conf: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write(tmp_path / name, {f"model/{name}.yaml": "{_target_: toy.parts.Record, size: 5}"})
    write(conf, {"mine.yaml": f"defaults: [train, _self_]\nhydra: {{searchpath: ['file://{tmp_path}/first']}}\n"})
    composer = Composer("mine", config_loader(conf), VALUES, config_dir=str(tmp_path / "second"))
    assert [composer.job([f"model={name}"]).model.size for name in ("first", "second")] == [5, 5]


def test_a_list_is_not_laid_over_a_mapping(mistake: Callable[..., str], tmp_path: Path) -> None:
    listed = "{defaults: [net, _self_], part: [{_target_: toy.parts.build, _partial_: true, steps: 3}]}"
    extra = write(tmp_path / "extra", {"model/listed.yaml": listed})
    assert mistake(f"hydra.searchpath=[{extra}]", "model=listed").startswith("A list replaces a mapping")


@pytest.mark.slow
def test_every_job_of_a_sweep_is_checked(composer: Composer) -> None:
    jobs = composer.jobs(["seed=1,2", "model.width=range(3,4)"])
    assert [(job.seed, job.model.width) for job in jobs] == [(1, 3), (2, 3)]
    for overrides in (["seed=1,x"], ["+model.widht=1,2"], ["seed=interval(1,2)"], ["seed=range(1,9,0)"]):
        with pytest.raises(UserError):
            composer.jobs(overrides)


def test_a_pattern_finds_the_options_of_a_further_folder_too(conf: Path, tmp_path: Path) -> None:
    extra = write(tmp_path / "extra", {"model/extra.yaml": "size: 5", "model/_base.yaml": "size: 5"})
    composer = Composer("train", config_loader(conf), VALUES, config_dir=str(extra))
    assert composer.expand(["model=glob(*)"]) == [[f"model={name}"] for name in ("extra", "net", "open", "record")]
    assert composer.expand(["model=glob([n*,r*],exclude=net)", "seed=1,2"]) == [
        ["model=record", "seed=1"],
        ["model=record", "seed=2"],
    ]


def test_a_sweep_may_be_set_in_a_file(composer: Composer, conf: Path) -> None:
    sweep = '# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: "4,5", model.width: "x"}}}'
    write(conf, {"experiment/sweep.yaml": sweep})
    with pytest.raises(UserError, match=r"model\.width must be"):
        composer.jobs(["experiment=sweep"])
    jobs = composer.jobs(["experiment=sweep", "model.width=1"])
    assert [job.seed for job in jobs] == [4, 5]
