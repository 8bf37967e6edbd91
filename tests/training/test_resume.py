"""Whatever a run is trained with: killed and continued, it ends in the same bits as one never killed."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BaseFinetuning, EMAWeightAveraging, ModelPruning, StochasticWeightAveraging

from charlab.models.rnn import LSTM
from charlab.training.checkpoint_file import LAST
from tests.training import options, small

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's use of a torch function

recurrent = partial(LSTM, embed_dim=6, hidden_dim=5, num_layers=1, dropout=0.2)

OPTIONS = {
    "muon": {"optimizer": "muon"},
    "lion": {"optimizer": "lion"},
    "schedule-free AdamW": {"optimizer": "schedule_free_adamw"},
    "SAM": {"optimizer": "sam"},
    "EMA": {"averaging": {"decay": 0.6}},
    "SWA": {"averaging": {"decay": 1.0, "start": 0.4}},
    "muon and EMA, accumulating": {
        "optimizer": "muon",
        "averaging": {"decay": 0.6},
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 1.0,
    },
    "at the end of an epoch, accumulating": {"epoch_steps": 2, "accumulate_grad_batches": 2},
    "in the middle of an epoch": {"epoch_steps": 3},
    "label smoothing": {"objective": "label_smoothing"},
    "truncated backpropagation": {
        "model": recurrent,
        "objective": "truncated_backpropagation",
        "order": "contiguous",
    },
}


class Evaluate(Callback):
    """Look at the model after every step, as an evaluation would."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with pl_module.evaluating():
            pl_module.model.nll(batch)


def run(folder, callbacks, *, model=small.SmallAttention, optimizer="adamw", averaging=None, objective=None, **more):
    torch.manual_seed(0)
    average = [options.chosen("averaging/ema", every_n_steps=1, **averaging)] if averaging else []
    return options.train(
        folder,
        model(len(options.data().vocabulary)),
        optimizer=options.chosen(f"optimizer/{optimizer}", lr=0.02),
        callbacks=[*average, *callbacks],
        objective=options.chosen(f"objective/{objective}") if objective else None,
        **more,
    )


MOST = ("muon and EMA, accumulating", "in the middle of an epoch")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in MOST else pytest.mark.slow) for name in OPTIONS]
)
def test_killed_and_continued_it_ends_in_the_same_bits(tmp_path, name):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, [], **OPTIONS[name])
    with pytest.raises(RuntimeError, match="the power failed"):
        run(killed, [options.RaiseAt(5), Evaluate()], **OPTIONS[name])  # an evaluation leaves no trace
    assert options.checkpoint(killed)["global_step"] == 4
    run(killed, [], **OPTIONS[name])
    expected, found = options.checkpoint(whole), options.checkpoint(killed)
    parts = ["state_dict", "optimizer_states", "objective", "global_step"]
    if "averaging" in OPTIONS[name] or "schedule" in name:
        parts.append("training_weights")
    for part in parts:
        options.assert_same_bits(found[part], expected[part])
    assert found["progress"]["micro_batches"] == 6 * OPTIONS[name].get("accumulate_grad_batches", 1)


