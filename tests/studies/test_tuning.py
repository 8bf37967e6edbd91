"""A study tunes its arms before its cells run, goes on after a kill, and says what its verdicts depend on."""

from __future__ import annotations

import math

import pytest
from omegaconf import OmegaConf

from charlab import cli
from charlab.configuration.sources import conf_folder
from charlab.errors import UserError
from charlab.studies.definition import define
from charlab.studies.outcomes import Outcome
from charlab.studies.parameters import Parameter, Tuned, is_at_end
from charlab.studies.plan import Plan
from charlab.studies.report.contents import gather
from charlab.studies.report.writer import write_report
from charlab.studies.search import MIXED
from charlab.studies.state import read_results
from tests.helpers.made_up_study import MadeUpArm, make_study
from tests.helpers.made_up_trials import values_of

STUDY = """
defaults: [_base, _self_]
hypothesis: It helps.
overrides: [data=play, data.corpus.length=20000, data.context_length=8, model=bigram, trainer.accelerator=cpu,
            data.dev_fraction=0.05]
baseline: adam
arms:
  adam: [optimizer=adam]
  sgd: [optimizer=sgd]
tune:
  parameters: {optimizer.lr: {low: 1.0e-4, high: 1.0, log: true}}
  trials: 4
  seeds: 2
seeds: 6
"""
BEST = {"adam": -2, "sgd": -0.5}  # logarithm of the best rate


def loss(cell):
    values = values_of(cell)
    return 2.0 + (math.log10(float(values["optimizer.lr"])) - BEST[values["optimizer"]]) ** 2 + 0.001 * cell.seed


@pytest.fixture
def run(tmp_path, trainer):
    """Give the study's command; return its exit code."""
    trainer.nll = loss
    (tmp_path / "conf" / "study").mkdir(parents=True)
    file = tmp_path / "conf" / "study" / "mine.yaml"

    def command(*overrides, output="outputs", study=STUDY):
        file.write_text(study)
        folder = ["--config-dir", str(tmp_path / "conf")]
        return cli.train(
            ["-m", *folder, "study=mine", f"output_dir={tmp_path / output}", "launcher.at_once=2", *overrides]
        )

    return command


def plan_of(tmp_path, output="outputs"):
    return Plan.load(tmp_path / output / "studies" / "mine")


@pytest.mark.slow
def test_every_arm_has_its_trials_before_its_cells_run(run, trainer, tmp_path, capsys):
    assert run() == 0
    assert trainer.folders == [*["mine+adam"] * 4, *["mine+sgd"] * 4, "mine"]
    plan = plan_of(tmp_path)
    for arm in plan.arms:
        tuned = arm.tuned
        cells = trainer.cells(f"mine+{arm.name}")
        assert len(cells) == 8
        assert {cell.seed for cell in cells} == {105, 106}
        assert not {cell.seed for cell in cells} & set(plan.seeds)
        assert len({values_of(cell)["optimizer.lr"] for cell in cells}) == 4
        best = min(cells[::2], key=loss)
        assert tuned.values == {"optimizer.lr": float(values_of(best)["optimizer.lr"])}
        assert tuned.loss == pytest.approx(loss(best) + 0.0005)  # the mean over both seeds
        assert (tuned.trials, tuned.seeds, tuned.failed, tuned.runs, tuned.seconds) == (4, (105, 106), 0, 8, 24.0)
        assert 1 <= tuned.near <= 4
    for cell in trainer.batches[-1]:  # the cells use what was chosen
        assert float(values_of(cell)["optimizer.lr"]) == plan.arm(cell.arm).tuned.values["optimizer.lr"]
    assert "Tuning sgd: 4 trials × 2 seeds, on dev text." in capsys.readouterr().out
    before = len(trainer.batches)
    assert run() == 0
    assert len(trainer.batches) == before


@pytest.mark.slow
def test_it_goes_on_after_kills(run, trainer, tmp_path):
    """Killed among the baseline's trials, among the arm's, and among the cells, it does the rest and no more."""
    assert run("study.tune.trials=2") == 0
    names = ("mine+adam", "mine+sgd", "mine")
    whole = {name: [cell.run for cell in trainer.cells(name)] for name in names}
    trainer.batches, trainer.folders = [], []
    for killed_at in (2, 3, 2):
        before = len(trainer.batches)
        trainer.interrupted_at = before + killed_at
        assert run("study.tune.trials=2", output="other") == 130
        del trainer.batches[-1], trainer.folders[-1]
    trainer.interrupted_at = None
    assert run("study.tune.trials=2", output="other") == 0
    assert {name: [cell.run for cell in trainer.cells(name)] for name in names} == whole
    assert plan_of(tmp_path, "other").arms == plan_of(tmp_path).arms


