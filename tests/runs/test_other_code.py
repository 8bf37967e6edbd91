"""The same command after an edit: a new run, said before anything else, and never the old figure."""

import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from site import addsitedir

import pytest

import charlab
from charlab import cli
from charlab.errors import UserError
from charlab.runs.archive import Archive
from charlab.runs.draw import sample
from charlab.runs.identity import Identity
from charlab.runs.record import Record
from charlab.runs.requalify import Repetition, record_requalification, repeat
from charlab.runs.store import Run, Store
from charlab.runs.surprisal import surprisal
from charlab.training.module import LanguageModelModule
from tests.helpers.student import MODULES, edit, forget, reload, write
from tests.helpers.warm import warm


@pytest.fixture
def student(request, tmp_path, monkeypatch):
    """The folder of a student's modules: on the path, or as pip installs it from a folder, editable or not."""
    how = getattr(request, "param", "on the path")
    site = tmp_path / "site-packages"
    folder = site if how == "installed" else tmp_path / "student"
    write(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    if how != "on the path":
        information = site / "studentmodel-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: studentmodel\nVersion: 1.0\n")
        (information / "top_level.txt").write_text("\n".join(MODULES))
        url = {"url": (tmp_path / "project").as_uri(), "dir_info": {"editable": True} if how == "editable" else {}}
        (information / "direct_url.json").write_text(json.dumps(url))
        if how == "editable":
            sys.path.remove(str(folder))
            (site / "studentmodel.pth").write_text(f"{folder}\n")
            addsitedir(str(site))
            assert str(folder) in sys.path
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    forget()


@pytest.fixture
def command(text_path, tmp_path):
    """The command line of a run of the student's model."""
    return [
        "model=bigram",
        "model._target_=studentmodel.Mine",
        "data=textfile",
        f"data.path={text_path}",
        "data.context_length=8",
        "data.batch_size=4",
        "trainer.accelerator=cpu",
        "trainer.max_steps=4",
        "~callbacks.attention_maps",
        "~callbacks.samples",
        "estimate_batches=2",
        "callbacks.checkpointing.every_n_steps=1",
        "logger=csv",
        "name=student",
        f"output_dir={tmp_path / 'outputs'}",
    ]


@pytest.fixture
def run(command, student, capsys):
    """Train it; return the record and the first line that was printed."""

    def run(*more):
        capsys.readouterr()
        record = charlab.run(*command, *more)
        return record, " ".join(capsys.readouterr().out.split())

    return run


def nll(record):
    return record.metric("blocks")["nll"]


def files(record):
    return {path: path.read_bytes() for path in record.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("student", "module"),
    [
        ("on the path", "studentparts"),
        pytest.param("on the path", "studentmodel", marks=pytest.mark.slow),
        pytest.param("editable", "studentparts", marks=pytest.mark.slow),
        pytest.param("installed", "studentparts", marks=pytest.mark.slow),
    ],
    indirect=["student"],
)
def test_an_edited_model_is_a_new_run_and_the_old_one_is_kept(run, student, module):
    first, _ = run()
    kept = files(first)
    former, new = {
        "studentmodel": ("readout(self.table(tokens))", "readout(2 * self.table(tokens))"),
        "studentparts": ("1.0 * x", "2.0 * x"),
    }[module]
    edit(student / f"{module}.py", former, new)
    reload()
    second, printed = run()
    assert printed.startswith(
        f"This run was finished by different code (changed since: {module}): it stays in {first.folder}"
    )
    assert "finished already" not in printed
    assert (second.fingerprint, second.status) == (first.fingerprint, "finished")
    assert second.code != first.code
    assert second.folder.name == f"{first.fingerprint}-{second.code}"
    assert nll(second) != nll(first)
    assert files(first) == kept
    again, printed = run()
    assert printed.startswith("This run is finished already")
    assert nll(again) == nll(second)
    edit(student / f"{module}.py", new, former)
    reload()
    back, printed = run()
    assert printed.startswith("This run is finished already")
    assert (nll(back), back.folder) == (nll(first), first.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "callback",
    ["+callbacks.mine={_target_: studentcallback.Shrink}", "trainer.callbacks=[{_target_: studentcallback.Shrink}]"],
)
def test_an_edited_callback_is_a_new_run_and_the_old_one_is_kept(run, student, callback):
    first, _ = run(callback)
    kept = files(first)
    edit(student / "studentcallback.py", "It makes", "It keeps making")
    reload()
    assert run(callback)[1].startswith("This run is finished already")
    edit(student / "studentcallback.py", "mul_(0.9)", "mul_(0.5)")
    reload()
    second, printed = run(callback)
    assert printed.startswith(
        f"This run was finished by different code (changed since: studentcallback): it stays in {first.folder}"
    )
    assert (second.fingerprint, second.callbacks) == (first.fingerprint, ["studentcallback.Shrink"])
    assert second.code != first.code
    assert nll(second) != nll(first)
    assert files(first) == kept


