import csv
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision

from charlab.models.bigram import Bigram
from charlab.training.callbacks.metrics import TrainingMetrics
from charlab.training.module import LanguageModelModule
from tests.training import small

TIMES = {"seconds"}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def curve(folder: Path, metric: str) -> dict[int, float]:
    return {int(row["step"]): float(row["value"]) for row in rows(folder) if row["metric"] == metric}


class Losses(Callback):
    """Keep every batch's loss, with the number of optimizer steps that were done before it."""

    def __init__(self) -> None:
        self.by_step: dict[int, list[float]] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.step = trainer.global_step + 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.by_step.setdefault(self.step, []).append(pl_module.last_loss.item())


def test_train_loss_is_the_mean_over_all_batches_since_the_last_logging(tmp_path):
    losses = Losses()
    small.fit(tmp_path, Bigram, [losses], max_steps=5, accumulate_grad_batches=3, log_every_n_steps=2)
    logged = curve(tmp_path, "train/loss")
    assert list(logged) == [2, 4, 5]  # the last step too, although it is not a multiple of 2
    for steps, last in (((1, 2), 2), ((3, 4), 4), ((5,), 5)):
        batches = [loss for step in steps for loss in losses.by_step[step]]
        assert len(batches) == 3 * len(steps)
        assert logged[last] == pytest.approx(math.fsum(batches) / len(batches), rel=1e-6)


def test_other_callbacks_can_monitor_the_train_loss(tmp_path):
    class Monitor(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen[trainer.global_step] = trainer.callback_metrics["train/loss"].item()

    seen: dict[int, float] = {}
    small.fit(tmp_path, Bigram, [Monitor()], max_steps=6, log_every_n_steps=2, limit_train_batches=3)
    logged = curve(tmp_path, "train/loss")
    assert seen == {3: logged[2], 6: logged[6]}


def test_metrics_carry_the_characters_and_seconds_they_belong_to(tmp_path, monkeypatch):
    monkeypatch.setattr(LanguageModelModule, "training_seconds", property(lambda self: self.micro_batches * 0.5))
    small.fit(tmp_path, Bigram, [], max_steps=4, accumulate_grad_batches=3, log_every_n_steps=2)
    per_batch = 4 * 8  # windows times characters scored
    when = {(int(row["step"]), int(row["characters"]), float(row["seconds"])) for row in rows(tmp_path)}
    assert when == {(2, 6 * per_batch, 3.0), (4, 12 * per_batch, 6.0)}
    assert curve(tmp_path, "characters_per_second") == {2: per_batch / 0.5, 4: per_batch / 0.5}


def test_gradient_norm_is_measured_before_clipping(tmp_path):
    """Plain SGD of rate 1 without clipping moves the weights by the gradient."""
    data = small.datamodule()
    torch.manual_seed(0)
    start = Bigram(len(data.vocabulary)).table.weight.detach().clone()
    torch.manual_seed(0)
    free = small.module(Bigram(len(data.vocabulary)), lr=1.0)
    small.trainer(tmp_path, [], max_steps=1).fit(free, datamodule=data)
    moved = (free.model.table.weight - start).norm().item()

    small.fit(tmp_path, Bigram, [], max_steps=1, gradient_clip_val=1e-3)
    assert curve(tmp_path, "gradient_norm")[1] == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_norm_belongs_to_the_unscaled_loss_in_float16(tmp_path, fused):
    norms = []
    for scale in (1.0, 1024.0):
        folder = tmp_path / str(scale)
        folder.mkdir()
        data = small.datamodule()
        torch.manual_seed(0)
        module = small.module(Bigram(len(data.vocabulary)))
        module.optimizer = lambda model: torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        small.trainer(folder, [], max_steps=2, plugins=plugin).fit(module, None, None, data)
        norms.append(curve(folder, "gradient_norm"))
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize(
    ("precision", "scale"), [("bf16-mixed", None), ("16-mixed", 1.0), ("16-mixed", 1024.0)], ids=str
)
def test_a_fused_optimizer_sees_gradients_clipped_in_every_precision(tmp_path, precision, scale):
    """Plain SGD of rate 1 moves the weights by the clipped gradient."""
    data = small.datamodule()
    torch.manual_seed(0)
    module = small.module(Bigram(len(data.vocabulary)))
    module.optimizer = lambda model: torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    start = module.model.table.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale is not None else None
    plugin = MixedPrecision(precision, "cpu", scaler)
    small.trainer(tmp_path, [], max_steps=1, plugins=plugin, gradient_clip_val=1e-2).fit(module, datamodule=data)
    assert (module.model.table.weight - start).norm().item() == pytest.approx(1e-2, rel=1e-2)


def test_learning_rate_is_the_one_that_the_step_used(tmp_path):
    data = small.datamodule()
    module = small.module(Bigram(len(data.vocabulary)), lr=2.0)
    module.schedule = lambda spent: 1 - spent
    used = [2.0 * (1 - (step + 0.5) / 4) for step in range(4)]
    small.trainer(tmp_path, [], max_steps=4).fit(module, datamodule=data)
    assert list(curve(tmp_path, "learning_rate").values()) == pytest.approx(used)


def test_a_resumed_run_logs_the_same_bytes(tmp_path):
    """Stopped between two loggings."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    for folder in (whole, halved):
        folder.mkdir()
    small.fit(whole, Bigram, [], max_steps=10, log_every_n_steps=4)

    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 7:
                trainer.save_checkpoint(halved / "last.ckpt")
                trainer.should_stop = True

    small.fit(halved, Bigram, [TrainingMetrics(), Stop()], max_steps=10, log_every_n_steps=4)
    data = small.datamodule()
    resumed = small.module(Bigram(len(data.vocabulary)))
    trainer = small.trainer(halved, [], max_steps=10, log_every_n_steps=4)
    trainer.fit(resumed, datamodule=data, ckpt_path=halved / "last.ckpt", weights_only=True)

    def lines(folder):
        return [{**row, "seconds": ""} for row in rows(folder) if row["metric"] != "characters_per_second"]

    assert [row["step"] for row in lines(whole) if row["metric"] == "train/loss"] == ["4", "8", "10"]
    assert lines(halved) == lines(whole)


def test_a_model_without_gradients_logs_nothing(tmp_path):
    module = small.module(Bigram(3))
    callback = TrainingMetrics()
    callback.on_train_batch_end(small.trainer(tmp_path, [], max_steps=1), module, None, None, 0)
    assert callback.state_dict()["batches"] == 0
    assert not (tmp_path / "metrics.csv").exists()
