"""What is run, what is not, and what is said of it; the runs themselves are made up."""

import io
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import charlab
from charlab import cli
from charlab.configuration.compose import Composer
from charlab.configuration.sources import VERSION_BASE, conf_folder
from charlab.errors import UserError
from charlab.runs.record import Record
from charlab.studies.definition import Arm, Rerun
from charlab.studies.executors.local import Local
from charlab.studies.outcomes import Outcome
from charlab.studies.plan import Cell, Plan
from charlab.studies.report import writer
from charlab.studies.sweep import conduct, rehearse, sweep
from tests.helpers.warm import warm

pytestmark = pytest.mark.usefixtures("logging_as_before")
OWN = conf_folder()
CODE = "c0dec0dec0de"  # of every plan
ARMS = (Arm("learned", ()), Arm("rotary", ("model/position=rotary",)))


class MadeUpRuns:
    """An executor for tests: it notes the cells that it is given, and makes them finish unless told otherwise."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.forced: list[str] = []
        self.fates: dict[str, str] = {}

    def launch(self, study: Path, cells: Sequence[Cell]) -> None:
        self.keys = [cell.key for cell in cells]
        self.forced = [cell.key for cell in cells if "force=true" in cell.overrides]
        for cell in cells:
            fate = self.fates.get(cell.key, "finished")
            Outcome(fate, "It has a reason.\n" if fate != "finished" else "", seconds=60.0).save(study, cell)  # type: ignore[arg-type]
            if fate in ("finished", "diverged"):
                metrics = [{"protocol": "blocks", "split": "validation", "nll": 2.0, "likelihood": "exact"}]
                folder = study.parents[1] / "runs" / cell.run
                Record(folder, "mine", cell.fingerprint, fate, metrics=metrics, code=cell.code).save()  # type: ignore[arg-type]


def make_plan(*seeds: int, kind: str = "rotary", **more: Any) -> Plan:
    """Two arms and these seeds; `kind` is what the second arm does."""
    seeds = seeds or (1, 2)
    kinds = {"learned": "learned", "rotary": kind}
    cells = tuple(
        Cell(arm.name, seed, f"mine/{kinds[arm.name]}{seed}", (*arm.overrides, f"seed={seed}"), CODE)
        for seed in seeds
        for arm in ARMS
    )
    return Plan(
        name="mine",
        baseline="learned",
        arms=ARMS,
        cells=cells,
        seeds=seeds,
        planned_seeds=len(seeds),
        records=".",
        **more,
    )


@pytest.fixture
def runs() -> MadeUpRuns:
    return MadeUpRuns()


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def study(outputs: Path) -> Path:
    return outputs / "studies" / "mine"


@pytest.fixture
def run(runs: MadeUpRuns, outputs: Path) -> Callable[..., Counter[str]]:
    """Conduct a study, and return how many cells have which status."""

    def conducted(plan: Plan | None = None, *again: Rerun) -> Counter[str]:
        runs.keys, runs.forced = [], []
        results = conduct(plan or make_plan(), outputs, runs.launch, Console(), again=again)
        return Counter(result.status for result in results.cells)

    return conducted


Run = Callable[..., Counter[str]]


def test_only_what_is_missing_is_run(runs: MadeUpRuns, run: Run, study: Path) -> None:
    runs.fates = {"rotary/2": "killed"}
    assert run() == {"finished": 3, "killed": 1}
    assert runs.keys == ["learned/1", "rotary/1", "learned/2", "rotary/2"]
    runs.fates = {}
    assert run() == {"finished": 4}
    assert (runs.keys, runs.forced) == (["rotary/2"], [])
    assert run() == {"finished": 4}
    assert runs.keys == []
    assert run(make_plan(1, 2, 3)) == {"finished": 6}
    assert runs.keys == ["learned/3", "rotary/3"]
    assert Plan.load(study).planned_seeds == 2


def test_a_changed_arm_is_run_again_by_itself(runs: MadeUpRuns, run: Run, study: Path) -> None:
    run()
    assert run(make_plan(kind="alibi")) == {"finished": 4}
    assert runs.keys == ["rotary/1", "rotary/2"]
    assert Plan.load(study).amendments == ("The arm rotary was changed.",)


@pytest.mark.parametrize(
    ("fate", "again"), [("failed", True), ("interrupted", True), ("diverged", False), ("timed out", False)]
)
def test_which_fates_are_results(runs: MadeUpRuns, run: Run, fate: Rerun, again: bool) -> None:
    plan = make_plan(time_limit=60.0)
    runs.fates = {"rotary/1": fate}
    run(plan)
    assert run(plan) == {"finished": 3, fate: 1}
    assert runs.keys == (["rotary/1"] if again else [])
    runs.fates = {}
    assert run(plan, fate) == {"finished": 4}
    assert runs.keys == ["rotary/1"]
    assert runs.forced == (["rotary/1"] if fate == "diverged" else [])  # others go on where they stopped


def test_more_time_is_used(runs: MadeUpRuns, run: Run) -> None:
    runs.fates = {"rotary/1": "timed out"}
    run(make_plan(time_limit=60.0))
    runs.fates = {}
    assert run(make_plan(time_limit=90.0)) == {"finished": 4}


def test_results_of_older_code_are_kept_until_asked_for(
    runs: MadeUpRuns, run: Run, outputs: Path, study: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run()
    path = outputs / "runs/mine/rotary1/record.json"
    path.write_text(path.read_text().replace(CODE, "0123456789ab"))
    run()
    assert runs.keys == []
    assert "1 of these results is from older code; study.rerun=[older] runs it again." in capfd.readouterr().out
    run(None, "older")
    assert (runs.keys, runs.forced) == (["rotary/1"], ["rotary/1"])
    assert "force=true" not in Plan.load(study).cell("rotary/1").overrides
    run(None, "all")
    assert len(runs.keys) == len(runs.forced) == 4


def test_a_corrupt_record_is_left_named_and_counted_as_missing(
    runs: MadeUpRuns, run: Run, outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run()
    path = outputs / "runs/mine/rotary1/record.json"
    path.write_text("{")
    capfd.readouterr()
    assert run() == {"finished": 3, "corrupt": 1}
    output = capfd.readouterr().out
    assert "3 of 4 finished" in output
    assert f"rotary/1: {path} is corrupt" in output
    assert (runs.keys, path.read_text()) == ([], "{")


def test_a_dry_run_tells_what_would_be_done_and_writes_nothing(
    runs: MadeUpRuns, run: Run, outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rehearse(make_plan(), outputs, Console())
    assert not outputs.exists()
    assert "4 cells: 2 arms × 2 seeds; 0 of 4 finished, 4 missing; 4 to run" in capfd.readouterr().out
    runs.fates = {"learned/1": "killed", "rotary/2": "failed"}
    run()
    before = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    capfd.readouterr()
    rehearse(make_plan(), outputs, Console(), at_once=2)
    output = capfd.readouterr().out
    assert before == {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    assert [line.split()[:3] for line in output.splitlines() if line.startswith(("learned", "rotary"))] == [
        ["learned", "1", "killed,"],
        ["rotary", "1", "finished"],
        ["learned", "2", "finished"],
        ["rotary", "2", "failed,"],
    ]
    assert "2 to run, about 0:01:00 with 2 at a time." in output


def test_a_sweep_with_one_seed_is_not_told_of_too_few(outputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rehearse(make_plan(1), outputs, Console())
    assert "Too few seeds: 1 seed cannot" in capfd.readouterr().out
    rehearse(replace(make_plan(1), sweep=True), outputs, Console())
    assert "seeds" not in capfd.readouterr().out


def test_failures_are_named_with_what_makes_them_again(
    runs: MadeUpRuns, run: Run, study: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs.fates = {"rotary/2": "failed"}
    run()
    output = capfd.readouterr().out
    assert output.startswith(
        "Too few seeds: 2 seeds cannot show a difference between 1 arm and a baseline; at least 6 are needed.\n"
    )
    assert "mine: 3 of 4 finished, 1 failed\nrotary/2 failed: It has a reason.\n" in output
    assert "  again: charlab train model/position=rotary seed=2\n" in output
    assert (study / "runs/learned/1/record.json").exists()
    assert not (study / "runs/rotary/2").exists()


@pytest.mark.parametrize("place", ["rotary,seed=2/", ""])  # "" is where former runs have their events
def test_tensorboard_is_named_where_its_runs_are_called_by_arm_and_seed(
    run: Run, outputs: Path, study: Path, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    run()
    command = f"curves    tensorboard --logdir {study}/runs\n"
    assert command not in capfd.readouterr().out
    (outputs / "runs/mine/rotary2" / place).mkdir(exist_ok=True)
    (outputs / f"runs/mine/rotary2/{place}events.out.tfevents.1").touch()
    run()
    assert command in capfd.readouterr().out
    found = [path.parent.relative_to(study / "runs") for path in study.glob(f"runs/*/*/{place}events.*")]
    assert found == [Path("rotary/2", place)]


def test_links_of_former_cells_are_removed(run: Run, study: Path) -> None:
    run()
    run(make_plan(1))
    assert sorted(path.relative_to(study / "runs").as_posix() for path in study.glob("runs/*/*")) == [
        "learned/1",
        "rotary/1",
    ]


def test_links_lead_to_the_runs_where_the_folder_of_studies_is_a_link(run: Run, study: Path, tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    study.parents[1].mkdir()
    study.parent.symlink_to(tmp_path / "far" / "away")
    run()
    assert (study / "runs/rotary/2/record.json").exists()


def test_where_no_links_can_be_made_a_study_ends_without_them(
    run: Run, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: object, target_is_directory: bool = False) -> None:
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert run() == {"finished": 4}
    assert not list(study.glob("runs/*/*"))


def test_another_study_of_the_name_begins_anew(runs: MadeUpRuns, run: Run, study: Path) -> None:
    run()
    replace(Plan.load(study), looks=(2,)).save(study)
    run(make_plan(4, 5, 6))
    plan = Plan.load(study)
    assert (plan.looks, plan.planned_seeds, len(runs.keys)) == ((), 3, 6)


def test_an_interrupted_study_keeps_its_plan_and_says_how_far_it_came(
    run: Run, study: Path, runs: MadeUpRuns, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(folder: Path, cells: Sequence[Cell]) -> None:
        runs.launch(folder, cells[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conduct(make_plan(), study.parents[1], interrupt, Console())
    assert "mine: 1 of 4 finished, 3 missing" in capfd.readouterr().out
    run()
    assert runs.keys == ["rotary/1", "learned/2", "rotary/2"]


def test_cells_that_have_not_been_run_again_are_told(
    run: Run, outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run()
    conduct(make_plan(), outputs, lambda folder, cells: None, Console(), again=["all"])
    assert "4 cells never began: the same command runs them.\n" in capfd.readouterr().err


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def train(
    work: Path, conf: Path, write_study: Callable[..., str], runs: MadeUpRuns, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Runs `scripts/train.py` with a study named mine at hand."""
    monkeypatch.setattr(Local, "run", lambda self, study, cells: runs.launch(study, cells))
    monkeypatch.setattr(writer, "make_report", lambda *given, **more: None)
    write_study("seeds: [1, 2]", arms="{learned: [], rotary: [model/position=rotary]}")
    return lambda *typed: cli.train(["--config-dir", str(conf), *typed])


