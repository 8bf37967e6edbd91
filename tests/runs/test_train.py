"""A run from its command line to its record: finished, repeated, interrupted, failed."""

import errno
import json
import math
import tempfile

import filelock
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

import charlab
from charlab import cli
from charlab.errors import UserError
from charlab.runs.folder import events_folder
from charlab.runs.record import SCENE_LENGTH, Record
from charlab.training.callbacks.checkpointing import Checkpointing
from charlab.training.callbacks.divergence import DivergedError
from charlab.training.module import LanguageModelModule
from tests.helpers.tiny_runs import EVERYTHING, TINY, assert_same_outcome, curves, weights


def test_a_run_leaves_its_record(finished_run):
    folder = finished_run.folder
    stored = json.loads((folder / "record.json").read_text())
    assert stored["status"] == "finished"
    assert stored["steps"] == 12
    assert stored["characters_seen"] == 12 * 4 * 8  # steps × windows × T
    assert stored["config"]["model"]["embed_dim"] == 16
    assert stored["parameters"] == sum(p.numel() for p in charlab.load(folder)[0].parameters())
    assert stored["flops_per_step"] > 2 * 3 * stored["parameters"]
    assert set(stored["time"]) == {"setup_s", "training_s", "evaluation_s", "compilation_s"}
    assert {(m["protocol"], m["split"]) for m in stored["metrics"]} == {
        ("estimate", "train"),
        ("estimate", "validation"),
        ("blocks", "validation"),
    }
    assert stored["causality"]["leaks"] is False
    for name in ("metrics.csv", "nll.npy", "samples.txt", "loss.png", ".hydra/config.yaml", ".hydra/overrides.yaml"):
        assert (folder / name).stat().st_size > 0, name
    assert events_folder(folder) is not None
    assert not list(folder.glob(".*.*")), "temporary files were left behind"


def test_saved_nll_is_the_reported_one_and_the_models(finished_run):
    per_character = np.load(finished_run.folder / "nll.npy")
    blocks = finished_run.metric("blocks")
    assert per_character.mean(dtype=np.float64) == pytest.approx(blocks["nll"], abs=1e-6)
    assert len(per_character) == blocks["characters"]
    assert sum(finished_run.scenes) == pytest.approx(blocks["nll"] * blocks["characters"])
    assert len(finished_run.scenes) == math.ceil(blocks["characters"] / SCENE_LENGTH)
    assert finished_run.scenes[0] == pytest.approx(per_character[:SCENE_LENGTH].sum(dtype=np.float64))


