"""What `charlab runs` lists, compares and removes."""

import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

import charlab
from charlab.cli import main
from charlab.errors import UserError
from charlab.runs.folder import clear, is_locked, locked, remove
from charlab.runs.listing import COLUMNS, list_runs
from charlab.runs.record import Record
from charlab.runs.store import Store


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """The folder of outputs in the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


@pytest.fixture
def write(outputs):
    """Return a function that writes the folder of a run."""

    def write(fingerprint, nll=1.5, *, name="gpt-play", status="finished", seed=1, lr=1e-3, error=None, **model):
        record = Record(
            folder=outputs / "runs" / name / fingerprint,
            name=name,
            fingerprint=fingerprint.partition("-")[0],
            status=status,
            overrides=["model=gpt", f"seed={seed}"],
            config={
                "seed": seed,
                "model": {"_target_": "charlab.models.backbone.Backbone", "num_layers": 2, **model},
                "data": {"seed": seed},
                "optimizer": {"_target_": "torch.optim.AdamW", "lr": lr, "fused": None},
                "trainer": {"log_every_n_steps": seed},
                "callbacks": {"samples": {"seed": seed}},
            },
            seed=seed,
            parameters=1000,
            steps=100,
            characters_seen=12800,
            code=fingerprint,
            sources={"charlab.models.backbone": fingerprint},
            time={"training_s": 12.0},
            started=f"2026-11-{seed:02d}T10:00:00+00:00",
        )
        if nll is not None:
            figures = {"nll": nll, "bpc": nll * 1.44, "perplexity": 2.7**nll, "standard_error": error}
            likelihood = "exact" if error is None else "bound"
            record.metrics = [{"protocol": "blocks", "split": "validation", "likelihood": likelihood, **figures}]
        record.save()
        rows = [f"{step},{step * 128},{step / 8},validation/nll,{2 - step / 100}\n" for step in (0, 50, 100)]
        (record.folder / "metrics.csv").write_text("step,characters,seconds,metric,value\n" + "".join(rows))
        return record

    return write


@pytest.fixture
def said(capsys):
    """Return a function that calls `charlab runs`, and returns its exit code and what it printed."""

    def said(*arguments):
        capsys.readouterr()
        code = main(["runs", *arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return said


def runs_in(printed):
    return [line.split()[1] for line in printed.splitlines()[1:-1]]


def test_runs_are_listed_with_what_differs_and_what_they_cost(write, said):
    write("aaaa11112222", 1.5)
    write("bbbb11112222", 1.4321, seed=2, lr=0.01)
    write("cccc11112222", None, status="failed", seed=3)
    write("dddd11112222", 2.5, name="other", error=0.25, num_layers=3)
    code, printed = said()
    assert code == 0
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert lines[1].startswith("gpt-play aaaa1111 seed=1 and lr=0.001 finished 1.5000 100 12 s")
    assert lines[2].startswith("gpt-play bbbb1111 seed=2 and lr=0.01 finished 1.4321 100 12 s")
    assert lines[3].startswith("gpt-play cccc1111 seed=3 and lr=0.001 failed – 100 12 s")
    assert lines[4].startswith("other dddd1111 finished ≤ 2.5000 ± 0.2500 100 12 s")
    assert lines[5].startswith("4 runs in outputs/runs, ")
    assert lines[5].endswith("KiB")


def test_tags_and_a_note_are_shown_and_filtered(write, said):
    for fingerprint, tags, note in (("aaaa", ["sweep", "old"], "too slow"), ("bbbb", [], None)):
        record = write(fingerprint)
        record.config |= {"tags": tags, "note": note}
        record.save()
    lines = [" ".join(line.split()) for line in said()[1].splitlines()]
    assert lines[1].startswith("gpt-play aaaa sweep, old · too slow finished")
    assert lines[2].startswith("gpt-play bbbb finished")
    assert runs_in(said("tags=*sweep*")[1]) == runs_in(said("note=too slow")[1]) == ["aaaa"]
    assert charlab.runs()["note"].tolist()[0] == "too slow"


def test_tags_and_a_note_can_be_changed_afterwards(write, said, outputs):
    record = write("aaaa")
    before = {path: path.read_bytes() for path in outputs.rglob("*.csv")}
    assert said("tag", "aaaa", "good", "2026", "good")[0] == 0
    assert said("note", "aaaa", "nll<1.5, at last")[1].endswith("tags: good, 2026  note: nll<1.5, at last\n")
    assert said("tag", "aaaa", "-good", "kept")[0] == 0
    changed = Record.load(record.folder)
    assert changed.config == record.config | {"tags": ["2026", "kept"], "note": "nll<1.5, at last"}
    assert changed.as_dict() | {"config": None} == record.as_dict() | {"config": None}
    assert runs_in(said("tags=*kept*")[1]) == ["aaaa"]
    assert said("note", "aaaa", "length=256, too short")[1].endswith("note: length=256, too short\n")
    assert said("note", "aaaa", "")[1].endswith("note: none\n")
    assert {path: path.read_bytes() for path in outputs.rglob("*.csv")} == before
    with locked(record.folder):
        code, printed = said("tag", "aaaa", "late")
    assert code == 2
    assert printed.startswith("Another process is training outputs/runs/gpt-play/aaaa right now")


def test_a_killed_run_is_not_taken_for_a_running_one(write, said):
    stopped, running = write("aaaa", status="running"), write("bbbb", status="running")
    (stopped.folder.parent / ".aaaa.lock").touch()  # as a killed process leaves it
    with locked(running.folder):
        assert [line.split()[2] for line in said()[1].splitlines()[1:3]] == ["stopped", "running"]
        assert Record.load(stopped.folder).status == "running"


def test_a_lock_file_that_cannot_be_removed_is_no_error(tmp_path, monkeypatch):
    """As on Windows while the lock is held."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as windows:
        windows.setattr("charlab.runs.folder.os.unlink", refuse)
        with locked(tmp_path / "run"):
            assert is_locked(tmp_path / "run")
    assert not is_locked(tmp_path / "run")


