"""A search suggests, remembers and goes on. What its trials would learn is made up here: nothing is trained."""

import json
import math
import re
import shlex

import optuna
import pytest
from omegaconf import OmegaConf

from charlab import cli
from charlab.configuration.sources import conf_folder
from charlab.errors import UserError
from charlab.studies.executors.local import Local
from charlab.studies.outcomes import Outcome
from charlab.studies.parameters import Parameter
from charlab.studies.search import MIXED, define_search
from tests.helpers.made_up_trials import values_of

pytestmark = pytest.mark.slow

SEARCH = """
defaults: [_base, _self_]
overrides: [data=play, data.corpus.length=20000, data.context_length=8, model=own, trainer.accelerator=cpu]
parameters:
  optimizer.lr: {low: 1.0e-4, high: 1.0, log: true}
  data.batch_size: {low: 4, high: 16, step: 4}
  scheduler: {choices: [constant, warmup_cosine]}
trials: 4
at_once: 2
"""


def quadratic(cell):
    return 2.0 + (math.log10(float(values_of(cell)["optimizer.lr"])) + 2) ** 2


@pytest.fixture
def run(tmp_path, trainer):
    """Give the search's command; return its exit code."""
    trainer.nll = quadratic
    (tmp_path / "conf" / "search").mkdir(parents=True)
    (tmp_path / "conf" / "search" / "mine.yaml").write_text(SEARCH)
    (tmp_path / "conf" / "model").mkdir()
    (tmp_path / "conf" / "model" / "own.yaml").write_text("defaults: [bigram]")

    def command(*overrides, output="outputs"):
        folder = tmp_path / output
        return cli.train(
            ["-m", "--config-dir", str(tmp_path / "conf"), "search=mine", f"output_dir={folder}", *overrides]
        )

    return command


def trials_in(tmp_path, output="outputs"):
    """Return the values of the trials by key, in the order of the trials."""
    return json.loads((tmp_path / output / "searches" / "mine" / "trials.json").read_text())["trials"]


def test_trials_are_run_and_the_best_is_told(run, trainer, tmp_path, capsys):
    assert run() == 0
    assert [len(batch) for batch in trainer.batches] == [2, 2]
    for cell, params in zip(trainer.cells(), trials_in(tmp_path), strict=True):
        values = values_of(cell)
        assert float(values["optimizer.lr"]) == params["optimizer.lr"]
        assert int(values["data.batch_size"]) in (4, 8, 12, 16)
        assert values["scheduler"] in ("constant", "warmup_cosine")
        assert (values["data.dev_fraction"], values["seed"]) == ("0.05", "305")
    assert len({cell.run for cell in trainer.cells()}) == 4
    output = capsys.readouterr().out
    best = min(trainer.cells(), key=quadratic)
    assert "4 of 4 trials, 4 with a result" in output
    shown = re.findall(r"^([0-3]) +([0-9.]+) ", output, re.MULTILINE)
    assert shown == sorted(
        ((str(i), f"{quadratic(c):.4f}") for i, c in enumerate(trainer.cells())), key=lambda row: row[1]
    )
    (command,) = re.findall(r"charlab train (.*)", output)
    assert f"optimizer.lr={values_of(best)['optimizer.lr']}" in command
    assert "dev_fraction" not in command
    assert cli.train([*shlex.split(command), "--cfg", "job"]) == 0  # with the options of the given folder
    assert run() == 0
    assert len(trainer.batches) == 2


def test_losses_that_are_bounds_are_marked(run, trainer, capsys):
    trainer.likelihood = "bound"
    assert run("search.trials=2") == 0
    output = capsys.readouterr().out
    assert len(re.findall(r"^[01] +≤ \d\.\d{4} ", output, re.MULTILINE)) == 2
    assert MIXED not in output


