"""Compile the training loss."""

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
from charlab.models.side_effects import untouched_randomness
from charlab.quantities import clock
from charlab.training.callbacks.progress import show_line
from charlab.training.flops import count_flops
from charlab.training.module import LanguageModelModule
from charlab.training.optimizers import repeats_closure

Compile = bool | Literal["auto", "cuda_graphs"]
Loss = Callable[[LanguageModel, Tensor], Tensor]

# Floating-point operations per second that small models reach in training, per CPU core and per GPU. These are fixed
# rather than measured: a rough guess is enough, but two attempts at a run must decide alike.
SPEED = {"cpu": 60e9, "cuda": 30e12}
# Seconds of training above which compilation saves more time than it takes, with an empty cache.
WORTHWHILE = {"cpu": 600.0, "cuda": 180.0}


class Compilation(Callback):
    """Compile the forward and backward pass of the training loss with `torch.compile`.

    The model itself is not changed: the state dict keeps its keys, and evaluation and generation, whose windows vary in
    length, run uncompiled. All training windows have the same shape, so one graph suffices. Compilation happens before
    the training clock starts and changes no weights, gradients or random numbers.

    Compiled code rounds differently, so with "auto" a resumed run is compiled if and only if it was compiled before.

    torch caches compiled code for later processes in the folder TORCHINDUCTOR_CACHE_DIR.

    CUDA graphs record the kernels of a step once and then replay them, which saves the time to launch each kernel. All
    steps share the same memory, so each step must finish before the next one starts.

    Args:
        choice: true, false, "auto" (compile if the budget is long enough for it to save time), or "cuda_graphs"
            (compile, and use CUDA graphs).

    Attributes:
        compiled: whether the loss is compiled; None before training.
    """

    def __init__(self, choice: Compile) -> None:
        self.choice = choice
        self.compiled: bool | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        """Compile the loss if the choice asks for it.

        Raises:
            UserError: if the loss must be compiled, and cannot be.
        """
        if not any(parameter.requires_grad for parameter in pl_module.parameters()):
            return
        self._check(trainer, pl_module)
        was_compiled, self.compiled = self.compiled, False
        wanted = was_compiled if self.choice == "auto" else bool(self.choice)
        if wanted is None:
            wanted = self._is_worthwhile(trainer, pl_module)
        if not wanted:
            return
        pl_module.compilation_clock.start()
        try:
            self._compile(trainer, pl_module)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError) as error:  # OSError: the folder of compiled code cannot be used
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

    def _is_worthwhile(self, trainer: Trainer, module: LanguageModelModule) -> bool:
        seconds, device = expected_seconds(trainer, module), module.device.type
        pays = seconds >= WORTHWHILE.get(device, math.inf)
        length = f"{clock(seconds)} of training"
        verdict = "compiling: it pays off" if pays else "not compiled: it would not pay off"
        show_line(trainer, f"{verdict} in {length} (compute.compile=auto)")
        return pays

    def _compile(self, trainer: Trainer, module: LanguageModelModule) -> None:
        """Compile the loss by computing it and its gradient on one batch."""
        data, model, objective = trainer.datamodule, module.model, module.objective
        starts = torch.zeros(data.micro_batch_size, dtype=torch.long, device=module.device)
        window = gather_windows(data.ids("train", module.device), starts, data.context_length)
        mode = "reduce-overhead" if self.choice == "cuda_graphs" else "default"
        compiled = torch.compile(objective, fullgraph=True, dynamic=False, mode=mode)
        compute_loss = _with_cuda_graph_step(compiled) if self.choice == "cuda_graphs" else compiled
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        state = objective.state_dict()
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with untouched_randomness(module.device):
            for _ in range(3 if self.choice == "cuda_graphs" else 1):  # torch records a graph after warm-up calls
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
                f"compute.compile=cuda_graphs needs an NVIDIA GPU, and the run is on {module.device.type}: "
                "set compute.compile=true."
            )
        repeats = any(map(repeats_closure, trainer.optimizers))
        if trainer.accumulate_grad_batches > 1 or repeats:
            raise UserError(
                "compute.compile=cuda_graphs computes one gradient per step, and this run needs several "
                "(trainer.accumulate_grad_batches, or the optimizer): set compute.compile=true."
            )


def _with_cuda_graph_step(compiled: Loss) -> Loss:
    """Return a loss that marks the start of each step and whose value the next step does not overwrite."""

    def loss(model: LanguageModel, window: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(model, window).clone()

    return loss


def expected_seconds(trainer: Trainer, module: LanguageModelModule) -> float:
    """Return a rough estimate of the run's training time in seconds; 0 if the work of its steps is unknown."""
    lengths = []
    if module.max_steps is not None:
        batch_size, length = trainer.datamodule.batch_size, trainer.datamodule.context_length
        if module.flops_per_character is not None:  # counted already
            flops = module.flops_per_character * batch_size * length
        else:
            flops = count_flops(module.model, batch_size=batch_size, window_length=length + 1) or 0
        units = torch.get_num_threads() if module.device.type == "cpu" else 1
        lengths.append(module.max_steps * flops / (units * SPEED.get(module.device.type, math.inf)))
    if module.max_seconds is not None:
        lengths.append(module.max_seconds)
    return min(lengths, default=0.0)


def _reason(error: Exception) -> str:
    """Return the first two lines of a message, which say what failed and why."""
    return " ".join(" ".join(str(error).strip().splitlines()[:2]).split()).rstrip(".")
