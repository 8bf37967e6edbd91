"""Compiling the loss that training minimizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from charlab.data.windows import gather_windows
from charlab.errors import UserError
from charlab.models.contract import LanguageModel
from charlab.models.inference import untouched_randomness
from charlab.quantities import clock
from charlab.training.callbacks.progress import show_line
from charlab.training.flops import count_flops
from charlab.training.module import LanguageModelModule

Compile = bool | Literal["auto", "cuda_graphs"]
Loss = Callable[[LanguageModel, Tensor], Tensor]

# Floating-point operations per second that small models reach in training: on one core, and on a GPU. A rough guess
# of a run's length is enough, but two attempts at a run have to make the same one, so it is not measured.
SPEED = {"cpu": 60e9, "cuda": 30e12}
# Seconds of training from which on compiling saves more than it takes, where nothing like it was compiled before.
WORTHWHILE = {"cpu": 600.0, "cuda": 180.0}


class Compilation(Callback):
    """Lets torch compile the training loss, forward and backward, into kernels made for it.

    It is compiled beside the model, which stays as it is: the state dict keeps its keys, and evaluation and
    generation, whose windows vary in length, run uncompiled. Training windows have one shape, so there is one graph.
    This is done before the training clock starts, and leaves no trace in weights, gradients or random numbers.

    Compiled code rounds differently. So a run that goes on from a checkpoint is compiled if it was so before, unless
    the choice says otherwise.

    torch keeps what it has compiled for later processes, in the folder that TORCHINDUCTOR_CACHE_DIR names.

    With CUDA graphs a GPU is told once what a step consists of, and then repeats it, which saves what it takes to
    launch every kernel anew. All steps share their memory, so each has to be over before the next one begins.

    Args:
        choice: true, false, "auto": where the run's budget is so long that it pays; or "cuda_graphs": with those.

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
        self._check(trainer, pl_module)
        was_compiled, self.compiled = self.compiled, False
        wanted = was_compiled if self.choice == "auto" else bool(self.choice)
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
                raise UserError(f"The loss was to be compiled, but {reason}: set compute.compile=false.") from error
        finally:
            pl_module.compilation_clock.stop()

    def state_dict(self) -> dict[str, Any]:
        return {"compiled": self.compiled}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.compiled = state_dict["compiled"]

    def _pays(self, trainer: Trainer, module: LanguageModelModule) -> bool:
        seconds, device = expected_seconds(trainer, module), module.device.type
        pays = seconds >= WORTHWHILE.get(device, math.inf)
        length = f"{clock(seconds)} of training"
        verdict = "compiling, which pays" if pays else "not compiled, which would not pay"
        show_line(trainer, f"{verdict} in {length} (compute.compile=auto)")
        return pays

    def _compile(self, trainer: Trainer, module: LanguageModelModule) -> None:
        """Has the loss compiled by computing it and its gradient once."""
        data, model, objective = trainer.datamodule, module.model, module.objective
        starts = torch.zeros(data.micro_batch_size, dtype=torch.long, device=module.device)
        window = gather_windows(data.ids("train", module.device), starts, data.context_length)
        mode = "reduce-overhead" if self.choice == "cuda_graphs" else "default"
        compiled = torch.compile(objective, fullgraph=True, dynamic=False, mode=mode)
        compute_loss = _in_one_piece(compiled) if self.choice == "cuda_graphs" else compiled
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        state = objective.state_dict()
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with untouched_randomness(module.device):
            for _ in range(3 if self.choice == "cuda_graphs" else 1):  # a graph is recorded after a try or two
                with trainer.precision_plugin.train_step_context():
                    loss = compute_loss(model, window)
                torch.autograd.grad(loss, weights, allow_unused=True)
        objective.load_state_dict(state)
        for buffer, before in buffers:
            buffer.copy_(before)
        module.compute_loss = compute_loss
        self.compiled = True

    def _check(self, trainer: Trainer, module: LanguageModelModule) -> None:
        if self.choice != "cuda_graphs":
            return
        if module.device.type != "cuda":
            raise UserError(
                f"compute.compile=cuda_graphs is for GPUs of NVIDIA, and the run is on {module.device.type}: "
                "set compute.compile=true."
            )
        repeats = any(getattr(optimizer, "repeats_closure", False) for optimizer in trainer.optimizers)
        if trainer.accumulate_grad_batches > 1 or repeats:
            raise UserError(
                "compute.compile=cuda_graphs computes one gradient per step, and this run needs several "
                "(trainer.accumulate_grad_batches, or the optimizer): set compute.compile=true."
            )


def _in_one_piece(compiled: Loss) -> Loss:
    """Returns a loss that says where a step begins, and that the next step does not overwrite."""

    def loss(model: LanguageModel, window: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(model, window).clone()

    return loss


def expected_seconds(trainer: Trainer, module: LanguageModelModule) -> float:
    """Returns about how many seconds the whole run trains: 0 if its budget is in steps whose work is unknown."""
    lengths = []
    if module.max_steps is not None:
        data = trainer.datamodule
        flops = count_flops(module.model, batch_size=data.batch_size, window_length=data.context_length + 1) or 0
        units = torch.get_num_threads() if module.device.type == "cpu" else 1
        lengths.append(module.max_steps * flops / (units * SPEED.get(module.device.type, math.inf)))
    if module.max_seconds is not None:
        lengths.append(module.max_seconds)
    return min(lengths, default=0.0)


def _reason(error: Exception) -> str:
    """Returns the first two lines of a long message: what was tried, and what went wrong."""
    return " ".join(" ".join(str(error).strip().splitlines()[:2]).split()).rstrip(".")
