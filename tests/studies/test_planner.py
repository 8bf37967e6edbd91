from collections.abc import Callable
from pathlib import Path

import pytest

from charlab.configuration.compose import Composer, compose
from charlab.errors import UserError
from charlab.runs.identity import fingerprint
from charlab.runs.record import Record
from charlab.studies.definition import Definition, define
from charlab.studies.plan import Plan
from charlab.studies.planner import Planner, merged
from charlab.studies.state import read_results
from tests.helpers import student

pytestmark = pytest.mark.slow

Write = Callable[..., str]
Expand = Callable[..., Plan]


@pytest.fixture
def expand(composer: Composer, define_study: Callable[..., Definition]) -> Expand:
    """Make the plan of a study."""

    def plan(name: str, *typed: str, **settings: object) -> Plan:
        planner = Planner(define_study(name, **settings), composer, composer.prepare(typed), ["--config-dir", "x"])
        return planner.plan("-m study=mine")

    return plan


@pytest.fixture
def expand_sweep(composer: Composer, text_path: Path) -> Expand:
    """Make the plan of an ordinary sweep."""
    base = composer.master([]).study
    shared = ["data=textfile", f"data.path={text_path}", "data.context_length=8", "trainer.accelerator=cpu"]

    def plan(*typed: str, params: dict[str, str] | None = None) -> Plan:
        return Planner(define(base, None), composer, composer.prepare([*shared, *typed]), params=params).plan("")

    return plan


def test_cells_are_what_one_would_type_alone(write_study: Write, expand: Expand, text_path: Path) -> None:
    plan = expand(write_study("seeds: [4, 5]"), "model.embed_dim=32", "name=mine")
    assert [cell.key for cell in plan.cells] == ["learned/4", "rotary/4", "none/4", "learned/5", "rotary/5", "none/5"]
    assert (plan.baseline, plan.seeds, plan.planned_seeds) == ("learned", (4, 5), 2)
    cell = plan.cell("rotary/5")
    assert cell.overrides[:2] == ("--config-dir", "x")
    assert cell.overrides[-4:] == ("model.embed_dim=32", "name=mine", "model/position=rotary", "seed=5")
    assert cell.run == f"mine/{fingerprint(compose(cell.overrides[2:]))}"
    assert len({cell.run for cell in plan.cells}) == 6


def test_an_arm_goes_before_what_is_typed_and_that_before_what_is_shared() -> None:
    assert merged(["model=a", "x=1", "y=1"], ["x=2", "y=2"], ["model=b", "y=3"]) == ["x=2", "model=b", "y=3"]


def test_arms_on_other_windows_are_marked(write_study: Write, expand: Expand) -> None:
    often = "often: [trainer.accumulate_grad_batches=2, model.num_layers=3]"
    shared = "shared: [trainer.devices=2, trainer.strategy=ddp, optimizer.lr=0.1]"  # sees the same windows
    arms = f"{{learned: [], large: [data.batch_size=3], deep: [model.num_layers=5], {often}, {shared}}}"
    plan = expand(write_study(arms=arms))
    assert [arm.name for arm in plan.arms if not arm.paired] == ["large"]


