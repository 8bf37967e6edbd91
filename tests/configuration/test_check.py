import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from charlab.configuration.check import check_parts, check_values, resolved
from charlab.configuration.compose import Composer, config_loader, register_resolver
from charlab.configuration.sources import Composition, hydra_config
from charlab.errors import UserError

from .conftest import FILES, VALUES, write

Mistake = Callable[..., str]


def test_a_good_configuration_passes(composer: Composer) -> None:
    config = composer.job(["model.width=4", "model.placement=post", "+logger.three={_target_:toy.parts.Open,x:1}"])
    assert config.model.width == 4
    assert config.logger.three.x == 1  # a further component, with a key that **kwargs takes
    assert composer.job(["model=record", "model.size=4"]).model.size == 4


def test_the_rest_of_a_partials_arguments_may_come_with_its_call(composer: Composer) -> None:
    assert "steps" not in composer.job(["~model.part.steps"]).model.part


def test_what_needs_no_import_is_checked_before_anything_is_imported(conf: Path, package: Path) -> None:
    write(package, {"unimportable.py": "raise ImportError('imported')"})
    write(conf, {"model/unimportable.yaml": "{_target_: unimportable.Net}"})
    composer = Composer("train", config_loader(conf), VALUES)
    with pytest.raises(UserError, match="There is no key sede"):
        composer.jobs(["model=unimportable", "+sede=1"])
    with pytest.raises(UserError, match="seed must be an integer"):
        composer.job(["model=unimportable", "seed=x"])
    with pytest.raises(UserError, match=r"Importing unimportable failed in .*unimportable.py, line 1: ImportError"):
        composer.job(["model=unimportable"])


def test_a_parameter_that_only_the_constructor_declares_needs_no_plus(composer: Composer, mistake: Mistake) -> None:
    config = composer.job(["model.part.more=3", "model.width=2"])
    assert (config.model.part.more, config.model.width) == (3, 2)
    assert "+model.part.more=3" in config.hydra.overrides.task
    assert mistake("model.part.more=x") == "model.part.more must be an integer, not 'x'."


def test_a_parameter_of_another_target_needs_no_plus(composer: Composer, mistake: Mistake) -> None:
    another = "model._target_=toy.parts.Record"
    assert composer.job([another, "model.size=4", "model=open", "~model.depth"]).model.size == 4
    assert mistake(another, "model.sise=4", "model=open").startswith("There is no key model.sise")


def test_what_the_file_of_another_target_sets_is_to_be_left_out(mistake: Mistake) -> None:
    assert mistake("model._target_=toy.parts.Record", "model=open") == (
        "toy.parts.Record does not take model.depth (in model/open.yaml): leave it out with ~model.depth."
    )
    assert mistake("model._target_=toy.parts.Inherits", "~model.part").endswith(
        " (in model/net.yaml): leave them out with ~model.depth ~model.placement ~model.dropout ~model.bias "
        "~model.betas ~model.note ~model.rate."
    )
    assert mistake("model._target_=toy.parts.Net", "+model.typo=1").startswith("There is no key model.typo; ")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.widht=3", "There is no key model.widht; did you mean model.width?"),
        ("+model.typo=1", "There is no key model.typo; known are model.betas, model.bias"),
        ("model.part.step=3", "There is no key model.part.step; did you mean model.part.steps?"),
        ("+model={widht: 3}", "There is no key model.widht; did you mean model.width?"),
        ("sede=3", "There is no key sede; did you mean seed?"),
        ("modle=net", "There is no key modle; did you mean model?"),
        ("width=3", "There is no key width; did you mean "),
        ("+logger.three=1", "There is no key logger.three; known are logger.one and logger.two."),
        ("+seed=3", "+seed=3 adds a key that exists already: leave out the +."),
        ("~seed", "The configuration has no seed: do not delete it."),
        ("~model.width", "model.width is missing: toy.parts.Net needs it."),
        ("hydra.job.chdri=true", "There is no key hydra.job.chdri; did you mean hydra.job.chdir?"),
    ],
)
def test_unknown_keys(mistake: Mistake, override: str, sentence: str) -> None:
    assert mistake(override).startswith(sentence)


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory, package: Path) -> tuple[Composition, DictConfig]:
    """The toy configuration of files that no test changes, and how it is composed."""
    composer = Composer("train", config_loader(write(tmp_path_factory.mktemp("conf"), FILES)), VALUES)
    composition = Composition(composer, [])
    assert "model.width" in composition.declared  # kept by the copies below
    return composition, composition.load()