def test_a_lock_that_a_process_killed_on_another_machine_may_have_left_is_named(tmp_path, monkeypatch):
    """As `filelock` chooses it on a file system without locks."""
    monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
    told = r"right now: wait for it, change the seed or, if it was killed on another machine, remove .*\.run\.lock\."
    with locked(tmp_path / "run"), pytest.raises(UserError, match=told), locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        (["status=failed"], ["cccc"]),
        (["status!=failed"], ["aaaa", "bbbb"]),
        (["nll<1.45"], ["bbbb"]),
        (["nll>=1.4321", "optimizer.lr=1e-3"], ["aaaa"]),
        (["model=gpt", "seed=3"], ["cccc"]),
        (["name=gpt-*"], ["aaaa", "bbbb", "cccc"]),
        (["model._target_=Backbone", "seed<3"], ["aaaa", "bbbb"]),
        (["optimizer.fused=null", "sort=-seed"], ["cccc", "bbbb", "aaaa"]),
        (["sort=nll"], ["bbbb", "aaaa", "cccc"]),
        (["sort=-nll", "limit=1"], ["aaaa"]),
    ],
)
def test_runs_are_filtered_and_sorted(write, said, conditions, found):
    write("aaaa", 1.5)
    write("bbbb", 1.4321, seed=2, lr=0.01)
    write("cccc", None, status="failed", seed=3)
    code, printed = said(*conditions)
    assert (code, runs_in(printed)) == (0, found)
    if len(conditions) == 1 and "sort" not in conditions[0]:
        assert charlab.runs(*conditions)["fingerprint"].tolist() == found


def test_a_text_with_a_dot_is_filtered_as_a_whole(write, said):
    record, _ = write("aaaa", name="gpt-v1.5"), write("bbbb", name="lstm")
    record.config |= {"tags": ["v1.5", "kept"], "note": "lr 0.01 is too slow. Stopped."}
    record.config["optimizer"]["betas"] = [0.9, 0.95]
    record.save()
    typed = ("optimizer.betas=[0.9,0.95]", "tags=v1.5,kept")
    for condition in ("name=gpt-*", "tags=*v1*", "note=*slow*", "name!=lstm", "name!=l*", *typed):
        assert runs_in(said(condition)[1]) == ["aaaa"], condition
    assert "There is no such run" in said("name=5")[1]