def test_a_cell_knows_how_many_processes_train_it(write_study: Write, expand: Expand) -> None:
    two = "two: [trainer=ddp, optimizer.lr=0.1]"
    four = "four: [trainer=ddp, trainer.num_nodes=2, optimizer.lr=0.2]"
    listed = "listed: ['trainer.devices=[0,1]', optimizer.lr=0.3]"
    plan = expand(
        write_study(
            "seeds: [1, 2]",
            arms=f"{{learned: [], {two}, {four}, {listed}, auto: [trainer.devices=auto, optimizer.lr=0.4], "
            "all: [trainer.devices=-1, optimizer.lr=0.5]}",
        )
    )
    assert [plan.cell(f"{arm.name}/1").processes for arm in plan.arms] == [1, 2, 4, None, None, None]
    assert plan.cell("two/2").processes == 2


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        (
            "{learned: [], rot: [model/position=rotry]}",
            "The arm rot does not compose: There is no model/position=rotry",
        ),
        ("{learned: [], rot: [model.embd_dim=3]}", "The arm rot does not compose: There is no key model.embd_dim"),
        ("{learned: [], rot: [model.embed_dim=x]}", "The arm rot does not compose: model.embed_dim must be an integer"),
        (
            "{learned: [], rot: ['model.embed_dim=8,16']}",
            "The arm rot does not compose: model.embed_dim=8,16 has several",
        ),
        ("{learned: [], rot: [model/position=learned]}", "means the same run as the baseline learned"),
        (
            "{learned: [], often: [trainer.accumulate_grad_batches=2, trainer.devices=2]}",
            "means the same run as the baseline learned",
        ),
        (
            "{learned: [], rot: [callbacks.samples.length=7]}",
            "The arm rot (callbacks.samples.length=7) means the same run",
        ),
        (
            "{learned: [], a: [model.dropout=0.1], b: [model.dropout=0.1]}",
            "The arm b (model.dropout=0.1) means the same",
        ),
        ("{learned: [], rot: [model.dropout=0]}", "The arm rot (model.dropout=0) means the same run as the baseline"),
        ("{learned: [], rot: [seed=3]}", "The arm rot sets seed, which all arms of a study share: leave it out there."),
        ("{learned: [], rot: [data.seed=3]}", "The arm rot sets data.seed, which all arms"),
        ("{learned: [], rot: [output_dir=x]}", "The arm rot sets output_dir, which all arms"),
        ("{learned: [], rot: [launcher=ray]}", "The arm rot sets launcher, which all arms"),
        ("{learned: [], rot: [study.margin=1]}", "The arm rot sets study.margin, which all arms"),
        ("{learned: [], rot: [debug=fast]}", "Runs with debug=fast do not count as results"),
        ("{learned: [], rot: [trainer.fast_dev_run=true]}", "Runs with trainer.fast_dev_run do not count as results"),
    ],
)
def test_an_arm_that_is_wrong_is_named(write_study: Write, expand: Expand, arms: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        expand(write_study(arms=arms))
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("callbacks: {mine: {_target_: x.Y}}", "hydra.callbacks, which is for Hydra's own jobs and not for the runs"),
        ("job: {chdir: true}", "hydra.job.chdir, which is for Hydra's own jobs"),
        ("job: {env_set: {MINE: '1'}}", "hydra.job.env_set, which is for Hydra's own jobs"),
    ],
)
def test_an_experiment_that_sets_what_only_hydras_jobs_have_is_refused(
    write_study: Write, expand: Expand, conf: Path, setting: str, sentence: str
) -> None:
    (conf / "experiment").mkdir()
    (conf / "experiment" / "own.yaml").write_text(f"# @package _global_\nhydra: {{{setting}}}\n")
    name = write_study(arms="{learned: [], rot: [experiment=own, model/position=rotary]}")
    with pytest.raises(UserError) as raised:
        expand(name)
    assert str(raised.value).startswith(f"The arm rot does not compose: experiment=own sets {sentence}")
    way = "leave it out there, and set MINE in the environment of the command."
    assert str(raised.value).endswith(way if "env_set" in setting else "leave it out there.")


def test_what_the_overrides_of_a_study_set_for_hydras_jobs_is_refused(write_study: Write, expand: Expand) -> None:
    with pytest.raises(UserError, match=r"\+hydra\.job\.env_set\.A=1 sets hydra\.job\.env_set, which is for"):
        expand(write_study(), overrides=["model=bigram", "data=play", "+hydra.job.env_set.A=1"])


def test_a_study_sets_its_seeds_and_arms_itself(write_study: Write, expand: Expand) -> None:
    name = write_study()
    with pytest.raises(UserError, match=r"seed=1,2 has no place in a study, which sets the seeds"):
        expand(name, "seed=1,2")
    with pytest.raises(
        UserError, match=r"model.dropout=0.1,0.2 has several values, but a study lists arms in its file"
    ):
        expand(name, "model.dropout=0.1,0.2")


