"""Compiling the loss that training minimizes."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer

from charlab.data.windows import gather_windows
from charlab.errors import UserError
from charlab.models.inference import untouched_randomness
from charlab.training.callbacks.progress import show_line
from charlab.training.flops import count_flops
from charlab.training.module import LanguageModelModule

Compile = bool | Literal["auto"]

# Floating-point operations per second that small models reach in training: on one core, and on a GPU. A rough guess
# of a run's length is enough, but two attempts at a run have to make the same one, so it is not measured.
SPEED = {"cpu": 60e9, "cuda": 30e12}
# Seconds of training from which on compiling saves more than the minute or so that it takes.
WORTHWHILE = {"cpu": 600.0, "cuda": 180.0}


class Compilation(Callback):
    """Lets torch compile the training loss, forward and backward, into kernels made for it.

    It is compiled beside the model, which stays as it is: the state dict keeps its keys, and evaluation and
    generation, whose windows vary in length, run uncompiled. Training windows have one shape, so there is one graph.
    This is done before the training clock starts, and leaves no trace in weights, gradients or random numbers.

    Compiled code rounds differently. So a run that goes on from a checkpoint is compiled if it was so before, unless
    the choice says otherwise.

    torch keeps what it has compiled for later processes, in the folder that TORCHINDUCTOR_CACHE_DIR names.

    Args:
        choice: true, false, or "auto": where the run's budget is so long that it pays.

    Attributes:
        compiled: whether the loss is compiled; None before training.
    """

    def __init__(self, choice: Compile) -> None:
        self.choice = choice
        self.compiled: bool | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        """Decides and compiles.

        Raises:
            UserError: if the model has to be compiled and cannot be.
        """
        if not any(parameter.requires_grad for parameter in pl_module.parameters()):
            return
        was_compiled, self.compiled = self.compiled, False
        wanted = was_compiled if self.choice == "auto" else self.choice
        if wanted is None:
            wanted = self._pays(trainer, pl_module)
        if not wanted:
            return
        from torch._dynamo.exc import TorchDynamoException  # imports the compiler

        pl_module.compilation_clock.start()
        try:
            self._compile(trainer, pl_module)
        except TorchDynamoException as error:
            reason = f"torch cannot compile {type(pl_module.model).__name__} here ({_reason(error)})"
            if self.choice == "auto" and was_compiled is None:
                show_line(trainer, f"not compiled: {reason}")
            else:
                raise UserError(f"The loss was to be compiled, but {reason}: set trainer.compile=false.") from error
        finally:
            pl_module.compilation_clock.stop()

    def state_dict(self) -> dict[str, Any]:
        return {"compiled": self.compiled}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.compiled = state_dict["compiled"]

    def _pays(self, trainer: Trainer, module: LanguageModelModule) -> bool:
        seconds, device = expected_seconds(trainer, module), module.device.type
        pays = seconds >= WORTHWHILE.get(device, math.inf)
        length = f"{timedelta(seconds=round(seconds))} of training"
        verdict = "compiling, a minute that pays" if pays else "not compiled, which would not pay"
        show_line(trainer, f"{verdict} in {length} (trainer.compile=auto)")
        return pays

    def _compile(self, trainer: Trainer, module: LanguageModelModule) -> None:
        """Has the loss compiled by computing it and its gradient once."""
        data, model, objective = trainer.datamodule, module.model, module.objective
        starts = torch.zeros(data.batch_size, dtype=torch.long, device=module.device)
        window = gather_windows(data.ids("train", module.device), starts, data.context_length)
        compiled = torch.compile(objective, fullgraph=True, dynamic=False)
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        state = objective.state_dict()
        with untouched_randomness(module.device):
            with trainer.precision_plugin.train_step_context():
                loss = compiled(model, window)
            weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
            torch.autograd.grad(loss, weights, allow_unused=True)
        objective.load_state_dict(state)
        for buffer, before in buffers:
            buffer.copy_(before)
        module.compute_loss = compiled
        self.compiled = True


def expected_seconds(trainer: Trainer, module: LanguageModelModule) -> float:
    """Returns about how many seconds the whole run trains: 0 if its budget is in steps whose work is unknown."""
    lengths = []
    if module.max_steps is not None:
        data = trainer.datamodule
        batch_size = data.batch_size * trainer.accumulate_grad_batches
        flops = count_flops(module.model, batch_size=batch_size, window_length=data.context_length + 1) or 0
        units = torch.get_num_threads() if module.device.type == "cpu" else 1
        lengths.append(module.max_steps * flops / (units * SPEED.get(module.device.type, math.inf)))
    if module.max_seconds is not None:
        lengths.append(module.max_seconds)
    return min(lengths)


def _reason(error: Exception) -> str:
    """Returns the first two lines of a long message: what was tried, and what went wrong."""
    return " ".join(" ".join(str(error).strip().splitlines()[:2]).split()).rstrip(".")