@pytest.mark.slow
def test_trials_without_a_result(run, trainer, tmp_path, capsys):
    trainer.nll = lambda cell: Outcome("diverged", "The loss became nan")
    assert run() == 2
    error = capsys.readouterr().err
    assert (
        "Tuning the arm adam has failed: no trial has a result, and the first diverged: The loss became nan." in error
    )
    trainer.nll = lambda cell: Outcome("interrupted", "It is gone.")
    assert run(output="other") == 2
    error = capsys.readouterr().err
    assert "Tuning the arm adam has not ended (0 of 4 trials): the study's command continues it." in error


@pytest.mark.slow
def test_an_arm_that_was_tuned_by_exact_losses_and_bounds_is_told(run, trainer, tmp_path, capsys):
    def mixed(cell):
        is_bound = trainer.folders[-1] == "mine+sgd" and cell.arm == "trial-001"
        trainer.likelihood = "bound" if is_bound else "exact"
        return loss(cell)

    trainer.nll = mixed
    assert run("study.tune.trials=2") == 0
    assert {arm.name: arm.tuned.mixed for arm in plan_of(tmp_path).arms} == {"adam": False, "sgd": True}
    printed = capsys.readouterr().out
    assert f"Tuning sgd: {MIXED}\n" in printed
    assert printed.count(MIXED) == 1


@pytest.mark.slow
def test_a_killed_trial_is_tried_again_until_the_values_are_chosen(run, trainer, tmp_path):
    def killed(cell):
        is_first = trainer.folders[-1] == "mine+adam" and cell.arm == "trial-000"
        return Outcome("killed", "Killed by SIGKILL.") if is_first else loss(cell)

    trainer.nll, trainer.interrupted_at = killed, 3  # in the first trial of the second arm
    assert run("study.tune.trials=2") == 130
    trainer.interrupted_at, before = None, len(trainer.batches)
    assert run("study.tune.trials=2") == 0
    assert trainer.folders[before:] == ["mine+adam", "mine+sgd", "mine+sgd", "mine"]
    assert {cell.arm for cell in trainer.batches[before]} == {"trial-000"}
    assert plan_of(tmp_path).arm("adam").tuned.failed == 1
    trainer.nll, before = loss, len(trainer.batches)
    assert run("study.tune.trials=2") == 0
    assert len(trainer.batches) == before
    assert not plan_of(tmp_path).exploratory


@pytest.mark.slow
def test_a_dry_run_tells_how_many_runs_tuning_takes(run, trainer, tmp_path, capsys):
    assert run("dry_run=true") == 0
    assert "Before these cells, 16 runs tune 2 arms on dev text." in capsys.readouterr().out
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_other_tuning_after_the_first_cell_makes_a_study_exploratory(run, trainer, tmp_path):
    assert run("study.tune.trials=2") == 0
    assert not plan_of(tmp_path).exploratory
    trainer.nll = lambda cell: loss(cell) - (len(trainer.batches) > 5)  # so that a further trial is the best
    assert run("study.tune.trials=3") == 0
    assert "The arm adam was changed." in plan_of(tmp_path).amendments


@pytest.mark.slow
def test_tuned_cells_that_other_code_has_run_are_told(run, tmp_path, capsys):
    assert run("study.tune.trials=2") == 0
    cell = plan_of(tmp_path).cells[0]
    record = tmp_path / "outputs" / "runs" / cell.run / "record.json"
    record.write_text(record.read_text().replace(cell.code, "0123456789ab"))
    capsys.readouterr()
    assert run("study.tune.trials=2") == 0
    assert "1 cell of this study was run by different code" in capsys.readouterr().out


@pytest.mark.slow
def test_other_settings_need_another_name(run, capsys):
    assert run("study.tune.trials=2") == 0
    assert run("study.tune.trials=2", "data.batch_size=2") == 2
    assert "give another search.name, or study.name if it tunes the arm of a study." in capsys.readouterr().err


@pytest.mark.slow
def test_trials_of_a_longer_search_of_before_favor_no_arm(run, trainer, tmp_path):
    """The first arm has had three trials, and now both are to have two."""
    trainer.interrupted_at = 4
    assert run("study.tune.trials=3") == 130
    trainer.interrupted_at = None
    assert run("study.tune.trials=2") == 0
    assert [arm.tuned.trials for arm in plan_of(tmp_path).arms] == [2, 2]


HELPS = """
defaults: [_base, _self_]
hypothesis: Tuning helps.
overrides: [data=play, data.corpus.length=20000, data.context_length=8, model=bigram, trainer.accelerator=cpu,
            data.dev_fraction=0.05]
baseline: default
arms: {default: {tune: false}, tuned: []}
tune:
  parameters: {optimizer.lr: {choices: [0.25, 0.5]}}
  trials: 2
  seeds: 1
seeds: 6
"""


