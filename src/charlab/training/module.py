"""The Lightning module that trains any language model; `validation` has the part that evaluates it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, Timer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.nn.utils.prune import custom_from_mask, is_pruned
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from charlab.data.tokenizers import to_config
from charlab.errors import UserError
from charlab.models.contract import LanguageModel
from charlab.training.callbacks.averaging import KeepsAverage, averages_in_place
from charlab.training.checkpoint_file import unpruned
from charlab.training.objectives import Objective
from charlab.training.optimizers import repeats_closure
from charlab.training.ranks import from_every_rank, random_state, restore_random_state, this_rank
from charlab.training.schedules import WITHOUT_DEV, Schedule
from charlab.training.validation import EvaluatedModule

NEVER = 10**18  # frequency of a scheduler that the module steps itself
RECORDED_STEPS = 50  # first steps whose time is stored, so that a run with a budget in seconds can be repeated
_ORIGINAL, _MASK = "_orig", "_mask"  # what torch's pruning adds to the name of a weight


class LanguageModelModule(EvaluatedModule):
    """Train a language model on windows of text, and evaluate it.

    If a callback or the optimizer averages the weights, the average is evaluated, saved in checkpoints as the model's
    weights (next to those that training resumes with), and left in the model when training ends.

    Args:
        model: the model to train.
        optimizer: function from the model to a torch optimizer over its parameters.
        schedule: function from the spent share of the budget to a multiple of the learning rate; or a partial of what
            makes a scheduler for an optimizer, such as torch's schedulers. It is stepped after each epoch
            (`ReduceLROnPlateau`: after each evaluation, by `dev/nll`).
        max_seconds: budget in seconds of the training clock, in addition to the trainer's own limits; None for no
            limit.
        objective: the objective to minimize; None for the model's own loss.
        model_config: configuration of the model, saved in checkpoints so that `charlab.load` can build the model.

    Attributes:
        compute_loss: the objective, or its compiled form.
        max_steps: the trainer's limit on optimizer steps; None without a limit. Set once training starts.
        clock: training seconds on rank 0 when each of the first `RECORDED_STEPS` steps was reached, from step 0 on;
            empty without a budget in seconds. Stored values are reused, not measured again, so that a run can be
            repeated.
        micro_batches: batches read so far on each rank; with gradient accumulation, several make a step.
        learning_rate: learning rate of the current step; NaN without an optimizer.
        last_loss: loss of the latest batch, in nats per character. Reading it synchronizes with the device.
        flops_per_character: floating-point operations of training on a character; None if unknown.
        peak_flops: peak operations per second of the devices; None if unknown.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        optimizer: Callable[[LanguageModel], Optimizer],
        schedule: Schedule | Callable[[Optimizer], LRScheduler],
        max_seconds: float | None = None,
        objective: Objective | None = None,
        model_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model)
        self.objective = objective if objective is not None else Objective()
        self.compute_loss: Callable[[LanguageModel, Tensor], Tensor] = self.objective
        self.optimizer, self.schedule = optimizer, schedule
        self.max_seconds = max_seconds
        self.max_steps: int | None = None
        self.model_config = dict(model_config or {})
        self.clock: list[float] = []
        self.micro_batches = 0
        self.learning_rate = math.nan
        self.flops_per_character: float | None = None
        self.peak_flops: float | None = None
        self.last_loss: Tensor | None = None
        self._random_states: list[Any] = []  # of a resumed run, one per process
        self._callback_metrics: dict[str, Tensor] = {}  # of a resumed run
        self._trainable: list[str] = []  # parameters of a resumed run that its callbacks do not freeze
        self._pruned: dict[str, tuple[Tensor, Tensor]] = {}  # of a resumed run, by torch's pruning
        self._limits: list[float | None] = []  # of the training: steps, epochs, seconds, and those of each `Timer`

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            durations = [timer.time_remaining() for timer in self._timers()]  # none has been started or loaded
            self._limits = [self.trainer.max_steps, self.trainer.max_epochs, self.max_seconds, *durations]

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks that every training needs, unless the trainer already has them."""
        from charlab.training.callbacks.metrics import TrainingMetrics

        has_metrics = any(isinstance(callback, TrainingMetrics) for callback in self.trainer.callbacks)
        return [] if has_metrics else [TrainingMetrics()]

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches
        self.max_steps = int(steps) if math.isfinite(steps) and steps > 0 else None
        optimizer = self.optimizer(self.model)
        if repeats_closure(optimizer) and self.trainer.accumulate_grad_batches > 1:
            raise UserError(
                "This optimizer computes several gradients per step, which Lightning does for its last batch only: "
                "set trainer.accumulate_grad_batches=1."
            )
        if not isinstance(self.schedule, functools.partial):
            schedule = cast(Schedule, self.schedule)
            scheduler: Any = LambdaLR(optimizer, lambda step: schedule(self.budget_spent(step)))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        scheduler = self.schedule(optimizer)
        if not isinstance(scheduler, ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}
        if "dev" not in self.trainer.datamodule.splits:  # made by a function, or in a script
            raise UserError(WITHOUT_DEV)
        # The module steps it: Lightning would do so after the callbacks, which have already written the checkpoint.
        chosen_by = {"scheduler": scheduler, "monitor": "dev/nll", "interval": "step", "frequency": NEVER}
        return {"optimizer": optimizer, "lr_scheduler": chosen_by}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step a scheduler; `schedule` also sets the rates of parameter groups that a callback has added."""
        if type(scheduler) is LambdaLR:  # torch expects as many rates as groups
            groups = scheduler.optimizer.param_groups
            scheduler.base_lrs += [group["lr"] for group in groups[len(scheduler.base_lrs) :]]
            scheduler.lr_lambdas += [scheduler.lr_lambdas[0]] * (len(groups) - len(scheduler.lr_lambdas))
        super().lr_scheduler_step(scheduler, metric)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient norm, or each element by the algorithm "value"; None and 0 do not clip, as in Lightning.

        Lightning's own method refuses fused optimizers in every mixed precision, although bfloat16 does not scale the
        loss.
        """
        if not gradient_clip_val:
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
        clip(weights, gradient_clip_val * gradient_scale(self.trainer, optimizer))

    # Training

    def budget_spent(self, step: int) -> float:
        """Return the share of the budget, in [0, 1], that is spent halfway through the step that follows `step`.

        With a budget in seconds, this is a collective call, as rank 0 decides for all. The time of Lightning's `Timer`
        (`trainer.max_time`) counts if there is no other budget.
        """
        shares = [0.0]
        if self.max_steps:
            shares.append((step + 0.5) / self.max_steps)
        if self.max_seconds:
            shares.append(self._seconds_at(step) / self.max_seconds)
        if not (self.max_steps or self.max_seconds):
            shares += map(self._share_of, self._timers())
        return min(max(shares), 1.0)

    def _timers(self) -> list[Timer]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, Timer)]

    def _share_of(self, timer: Timer) -> float:
        """Return the share of a timer's duration that has elapsed on rank 0; 0 if it has no duration."""
        remaining, elapsed = timer.time_remaining(), timer.time_elapsed()
        share = elapsed / (elapsed + max(remaining, 0.0)) if remaining is not None and elapsed else 0.0
        return float(self.trainer.strategy.broadcast(share))

    def _seconds_at(self, step: int) -> float:
        """Return the training seconds on rank 0: those in `clock` for one of the first steps, else now."""
        if step < len(self.clock):
            return self.clock[step]
        seconds: float = self.trainer.strategy.broadcast(self.training_seconds)
        if step < RECORDED_STEPS:
            self.clock += [seconds] * (step + 1 - len(self.clock))  # not every schedule asks at step 0
        return seconds

    def on_train_start(self) -> None:
        parts = [*self.trainer.optimizers, *self.trainer.callbacks]
        self._averages = [part for part in parts if isinstance(part, KeepsAverage)]
        for callback in self.trainer.callbacks:
            if isinstance(callback, StochasticWeightAveraging):
                self._resume_averaging(callback)
        if state := this_rank(self._random_states):
            restore_random_state(state, self.device)
        self._random_states = []
        self.trainer.callback_metrics.update(self._callback_metrics)  # Lightning has cleared them
        self._callback_metrics = {}
        for name, parameter in self.named_parameters() if self._trainable else ():
            parameter.requires_grad_(name in self._trainable)
        for name, (weight, mask) in self._pruned.items():
            _prune(self, name, weight, mask)
        self._pruned = {}
        self.training_clock.start()  # after the callbacks' own start, such as compilation

    def _resume_averaging(self, callback: StochasticWeightAveraging) -> None:
        """Install the callback's scheduler in a resumed run now, not at the next epoch, and keep the learning rates."""
        if callback.state_dict()["latest_update_epoch"] < 0:  # the averaging has not begun
            return
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.trainer.optimizers]
        callback.on_train_epoch_start(self.trainer, self)  # when Lightning calls it again, it does nothing
        for optimizer, former in zip(self.trainer.optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, former, strict=True):
                group["lr"] = rate  # the new scheduler has overwritten it

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.last_loss = None
        groups = (group for optimizer in self.trainer.optimizers for group in optimizer.param_groups)
        self.learning_rate = next((group["lr"] for group in groups), math.nan)
        self.objective.begin_batch(self.micro_batches % self.trainer.accumulate_grad_batches)

    def training_step(self, window: Int[Tensor, "B T+1"], batch_idx: int) -> Float[Tensor, ""]:
        loss = self.compute_loss(self.model, window)
        if self.last_loss is None:  # an optimizer may ask for the loss of a batch more than once
            per_token = self.trainer.datamodule.characters_per_token
            self.last_loss = loss.detach() if per_token == 1 else loss.detach() / per_token
            self.micro_batches += 1
            tokens = window.shape[0] * (window.shape[1] - 1) * self.trainer.world_size
            self.characters_seen += round(tokens * per_token)
        return loss

    def on_train_end(self) -> None:
        self.training_clock.stop()
        for average in self._averages:  # for good, as the callbacks have already saved the last checkpoint
            average.eval()
        self._averages = []
        for _, part, leaf in _masked_weights(self):  # a tensor with a gradient cannot be copied
            setattr(part, leaf, getattr(part, leaf).detach())

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model_config"] = self.model_config
        checkpoint["vocabulary"] = to_config(self.trainer.datamodule.vocabulary)
        checkpoint["progress"] = {
            "characters_seen": self.characters_seen,
            "clock": self.clock,
            "micro_batches": self.micro_batches,
            "training_seconds": self.training_clock.seconds,
            "evaluation_seconds": self.evaluation_clock.seconds,
            "compilation_seconds": self.compilation_clock.seconds,
        }
        checkpoint["evaluation"] = {"step": self.evaluated_step, "results": self.results, "best": self.best}
        checkpoint["should_stop"] = bool(self.trainer.should_stop)
        checkpoint["training_over"] = is_over(self.trainer)
        checkpoint["limits"] = self._limits
        checkpoint["objective"] = from_every_rank(move_data_to_device(self.objective.state_dict(), "cpu"))
        checkpoint["random_states"] = from_every_rank(random_state(self.device))
        # What callbacks monitor at the end of an epoch may have been measured before the checkpoint.
        metrics = {name: value for name, value in self.trainer.callback_metrics.items() if name != "step"}
        checkpoint["callback_metrics"] = {name: torch.as_tensor(value).cpu() for name, value in metrics.items()}
        checkpoint["pruned"] = pruned = {
            name: tuple(getattr(part, f"{leaf}{suffix}").detach() for suffix in (_ORIGINAL, _MASK))
            for name, part, leaf in _masked_weights(self)
        }
        names = {f"{name}{_ORIGINAL}": name for name in pruned}
        trainable = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        checkpoint["trainable"] = [names.get(name, name) for name in trainable]
        if self._averages:
            checkpoint["training_weights"] = checkpoint["state_dict"]
            with averages_in_place(self.model, self._averages):
                checkpoint["state_dict"] = {name: value.clone() for name, value in self.state_dict().items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["progress"]
        self.characters_seen = progress["characters_seen"]
        self.clock = progress.get("clock", [])
        self.micro_batches = progress["micro_batches"]
        self.training_clock.seconds = progress["training_seconds"]
        self.evaluation_clock.seconds = progress["evaluation_seconds"]
        self.compilation_clock.seconds = progress["compilation_seconds"]
        self.objective.load_state_dict(this_rank(checkpoint["objective"]) or {})
        if _is_fitting(self):  # older checkpoints have the random states as those of a callback
            former = checkpoint["callbacks"].get("RandomStates", {"states": []})
            self._random_states = checkpoint.get("random_states", former["states"])
            self._callback_metrics = checkpoint.get("callback_metrics", {})
            self._trainable = checkpoint.get("trainable", [])
            self._pruned = checkpoint.get("pruned", {})
            _begin_next_epoch(checkpoint["loops"]["fit_loop"])
            extended = self._is_extended(checkpoint)
            if not extended and checkpoint.get("should_stop", checkpoint["training_over"]):
                self.trainer.should_stop = True
            if extended or not checkpoint["training_over"]:  # else killed in the final evaluation: keep the averages
                checkpoint["state_dict"] = checkpoint.get("training_weights", checkpoint["state_dict"])
        evaluation = checkpoint["evaluation"]
        self.evaluated_step, self.results, self.best = (evaluation[key] for key in ("step", "results", "best"))
        checkpoint["state_dict"] = unpruned(checkpoint)

    def _is_extended(self, checkpoint: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint was saved under other limits, and has not reached those of this training."""
        if checkpoint.get("limits", self._limits) == self._limits:
            return False
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        states = [checkpoint["callbacks"].get(timer.state_key, {}) for timer in self._timers()]
        elapsed = [state.get("time_elapsed", {}).get("train", 0.0) for state in states]
        reached = (checkpoint["global_step"], epochs, checkpoint["progress"]["training_seconds"], *elapsed)
        return all(limit is None or not 0 <= limit <= n for limit, n in zip(self._limits, reached, strict=True))


def _is_fitting(module: LanguageModelModule) -> bool:
    """Return whether a trainer fits a module; Lightning's `load_from_checkpoint` loads one that has no trainer."""
    try:
        return bool(module.trainer.state.fn == "fit")
    except RuntimeError:
        return False


def _begin_next_epoch(loop: dict[str, Any]) -> None:
    """Let a checkpoint of an epoch's last step go on with the start of the next epoch, its hook included.

    Lightning takes such a checkpoint for one in the middle of an epoch, and would count the next epoch wrongly. One
    that an evaluation at the end of an epoch saved resumes as it is.
    """
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    if not batches["is_last_batch"] or batches["total"]["completed"] != batches["total"]["processed"] - 1:
        return
    if epochs["total"]["ready"] == epochs["total"]["started"] == epochs["total"]["processed"] + 1:
        for progress in (epochs["total"], epochs["current"]):
            number = progress["processed"] + 1
            progress.update(ready=number + 1, started=number, processed=number, completed=number)
        batches["is_last_batch"] = False


def _masked_weights(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield the name of each weight that torch's pruning masks, the module that has it, and its name there."""
    for path, part in module.named_modules():
        if is_pruned(part):
            masks = {name for name, _ in part.named_buffers(recurse=False)}
            for name, _ in part.named_parameters(recurse=False):
                leaf = name.removesuffix(_ORIGINAL)
                if leaf != name and f"{leaf}{_MASK}" in masks:
                    yield f"{path}.{leaf}", part, leaf


def _prune(module: nn.Module, name: str, weight: Tensor, mask: Tensor) -> None:
    """Let a mask prune a weight of a module, and set what the weight is without it."""
    owner, _, leaf = name.rpartition(".")
    part = module.get_submodule(owner)
    custom_from_mask(part, leaf, mask.to(part.get_parameter(leaf).device))
    with torch.no_grad():
        part.get_parameter(f"{leaf}{_ORIGINAL}").copy_(weight)


def is_over(trainer: Trainer) -> bool:
    """Return whether training ends with this step: it is to stop, and `min_steps` and `min_epochs` allow it."""
    step, epoch = trainer.global_step, trainer.current_epoch
    may_stop = epoch >= (trainer.min_epochs or 0) and step >= (trainer.min_steps or 0)
    return bool(trainer.should_stop and (may_stop or 0 <= trainer.max_steps <= step))


def gradient_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """Return the factor by which the gradients are scaled when they are measured or clipped.

    In float16 the loss is scaled. Lightning unscales the gradients before they are measured or clipped, except for a
    fused optimizer, which unscales them in its step. Reading the scale synchronizes with the device.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not optimizer.defaults.get("fused"):
        return 1.0
    return float(scaler.get_scale())
