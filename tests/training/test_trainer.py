"""Lightning's Trainer, as the configuration describes it."""

import inspect

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from omegaconf import OmegaConf

from charlab.configuration.sources import conf_folder
from charlab.data.datamodule import CharacterDataModule
from charlab.errors import UserError
from charlab.models.mixture import Mixture
from charlab.models.ngram import NGram
from charlab.models.smoothing import witten_bell
from charlab.training.callbacks.checkpointing import Checkpointing
from charlab.training.callbacks.progress import ProgressDisplay
from charlab.training.trainer import build_trainer, check_callback, check_precision, has_several_processes
from tests.training import small

LISTED = OmegaConf.to_container(OmegaConf.load(conf_folder() / "trainer" / "auto.yaml"))
STRATEGIES = "lightning.pytorch.strategies"
EARLY = "lightning.pytorch.callbacks.EarlyStopping"
OWN = {
    "accelerator": "auto",
    "devices": 1,
    "precision": "auto",
    "max_steps": 2000,
    "val_check_interval": None,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "enable_checkpointing": True,
    "enable_progress_bar": True,
    "enable_model_summary": False,
    "inference_mode": False,
    "use_distributed_sampler": False,
}


def build(folder, data=None, callbacks=(), **changes) -> Trainer:
    node = {**LISTED, "accelerator": "cpu", **changes}
    options = {"evaluate_every": 5, "max_seconds": changes.pop("max_seconds", None)}
    node.pop("max_seconds", None)
    node["callbacks"] = node.pop("callbacks_of_trainer", node["callbacks"])
    return build_trainer(node, folder, data or small.datamodule(), list(callbacks), [], **options)


def test_every_argument_of_lightnings_trainer_is_listed_with_its_name_and_value():
    known = inspect.signature(Trainer).parameters
    listed = {key: value for key, value in LISTED.items() if key != "_target_"}
    assert listed.keys() == known.keys()
    theirs = {name: parameter.default for name, parameter in known.items()}
    assert {key: value for key, value in listed.items() if value != theirs[key] or key in OWN} == OWN


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({"max_steps": 10}, 4),  # 3 steps an epoch
        ({"max_steps": 10, "accumulate_grad_batches": 2}, 4),
        ({"max_steps": 10, "limit_train_batches": 2}, 5),
        ({"max_steps": 10, "overfit_batches": 1}, 10),
        ({"max_steps": 10, "limit_train_batches": 2.0}, 5),  # Lightning takes it for 2
        ({"max_steps": 10, "overfit_batches": 2.0}, 5),
        ({"max_steps": -1, "max_seconds": 5.0}, -1),
        ({"max_steps": -1, "max_epochs": 7}, 7),
        ({"max_steps": -1, "max_time": "00:00:01:00"}, -1),
        ({"max_steps": -1, "callbacks": [Timer("00:00:01:00")]}, -1),
    ],
)
def test_the_number_of_epochs_follows_from_the_budget(tmp_path, settings, epochs):
    data = small.datamodule()
    data.epoch_steps = 3
    assert build(tmp_path, data, **settings).max_epochs == epochs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": -1}, "no budget"),
        ({"max_steps": -1, "callbacks": [Timer()]}, "no budget"),
        ({"strategy": "ddp_spawn"}, "strategy=ddp"),
        ({"strategy": "ddp_notebook"}, "strategy=ddp"),
        ({"strategy": "fsdp"}, "divides the weights.*strategy=ddp"),
        ({"strategy": {"_target_": f"{STRATEGIES}.ModelParallelStrategy"}}, "ModelParallelStrategy divides"),
        ({"strategy": "nope"}, "invalid strategy"),
        ({"devices": 3}, "3 devices"),
        ({"num_nodes": 2}, "NODE_RANK"),
        ({"accumulate_grad_batches": 2, "limit_train_batches": 3}, "middle of an optimizer step"),
        ({"limit_train_batches": 0.001}, "leaves no batch"),
        ({"max_epochs": 0}, "trainer.max_epochs=0 trains nothing"),
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches=0"),
        ({"max_steps": 0, "max_epochs": 2}, "trainer.max_steps=0 trains nothing"),
        ({"val_check_interval": 0}, "trainer.limit_val_batches=0"),
        ({"check_val_every_n_epoch": 0}, "trainer.limit_val_batches=0"),
        ({"val_check_interval": 3, "check_val_every_n_epoch": 1, "limit_train_batches": 2}, "2 batches of an epoch"),
        ({"val_check_interval": 3.0, "check_val_every_n_epoch": 1, "limit_train_batches": 2}, "2 batches of an epoch"),
        ({"precision": "16-mixed"}, "32-true or bf16-mixed"),
        ({"profiler": "wrong"}, "simple"),
        ({"plugins": [{"_target_": "torch.nn.Identity"}]}, r"trainer.plugins\[0\] is a torch.nn.*a Lightning plugin"),
        ({"barebones": True}, "loggers and checkpoints, which charlab needs"),
        (
            {"callbacks_of_trainer": [{"_target_": EARLY, "monitor": "x", "mode": "up"}]},
            "EarlyStopping cannot be built: Misconf",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, settings, message):
    with pytest.raises(UserError, match=message) as raised:
        build(tmp_path, **settings)
    assert "\n" not in str(raised.value)