def test_a_sweep_is_a_study_of_what_it_varies(expand_sweep: Expand) -> None:
    plan = expand_sweep("model=bigram,gru", "optimizer.lr=0.1,0.01", "seed=range(1,3)")
    assert [arm.name for arm in plan.arms] == ["bigram+lr=0.1", "bigram+lr=0.01", "gru+lr=0.1", "gru+lr=0.01"]
    assert plan.arms[3].factors == {"model": "gru", "lr": "0.01"}
    assert (plan.baseline, plan.seeds, plan.sweep, plan.exploratory) == ("bigram+lr=0.1", (1, 2), True, True)
    assert plan.cell("gru+lr=0.01/2").overrides[-3:] == ("model=gru", "optimizer.lr=0.01", "seed=2")


def test_a_sweep_has_the_same_name_whatever_its_seeds(expand_sweep: Expand) -> None:
    names = [
        expand_sweep("model=bigram", "optimizer.lr=0.1,0.2", *seeds).name
        for seeds in (["seed=1,2"], ["seed=1,2,3"], ["seed=1"], [])
    ]
    assert len(set(names)) == 1
    assert names[0].startswith("sweep-lr-")
    assert expand_sweep("model=bigram", "optimizer.lr=0.1,0.3", "seed=1,2").name not in names


def test_a_sweep_over_keys_that_only_its_options_have(expand_sweep: Expand) -> None:
    plan = expand_sweep("model=gru,lstm", "model.hidden_dim=8", params={"seed": "3,4"})
    assert [cell.key for cell in plan.cells] == ["gru/3", "lstm/3", "gru/4", "lstm/4"]
    assert "model.hidden_dim=8" in plan.cells[0].overrides


def test_a_sweep_without_seeds_has_the_configurations_seed(expand_sweep: Expand) -> None:
    assert expand_sweep("model=bigram", "optimizer.lr=0.1,0.2").seeds == (305,)
    assert expand_sweep("model=bigram", "optimizer.lr=0.1,0.2", "seed=0").seeds == (0,)
    one = expand_sweep("model=bigram", "seed=1,2")
    assert [cell.key for cell in one.cells] == ["only/1", "only/2"]


def test_a_run_by_other_code_is_marked_or_made_again(
    write_study: Write, expand: Expand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outputs = tmp_path / "student", tmp_path / "outputs"
    student.write(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    name = write_study(
        arms="{learned: [], mine: [model=bigram, model._target_=studentmodel.Mine]}", body="seeds: [1, 2]"
    )

    def plan(**settings: object) -> Plan:
        return expand(name, f"output_dir={outputs}", **settings)

    try:
        first = plan()
        for cell in first.cells:
            Record(outputs / "runs" / cell.run, "mine", cell.fingerprint, "finished", code=cell.code).save()
        assert [result.older for result in read_results(first, outputs).cells] == [False] * 4
        student.edit(folder / "studentparts.py", "1.0 * x", "2.0 * x")
        student.reload()
        results = read_results(plan(rerun=[]), outputs)
        assert [(result.cell.key, result.status) for result in results.cells if result.older] == [
            ("mine/1", "finished"),
            ("mine/2", "finished"),
        ]
        statuses = {"learned/1": "finished", "mine/1": "missing", "learned/2": "finished", "mine/2": "missing"}
        again: list[dict[str, object]] = [{}, {"rerun": ["older"]}, {"rerun": ["all"]}]
        for settings in again:
            results = read_results(plan(**settings), outputs)
            assert {result.cell.key: result.status for result in results.cells} == statuses
        former = Record.load(outputs / "runs" / first.cell("mine/2").run)
        former.status = "diverged"
        former.save()
        assert plan(rerun=["diverged"]).cell("mine/1").run == first.cell("mine/1").run
        assert (
            plan(rerun=["diverged"]).cell("mine/2").run == f"{first.cell('mine/2').run}-{results.cells[-1].cell.code}"
        )
        student.edit(folder / "studentparts.py", "2.0 * x", "1.0 * x")
        student.reload()
        assert plan() == first
    finally:
        student.forget()