def test_a_finished_run_is_not_repeated_unless_forced(run_tiny, finished_run, copied, capsys):
    first = copied
    stamp = (first.folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    capsys.readouterr()
    again = run_tiny()
    assert "finished already" in capsys.readouterr().out.replace("\n", " ")
    assert (again.folder, again.fingerprint) == (first.folder, first.fingerprint)
    assert (first.folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns == stamp
    looked_at = Record.load(first.folder)
    looked_at.test_looks = 2
    looked_at.save()
    forced = run_tiny("force=true")
    assert (first.folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns > stamp
    assert forced.test_looks == Record.load(first.folder).test_looks == 2
    assert len(curves(forced)) == len(curves(finished_run))
    assert_same_outcome(finished_run, forced)


@pytest.mark.parametrize(
    "micro_batch",
    [pytest.param(3, marks=pytest.mark.slow), 7, pytest.param(16, marks=pytest.mark.slow)],
    ids="killed in micro-batch {}".format,
)
def test_an_interrupted_run_ends_in_the_same_bits(run_tiny, finished_run, interrupt_at, micro_batch):
    restore = interrupt_at(micro_batch, RuntimeError("the power failed"))
    with pytest.raises(RuntimeError, match="the power failed"):
        run_tiny()
    restore()
    resumed = run_tiny()
    assert resumed.status == "finished"
    assert_same_outcome(resumed, finished_run)


@pytest.mark.slow
def test_a_resumed_run_keeps_the_looks_at_its_test_split(run_tiny, interrupt_at, tmp_path):
    splits = ("data.train_fraction=0.8", "data.test_fraction=0.1")
    restore = interrupt_at(16, RuntimeError("the power failed"))
    with pytest.raises(RuntimeError, match="the power failed"):
        run_tiny(*splits)
    restore()
    (path,) = (tmp_path / "outputs").glob("runs/*/*/record.json")
    assert cli.evaluate([f"run={path.parent}", "device=cpu", "split=test"]) == 0
    assert Record.load(path.parent).test_looks == 1
    resumed = run_tiny(*splits)
    assert resumed.folder == path.parent
    assert resumed.test_looks == 1
    assert Record.load(path.parent).test_looks == 1


@pytest.mark.slow
def test_a_failed_run_says_why(run_tiny, overrides, interrupt_at):
    interrupt_at(5, RuntimeError("the power failed"))
    with pytest.raises(RuntimeError):
        run_tiny()
    (path,) = (p for p in overrides if p.startswith("output_dir"))
    (folder,) = __import__("pathlib").Path(path.partition("=")[2]).glob("runs/*/*")
    record = Record.load(folder)
    assert record.status == "failed"
    assert "the power failed" in record.error


@pytest.mark.slow
def test_a_model_that_leaves_is_no_interrupt_by_the_user(run_tiny, interrupt_at):
    interrupt_at(5, SystemExit(3))
    with pytest.raises(SystemExit) as end:
        run_tiny()
    assert end.value.code == 3


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(run_tiny, monkeypatch, tmp_path):
    original = LanguageModelModule.training_step

    def training_step(self, window, batch_idx):
        loss = original(self, window, batch_idx)
        if self.micro_batches == 15:  # in the eighth step; the last checkpoint is of the sixth
            self.last_loss = loss.detach() * float("nan")
        return loss

    listed = []
    monkeypatch.setattr(LanguageModelModule, "training_step", training_step)
    monkeypatch.setattr(
        "charlab.runs.train._Training._log_hyperparameters",
        lambda self, figures: listed.append((self.record.steps, figures)),
    )
    with pytest.raises(DivergedError, match=r"nan at step 7.*last finite loss was \d.*learning rate 0.001"):
        run_tiny()
    (folder,) = tmp_path.glob("outputs/runs/*/*")
    assert Record.load(folder).status == "diverged"
    assert listed == [(7, {})]  # among the runs that TensorBoard compares, without final figures
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())


@pytest.mark.slow
def test_an_update_that_ruins_the_weights_is_no_checkpoint(run_tiny, monkeypatch, tmp_path):
    """The loss of a step is that of the weights before its update."""
    original = Checkpointing.on_train_batch_end

    def on_train_batch_end(self, trainer, pl_module, *arguments):
        if trainer.global_step == 9:  # at which a checkpoint is due
            with torch.no_grad():
                pl_module.model.readout.weight[0, 0] = float("inf")
        original(self, trainer, pl_module, *arguments)

    monkeypatch.setattr(Checkpointing, "on_train_batch_end", on_train_batch_end)
    with pytest.raises(DivergedError, match=r"^Weights became infinite or NaN at step 9; the last finite loss was \d"):
        run_tiny()
    (folder,) = tmp_path.glob("outputs/runs/*/*")
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
def test_far_too_high_a_rate_ends_as_diverged_also_in_the_last_step(run_tiny, tmp_path, steps):
    """After one step of it the weights are finite still, and no other step is there to notice."""
    with pytest.raises(DivergedError, match=r"the last finite loss was \d.*learning rate 1e\+38"):
        run_tiny("optimizer.lr=1e38", f"trainer.max_steps={steps}")
    (folder,) = tmp_path.glob("outputs/runs/*/*")
    assert Record.load(folder).status == "diverged"


def test_another_seed_is_another_run(run_tiny, finished_run):
    other = run_tiny("seed=0")
    assert other.seed == 0
    assert other.fingerprint != finished_run.fingerprint
    assert not all(torch.equal(value, weights(other)[name]) for name, value in weights(finished_run).items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["model.mixer.num_heads=3"], "num_heads"),
        pytest.param(["data.context_length=1000"], "context_length", marks=pytest.mark.slow),
        pytest.param(["trainer.max_steps=-1"], "budget", marks=pytest.mark.slow),
        (["data.batch_size=5"], "batch_size=4 or data.batch_size=6"),
        pytest.param(["trainer.accelerator=gpu"], "gpu", marks=pytest.mark.slow),
        pytest.param(["compute.threads=10000"], "cores of this machine", marks=pytest.mark.slow),
        (["data.path=/nowhere/at/all.txt"], "/nowhere/at/all.txt"),
    ],
)
def test_what_cannot_run_leaves_nothing_behind(run_tiny, tmp_path, more, message):
    if more == ["trainer.accelerator=gpu"] and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match=message) as raised:
        run_tiny(*more)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("outputs/runs/*")), "something was left behind"


