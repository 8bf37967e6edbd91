"""Averages of the weights: what they are, when they are in place, and that training does not notice."""

import pytest
import torch
from lightning.pytorch import Callback

from charlab.models.bigram import Bigram
from charlab.training.callbacks.averaging import Averaging
from charlab.training.callbacks.compilation import Compilation
from charlab.training.checkpoint_file import LAST
from tests.training import options, small

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's use of a torch function


class Watch(Callback):
    """Note the weights after each micro-batch: those that are trained, and those that are evaluated."""

    def __init__(self):
        self.trained, self.evaluated = {}, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        weight, step = pl_module.model.table.weight, trainer.global_step
        self.trained[step] = weight.detach().clone()
        with pl_module.evaluating():
            self.evaluated[step] = weight.detach().clone()
        assert torch.equal(weight, self.trained[step])


def watched(folder, *, max_steps=6, **settings):
    average, watch = Averaging(**{"start": 0.0, "every_n_steps": 1, **settings}), Watch()
    torch.manual_seed(0)
    module = options.train(
        folder,
        Bigram(len(options.data().vocabulary)),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=5.0),
        callbacks=[average, watch],
        max_steps=max_steps,
        accumulate_grad_batches=2,
    )
    return module, watch


def test_the_first_updates_are_a_mean_and_the_later_ones_forget(tmp_path):
    _, watch = watched(tmp_path, decay=0.6)
    expected = torch.zeros_like(watch.trained[1])
    for n, share in enumerate([1, 1 / 2, 0.4, 0.4, 0.4, 0.4], start=1):
        expected = (1 - share) * expected + share * watch.trained[n]
        torch.testing.assert_close(watch.evaluated[n], expected)
    assert (watch.evaluated[6] - watch.trained[6]).abs().max() > 1e-3


def test_stochastic_weight_averaging_is_the_mean_of_late_weights(tmp_path):
    _, watch = watched(tmp_path, max_steps=10, decay=1.0, start=0.5, every_n_steps=2)
    for step in (1, 2, 3, 4, 5):  # half of the budget is spent only during the sixth
        assert torch.equal(watch.evaluated[step], watch.trained[step])
    torch.testing.assert_close(watch.evaluated[7], watch.trained[6])
    torch.testing.assert_close(watch.evaluated[10], sum(watch.trained[step] for step in (6, 8, 10)) / 3)


def test_the_average_is_what_is_saved_and_what_remains(tmp_path):
    module, watch = watched(tmp_path, decay=0.6)
    saved = options.checkpoint(tmp_path)
    assert torch.equal(saved["state_dict"]["model.table.weight"], watch.evaluated[6])
    assert torch.equal(saved["training_weights"]["model.table.weight"], watch.trained[6])
    assert torch.equal(module.model.table.weight, watch.evaluated[6])
    with module.evaluating():
        assert torch.equal(module.model.table.weight, watch.evaluated[6])
    assert torch.equal(module.model.table.weight, watch.evaluated[6])


def test_an_average_begins_anew_with_each_training(tmp_path):
    average, weights = Averaging(decay=0.6, start=0.0, every_n_steps=1), []
    for name in ("first", "second"):
        torch.manual_seed(0)
        model = Bigram(len(options.data().vocabulary))
        options.train(tmp_path / name, model, optimizer=options.chosen("optimizer/sgd"), callbacks=[average])
        weights.append(model.table.weight)
    assert torch.equal(*weights)


def test_an_evaluation_of_a_checkpoint_in_the_midst_of_training_reads_the_average(tmp_path):
    def averaging():
        return Averaging(decay=0.6, start=0.0, every_n_steps=1)

    model = Bigram(len(options.data().vocabulary))
    callbacks = [averaging(), options.RaiseAt(5)]
    with pytest.raises(RuntimeError, match="the power failed"):
        options.train(tmp_path, model, optimizer=options.chosen("optimizer/sgd"), callbacks=callbacks)
    saved = options.checkpoint(tmp_path)
    average = saved["state_dict"]["model.table.weight"]
    assert not torch.equal(average, saved["training_weights"]["model.table.weight"])
    module = small.module(Bigram(model.vocab_size))
    trainer = small.trainer(tmp_path, [averaging(), Compilation(False)], max_steps=1, limit_val_batches=1.0)
    trainer.validate(module, options.data(), ckpt_path=tmp_path / LAST, verbose=False, weights_only=True)
    assert torch.equal(module.model.table.weight, average)


def test_an_exception_during_an_evaluation_leaves_the_trained_weights(tmp_path):
    class Fail(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            before = pl_module.model.table.weight.detach().clone()
            with pytest.raises(ZeroDivisionError), pl_module.evaluating():
                1 / 0  # noqa: B018
            assert torch.equal(pl_module.model.table.weight, before)

    torch.manual_seed(0)
    average = Averaging(decay=0.9, start=0.0, every_n_steps=1)
    model = Bigram(len(options.data().vocabulary))
    options.train(tmp_path, model, optimizer=options.chosen("optimizer/sgd"), callbacks=[average, Fail()])


def test_without_an_average_a_checkpoint_is_what_it_was(tmp_path):
    options.train(tmp_path, small.SmallAttention(30), optimizer=options.chosen("optimizer/sgd"), max_steps=2)
    assert "training_weights" not in options.checkpoint(tmp_path)