class Thaw(BaseFinetuning):
    """Train the readout alone in the first epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze([pl_module.model.embedding, pl_module.model.mixer])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group([pl_module.model.embedding, pl_module.model.mixer], optimizer)


@pytest.mark.parametrize("step", [3, 5])  # before and after the parameters are added
def test_what_lightnings_finetuning_unfreezes_follows_the_schedule_after_a_kill_too(tmp_path, step):
    settings = {"epoch_steps": 3, "max_steps": 8}
    run(tmp_path / "whole", [Thaw()], **settings)
    with pytest.raises(RuntimeError, match="the power failed"):
        run(tmp_path / "killed", [Thaw(), options.RaiseAt(step)], **settings)
    run(tmp_path / "killed", [Thaw()], **settings)
    for part in ("state_dict", "optimizer_states", "global_step"):
        found, expected = (options.checkpoint(tmp_path / name)[part] for name in ("killed", "whole"))
        options.assert_same_bits(found, expected)


def test_a_kill_between_two_epochs_leaves_out_no_hook(tmp_path):
    settings = {"epoch_steps": 2, "max_steps": 6}
    run(tmp_path / "whole", [Thaw()], **settings)
    with pytest.raises(RuntimeError, match="the power failed"):
        run(tmp_path / "killed", [Thaw(), options.RaiseAt(4)], **settings)
    assert options.checkpoint(tmp_path / "killed")["global_step"] == 3  # due at step 2, which ends an epoch
    run(tmp_path / "killed", [Thaw()], **settings)
    for part in ("state_dict", "optimizer_states", "global_step"):
        found, expected = (options.checkpoint(tmp_path / name)[part] for name in ("killed", "whole"))
        options.assert_same_bits(found, expected)


@pytest.mark.parametrize("kills", [(5, 7), pytest.param((5, 6, 9), marks=pytest.mark.slow)])
def test_epochs_are_counted_right_after_several_kills(tmp_path, kills):
    """The first kill resumes from the end of an epoch, the second in the middle of the next one."""
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    settings = {"epoch_steps": 4, "max_steps": -1, "max_epochs": 4, "schedule": schedule}
    run(tmp_path / "whole", [], **settings)
    for step in kills:
        with pytest.raises(RuntimeError, match="the power failed"):
            run(tmp_path / "killed", [options.RaiseAt(step)], **settings)
    run(tmp_path / "killed", [], **settings)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        found, expected = (options.checkpoint(tmp_path / name)[part] for name in ("killed", "whole"))
        options.assert_same_bits(found, expected)


def test_parameters_that_are_named_like_pruned_ones_stay_trainable(tmp_path):
    def normalized(vocab_size):
        model = small.SmallAttention(vocab_size)
        torch.nn.utils.spectral_norm(model.readout)
        return model

    run(tmp_path / "whole", [], model=normalized)
    with pytest.raises(RuntimeError, match="the power failed"):
        run(tmp_path / "killed", [options.RaiseAt(5)], model=normalized)
    run(tmp_path / "killed", [], model=normalized)
    for part in ("state_dict", "optimizer_states", "trainable"):
        found, expected = (options.checkpoint(tmp_path / name)[part] for name in ("killed", "whole"))
        options.assert_same_bits(found, expected)
    assert "model.readout.weight_orig" in options.checkpoint(tmp_path / "killed")["trainable"]


def test_lightnings_moving_average_goes_on_after_a_kill(tmp_path):
    run(tmp_path / "whole", [EMAWeightAveraging(decay=0.6)])
    with pytest.raises(RuntimeError, match="the power failed"):
        run(tmp_path / "killed", [EMAWeightAveraging(decay=0.6), options.RaiseAt(5)])
    run(tmp_path / "killed", [EMAWeightAveraging(decay=0.6)])
    whole, killed = options.checkpoint(tmp_path / "whole"), options.checkpoint(tmp_path / "killed")
    for part in ("state_dict", "averaging_state", "optimizer_states", "global_step"):
        options.assert_same_bits(killed[part], whole[part])


@pytest.mark.parametrize("permanent", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_lightning_prunes_stays_pruned_after_a_kill(tmp_path, permanent):
    def pruning():
        settings = {"make_pruning_permanent": permanent, "use_lottery_ticket_hypothesis": False}
        return ModelPruning("l1_unstructured", amount=0.3, **settings)

    settings = {"epoch_steps": 2, "max_steps": 8}
    run(tmp_path / "whole", [pruning()], **settings)
    with pytest.raises(RuntimeError, match="the power failed"):
        run(tmp_path / "killed", [pruning(), options.RaiseAt(6)], **settings)
    run(tmp_path / "killed", [pruning()], **settings)
    whole, killed = options.checkpoint(tmp_path / "whole"), options.checkpoint(tmp_path / "killed")
    for part in ("state_dict", "optimizer_states", "global_step"):
        options.assert_same_bits(killed[part], whole[part])
    assert any((value == 0).any() for name, value in whole["state_dict"].items() if name.endswith(("weight", "_mask")))


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
# before the averaging begins, and in its first and second epoch
@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 5, pytest.param(8, marks=pytest.mark.slow)])
def test_lightnings_averaging_resumes_in_the_middle_of_an_epoch(tmp_path, step):
    def averaging():
        return StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2, annealing_epochs=3)

    settings = {"epoch_steps": 3, "max_steps": 12}
    run(tmp_path / "whole", [averaging()], **settings)
    with pytest.raises(RuntimeError, match="the power failed"):
        run(tmp_path / "killed", [averaging(), options.RaiseAt(step)], **settings)
    run(tmp_path / "killed", [averaging()], **settings)
    whole, killed = options.checkpoint(tmp_path / "whole"), options.checkpoint(tmp_path / "killed")
    for part in ("state_dict", "optimizer_states", "global_step"):
        options.assert_same_bits(killed[part], whole[part])


def test_random_states_are_read_where_former_checkpoints_have_them(tmp_path):
    whole, former = tmp_path / "whole", tmp_path / "former"
    run(whole, [])
    with pytest.raises(RuntimeError, match="the power failed"):
        run(former, [options.RaiseAt(5)])
    saved = options.checkpoint(former)
    saved["callbacks"]["RandomStates"] = {"states": saved.pop("random_states")}
    torch.save(saved, former / LAST)
    with pytest.warns(UserWarning, match="RandomStates"):  # Lightning's: the callback is gone
        run(former, [])
    options.assert_same_bits(options.checkpoint(former)["state_dict"], options.checkpoint(whole)["state_dict"])
