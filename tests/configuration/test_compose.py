from functools import partial
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from charlab.configuration import sources
from charlab.configuration.check import check_output_folder, output_folder
from charlab.configuration.compose import Composer, compose
from charlab.configuration.sources import VERSION_BASE, conf_folder
from charlab.configuration.value_types import VALUES
from charlab.errors import UserError


def test_composing_twice_gives_the_same_and_leaves_no_trace() -> None:
    GlobalHydra.instance().clear()  # an application that a test before this one ran may have left it
    HydraConfig.instance().cfg = None
    overrides = ["model=gpt", "seed=0", "logger=csv,tensorboard"]
    first, second = compose(overrides), compose(overrides)
    assert first == second
    assert first.seed == 0
    assert list(first.logger) == ["csv", "tensorboard"]
    assert "hydra" not in first
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()


@pytest.mark.slow
def test_a_name_is_the_model_and_the_corpus_unless_an_experiment_has_one() -> None:
    assert compose(["model=gpt"]).name == "gpt-tinyshakespeare"
    assert compose(["experiment=part1/bigram"]).name == "part1-bigram"
    assert compose(["name=mine"]).name == "mine"


def test_hydras_own_node_comes_along_on_request() -> None:
    config = compose(["name=mine"], return_hydra_config=True)
    assert config.hydra.runtime.choices.model == "transformer"
    assert OmegaConf.to_container(config.hydra.run, resolve=False) == {
        "dir": "${output_dir}/runs/${name}/${fingerprint:}"
    }


def test_loggers_and_callbacks_may_be_left_out_and_nothing_else() -> None:
    config = compose(["~logger", "~callbacks"])
    assert config.logger is None
    assert config.callbacks is None
    assert compose(["logger=null", "callbacks=null", "experiment=null"]).logger is None
    with pytest.raises(UserError, match="The configuration has no optimizer: do not delete it"):
        compose(["~optimizer"])


def test_within_another_hydra_application(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("a: 1\n")
    other = {"version_base": "1.2"} if VERSION_BASE else {}  # Hydra 1.4 knows no other than its own
    with hydra.initialize_config_dir(str(tmp_path), **other):
        before, base = GlobalHydra.instance().hydra, hydra.version.getbase()
        assert compose(["model=gpt"]).model.num_layers == 4
        with pytest.raises(UserError):
            compose(["model=gtp"])
        assert GlobalHydra.instance().hydra is before
        assert hydra.version.getbase() == base
        assert hydra.compose("other").a == 1


def test_wrong_values_are_the_users() -> None:
    with pytest.raises(UserError, match=r"trainer\.max_steps must be an integer"):
        compose(["trainer.max_steps=abc"])
    with pytest.raises(UserError, match=r"model\.vocab_size cannot be configured: the program supplies it"):
        compose(["+model.vocab_size=3"])
    with pytest.raises(UserError, match=r"plot\.log_steps must be true or false, not 1"):
        compose(["plot.log_steps=1"])
    with pytest.raises(UserError, match=r"There is no key plot\.log_step; did you mean plot\.log_steps"):
        compose(["+plot.log_step=true"])
    with pytest.raises(UserError, match="stride must be an integer"):
        compose(["run=x", "stride=0"], "evaluate")
    with pytest.raises(UserError, match="output is empty: name a folder"):
        compose(["run=x", "output="], "export")
    with pytest.raises(UserError, match=r"model has no _target_: let its file name what to build"):
        compose(["~model._target_"])
    with pytest.raises(UserError, match=r"trainer\.profiler has no _target_: give it one"):
        compose(["model=bigram", "trainer.profiler={dirpath: x}"])


@pytest.mark.slow
def test_the_output_folder_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    def check(output_dir: Path, folder: str = "${output_dir}/run", *, sweep: bool = False) -> None:
        overrides = [f"output_dir={output_dir}", f"hydra.run.dir={folder}", f"hydra.sweep.subdir={folder}"]
        check_output_folder(output_folder(compose(overrides, return_hydra_config=True), sweep=sweep))

    check(tmp_path / "new" / "folder")
    check(tmp_path / "new" / "folder", "${hydra.job.num}", sweep=True)  # not known before the job runs
    with pytest.raises(UserError, match=r"hydra\.run\.dir needs a value that a single run lacks"):
        check(tmp_path / "new" / "folder", "${hydra.job.num}")
    with pytest.raises(UserError, match=r"hydra\.run\.dir is empty: name a folder"):
        check(tmp_path / "new" / "folder", "")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"because .*file is a file"):
        check(tmp_path / "file")
    with pytest.raises(UserError, match="'nope' not found"):
        check(tmp_path, "${nope}")