def check_with(composed: tuple[Composition, DictConfig], key: str, value: object) -> None:
    """Check the toy configuration with one value changed, as if it had been typed."""
    composition, config = copy.copy(composed[0]), copy.deepcopy(composed[1])
    composition.overrides = [f"{key}={value}"]
    OmegaConf.set_readonly(config.hydra, False)
    OmegaConf.update(config, key, value)
    with hydra_config(config):
        tree = resolved(config, composition, complete=True)
    check_values(tree, composition, VALUES)
    check_parts(tree, composition)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model.width", "abc", "model.width must be an integer ≥ 1, not 'abc'."),
        ("model.width", 0, "model.width must be an integer ≥ 1, not 0."),
        ("model.width", 2.0, "model.width must be an integer ≥ 1, not 2.0."),
        ("model.width", True, "model.width must be an integer ≥ 1, not true."),
        ("model.width", None, "model.width must be an integer ≥ 1, not none."),
        ("model.depth", -1, "model.depth must be an integer ≥ 1, not -1."),  # through an alias
        ("model.placement", "pst", "model.placement must be one of 'pre', 'post', not 'pst'; did you mean post?"),
        ("model.dropout", 1, "model.dropout must be a number ≥ 0 and < 1, not 1."),
        ("model.bias", 1, "model.bias must be true or false, not 1."),
        ("model.betas", [0.9], "model.betas must be a list of 2 values (a number, a number), not [0.9]."),
        ("model.note", ["a"], "model.note must be text or none, not ['a']."),
        ("model.rate", 0, "model.rate must be a number > 0, not 0."),
        ("model.part.steps", "x", "model.part.steps must be an integer ≥ 1, not 'x'."),
        ("seed", "x", "seed must be an integer, not 'x'."),
        ("force", 1, "force must be true or false, not 1."),
        ("name", "${model}", "name must be text, not {"),
        ("name", "a/b", "name='a/b' is not a valid folder name"),
        ("model._target_", "toy.parts.Nett", "model._target_: There is no Nett in toy.parts; did you mean Net?"),
        ("model._target_", "toy.prts.Net", "model._target_: There is no prts in toy; did you mean parts?"),
        ("model._target_", "tyo.Net", "model._target_: There is no module tyo"),
        ("model._target_", 3, "model._target_ must be the dotted name of a class or function, not 3."),
        ("model.width", "${model.dpth}", "model.width refers to ${model.dpth}, which does not exist; did you mean "),
        ("model.width", "${seeed:}", "model.width cannot be resolved: Unsupported interpolation type seeed."),
        ("model.note", {1: 2, "a": 3}, "model.note has keys of several types: put all of them in quotes."),
        ("model.width", "???", "model.width is missing: give model.width=…."),
        ("model.note", "${model}", "model.note cannot be resolved: Interpolation to parent node detected."),
        ("model.betas", ["${model.betas}"], "model.betas[0] cannot be resolved: Interpolation to parent node"),
    ],
)
def test_wrong_values(composed: tuple[Composition, DictConfig], key: str, value: object, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        check_with(composed, key, value)
    assert str(raised.value).startswith(sentence)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.width", "${model.depth}"),
        ("model.rate", 1),
        ("model.note", "abc"),
        ("model.part", None),
        ("model.note", "${hydra:runtime.output_dir}"),  # known only once the program runs
        ("seed", 0),
    ],
)
def test_right_values(composed: tuple[Composition, DictConfig], key: str, value: object) -> None:
    check_with(composed, key, value)


def test_a_resolver_says_itself_what_is_wrong(mistake: Mistake) -> None:
    def fail() -> None:
        raise UserError("Give a number.")

    register_resolver("fail", fail)
    assert mistake("model.width=${fail:}") == "Give a number."