@pytest.mark.slow
def test_from_the_command_line(
    runs: MadeUpRuns, train: Callable[..., int], work: Path, conf: Path, text_path: Path
) -> None:
    runs.fates = {"rotary/2": "failed"}
    alone = ["model=bigram", "data=textfile", f"data.path={text_path}", "trainer.accelerator=cpu"]
    assert train(*alone, "dry_run=True") == train("study=mine", "dry_run=true") == 0
    assert list(work.iterdir()) == []
    assert train("study=mine", "name=own") == 1  # without -m
    assert runs.keys == ["learned/1", "rotary/1", "learned/2", "rotary/2"]
    plan = Plan.load(Path("outputs/studies/mine"))
    assert plan.command == f"-m --config-dir {conf} study=mine name=own"
    assert plan.cells[0].run.startswith("own/")
    runs.fates = {}
    assert train("-m", "study=mine", "name=own", "force=true") == 0
    assert (len(runs.keys), len(runs.forced)) == (4, 3)


@pytest.mark.slow
def test_values_reach_the_cells_as_they_were_typed(train: Callable[..., int], text_path: Path) -> None:
    kept = ["model=bigram", "data=textfile", f"data.path={text_path}", "trainer.accelerator=cpu", "logger=null"]
    assert train("-m", *kept, "~objective", "seed=1,2", "study.name=typed") == 0
    plan = Plan.load(Path("outputs/studies/typed"))
    assert list(plan.cell("only/2").overrides[2:]) == [*kept[:-1], "logger=[]", "~objective", "seed=2"]