def test_a_comment_or_an_unreached_module_is_no_other_code(run, student):
    first, trained = run()
    edit(student / "studentmodel.py", "A bigram.", "A table of logits.")
    edit(student / "studentparts.py", "return", "# scaled\n    return")
    (student / "unreached.py").write_text("x = 1")
    reload()
    again, printed = run()
    assert printed.startswith("This run is finished already")
    assert trained[trained.index("split protocol") :] in printed
    assert again.folder == first.folder


def test_an_edit_between_two_calls_is_refused_until_the_module_is_reloaded(run, student):
    first, _ = run()
    edit(student / "studentparts.py", "1.0 * x", "2.0 * x")
    with pytest.raises(UserError, match=r"studentparts\.py was edited after studentparts had been imported: restart"):
        run()
    assert [record.parent for record in first.folder.parent.glob("*/record.json")] == [first.folder]
    reload()
    second, _ = run()
    assert nll(second) != nll(first)


@pytest.fixture
def half(run, interrupt_at, tmp_path):
    """The record of a run that was killed in its third step."""
    restore = interrupt_at(3, SystemExit(9))
    with pytest.raises(SystemExit):
        run()
    restore()
    (folder,) = (tmp_path / "outputs" / "runs" / "student").iterdir()
    return Record.load(folder)


@pytest.mark.slow
def test_half_a_run_is_not_resumed_by_other_code_unless_told_to(run, student, half):
    kept = files(half)
    edit(student / "studentparts.py", "1.0 * x", "2.0 * x")
    reload()
    other, printed = run()
    assert printed.startswith("This run was started by different code (changed since: studentparts)")
    assert "resume=any_code resumes it with today's code." in printed
    assert files(half) == kept
    assert other.folder != half.folder
    shutil.rmtree(other.folder)
    resumed, printed = run("resume=any_code")
    assert resumed.folder == half.folder
    assert (resumed.status, resumed.begun_by, resumed.code) == ("finished", [half.code], other.code)
    assert resumed.started == half.started
    assert nll(resumed) != nll(other)
    assert f"It was started by different code ({half.code})." in run()[1]


@pytest.mark.slow
def test_a_resumed_run_keeps_what_was_known_of_it(run, student, half, interrupt_at):
    half.config["tags"], half.config["note"] = ["later"], "as `charlab runs note` gives it"
    half.save()
    edit(student / "studentparts.py", "1.0 * x", "2.0 * x")
    reload()
    restore = interrupt_at(3, SystemExit(9))  # in the first step after the checkpoint
    with pytest.raises(SystemExit):
        run("resume=any_code", "tags=[mine]")
    restore()
    resumed, _ = run("resume=any_code")
    assert (resumed.folder, resumed.status, resumed.begun_by) == (half.folder, "finished", [half.code])
    assert (resumed.config["tags"], resumed.config["note"]) == (["later", "mine"], half.config["note"])


@pytest.mark.slow
def test_half_a_run_goes_on_with_its_own_accumulation_only(run, half):
    with pytest.raises(UserError, match=r"started with trainer\.accumulate_grad_batches=1, not 2"):
        run("trainer.accumulate_grad_batches=2")
    assert run()[0].status == "finished"
    assert run("trainer.accumulate_grad_batches=2")[1].startswith("This run is finished already")


