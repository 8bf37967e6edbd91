"""The weights that were best on the dev split: what chooses them, what they are, and how they survive a kill."""

import pytest
import torch

import charlab
from charlab import cli
from charlab.errors import UserError
from charlab.evaluation.protocols import Blocks, evaluate
from charlab.runs.record import Record
from charlab.training.callbacks.checkpointing import Checkpointing
from charlab.training.checkpoint_file import BEST, LAST
from tests.helpers.tiny_runs import TINY, assert_same_outcome, curves

pytestmark = pytest.mark.slow

# A learning rate at which a few steps help and more do harm, so that the best weights are not the last.
DEV = ("data.dev_fraction=0.1", "optimizer.lr=0.04", "seed=1", "evaluate_every=2")


class PowerFailure(RuntimeError):
    """End a run where SIGKILL would."""


@pytest.fixture(scope="module")
def whole(text_path, tmp_path_factory):
    """The record of a run with a dev split that was never killed."""
    return charlab.run(*TINY, *DEV, f"data.path={text_path}", f"output_dir={tmp_path_factory.mktemp('outputs')}")


def weights(record, name):
    return torch.load(record.folder / name, weights_only=True)["state_dict"]


def dev_nll(record, text_path, checkpoint):
    """Return the nats per character that a checkpoint of a run gets on its dev split."""
    model, vocabulary = charlab.load(record.folder, checkpoint=checkpoint)
    ids = torch.from_numpy(vocabulary.encode(text_path.read_text()))
    dev = ids[: int(0.1 * len(ids))]
    return evaluate(model, dev, Blocks(), context_length=8, batch_size=2).nll


def assert_same_best(a, b):
    assert a.best == b.best
    assert all(torch.equal(value, weights(b, BEST)[name]) for name, value in weights(a, BEST).items())


def test_the_lowest_dev_figure_is_kept_and_the_final_weights_are_reported(whole, text_path):
    figures = {int(step): float(value) for step, _, metric, value in curves(whole) if metric == "dev/nll"}
    assert list(figures) == [0, 2, 4, 6, 8, 10, 12]
    best_step = min(figures, key=figures.get)
    assert 0 < best_step < 12
    assert whole.best == {"step": best_step, "nll": figures[best_step]}
    assert dev_nll(whole, text_path, "best") == pytest.approx(figures[best_step], rel=1e-6)
    assert dev_nll(whole, text_path, "last") == pytest.approx(figures[12], rel=1e-6)
    assert whole.metric("blocks", "dev")["nll"] == figures[12]
    assert Record.load(whole.folder).best == whole.best


def test_the_validation_text_does_not_choose(whole, text_path, tmp_path):
    text = text_path.read_text()
    start = int(0.9 * len(text))
    other = tmp_path / "other.txt"
    other.write_text(text[:start] + text[start:][::-1])
    record = charlab.run(*TINY, *DEV, f"data.path={other}", f"output_dir={tmp_path}")
    assert record.metric("blocks")["nll"] != whole.metric("blocks")["nll"]
    assert_same_best(record, whole)


@pytest.mark.parametrize("micro_batch", [6, 9, 15], ids="killed in micro-batch {}".format)
def test_a_killed_run_chooses_the_same(run_tiny, whole, interrupt_at, micro_batch):
    restore = interrupt_at(micro_batch, PowerFailure())
    with pytest.raises(PowerFailure):
        run_tiny(*DEV)
    restore()
    assert_same_best(run_tiny(*DEV), whole)


@pytest.fixture
def fails_to_copy(monkeypatch):
    """Make a run end between the checkpoint of a step and the copy of it that is the best one."""
    original = Checkpointing._keep_as_best

    def fail(step):
        def keep_as_best(self, trainer):
            if trainer.global_step == step:
                raise PowerFailure
            original(self, trainer)

        monkeypatch.setattr(Checkpointing, "_keep_as_best", keep_as_best)
        return lambda: monkeypatch.setattr(Checkpointing, "_keep_as_best", original)

    return fail


def test_a_plugin_that_writes_in_the_background_keeps_the_same(run_tiny, whole):
    plugin = "trainer.plugins=[{_target_: lightning.pytorch.plugins.AsyncCheckpointIO}]"
    record = run_tiny(*DEV, plugin)
    assert_same_best(record, whole)
    assert sorted(path.name for path in (record.folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_killed_between_the_checkpoint_and_its_copy(run_tiny, whole, fails_to_copy):
    restore = fails_to_copy(whole.best["step"])
    with pytest.raises(PowerFailure):
        run_tiny(*DEV)
    restore()
    resumed = run_tiny(*DEV)
    assert_same_best(resumed, whole)
    assert_same_outcome(resumed, whole)


def test_killed_between_the_last_checkpoint_and_its_copy(run_tiny, fails_to_copy):
    restore = fails_to_copy(12)
    with pytest.raises(PowerFailure):
        run_tiny(DEV[0])  # at the usual learning rate, where the last weights are the best
    restore()
    record = run_tiny(DEV[0])
    assert record.best["step"] == 12
    assert all(torch.equal(value, weights(record, BEST)[name]) for name, value in weights(record, LAST).items())


def test_killed_after_a_better_one_was_found_the_two_files_agree(run_tiny, interrupt_at, whole, tmp_path):
    # Where arithmetic is not repeatable (a GPU), a resumed run may never see the better figure again.
    interrupt_at(2 * whole.best["step"], PowerFailure())
    with pytest.raises(PowerFailure):
        run_tiny(*DEV)
    (folder,) = tmp_path.glob("outputs/runs/*/*")
    last, best = (torch.load(folder / name, weights_only=True) for name in (LAST, BEST))
    assert last["best_step"] == best["global_step"] == best["best_step"] == whole.best["step"]


def test_averaged_weights_are_scored_and_kept(run_tiny, text_path):
    record = run_tiny(*DEV, "averaging=ema", "averaging.decay=0.5")
    assert dev_nll(record, text_path, "best") == pytest.approx(record.best["nll"], rel=1e-6)


def test_the_best_evaluation_may_follow_training(run_tiny, text_path):
    record = run_tiny("data.dev_fraction=0.1", "trainer.check_val_every_n_epoch=2", "data.epoch_steps=4")
    assert record.best["step"] == 12  # the third epoch is evaluated once training is over
    assert dev_nll(record, text_path, "best") == pytest.approx(record.best["nll"], rel=1e-6)


def test_without_a_dev_split_there_is_no_best(finished_run, capfd):
    assert finished_run.best is None
    assert not (finished_run.folder / BEST).exists()
    assert not any("dev" in metric for _, _, metric, _ in curves(finished_run))
    with pytest.raises(UserError, match=r"kept no best checkpoint.*data\.dev_fraction.*checkpoint=last"):
        charlab.load(finished_run.folder, checkpoint="best")
    for program in (cli.evaluate, cli.generate):
        assert program([f"run={finished_run.folder}", "checkpoint=best"]) == 2
        assert capfd.readouterr().err.count("\n") == 1