@pytest.mark.slow
def test_a_study_may_ask_whether_tuning_helps(run, trainer, tmp_path):
    trainer.nll = lambda cell: 2.0 - float(values_of(cell).get("optimizer.lr", 0.0))
    assert run(study=HELPS) == 0
    default, tuned = plan_of(tmp_path).arms
    assert (default.tuned, tuned.tuned.values["optimizer.lr"] in (0.25, 0.5)) == (None, True)
    assert not {cell.run for cell in trainer.batches[-1][::2]} & {cell.run for cell in trainer.batches[-1][1::2]}


@pytest.mark.slow
def test_arms_that_are_searched_alike_or_tuned_to_be_alike_are_not_compared(run, trainer, capsys):
    trainer.nll = lambda cell: 2.0
    same = "The arm tuned (no overrides) means the same run as the baseline default: let each change something"
    assert run(study=HELPS.replace("{tune: false}", "[]")) == 2
    assert same in capsys.readouterr().err
    assert not trainer.batches
    half, quarter = (f"{{overrides: [optimizer.lr={rate}], tune: false}}" for rate in (0.5, 0.25))
    study = HELPS.replace("{default: {tune: false}", f"{{default: {half}, quarter: {quarter}")
    assert run(study=study) == 2  # whichever rate is chosen, an arm has it
    assert "tuning has left no difference, so there is nothing to compare." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("data.dev_fraction=0.05", "seed=1", "the arm adam has none: give data.dev_fraction=0.05"),
        ("optimizer.lr: {", "optimizer.rl: {", "The arm adam cannot be tuned: A trial of the search"),
        ("optimizer.lr: {", "seed: {", "has seed, which all trials of a search share"),
    ],
)
def test_mistakes_are_told_before_the_first_trial(run, trainer, capsys, tmp_path, old, new, message):
    study = STUDY.replace(f",\n            {old}", "") if "dev" in old else STUDY.replace(old, new)
    assert run(study=study) == 2
    assert message in capsys.readouterr().err
    assert not trainer.batches
    assert not (tmp_path / "outputs").exists()


def defined(body, arms="{a: [], b: [model=lstm]}"):
    base = OmegaConf.load(conf_folder() / "study" / "_base.yaml")
    return define(OmegaConf.merge(base, OmegaConf.create(f"baseline: a\narms: {arms}\n{body}")), "mine")


RATE = "optimizer.lr: {low: 1.0e-3, high: 0.1, log: true}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            f"tune: {{parameters: {{{RATE}}}, split: validation}}",
            "study.tune.split=validation (in study/mine.yaml) is reported, so nothing may be chosen on it",
        ),
        (f"tune: {{parameters: {{{RATE}}}, trial: 8}}", "There is no key study.tune.trial (in study/mine.yaml)"),
        (f"tune: {{parameters: {{{RATE}}}, trials: 1}}", "leaves nothing to choose"),
        (f"tune: {{parameters: {{{RATE}}}, trials: many}}", "study.tune.trials (in study/mine.yaml) must be"),
        (f"tune: {{parameters: {{{RATE}}}, seeds: [305]}}", "has 305, which is a seed of the study"),
        (f"tune: {{parameters: {{{RATE}}}, seeds: [1, 1]}}", "study.tune.seeds (in study/mine.yaml) has 1 twice"),
        (f"tune: {{parameters: {{{RATE}}}, seeds: []}}", "study.tune.seeds (in study/mine.yaml) is empty"),
        ("tune: {parameters: {}}", "study.tune.parameters (in study/mine.yaml) is empty"),
        ("tune: {parameters: {optimizer.lr: {low: 1, high: 1}}}", "a low below its high"),
        ("tune: {parameters: {optimizer.lr: {choices: [1]}}}", "a list of two choices at least"),
        (f"tune: {{parameters: {{{RATE}}}}}\nmetric: steps_to\ntarget: 1.6\nmargin: 1.1", "asks for something else"),
    ],
)
def test_tuning_that_cannot_be(body, message):
    with pytest.raises(UserError) as error:
        defined(body)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arms", "body", "message"),
    [
        ("{a: [], b: [optimizer.lr=1]}", f"tune: {{parameters: {{{RATE}}}}}", "sets optimizer.lr=1, which is tuned"),
        ("{a: [], b: {tune: 3}}", f"tune: {{parameters: {{{RATE}}}}}", "it must be parameters, or false"),
        ("{a: [], b: {tune: false}}", "", "which needs study.tune"),
    ],
)
def test_arms_that_cannot_be_tuned(arms, body, message):
    with pytest.raises(UserError) as error:
        defined(body, arms)
    assert message in str(error.value)