@pytest.mark.slow
def test_a_folder_that_is_named_is_the_only_one_that_is_looked_at(run, student, tmp_path):
    first, _ = run()
    named = f"hydra.run.dir={tmp_path / 'named'}"
    mine, printed = run(named)
    assert "finished already" not in printed
    assert (mine.folder, nll(mine)) == (tmp_path / "named", nll(first))
    assert run(named)[1].startswith("This run is finished already")
    kept = files(mine)
    with pytest.raises(UserError, match=r"named holds another run, student with the fingerprint"):
        run(named, "optimizer.lr=0.5")
    edit(student / "studentparts.py", "1.0 * x", "2.0 * x")
    reload()
    with pytest.raises(
        UserError, match=r"The run in .*named was finished by different code \(changed since: studentparts\)"
    ):
        run(named)
    assert files(mine) == kept
    assert nll(run(named, "force=true")[0]) != nll(first)


@pytest.mark.slow
def test_a_run_that_has_lost_its_checkpoint_is_trained_again(run_tiny, copied, capsys):
    (copied.folder / "checkpoints" / "last.ckpt").unlink()
    capsys.readouterr()
    again = run_tiny()
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(f"The finished run in {copied.folder} has lost its checkpoint: it is trained again.")
    assert (again.folder, nll(again)) == (copied.folder, nll(copied))


def test_a_checkpoint_that_has_lost_its_record_is_not_resumed(run_tiny, copied):
    (copied.folder / "record.json").unlink()
    kept = files(copied)
    with pytest.raises(UserError, match=r"has a checkpoint but no record\.json, so it is not known which code"):
        run_tiny()
    assert files(copied) == kept


@pytest.mark.slow
def test_a_run_that_keeps_no_checkpoint_has_lost_none(overrides, capsys):
    command = [*(given for given in overrides if not given.startswith("callbacks")), "callbacks=null"]
    record = charlab.run(*command, "trainer.max_steps=2")
    assert not (record.folder / "checkpoints").exists()
    capsys.readouterr()
    charlab.run(*command, "trainer.max_steps=2")
    assert capsys.readouterr().out.startswith("This run is finished already")