def test_the_same_as_a_table(write):
    write("aaaa", 1.5)
    write("bbbb", 1.4321, seed=2, lr=0.01)
    table = charlab.runs()
    assert table["nll"].tolist() == [1.5, 1.4321]
    assert table["optimizer.lr"].tolist() == [0.001, 0.01]
    assert "model.num_layers" not in table
    assert charlab.runs("seed=2")["folder"].tolist() == ["outputs/runs/gpt-play/bbbb"]
    assert charlab.runs(output_dir="elsewhere").sort_values("nll").empty
    assert tuple(list_runs(Path("outputs"))[0].columns) == tuple(charlab.runs(output_dir="elsewhere")) == COLUMNS


def test_a_table_has_the_settings_in_which_runs_of_different_names_differ(write):
    write("aaaa")
    write("bbbb", name="lstm-play", lr=0.01)
    assert charlab.runs()["optimizer.lr"].tolist() == [0.001, 0.01]


def test_a_setting_of_other_runs_than_those_that_pass_is_known(write, said):
    write("aaaa", status="failed")
    record = write("bbbb")
    record.config["optimizer"]["momentum"] = 0.9
    record.save()
    code, printed = said("status=failed", "optimizer.momentum=0.9")
    assert (code, printed) == (0, "There is no such run in outputs/runs.\n")


def test_a_text_that_an_earlier_version_called_validation_is_not_taken_for_it(write, said):
    record = write("aaaa")
    record.metrics.append(record.metrics[0] | {"protocol": "sliding", "nll": 0.5, "sha256": "1"})
    record.save()
    assert charlab.runs(protocol="sliding")["nll"].tolist() == [None]
    assert not Record.load(record.folder).has_figure("sliding")


def test_what_is_not_known_ends_in_one_sentence(write, said):
    write("aaaa1")
    write("aaaa2", name="other")
    for arguments, sentence in [
        (["srot=nll"], "No run has a column or setting srot; did you mean sort?"),
        (["sort=nil"], "sort=nil: no run has a column or setting nil; did you mean nll?"),
        (["gpt-play"], "gpt-play is not a filter: write COLUMN=VALUE"),
        (["limit=many"], "limit must be a number of runs, not 'many'."),
        (["protocol=blcoks"], "There is no protocol=blcoks; did you mean blocks?"),
        (["compare", "aaaa1"], "compare takes two runs, not 1: "),
        (["compare", "aaaa1", "ffff"], "There is no run ffff, which is neither a folder with a record.json nor"),
        (["remove", "aaaa", "force=true"], "aaaa could be gpt-play/aaaa1 or other/aaaa2: give more digits"),
        (["remove"], "remove takes the runs to delete: "),
        (["tag", "aaaa1"], "tag takes a run and its tags: see --help."),
        (["note", "aaaa1", "too", "slow"], "note takes a run and a text in quotes: see --help."),
        (["note", "ffff", "lost"], "There is no run ffff, which is neither a folder with a record.json nor"),
        (["note", "aaaa1", "caf\udce9"], "The note caf\\udce9 is not UTF-8, so it cannot be recorded"),
    ]:
        code, printed = said(*arguments)
        assert code == 2, arguments
        assert printed.startswith(sentence)
        assert printed.count("\n") == 1


def test_a_run_is_named_by_its_folder_or_the_beginning_of_its_fingerprint(write, outputs):
    first, other = write("abcd11112222"), write("abcd11112222-0123456789ab")
    store = Store(outputs)
    assert store.named(first.folder) == first.folder
    assert store.named("outputs/runs/gpt-play/abcd11112222").absolute() == first.folder
    assert store.named("gpt-play/abcd11112222") == store.named("abcd11112222") == first.folder
    assert store.named("abcd11112222-01") == other.folder
    for text in ("abcd", "*", "ffff", "gpt-play"):
        with pytest.raises(UserError, match=r"There is no run|abcd could be"):
            store.named(text)