def test_losses_that_were_compared_with_bounds_are_told(run, trainer, capsys):
    def loss(cell):
        trainer.likelihood = "bound" if cell.arm == "trial-001" else "exact"
        return quadratic(cell)

    trainer.nll = loss
    assert run("search.trials=3") == 0
    output = capsys.readouterr().out
    assert re.findall(r"^(\d) +≤ ", output, re.MULTILINE) == ["1"]
    assert f"3 of 3 trials, 3 with a result.\n{MIXED}\nThe best on" in output


@pytest.mark.parametrize(
    "output", ["50%25 off", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("what?", "a%20b", "{a}#b"))]
)
def test_a_folder_is_not_read_as_a_part_of_an_address(run, trainer, tmp_path, output):
    assert run(output=output) == 0
    assert (tmp_path / output / "searches" / "mine" / "trials.json").is_file()
    assert run(output=output) == 0
    assert len(trainer.batches) == 2


def test_it_goes_on_where_it_was_interrupted(run, trainer):
    assert run() == 0
    whole = [cell.run for cell in trainer.cells()]
    trainer.batches, trainer.folders, trainer.interrupted_at = [], [], 2
    assert run(output="other") == 130
    trainer.interrupted_at = None
    first = len(trainer.batches)
    assert run(output="other") == 0
    assert trainer.batches[1] == trainer.batches[first]
    assert [cell.run for batch in (trainer.batches[0], *trainer.batches[first:]) for cell in batch] == whole


def test_more_trials_can_be_asked_for_later(run, trainer, tmp_path):
    assert run("search.trials=3") == 0
    assert [len(batch) for batch in trainer.batches] == [2, 1]
    assert run("search.trials=5", "search.at_once=5") == 0
    assert [len(batch) for batch in trainer.batches] == [2, 1, 2]
    assert len(trials_in(tmp_path)) == 5


def test_trials_without_a_result_are_recorded(run, trainer, tmp_path, capsys):
    fates = iter([Outcome("diverged", "The loss became nan"), Outcome("failed", "ValueError: no"), math.inf])
    trainer.nll = lambda cell: next(fates, None) or quadratic(cell)
    assert run() == 0
    output = capsys.readouterr().out
    assert run() == 0
    assert (len(trials_in(tmp_path)), len(trainer.cells())) == (4, 4)
    again = capsys.readouterr().out
    assert again
    assert output.endswith(again)
    assert "4 of 4 trials, 1 with a result" in output
    assert re.search(r"trial 0 \(optimizer.lr=.*\) diverged: The loss became nan", output)
    assert "failed: ValueError: no" in output
    assert ") has no finite loss: " in output


def test_a_killed_trial_is_tried_again_by_the_next_command(run, trainer, tmp_path, capsys):
    fates = iter([Outcome("killed", "Killed by SIGKILL."), Outcome("failed", "ValueError: no")])
    trainer.nll = lambda cell: next(fates, None) or quadratic(cell)
    assert run() == 0  # although one was killed, the others are tried
    output = capsys.readouterr().out
    assert "killed: Killed by SIGKILL." in output
    assert "4 of 4 trials, 2 with a result" in output
    first, tried = trainer.cells(), trials_in(tmp_path)
    assert run() == 0
    assert trainer.cells() == [*first, first[0]]
    assert trials_in(tmp_path) == tried
    assert "4 of 4 trials, 3 with a result" in capsys.readouterr().out


def test_a_trial_that_is_always_killed_is_tried_once_by_each_command(run, trainer):
    trainer.nll = lambda cell: Outcome("killed", "Killed by SIGKILL.") if cell.arm == "trial-000" else quadratic(cell)
    others = ["trial-001", "trial-002", "trial-003"]
    for tries in (1, 2, 3):
        assert run() == 0
        assert sorted(cell.arm for cell in trainer.cells()) == [*["trial-000"] * tries, *others]