@pytest.mark.slow
def test_evaluate_never_adds_figures_of_other_code(run, student, capsys):
    record, _ = run()
    before = (record.folder / "record.json").read_bytes()
    edit(student / "studentparts.py", "1.0 * x", "3.0 * x")
    reload()
    for protocol in ("blocks", "online"):
        assert cli.evaluate([f"run={record.folder}", "device=cpu", f"protocol={protocol}"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "These figures were not added to the run's record. They come from different code" in printed
        assert "(changed since: studentparts)" in printed
        assert (record.folder / "record.json").read_bytes() == before
    edit(student / "studentparts.py", "3.0 * x", "1.0 * x")
    reload()
    assert cli.evaluate([f"run={record.folder}", "device=cpu", "protocol=blocks", "split=train"]) == 0
    assert Record.load(record.folder).metric("blocks", "train")


@pytest.mark.slow
def test_an_export_of_other_code_says_so_and_keeps_it(run, student, capsys):
    pytest.importorskip("safetensors")
    record, _ = run()

    def export():
        capsys.readouterr()
        assert cli.main(["export", f"run={record.folder}"]) == 0
        described = json.loads((record.folder / "export" / "charlab.json").read_text())
        return capsys.readouterr().err, described["run"]["changed_since"]

    said, kept = export()
    assert ("different code" in said, kept) == (False, [])
    edit(student / "studentparts.py", "1.0 * x", "3.0 * x")
    reload()
    said, kept = export()
    told = "was trained by different code (changed since: studentparts): its weights are exported with today's model."
    assert f"The run {record.folder} {told}\n" in said
    assert kept == ["studentparts"]
    edit(student / "studentparts.py", "3.0 * x", "1.0 * x  # as before")
    reload()
    said, kept = export()
    assert ("different code" in said, kept) == (False, [])


@pytest.mark.slow
def test_what_a_run_expected_is_not_known_of_other_code(run, student):
    record, _ = run()
    assert len(surprisal(record, length=10).expected) == 10
    edit(student / "studentparts.py", "1.0 * x", "-x")
    reload()
    shown = surprisal(record, length=10)
    assert (len(shown.nll), shown.expected) == (10, ())
    assert shown.note.endswith("What the model expected is not known: its code has changed since: studentparts.")


@pytest.mark.slow
def test_no_text_of_other_code_is_taken_for_a_sample_of_the_run(run, student, caplog):
    record, _ = run()
    edit(student / "studentparts.py", "1.0 * x", "3.0 * x")
    reload()
    assert sample(record) == ""
    assert "its model has changed since: studentparts" in caplog.text
    edit(student / "studentparts.py", "3.0 * x", "1.0 * x")
    reload()
    assert len(sample(record)) > 100
    assert sample(record) == (record.folder / "samples.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("edited", [True, False])
def test_an_ensemble_of_an_edited_model_is_a_new_run(run, student, edited):
    member, _ = run()
    ensemble = (
        "model=ensemble",
        "model._target_=charlab.models.mixture.Ensemble",
        f"model.runs=[{member.folder}]",
        "name=ensemble",
    )
    first, _ = run(*ensemble)
    kept = files(first)
    if edited:
        edit(student / "studentparts.py", "1.0 * x", "2.0 * x")
    else:
        edit(student / "studentparts.py", "1.0 * x", "1.0 * x  # a comment")
    reload()
    second, printed = run(*ensemble)
    assert files(first) == kept
    if edited:
        assert printed.startswith(
            f"The run {member.folder} was trained by different code (changed since: studentparts)"
        )
        assert "This run was finished by different code (changed since: studentparts)" in printed
        assert (second.fingerprint, nll(second) != nll(first)) == (first.fingerprint, True)
    else:
        assert printed.startswith("This run is finished already")


@pytest.mark.slow
def test_the_command_line_says_it_first_and_answers_without_torch(command, student, tmp_path):
    code = "import sys; from charlab import cli; code = cli.train(); print('torch' in sys.modules); sys.exit(code)"

    def train(start=warm):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(student), *sys.path])}
        done = subprocess.run(
            start([sys.executable, "-c", code, *command]), env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    first = train()
    edit(student / "studentparts.py", "1.0 * x", "2.0 * x")
    second = train()
    assert second.startswith("This run was finished by different code (changed since: studentparts)")
    assert second.endswith("True")
    third = train(list)
    assert third.startswith("This run is finished already")
    assert third.endswith("False"), "torch was imported"
    assert second[second.index("split protocol") : second.index("True")] in third
    assert len(list((tmp_path / "outputs" / "runs" / "student").glob("*/record.json"))) == 2
    assert first not in third


def test_a_record_is_strict_json(finished_run, tmp_path):
    record = dataclasses.replace(copy.deepcopy(finished_run), folder=tmp_path)
    record.config["trainer"]["gradient_clip_val"] = float("inf")
    record.time["training_s"] = float("inf")
    record.scenes[0] = float("nan")
    record.save()

    def refuse(constant):
        raise AssertionError(constant)

    stored = json.loads((record.folder / "record.json").read_text(), parse_constant=refuse)
    assert (stored["time"]["training_s"], stored["scenes"][0]) == (None, None)
    assert stored["not_finite"] == {
        "config.trainer.gradient_clip_val": "inf",
        "time.training_s": "inf",
        "scenes.0": "nan",
    }
    read = Record.load(record.folder)
    assert read.time["training_s"] == float("inf")
    assert read.scenes[0] != read.scenes[0]
    assert read.config["trainer"]["gradient_clip_val"] == float("inf")


@pytest.mark.slow
def test_a_run_is_requalified_by_code_that_repeats_its_first_points(run, student, command, capsys):
    record, _ = run("trainer.log_every_n_steps=1")
    before = (record.folder / "record.json").read_bytes()
    edit(student / "studentparts.py", "1.0 * x", "1.001 * x")
    reload()
    assert not charlab.requalify(record.folder)
    assert "does not reproduce" in capsys.readouterr().out
    assert (record.folder / "record.json").read_bytes() == before
    edit(student / "studentparts.py", "return 1.001 * x", "y = x * 1.0\n    return y")
    reload()
    assert charlab.requalify(record.folder)
    read = Record.load(record.folder)
    assert (read.code, [entry["points"] for entry in read.requalified]) == (record.code, [3])
    again, printed = run("trainer.log_every_n_steps=1")
    assert printed.startswith("This run is finished already")
    assert again.folder == record.folder
    assert read.is_by(again.requalified[0]["code"])


PACED = (
    *("trainer.max_steps=-1", "budget.max_seconds=1", "scheduler=warmup_stable_decay", "scheduler.warmup=0.5"),
    "trainer.log_every_n_steps=1",
)


@pytest.fixture
def pace(monkeypatch):
    """Give every training step the same duration."""

    def pace(seconds):
        clock = property(lambda self: seconds * self.micro_batches)
        monkeypatch.setattr(LanguageModelModule, "training_seconds", clock)

    return pace


@pytest.mark.slow
def test_a_run_with_a_budget_in_seconds_is_repeated_by_the_clock_in_its_record(run, student, pace, capsys):
    pace(0.05)
    record, _ = run(*PACED)
    assert (record.steps, len(record.clock), record.clock[:3]) == (20, 21, [0.0, 0.05, 0.1])
    pace(0.2)  # on a slower machine
    edit(student / "studentparts.py", "1.0 * x", "1.001 * x")
    reload()
    assert not charlab.requalify(record.folder)
    edit(student / "studentparts.py", "return 1.001 * x", "y = x * 1.0\n    return y")
    reload()
    again = repeat(record.folder, points=20)  # the whole run, to its end by the clock
    assert again.steps == tuple(range(1, 21))
    assert len({rate for (_, metric), (rate, _) in again.values.items() if metric == "learning_rate"}) > 10
    assert all(now == logged for logged, now in again.values.values())
    assert charlab.requalify(record.folder)
    assert Record.load(record.folder).is_by(again.identity.code)
    dataclasses.replace(record, clock=[]).save()
    with pytest.raises(UserError, match=r"its record lacks the clock at the steps before the first logged one\."):
        charlab.requalify(record.folder)


def test_a_run_that_was_killed_keeps_the_clock_of_its_first_steps(run, pace, interrupt_at):
    pace(0.05)
    restore = interrupt_at(5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(*PACED)
    restore()
    pace(0.1)
    record, printed = run(*PACED)
    assert "continuing from step 5" in printed
    assert record.clock[:7] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.6])