def test_a_record_that_cannot_be_read_does_not_hide_the_others(write, said, outputs):
    write("aaaa")
    (outputs / "runs" / "gpt-play" / "bbbb" / "record.json").mkdir(parents=True)  # root may read any file
    assert runs_in(said()[1]) == ["aaaa"]


def test_a_file_that_vanishes_while_runs_are_listed_is_no_error(write, said, monkeypatch):
    write("aaaa")
    walk = os.walk
    renamed = ".record.json.abcdefgh"
    monkeypatch.setattr("os.walk", lambda folder: ((*found[:2], [*found[2], renamed]) for found in walk(folder)))
    assert runs_in(said()[1]) == ["aaaa"]


def test_an_empty_name_names_no_run(write, said):
    record = write("aaaa")  # the only run, with which every name that is given in part begins
    code, printed = said("remove", "", "force=true")
    assert (code, record.folder.exists()) == (2, True)
    assert printed.startswith("No run is named: give its folder")
    assert printed.count("\n") == 1
    for name in ("./", "/", "."):
        code, printed = said("remove", name, "force=true")
        assert (code, record.folder.exists()) == (2, True)
        assert printed.startswith(f"There is no run {name}, which is neither a folder")


def test_two_runs_are_compared(write, said, tmp_path):
    write("aaaa", 1.5)
    write("bbbb", 1.4321, seed=2, lr=0.01)
    code, printed = said("compare", "aaaa", "bbbb", f"plot={tmp_path / 'curves.png'}")
    assert code == 0
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    for line in (
        "seed 1 2",
        "optimizer.lr 0.001 0.01",
        "validation/blocks 1.5000 1.4321 −0.0679",
        "steps 100 100 0",
        "Their code differs in charlab.models.backbone.",
    ):
        assert line in lines
    assert not any(line.startswith(("model.", "trainer.", "callbacks.")) for line in lines)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    code, printed = said("compare", "aaaa", "aaaa")
    assert "Their configurations do not differ.\n" in printed
    assert "Their code is the same.\n" in printed
    assert (tmp_path / "outputs" / "compare-aaaa-aaaa.png").exists()


def test_the_code_of_two_runs_of_an_earlier_version_is_not_known(write, said):
    for fingerprint in ("aaaa", "bbbb"):
        record = write(fingerprint)
        record.code, record.sources = None, {}
        record.save()
    assert "Their code is not known.\n" in said("compare", "aaaa", "bbbb")[1]


def test_a_run_and_the_same_by_other_code_are_told_apart(write, said, tmp_path, monkeypatch):
    write("abcd11112222", 1.5)
    write("abcd11112222-0123456789ab", 1.4)
    assert runs_in(said()[1]) == ["abcd1111", "abcd11112222-0123"]
    drawn = {}
    monkeypatch.setattr("charlab.runs.compare.plot_comparison", lambda file, folders: drawn.update(folders))
    code, printed = said("compare", "abcd11112222", "abcd11112222-0123")
    assert (code, [label.split()[1] for label in drawn]) == (0, ["abcd1111", "abcd11112222-0123"])
    assert "outcome gpt-play abcd1111 gpt-play abcd11112222-0123 difference" in " ".join(printed.split())


def test_the_figures_that_are_compared_are_the_runs_own(write, said):
    first, second = write("aaaa", 1.5), write("bbbb", 1.4, error=0.1)
    blocks = dict(first.metrics[0])
    first.metrics += [blocks | {"context_length": 4, "nll": 9.0}, blocks | {"split": "other", "sha256": "1"}]
    second.metrics.append(blocks | {"split": "other", "sha256": "2"})
    first.save()
    second.save()
    lines = [" ".join(line.split()) for line in said("compare", "aaaa", "bbbb")[1].splitlines()]
    assert "validation/blocks 1.5000 ≤ 1.4000 −0.1000" in lines
    assert "other/blocks 1.5000 1.5000 –" in lines  # they are two texts
    second.corpus = {"sha256": "3"}
    second.save()
    lines = [" ".join(line.split()) for line in said("compare", "aaaa", "bbbb")[1].splitlines()]
    assert "validation/blocks 1.5000 ≤ 1.4000 –" in lines