@pytest.mark.slow
def test_a_primary_configuration_of_ones_own_is_part_of_the_command(
    train: Callable[..., int], conf: Path, text_path: Path
) -> None:
    (conf / "own.yaml").write_text("defaults: [train, _self_]\n")
    kept = ["model=bigram", "data=textfile", f"data.path={text_path}", "trainer.accelerator=cpu", "logger=null"]
    assert train("-m", "--config-name", "own", *kept, "seed=1,2", "study.name=typed") == 0
    plan = Plan.load(Path("outputs/studies/typed"))
    assert plan.command.startswith(f"-m --config-dir {conf} --config-name own model=bigram ")


@pytest.mark.slow
def test_a_dry_run_by_the_api_writes_nothing(work: Path, text_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = ["data=textfile", f"data.path={text_path}", "trainer.accelerator=cpu", "optimizer.lr=0.1,0.2"]
    assert charlab.study("model=bigram", *settings, "dry_run=true") is None
    assert "2 cells: 2 arms × 1 seed; 0 of 2 finished, 2 missing; 2 to run" in capfd.readouterr().out
    assert list(work.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "own"])
def test_a_program_of_ones_own_hands_its_sweep_over(work: Path, text_path: Path, name: str) -> None:
    """Hydra itself starts the sweep, by charlab's configuration and another program than charlab's."""
    (work / "conf").mkdir()
    (work / "conf" / "own.yaml").write_text("defaults: [train, _self_]\n")
    (work / "program.py").write_text(f"""
import hydra
import charlab.runs.store

@hydra.main(config_path={str(OWN)!r}, config_name={name!r}, **{VERSION_BASE!r})
def run(config):
    raise AssertionError("cells are run by charlab")

run()
""")
    command = [sys.executable, "program.py", "-m", "model=bigram", "data=textfile", f"data.path={text_path}"]
    more = ["trainer.accelerator=cpu", "optimizer.lr=0.1,0.2", "dry_run=true"]
    done = subprocess.run(warm([*command, *more]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 cells: 2 arms × 1 seed; 0 of 2 finished, 2 missing; 2 to run" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("most", [2, 3])
def test_many_arms_are_announced_before_they_are_checked(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], most: int
) -> None:
    monkeypatch.setattr("charlab.studies.planner.MANY_ARMS", most)
    assert train("study=mine", "dry_run=true") == 0
    assert capfd.readouterr().out.startswith("Checking 2 arms …\n") == (most == 2)


@pytest.mark.slow
def test_arms_are_checked_behind_a_bar_on_a_terminal(text_path: Path) -> None:
    terminal = Console(force_terminal=True, width=100, record=True, file=io.StringIO())
    composer = Composer()
    brief = ["model=bigram", "data=textfile", f"data.path={text_path}", "trainer.accelerator=cpu"]
    given = composer.prepare([*brief, "optimizer.lr=0.1,0.2", "dry_run=true"])
    assert sweep(composer.master(given), composer, given, console=terminal) is None
    shown = terminal.export_text()
    assert [step for step in ("composing", "checking", "looking for runs") if step not in shown] == []


def test_a_sweep_is_run_as_a_study(runs: MadeUpRuns, train: Callable[..., int], text_path: Path) -> None:
    common = ["model=bigram", "data=textfile", f"data.path={text_path}", "trainer.accelerator=cpu"]
    assert train("-m", *common, "optimizer.lr=0.1,0.2", "seed=1,2", "study.name=rates") == 0
    assert runs.keys == ["lr=0.1/1", "lr=0.2/1", "lr=0.1/2", "lr=0.2/2"]
    assert Plan.load(Path("outputs/studies/rates")).command.endswith("optimizer.lr=0.1,0.2 seed=1,2 study.name=rates")


@pytest.fixture(scope="module")
def mistaken() -> Callable[..., str]:
    """Return the sentence that a sweep ends in."""
    chosen = ["model=bigram", "data=play"]
    composer = Composer()
    master = composer.master(chosen)

    def sentence(*typed: str) -> str:
        with pytest.raises(UserError) as raised:
            sweep(master, composer, composer.prepare([*chosen, *typed]))
        return str(raised.value)

    return sentence


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["optimizer.lr=1e-3,"], "optimizer.lr=1e-3, cannot be read"),
        (["optimizer.lr=,1e-3"], "optimizer.lr=,1e-3 cannot be read"),
        (["optimizer.betas=[0.9,0.9"], "optimizer.betas=[0.9,0.9 cannot be read"),
        (["scheduler=glob(zzz*)"], "scheduler=glob(zzz*) has no values"),
        (["optimizer.lr=range(3,1)"], "optimizer.lr=range(3,1) has no values"),
        (["seed=range(3,1)"], "seed=range(3,1) has no values"),
        (["optimizer.lr=range(1,2,0)"], "optimizer.lr=range(1,2,0)"),
        (["optimizer.lr=range(0.1,inf)"], "optimizer.lr=range(0.1,inf) has no end, or more than 10,000 values"),
        (["optimizer.lr=range(1,3,nan)"], "optimizer.lr=range(1,3,nan) has no end, or more than 10,000 values"),
        (
            ["optimizer.lr=range(3,-inf,-1)"],
            "optimizer.lr=range(3,-inf,-1) has no end, or more than 10,000 values",
        ),
        (["seed=range(0,1000000000)"], "seed=range(0,1000000000) has no end, or more than 10,000 values"),
        (["optimizer.lr=choice(1e-3,choice(2,3))"], "optimizer.lr=choice(1e-3,choice(2,3))"),
        (["optimizer.lr=interval(0,1)"], "is a range to search, but a sweep tries single values"),
        (["optimizer.lr=1e-4,0.0001"], "optimizer.lr=1e-4,0.0001 has 0.0001 twice"),
        (["optimizer.lr=0.1,0.2", "optimizer.lr=0.01"], "optimizer.lr is given twice, by optimizer.lr=0.1,0.2 and"),
        (["optimizer.lr=0.1,0.2", "optimizer.lr=1,2"], "optimizer.lr is given twice, by optimizer.lr=0.1,0.2 and"),
        (["seed=1,2", "seed=3"], "seed is given twice, by seed=1,2 and seed=3"),
        (["seed=1,1"], "seed=1,1 has 1 twice: give each value once."),
        (["seed=1,x"], "seed must be an integer, not 'x'."),
        (["model.typo=1,2"], "There is no key model.typo"),
        pytest.param(["model=bigram,bigrm"], "did you mean bigram?", marks=pytest.mark.slow),
        pytest.param(
            ["scheduler.value=1,2", "scheduler=warmup_cosine"],
            "There is no key scheduler.value",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mistaken_sweep_is_told_in_a_sentence(
    mistaken: Callable[..., str], work: Path, typed: list[str], sentence: str
) -> None:
    told = mistaken(*typed)
    assert sentence in told
    assert "\n" not in told
    assert list(work.iterdir()) == []


def test_a_single_run_is_no_study(work: Path) -> None:
    for override in ("study=demo", "search=lr", "dry_run=true", "launcher=slurm", "study.margin=0.1"):
        sentence = f'charlab.run trains one model: for {override}, call charlab.study("{override}").'
        with pytest.raises(UserError, match=re.escape(sentence)):
            charlab.run(override)
    with pytest.raises(UserError, match=r"There is no study=dmeo.*did you mean demo"):
        charlab.study("dmeo")
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("override", ["launcher=slurm", "launcher.at_once=2", "study.margin=0.1"])
def test_what_only_a_sweep_heeds_is_no_setting_of_a_single_run(
    train: Callable[..., int], work: Path, capfd: pytest.CaptureFixture[str], override: str
) -> None:
    assert train("model=bigram", override) == 2
    told = f"{override} concerns a sweep, and this is a single run: give -m, or leave it out.\n"
    assert capfd.readouterr().err == told
    assert list(work.iterdir()) == []


def test_a_study_file_that_is_a_list(
    train: Callable[..., int], work: Path, conf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (conf / "study" / "listed.yaml").write_text("- model=gpt\n- model=gru\n")
    assert train("-m", "study=listed") == 2
    output = capfd.readouterr()
    assert "study/listed.yaml" in output.err
    assert output.err.count("\n") == 1
    assert list(work.iterdir()) == []


@pytest.mark.slow
def test_a_long_name_is_shortened_and_shown_whole(
    runs: MadeUpRuns, train: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = [tmp_path / f"{letter * 200}.txt" for letter in "ab"]
    for text in texts:
        text.write_text(f"To be, or not to be {text.name[0]}.\n" * 100)
    command = ["-m", "model=bigram", "data=textfile", f"data.path={texts[0]},{texts[1]}", "trainer.accelerator=cpu"]
    assert train(*command, "dry_run=true") == 0
    output = capfd.readouterr().out
    assert "Too few seeds" not in output  # there is one, and nothing is compared
    assert all(f"path={text}" in output for text in texts)
    assert train(*command) == 0
    assert len(set(runs.keys)) == 2
    assert all(len(part.encode()) <= 120 for key in runs.keys for part in key.split("/"))
    assert len(list(Path("outputs/studies").glob("*/cells/*/305.json"))) == 2


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["study=mine,other"], "study=mine,other has several values, but concerns the whole of a sweep"),
        (["-m", "model=bigram", "data=play", "optimizer.lr=1e-3,"], "optimizer.lr=1e-3, cannot be read"),
        (["study=mnie"], "There is no study=mnie in charlab's own configuration"),
        (["study=mine", "study.marign=1"], "There is no key study.marign; did you mean study.margin?"),
        (["study=mine", "+hydra.callbacks.mine._target_=x.Y"], "hydra.callbacks are called for Hydra's own jobs"),
        (["study=mine", "+hydra.job.env_set.A=1"], "hydra.job.env_set is for Hydra's own jobs: set A in the env"),
        (["study=mine", "hydra.sweep.dir=elsewhere"], "hydra.sweep.dir=elsewhere places Hydra's own jobs"),
        pytest.param(["study=mine", "model.typo=1"], "There is no key model.typo", marks=pytest.mark.slow),
        pytest.param(["study=mine", "output_dir=../text.txt"], "cannot be created, because", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_ends_before_anything_is_written(
    train: Callable[..., int], work: Path, capfd: pytest.CaptureFixture[str], typed: list[str], sentence: str
) -> None:
    assert train(*typed) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert sentence in output.err
    assert output.err.count("\n") == 1
    assert list(work.iterdir()) == []


@pytest.mark.slow
def test_a_mistake_is_found_without_torch(conf: Path, work: Path, write_study: Callable[..., str]) -> None:
    write_study(arms="{learned: [], rot: [plot.typo=1]}")
    program = f"""
import sys
import charlab
from charlab import cli
assert cli.train(["--config-dir", {str(conf)!r}, "study=mine"]) == 2
slow = {{"torch", "lightning", "torchmetrics", "matplotlib", "scipy", "pandas"}} & set(sys.modules)
assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("The arm rot does not compose: There is no key plot.typo")
    assert list(work.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("launcher.at_once=two", "launcher.at_once must be an integer ≥ 1 or none, not 'two'."),
        ("launcher.at_once=-1", "launcher.at_once must be an integer ≥ 1 or none, not -1."),
        ("+launcher.at_onec=2", "There is no key launcher.at_onec; did you mean launcher.at_once?"),
        ("~launcher.at_once", "launcher.at_once is missing: charlab.studies.executors.local.Local needs it."),
        ("launcher=null", "No launcher is chosen: give launcher=local, or leave launcher out."),
    ],
)
def test_a_mistake_in_the_launcher_ends_before_anything_is_written(
    train: Callable[..., int], work: Path, capfd: pytest.CaptureFixture[str], override: str, sentence: str
) -> None:
    assert train("-m", "model=bigram", "data=play", "seed=1,2", override) == 2
    assert capfd.readouterr() == ("", f"{sentence}\n")
    assert list(work.iterdir()) == []