def test_a_requalified_run_is_found_by_both_fingerprints(run_tiny, copied, capsys):
    entry = {"code": copied.code, "fingerprint": copied.fingerprint}
    dataclasses.replace(copied, fingerprint="0" * 12, code="0" * 12, requalified=[entry]).save()
    run_tiny(f"hydra.run.dir={copied.folder}")
    assert "This run is finished already" in capsys.readouterr().out


def test_a_look_at_the_test_split_during_a_repetition_is_not_lost(copied):
    repetition = Repetition(Run(copied), Identity("0" * 12, {"studentmodel": "1"}), (1,), {}, tolerance=0.0)
    dataclasses.replace(copied, test_looks=1).save()
    record_requalification(repetition)
    kept = Record.load(copied.folder)
    assert (kept.test_looks, kept.is_by(repetition.identity.code)) == (1, True)


@pytest.mark.slow
def test_a_kept_run_of_a_former_charlab_is_requalified(run, command, tmp_path, capsys):
    record, _ = run("trainer.log_every_n_steps=1")
    archive = Archive(tmp_path / "records")
    curves = (record.folder / "metrics.csv").read_text().splitlines()[1:]
    rounded = [row if "train/loss" not in row else f"{row[:-1]}{(int(row[-1]) + 1) % 10}" for row in curves]
    former = dataclasses.replace(record, fingerprint="0" * 12, code=None, sources={}, machine={"name": "another"})
    archive.add(former, "a sample", rounded)
    place = tmp_path / "records" / record.name / former.fingerprint
    capsys.readouterr()
    assert charlab.requalify(place)
    assert "up to rounding, on another machine" in " ".join(capsys.readouterr().out.split())
    archive = Archive(tmp_path / "records")
    (kept,) = archive.records()
    assert (kept.fingerprint, kept.code, kept.is_by(record.code)) == (former.fingerprint, None, True)
    assert archive.sample(kept) == "a sample"
    assert len(archive.curves(kept)) == len(curves)
    (found,), _ = Store(tmp_path / "elsewhere", tmp_path / "records").find(f"{record.name}/{record.fingerprint}")
    assert (found.folder, found.record) == (None, kept)
    archive.add(dataclasses.replace(former, machine=record.machine))  # where the machine is the same, digits count
    assert not charlab.requalify(place)
    with pytest.raises(UserError, match="There is no run in"):
        charlab.requalify(place.with_name("1" * 12))