def test_tasks_of_a_slurm_job_that_do_not_fit_are_told_with_what_helps(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    advice = r"--nodes=1 --ntasks-per-node=1, or, .*set SLURM_JOB_NAME=interactive before the command\.$"
    with pytest.raises(UserError, match=advice):
        build(tmp_path)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert build(tmp_path).world_size == 1


@pytest.mark.parametrize(
    ("devices", "several"),
    [(1, False), ("1", False), (2, True), ("2", True), ("0,1", True), ([0], False), ([0, 1], True), ("auto", False)],
)
def test_devices_may_be_given_in_any_form_that_lightning_knows(devices, several):
    assert has_several_processes({**LISTED, "accelerator": "cpu", "devices": devices}) == several


def test_several_devices_are_refused_in_a_notebook(tmp_path, monkeypatch):
    connector = "lightning.pytorch.trainer.connectors.accelerator_connector"
    monkeypatch.setattr(f"{connector}._IS_INTERACTIVE", True)
    with pytest.raises(UserError, match=r"devices=2 .*lost with them: set trainer\.devices=1"):
        build(tmp_path, devices=2)
    assert build(tmp_path).world_size == 1


def test_what_lightning_enables_by_default_is_so_with_null(tmp_path):
    checkpointing = Checkpointing(every_n_steps=1, every_n_seconds=None)
    trainer = build(tmp_path, callbacks=[checkpointing], enable_checkpointing=None, enable_progress_bar=None)
    assert checkpointing in trainer.callbacks
    assert isinstance(trainer.progress_bar_callback, ProgressDisplay)


def test_a_second_progress_bar_is_refused_by_its_name(tmp_path):
    with pytest.raises(UserError, match="one progress bar, and callbacks has TQDMProgressBar and RichProgressBar"):
        build(tmp_path, callbacks=[TQDMProgressBar(), RichProgressBar()])


def test_the_models_summary_lists_its_layers(tmp_path, capsys):
    data = small.datamodule()
    trainer = build(tmp_path, data, enable_model_summary=True, enable_progress_bar=False, max_steps=1)
    trainer.fit(small.module(small.SmallAttention(len(data.vocabulary))), datamodule=data)
    assert "model.mixer" in capsys.readouterr().out


def test_a_folder_that_lightning_could_not_pass_to_other_processes_is_refused(tmp_path):
    with pytest.raises(UserError, match="quotation mark: choose another output_dir"):
        build(tmp_path / 'of "mine"', devices=2, strategy="ddp")


@pytest.mark.parametrize(
    ("settings", "interval", "epochs"),
    [
        ({}, 5, None),
        ({"accumulate_grad_batches": 2}, 10, None),  # micro-batches
        ({"val_check_interval": 0.5}, 0.5, 1),
        ({"val_check_interval": 7}, 7, None),
        ({"val_check_interval": 7.0}, 7, None),
        ({"check_val_every_n_epoch": 2}, 1.0, 2),
    ],
)
def test_evaluate_every_holds_until_lightnings_own_settings_do(tmp_path, settings, interval, epochs):
    trainer = build(tmp_path, **settings)
    assert (trainer.val_check_interval, trainer.check_val_every_n_epoch) == (interval, epochs)


def test_early_stopping_works_with_evaluations_by_time(tmp_path):
    data = small.datamodule()
    settings = {"val_check_interval": "00:00:10:00", "max_steps": 2, "enable_progress_bar": False}
    trainer = build(tmp_path, data, callbacks=[EarlyStopping("train/loss")], **settings)
    trainer.fit(small.module(small.SmallAttention(len(data.vocabulary))), datamodule=data)
    assert trainer.global_step == 2


def test_precision_auto_is_what_the_device_computes_with(tmp_path):
    assert build(tmp_path).precision == "32-true"
    assert build(tmp_path, precision="64-true").precision == "64-true"


def test_a_plugin_may_set_the_precision(tmp_path):
    plugin = {"_target_": "lightning.pytorch.plugins.HalfPrecision", "precision": "bf16-true"}
    assert build(tmp_path, plugins=[plugin]).precision == "bf16-true"


class NoCallback:
    pass


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (NoCallback(), "NoCallback, which is not a Lightning callback"),
        (torch.nn.Linear(1, 1), "Linear, which is not a Lightning callback"),
        (GradientAccumulationScheduler({0: 2}), "data.batch_size instead"),
        (BatchSizeFinder(), "set it yourself"),
        (LearningRateFinder(), "sweep over optimizer.lr"),
        (OnExceptionCheckpoint("."), "save_on_exception=true"),
        (EarlyStopping("validation/nll"), "for reporting alone.*data.dev_fraction"),
        (ModelCheckpoint(monitor="test/nll"), "for reporting alone.*data.dev_fraction"),
        (EarlyStopping("dev/nll"), "needs a dev split.*data.dev_fraction"),
    ],
)
def test_a_callback_that_a_run_cannot_have_is_named(callback, message):
    with pytest.raises(UserError, match=rf"callbacks\.mine.*{message}"):
        check_callback("callbacks.mine", callback, small.datamodule())


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("BatchSizeFinder", "set it yourself"),
        ("EarlyStopping", "for reporting alone"),
    ],
)
def test_the_trainers_own_callbacks_are_checked_too(tmp_path, callback, message):
    node = {"_target_": f"lightning.pytorch.callbacks.{callback}"}
    if callback == "EarlyStopping":
        node["monitor"] = "validation/nll"
    with pytest.raises(UserError, match=rf"trainer\.callbacks\[1\].*{message}"):
        build(tmp_path, callbacks_of_trainer=[{"_target_": "lightning.pytorch.callbacks.Timer"}, node])
    with pytest.raises(UserError, match=rf"trainer\.callbacks\[0\].*{message}"):
        build(tmp_path, callbacks_of_trainer=node)