def test_a_killed_trial_that_does_not_begin_again_has_not_ended(run, trainer, monkeypatch, capsys):
    trainer.nll = lambda cell: Outcome("killed", "Killed by SIGKILL.") if cell.arm == "trial-000" else quadratic(cell)
    assert run() == 0
    assert "4 of 4 trials, 3 with a result" in capsys.readouterr().out
    monkeypatch.setattr(Local, "run", lambda self, folder, cells: None)  # a cluster has lost its job
    run()
    assert "3 of 4 trials, 3 with a result" in capsys.readouterr().out


def test_a_trial_that_ran_out_of_time_is_tried_again_with_more(run, trainer):
    late = Outcome("timed out", "It took longer.", seconds=60.0)
    trainer.nll = lambda cell: late if cell.arm == "trial-000" else quadratic(cell)
    for _ in range(2):
        assert run("search.time_limit=60.0") == 0
        assert len(trainer.cells()) == 4
    trainer.nll = quadratic
    assert run("search.time_limit=120.0") == 0
    assert [cell.arm for cell in trainer.cells()[4:]] == ["trial-000"]


def test_what_became_of_a_run_counts_for_every_trial_of_its_values(run, trainer, tmp_path, capsys):
    """Four trials of two values have two runs at most, each of which is a cell of one trial alone."""
    rest = SEARCH[SEARCH.index("  scheduler:") :].replace("at_once: 2", "at_once: 4")
    head = SEARCH[: SEARCH.index("  optimizer.lr:")]
    (tmp_path / "conf" / "search" / "mine.yaml").write_text(head + rest)
    trainer.nll = lambda cell: Outcome("diverged", "The loss became nan")
    assert run() == 1
    assert len(trainer.cells()) <= 2
    assert "4 of 4 trials, 0 with a result" in capsys.readouterr().out


def test_a_search_without_a_result_fails(run, trainer):
    trainer.nll = lambda cell: Outcome("failed", "ValueError: no")
    assert run() == 1


def test_a_trial_that_has_not_ended_ends_the_search_for_now(run, trainer, tmp_path):
    trainer.nll = lambda cell: Outcome("interrupted", "The process is gone.")
    assert run() == 1
    assert len(trainer.batches) == 1
    trainer.nll = quadratic
    assert run() == 0
    assert trainer.batches[1] == trainer.batches[0]
    assert len(trials_in(tmp_path)) == 4


def test_a_trial_that_other_code_has_run_is_run_again(run, trainer, tmp_path, capsys):
    assert run() == 0
    first, tried = list(trainer.cells()), trials_in(tmp_path)
    record = tmp_path / "outputs" / "runs" / first[1].run / "record.json"
    record.write_text(record.read_text().replace(first[1].code, "0123456789ab"))
    trainer.nll = lambda cell: 1.0
    capsys.readouterr()
    assert run() == 0
    (again,) = trainer.batches[2]
    assert (again.arm, again.overrides) == (first[1].arm, first[1].overrides)
    assert again.run == f"{first[1].run}-{first[1].code}"
    assert trials_in(tmp_path) == tried
    output = capsys.readouterr().out
    assert output.startswith("1 trial of this search was run by different code (code 0123456789ab, today ")
    assert re.search(r"^1 +1.0000 ", output, re.MULTILINE)