def test_a_finished_run_is_recognized_whatever_rank_something_else_has(run_tiny, copied, monkeypatch, capsys):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    capsys.readouterr()
    assert run_tiny().finished == copied.finished
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "rank", [pytest.param(0, marks=pytest.mark.slow), 1]
)  # of something else, such as a cluster's job
def test_two_processes_do_not_train_the_same_run(run_tiny, monkeypatch, rank):
    monkeypatch.setattr(rank_zero_only, "rank", rank)

    def start_again(self, window, batch_idx):
        run_tiny()

    patch = pytest.MonkeyPatch()
    patch.setattr(LanguageModelModule, "training_step", start_again)
    with pytest.raises(UserError, match="Another process"):
        run_tiny()
    patch.undo()


def test_seconds_as_a_budget(run_tiny, monkeypatch):
    seconds = property(lambda self: 0.02 * self.micro_batches)  # a clock that nothing else on the machine can delay
    monkeypatch.setattr(LanguageModelModule, "training_seconds", seconds)
    record = run_tiny("trainer.max_steps=-1", "budget.max_seconds=0.4", "scheduler=warmup_stable_decay")
    assert record.steps == 10  # of two micro-batches each
    rates = [float(value) for _, _, metric, value in curves(record) if metric == "learning_rate"]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-3 * (1 - 0.9) / 0.4), "the schedule did not follow the clock"


def test_a_run_that_never_began_leaves_no_folder_either(run_tiny, tmp_path):
    with pytest.raises(UserError, match=r"cannot train on cpu with trainer\.strategy=nope"):
        run_tiny("trainer.strategy=nope")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_folder_that_was_there_before_is_kept_whatever_happens(run_tiny, overrides, tmp_path):
    thesis = tmp_path / "thesis"
    (thesis / "checkpoints").mkdir(parents=True)
    kept = [thesis / name for name in ("chapter.tex", "metrics.csv", "checkpoints/mine.ckpt", ".notes.abcdefgh")]
    for path in kept:
        path.write_text("mine")
    assert cli.train([*overrides, "trainer.strategy=nope", f"hydra.run.dir={thesis}"]) == 2
    assert sorted(path for path in thesis.rglob("*") if path.is_file()) == sorted(kept)
    kept = [path for path in kept if path.name != "metrics.csv"]  # the name of a run's own file
    for _ in range(2):  # into a folder without a run, and into that of a run
        assert cli.train([*overrides, "trainer.max_steps=1", "force=true", f"hydra.run.dir={thesis}"]) == 0
        assert [path.read_text() for path in kept if path.parent == thesis] == ["mine"] * 2
        (thesis / "loss.png").write_text("old")


def test_a_mistake_does_not_cost_what_force_would_have_replaced(run_tiny, finished_run):
    kept = sorted(finished_run.folder.rglob("*"))
    with pytest.raises(UserError, match="strategy"):
        run_tiny(f"output_dir={finished_run.folder.parents[2]}", "force=true", "trainer.strategy=nope")
    assert sorted(finished_run.folder.rglob("*")) == kept
    assert Record.load(finished_run.folder).status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        "callbacks.checkpointing=null",
        "trainer.enable_checkpointing=false",
    ],
)
def test_a_run_without_a_checkpoint_by_choice_is_not_repeated(run_tiny, capsys, choice):
    first = run_tiny(choice, "trainer.max_steps=1")
    assert first.status == "finished"
    assert not list(first.folder.glob("checkpoints/*"))
    capsys.readouterr()
    assert run_tiny(choice, "trainer.max_steps=1").finished == first.finished
    assert "This run is finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_components_set_to_null_are_left_out(text_path, tmp_path):
    left_out = ("callbacks.attention_maps=null", "callbacks.samples=null", "logger.tensorboard=null", EVERYTHING)
    overrides = (*TINY[:-1], *left_out, "trainer.max_steps=1", f"data.path={text_path}")
    folder = charlab.run(*overrides, f"output_dir={tmp_path / 'outputs'}").folder
    assert (folder / "metrics.csv").exists()
    assert not (folder / "samples.txt").exists()
    assert events_folder(folder) is None


@pytest.mark.slow
def test_a_finished_run_in_a_folder_that_takes_no_files_is_shown(finished_run, text_path, monkeypatch, capsys):
    def refuse(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    overrides = [*TINY, f"data.path={text_path}", f"output_dir={finished_run.folder.parents[2]}"]
    temporary = tempfile.TemporaryDirectory
    monkeypatch.setattr(  # root may write into any folder of a test
        tempfile, "TemporaryDirectory", lambda **options: (refuse if "dir" in options else temporary)(**options)
    )
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert charlab.run(*overrides).folder == finished_run.folder
    assert cli.train(overrides) == 0
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match="allows no new folder"):
        charlab.run(*overrides, "seed=4")