def test_where_the_configuration_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (conf_folder() / "model").is_dir()
    module = tmp_path / "site-packages" / "charlab" / "configuration" / "sources.py"
    monkeypatch.setattr(sources, "__file__", str(module))
    with pytest.raises(UserError, match="install charlab again"):
        conf_folder()
    installed = tmp_path / "site-packages" / "charlab" / "conf"
    installed.mkdir(parents=True)
    (installed / "train.yaml").touch()
    assert conf_folder() == installed


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["optimizer.lr=inf"], "optimizer.lr must be a number > 0, not inf, which is infinite."),
        (["optimizer.lr=1e400"], "optimizer.lr must be a number > 0, not inf, which is infinite."),
        slow(["optimizer.eps=inf"], "optimizer.eps must be a number > 0, not inf, which is infinite."),
        slow(["model=gpt", "model.mixer.soft_cap=inf"], "model.mixer.soft_cap must be a number > 0 or none, not inf"),
        (
            ["model=gpt", "model.mixer.soft_cap=1e-46"],
            "model.mixer.soft_cap must be a number > 0 or none, not 1e-46, w",
        ),
        slow(["model/position=rotary", "model.position.base=inf"], "model.position.base must be a number > 0, not inf"),
        slow(["model.initialization.std=inf"], "model.initialization.std must be a number > 0, not inf"),
        (["callbacks.samples.temperature=inf"], "callbacks.samples.temperature must be a number > 0, not inf"),
        (["model=gpt", "model.norm.eps=inf"], "model.norm.eps must be a number, not inf, which is infinite."),
        slow(["model=gpt", "model.norm.eps=nan"], "model.norm.eps must be a number, not nan."),
        (["trainer.limit_train_batches=inf"], "trainer.limit_train_batches must be a number, not inf"),
        slow(["trainer.gradient_clip_val=nan"], "trainer.gradient_clip_val must be a number ≥ 0 or none, not nan."),
        (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val must be a number ≥ 0 or none, not -1."),
    ],
)
def test_what_is_not_finite_is_refused_where_it_means_nothing(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        compose(overrides)
    assert str(raised.value).startswith(sentence)


def test_infinity_stays_where_it_means_no_limit() -> None:
    config = compose(["trainer.gradient_clip_val=inf", "budget.max_seconds=inf"])
    assert config.trainer.gradient_clip_val == config.budget.max_seconds == float("inf")


def test_a_folder_conf_of_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        compose(["experiment=mine"])
    assert f"There is no experiment=mine in charlab's own configuration or {tmp_path}/conf (no such folder)" in str(
        raised.value
    )
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    assert compose(["model=bigram", "experiment=mine"]).name == "mine"
    assert f"Options are read from {tmp_path}/conf as well.\n" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"in charlab's own configuration or {tmp_path}/conf; did you mean mine"):
        compose(["experiment=mnie"])
    assert capsys.readouterr().err == ""  # said once


@pytest.mark.slow
def test_a_file_with_the_name_of_one_of_charlab_s_is_refused_when_it_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may be another project's, which has a model named gpt, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    for name in ("gpt", "transformer"):
        (tmp_path / "conf" / "model" / f"{name}.yaml").write_text("_target_: another.Project\n")
    (tmp_path / "conf" / "train.yaml").write_text("another: project\n")
    assert compose(["data=play"]).model._target_.startswith("charlab.")
    with pytest.raises(UserError) as raised:
        compose(["model=gpt"])
    assert str(raised.value) == (
        f"model=gpt is in charlab's own configuration and in {tmp_path}/conf: give the latter file another name."
    )
    (tmp_path / "conf" / "experiment").mkdir()
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /model: gpt]\n"
    )
    with pytest.raises(UserError, match=r"^model=gpt \(in experiment/mine\.yaml\) is in charlab's own configuration"):
        compose(["experiment=mine"])
    assert compose(["experiment=part2/gpt"]).model._target_.startswith("charlab.")  # which means its own


def test_a_long_mapping_in_place_of_an_option_is_no_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    long = f"{{mine:{{_target_:builtins.dict,words:[{','.join(['abcdefgh'] * 40)}]}}}}"
    assert len(compose(["model=bigram", f"+callbacks={long}"]).callbacks.mine.words) == 40


def test_the_folder_conf_of_a_checkout_is_not_appended_to_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(conf_folder().parent)
    with pytest.raises(UserError) as raised:
        compose(["model=gtp"])
    assert f"There is no model=gtp in {conf_folder()}; did you mean gpt" in str(raised.value)
    compose(["model=gpt"])
    assert capsys.readouterr().err == ""


def test_keys_of_a_mapping_that_are_numbers_stay_numbers() -> None:
    scheduling = "{_target_: lightning.pytorch.callbacks.GradientAccumulationScheduler, scheduling: {0: 2}}"
    assert compose(["model=bigram", f"+callbacks.mine={scheduling}"]).callbacks.mine.scheduling == {0: 2}


def test_a_further_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "José's, (old)=[conf]" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    assert compose(["model=bigram", "experiment=mine"], config_dir=str(folder.parent)).name == "mine"
    with pytest.raises(UserError, match=r"There is no experiment=mnie in .*; did you mean mine"):
        compose(["experiment=mnie"], config_dir=str(folder.parent))


def test_a_further_folder_and_a_search_path_are_both_searched(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "experiment").mkdir(parents=True)
        (tmp_path / name / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\nname: {name}\n")
    searched = f"hydra.searchpath=[file://{tmp_path / 'second'}]"
    for name in ("first", "second"):
        overrides = ["model=bigram", f"experiment={name}", searched]
        assert compose(overrides, config_dir=str(tmp_path / "first")).name == name


def test_a_further_folder_may_hold_the_primary_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\nname: mine\n")
    composer = Composer("mine", values=VALUES["train"], config_dir=str(tmp_path))
    config = composer.job(composer.prepare(["model=bigram", "logger=csv,tensorboard"]))
    assert (config.name, list(config.logger)) == ("mine", ["csv", "tensorboard"])


def test_a_further_folder_may_be_searched_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    for overrides in ([], ["hydra.searchpath=[conf]"]):
        assert compose(["model=bigram", "experiment=mine", *overrides], config_dir="conf").name == "mine"


def test_the_name_of_an_account_may_be_a_number() -> None:
    composer = Composer()
    overrides = composer.prepare(["launcher=slurm", "launcher.account=1984"])
    composer.check("launcher", overrides)
    assert composer.master(overrides).launcher.account == "1984"