def test_a_trial_that_refused_because_its_code_was_edited_is_run_again(run, trainer, tmp_path):
    trainer.nll = lambda cell: Outcome("failed", "The code of this run was edited after its study was planned.")
    assert run() == 1
    for file in (tmp_path / "outputs" / "searches" / "mine" / "cells").glob("*/*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"code": "0123456789ab"}))
    trainer.nll, trainer.batches, trainer.folders = quadratic, [], []
    assert run() == 0
    assert len(trainer.cells()) == len(trials_in(tmp_path)) == 4


def test_a_file_of_trials_that_cannot_be_read_is_named(run, trainer, tmp_path, capsys):
    assert run() == 0
    (tmp_path / "outputs" / "searches" / "mine" / "trials.json").write_text("[")
    assert run() == 2
    assert "trials.json is corrupt: delete it to start the search over." in capsys.readouterr().err


def test_another_search_in_the_same_folder(run, trainer, capsys):
    assert run() == 0
    assert run("optimizer=sgd") == 2
    assert "has other parameters or settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("search.tria=3", "There is no key search.tria; did you mean search.trials?"),
        ("dry_run=true", "what a search will try is not known yet"),
        ("model.embed_dim=3", "does not compose: There is no key model.embed_dim"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(run, tmp_path, capsys, override, sentence):
    assert run(override) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_an_experiment_that_sets_what_only_hydras_jobs_have_is_refused(run, tmp_path, capsys):
    (tmp_path / "conf" / "experiment").mkdir()
    own = "# @package _global_\nhydra: {job: {env_set: {MINE: '1'}}}\n"
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(own)
    search = SEARCH.replace("overrides: [", "overrides: [experiment=own, ")
    (tmp_path / "conf" / "search" / "mine.yaml").write_text(search)
    assert run() == 2
    assert "experiment=own sets hydra.job.env_set, which is for Hydra's own jobs" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def define(**changes):
    base = OmegaConf.load(conf_folder() / "search" / "_base.yaml")
    return define_search(OmegaConf.merge(base, {"parameters": {"optimizer.lr": {"low": 0.1, "high": 1}}}, changes), "x")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": "validation"}, "is reported, so nothing may be chosen on it"),
        ({"trials": 0}, "search.trials (in search/x.yaml) must be"),
        ({"parameters": None}, "search.parameters (in search/x.yaml) must be"),
        ({"tria": 3}, "There is no key search.tria (in search/x.yaml); did you mean search.trials?"),
        ({"overrides": ["optimizer.lr=1"]}, "optimizer.lr=1, which is searched"),
        ({"parameters": {"seed": {"choices": [1, 2]}}}, "has seed, which all trials of a search share"),
        ({"parameters": {"data.dev_fraction": {"low": 0.1, "high": 0.2}}}, "has data.dev_fraction, which all trials"),
        ({"name": "a/b"}, "is not a valid folder name"),
    ],
)
def test_mistaken_settings(changes, sentence):
    assert define().name == "x"
    with pytest.raises(UserError, match=re.escape(sentence)):
        define(**changes)


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        (3, "must be a range"),
        ({"low": 1}, "a low below its high"),
        ({"low": 2, "high": 1}, "a low below its high"),
        ({"low": 1.0, "high": math.inf}, "each a finite number"),
        ({"low": -math.inf, "high": 1.0}, "each a finite number"),
        ({"low": 1.0, "high": math.nan}, "each a finite number"),
        ({"low": 0, "high": 1, "log": True}, "low must be above 0"),
        ({"low": 1, "high": 2, "lgo": True}, "has no key lgo; did you mean low or log?"),
        ({"low": 1, "high": 10, "step": 4}, "a step that leads from low to high"),
        ({"low": 1, "high": 2, "log": 3}, "true or false for log"),
        ({"choices": [1]}, "a list of two choices"),
        ({"choices": [[1], [2]]}, "single values"),
    ],
)
def test_mistaken_parameters(parameter, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        define(parameters={"model.embed_dim": parameter})


def test_distributions():
    assert Parameter(1, 9, log=True).distribution() == optuna.distributions.IntDistribution(1, 9, log=True)
    assert Parameter(1, 9, step=4).distribution() == optuna.distributions.IntDistribution(1, 9, step=4)
    assert Parameter(0.0, 1, step=0.1).distribution() == optuna.distributions.FloatDistribution(0.0, 1.0, step=0.1)
    chosen = Parameter(choices=("a", None)).distribution()
    assert chosen == optuna.distributions.CategoricalDistribution(("a", None))