def test_mistakes_in_files_name_the_file(mistake: Mistake) -> None:
    assert mistake("experiment=part1/key").startswith(
        "There is no key model.widht (in experiment/part1/key.yaml); did you mean model.width?"
    )
    assert mistake("experiment=part1/value") == (
        "model.width (in experiment/part1/value.yaml) must be an integer ≥ 1, not 'wide'."
    )
    assert mistake("experiment=part1/top") == (
        "There is no key modle (in experiment/part1/top.yaml); did you mean model?"
    )
    assert mistake("experiment=part1/value", "model.width=x") == "model.width must be an integer ≥ 1, not 'x'."


def test_keys_in_files_that_would_set_nothing(conf: Path, composer: Composer, mistake: Mistake) -> None:
    """Hydra reads such a file without complaint, and its keys are not those that were meant."""
    write(conf, {"experiment/part1/bare.yaml": "name: bare\nmodel: {width: 16}\n"})
    assert mistake("experiment=part1/bare") == (
        "experiment.name (in experiment/part1/bare.yaml) sets nothing: begin the file with the line "
        "# @package _global_, so that it sets name."
    )
    write(conf, {"experiment/part1/dots.yaml": "# @package _global_\nmodel.width: 16\n"})
    assert mistake("experiment=part1/dots") == (
        "model.width (in experiment/part1/dots.yaml) is one key with a dot in its name, which sets nothing: write "
        "model: {width: …}."
    )
    write(conf, {"experiment/part1/deep.yaml": "# @package _global_\nhydra.job.name: mine\n"})
    assert mistake("experiment=part1/deep").endswith("write hydra: {job: {name: …}}.")
    write(conf, {"local/default.yaml": "texts: /scratch\nmodel: small\n"})  # for ${local.texts}
    assert composer.job(["model.note=${local.texts}"]).model.note == "/scratch"


def test_the_local_file_is_optional_and_may_change_values_but_not_add_any(
    composer: Composer, conf: Path, mistake: Mistake
) -> None:
    assert composer.job([]).seed == 1
    write(conf, {"local/default.yaml": "# @package _global_\nseed: 7\n"})
    assert composer.job([]).seed == 7
    write(conf, {"local/default.yaml": "# @package _global_\nsede: 7\n"})
    assert mistake() == "There is no key sede (in local/default.yaml); did you mean seed?"


def test_a_primary_configuration_of_the_users_own_may_declare_keys(conf: Path) -> None:
    write(conf, {"mine.yaml": "defaults: [train, _self_]\nextra: 3\n"})
    composer = Composer("mine", config_loader(conf), VALUES)
    assert composer.job(["extra=4"]).extra == 4
    assert composer.prepare(["logger=one,two", "experiment=null"]) == ["logger=[one,two]", "~experiment"]
    assert Composer("mine.yaml", config_loader(conf), VALUES).job(["extra=4"]).extra == 4


def test_a_primary_configuration_that_is_not_yaml_is_located(conf: Path) -> None:
    write(conf, {"mine.yaml": "defaults: [train\n"})
    composer = Composer("mine", config_loader(conf), VALUES)
    with pytest.raises(UserError, match=r'mine\.yaml", line'):
        composer.job(composer.prepare(["seed=2"]))


@pytest.mark.parametrize("listed", ["", " 3", " {model: net}"])
def test_a_primary_configuration_whose_defaults_are_no_list(conf: Path, listed: str) -> None:
    write(conf, {"mine.yaml": f"defaults:{listed}\n"})
    composer = Composer("mine", config_loader(conf), VALUES)
    with pytest.raises(UserError, match="Invalid defaults list in 'mine'"):
        composer.job(composer.prepare(["seed=2"]))


def test_missing_values_are_allowed_where_a_configuration_is_only_shown(composer: Composer) -> None:
    overrides = ["model.width=???"]
    assert "width" in composer.job(overrides, complete=False).model.keys()  # noqa: SIM118
    with pytest.raises(UserError, match="is missing"):
        composer.job(overrides, complete=True)


def test_a_syntax_error_in_the_users_code_is_located(composer: Composer, package: Path, mistake: Mistake) -> None:
    write(package, {"broken.py": "class Net:\n    def __init__(self, *, width: int = : pass\n"})
    assert re.search("broken.py, line 2, is not Python", mistake("model._target_=broken.Net"))