def test_an_arm_may_have_parameters_of_its_own_or_none():
    arms = "{a: [], b: {tune: false}, c: {tune: {optimizer.beta: {low: 0.1, high: 0.9}}}}"
    tune = defined(f"tune: {{parameters: {{{RATE}}}, trials: 5, seeds: [7]}}", arms).tune
    assert list(tune) == ["a", "c"]
    assert list(tune["c"].parameters) == ["optimizer.beta"]
    assert {(found.trials, found.seeds) for found in tune.values()} == {(5, (7,))}


def test_an_arm_whose_name_is_a_number_is_not_tuned_against_its_will():
    tune = defined(f"tune: {{parameters: {{{RATE}}}}}", "{a: [], 4: {overrides: [model=lstm], tune: false}}").tune
    assert list(tune) == ["a"]


def test_a_grid_over_one_value():
    base = OmegaConf.load(conf_folder() / "study" / "_base.yaml")
    grid = OmegaConf.create("baseline: gpt\ngrid: {model: [gpt], optimizer.lr: [0.1]}")
    with pytest.raises(UserError, match=r"study.grid \(in study/mine.yaml\) has one value of each key"):
        define(OmegaConf.merge(base, grid), "mine")


def test_the_ends_of_a_range():
    parameter = Parameter(1e-4, 1.0, log=True)
    assert [is_at_end(parameter, value) for value in (1.2e-4, 1e-3, 0.5, 0.9)] == [True, False, False, True]
    assert not is_at_end(Parameter(choices=(1, 2)), 1)


def tuned(value, **changes):
    found = Tuned(
        {"optimizer.lr": value}, 1.6, 8, (105, 106), 1, 16, 400.0, 5, {"optimizer.lr": (value / 2, value * 2)}
    )
    return found if not changes else Tuned(**{**found.__dict__, **changes})


def report_on(tmp_path, *found):
    arms = [MadeUpArm("learned", 1.70, tuned=found[0]), MadeUpArm("rotary", 1.55, tuned=found[1])]
    plan = make_study(tmp_path, arms)
    assert Plan.load(tmp_path / "outputs" / "studies" / "made_up") == plan
    return read_results(plan, tmp_path / "outputs", tmp_path / "records")


def test_the_report_says_what_was_chosen_and_what_the_verdict_depends_on(tmp_path, without_figures):
    results = report_on(tmp_path, tuned(0.004), tuned(0.02, at_end=("optimizer.lr",)))
    contents = gather(results)
    (judgment,) = contents.judgments
    expected = (
        "Conditional on the chosen values, optimizer.lr=0.02 for the arm and optimizer.lr=0.004 for the baseline."
    )
    assert judgment.caution == expected
    assert judgment.verdict == "supported"
    first, second = contents.tuning.rows
    shown = [entry.text for entry in first]
    assert shown[:3] == ["learned", "optimizer.lr=0.004", "1.6000"]
    assert shown[3:] == ["8 × 2 seeds, 1 without a result", "7 min", "5 of 8", "optimizer.lr 0.002 to 0.008"]
    assert "at the end of the range" in second[-1].text
    assert "every arm was tuned within the same budget: 8 trials with 2 seeds each" in " ".join(contents.method)
    assert "conditional on the chosen values" in " ".join(contents.limits)
    assert not contents.notices
    page = write_report(results, tmp_path / "report", ["markdown"]).files["markdown"].read_text()
    assert "## Tuning" in page
    assert expected in page
    assert "optimizer.lr" in (tmp_path / "report" / "tables" / "tuning.csv").read_text()


def test_an_arm_that_was_not_tuned_is_marked(tmp_path):
    contents = gather(report_on(tmp_path, tuned(0.004), None))
    (judgment,) = contents.judgments
    assert judgment.verdict == "supported, only the baseline tuned"
    assert "only the baseline tuned, which favors it" in judgment.caution
    (notice,) = contents.notices
    assert notice.text.startswith("Tuned: learned; not tuned: rotary.")
    assert contents.tuning.caption.endswith("Not tuned: rotary.")


def test_a_report_says_that_tuning_compared_exact_losses_with_bounds(tmp_path):
    caption = gather(report_on(tmp_path, tuned(0.004), tuned(0.02, mixed=True))).tuning.caption
    assert caption.endswith(" Exact losses and upper bounds were compared in tuning rotary: others may be better.")


def test_a_tuned_bound_is_marked(tmp_path):
    bound = MadeUpArm("diffusion", 1.9, likelihood="bound", tuned=tuned(0.02))
    arms = [MadeUpArm("gpt", 1.7, tuned=tuned(0.004)), bound]
    results = read_results(make_study(tmp_path, arms), tmp_path / "outputs", tmp_path / "records")
    assert [row[2].text for row in gather(results).tuning.rows] == ["1.6000", "≤ 1.6000"]