def test_a_run_is_removed_only_when_that_is_confirmed(write, said, outputs, monkeypatch):
    record, other = write("aaaa"), write("bbbb")
    code, printed = said("remove", "aaaa")
    assert (code, record.folder.exists()) == (2, True)
    assert "Nothing was removed, because there is no terminal to ask in: give force=true." in printed
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)

    def end(prompt=""):
        raise EOFError  # Ctrl-D

    monkeypatch.setattr("builtins.input", end)
    assert (said("remove", "aaaa")[0], record.folder.exists()) == (1, True)
    for typed, remains in (("n", True), ("", True), ("y", False)):
        monkeypatch.setattr("builtins.input", lambda prompt="", typed=typed: typed)
        assert said("remove", "aaaa")[0] == int(remains)
        assert record.folder.exists() == remains
    (other.folder / "thesis.tex").write_text("mine")
    assert said("remove", "bbbb", "force=true")[0] == 0
    assert [path.name for path in other.folder.iterdir()] == ["thesis.tex"]


def test_what_a_killed_run_was_writing_is_removed_with_it(write, said):
    record = write("aaaa", status="running")
    for name in ("checkpoints/.last.ckpt.0a1b2c3d", ".record.json.x_y_z_12"):
        (record.folder / name).parent.mkdir(exist_ok=True)
        (record.folder / name).write_text("a part")
    assert said("remove", "aaaa", "force=true")[0] == 0
    assert not record.folder.exists()


@pytest.mark.parametrize("empty", [remove, clear])
@pytest.mark.parametrize("files", range(5))
def test_an_interrupted_removal_leaves_no_checkpoint_without_its_record_and_curves(write, monkeypatch, empty, files):
    record = write("aaaa")
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "nll.npy", ".hydra/config.yaml"):
        (record.folder / name).parent.mkdir(exist_ok=True)
        (record.folder / name).touch()
    unlink, removed = Path.unlink, []

    def interrupted(path, **options):
        if len(removed) == files:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, **options)

    with monkeypatch.context() as interrupting:
        interrupting.setattr(Path, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            empty(record.folder)
    left = {path.name for path in record.folder.rglob("*")}
    assert "record.json" in left
    assert "last.ckpt" not in left or left >= {"best.ckpt", "metrics.csv", "nll.npy"}


def test_a_new_run_leaves_no_checkpoint_whose_record_is_lost(tmp_path):
    """It would resume from it after an early kill."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/last.ckpt", "loss.png"):
        (tmp_path / name).touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["loss.png"]


def test_a_run_that_trains_is_not_removed_by_a_link_to_it(write, said, outputs):
    record = write("aaaa", status="running")
    link = outputs / "studies" / "demo" / "runs" / "arm" / "305"
    link.parent.mkdir(parents=True)
    link.symlink_to(record.folder)
    with locked(record.folder):
        code, printed = said("remove", str(link), "force=true")
    assert (code, Record.load(record.folder).status) == (2, "running")
    assert f"Another process is training {link} right now" in printed


def test_a_run_that_is_needed_is_not_removed(write, said):
    record = write("aaaa")
    members = {"_target_": "charlab.models.mixture.Ensemble", "runs": ["outputs/runs/gpt-play/aaaa"]}
    write("bbbb", name="ensemble", **members)
    code, printed = said("remove", "aaaa", "force=true")
    assert (code, record.folder.exists()) == (2, True)
    assert "is a member of" in printed
    assert said("remove", "aaaa", "bbbb", "force=true")[0] == 0
    origin, further = write("dddd"), write("eeee")
    further.config["extend"] = str(origin.folder)
    further.save()
    code, printed = said("remove", "dddd", "force=true")
    assert (code, origin.folder.exists()) == (2, True)
    assert f"eeee started from {origin.folder}: remove that run as well" in printed
    assert said("remove", "eeee", "dddd", "force=true")[0] == 0
    busy = write("cccc")
    with locked(busy.folder):
        assert said("remove", "cccc", "force=true")[0] == 2
    assert busy.folder.exists()


@pytest.mark.slow
def test_runs_are_listed_without_torch(write, outputs):
    write("aaaa")
    code = "import sys; from charlab.cli import main; main(['runs']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=outputs.parent, stdout=subprocess.DEVNULL).returncode == 0