def test_a_logger_is_chosen_in_its_group(tmp_path):
    with pytest.raises(UserError, match="group logger"):
        build(tmp_path, logger={"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(tmp_path)})


def test_a_monitor_may_read_dev_text_and_whatever_a_user_logs():
    data = CharacterDataModule(
        corpus=small.TextInMemory(),
        context_length=8,
        batch_size=4,
        train_fraction=0.8,
        validation_fraction=0.1,
        dev_fraction=0.1,
        seed=0,
    )
    data.setup()
    for monitor in ("dev/nll", "train/loss", "train/nll", "my/own"):
        check_callback("callbacks.mine", EarlyStopping(monitor), data)
    check_callback("callbacks.mine", Callback(), data)


class NeedsFloat32(small.SmallAttention):
    def loss(self, window, *, generator=None):
        if torch.is_autocast_enabled("cpu"):
            raise NotImplementedError("no kernel for BFloat16")
        return super().loss(window, generator=generator)


def test_a_model_that_lacks_kernels_for_half_precision_is_told_before_training(tmp_path):
    trainer = build(tmp_path, precision="bf16-mixed")
    with pytest.raises(UserError, match=r"NeedsFloat32 cannot compute in .*bf16-mixed.*no kernel.*32-true"):
        check_precision(NeedsFloat32(5), trainer)
    model = small.SmallAttention(5)
    state = torch.get_rng_state()
    check_precision(model, trainer)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in model.parameters())


def test_counts_are_not_kept_in_half_precision(tmp_path):
    counts = NGram(5, order=2, smoothing=witten_bell)
    plugin = {"_target_": "lightning.pytorch.plugins.HalfPrecision", "precision": "bf16-true"}
    for model in (counts, Mixture(5, {"counts": lambda _: counts}, None)):
        with pytest.raises(UserError, match=rf"precision=bf16-true .*{type(model).__name__} stores.*add up to 1"):
            check_precision(model, build(tmp_path, plugins=[plugin]))
        check_precision(model, build(tmp_path, precision="bf16-mixed"))
