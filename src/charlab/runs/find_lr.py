"""Suggest a learning rate, by a short training run in which it rises at every step (Smith, arXiv 1506.01186)."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

from lightning.pytorch.tuner import Tuner
from omegaconf import DictConfig, open_dict
from rich.console import Console

from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.notebook import Output
from charlab.runs.setup import Parts

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 200


def find_lr(config: DictConfig, console: Console | None = None) -> float:
    """Print and return the rate at which the loss falls fastest, and plot the loss against the rate.

    Each of `STEPS` steps has a higher rate than the one before, the same for all parameters. The training is discarded
    and leaves no run, since the settings in its record would not be those that it was trained with.

    Args:
        config: a composed `conf/train.yaml`.

    Raises:
        UserError: if the configuration is invalid, the model is not trained by gradients, or no rate lowers the loss.
    """
    console = console or Output()
    with tempfile.TemporaryDirectory() as folder, open_dict(config):
        config.callbacks = config.logger = config.averaging = None
        config.trainer.update(max_steps=STEPS + 1, max_epochs=None, max_time=None, limit_val_batches=0)
        config.trainer.update(enable_checkpointing=False, enable_progress_bar=False)
        config.budget.max_seconds, config.compute.compile = None, False
        parts = Parts(config, Path(folder), fresh=True)
        if not any(weight.requires_grad for weight in parts.model.parameters()):
            raise UserError(f"A {type(parts.model).__name__} model is not trained by gradients, so it has no rate.")
        rates = {"min_lr": LOWEST, "max_lr": HIGHEST, "num_training": STEPS}
        # Lightning's bar cannot be turned off, and would fill a log with a line per step.
        shown = sys.stderr if sys.stderr.isatty() else io.StringIO()
        with contextlib.redirect_stderr(shown):
            finder = Tuner(parts.trainer).lr_find(parts.module, datamodule=parts.data, update_attr=False, **rates)
    rate = finder.suggestion() if finder is not None else None
    if finder is None or rate is None:
        raise UserError(
            f"No rate between {LOWEST:g} and {HIGHEST:g} lowers the loss: the model is at fault, not its learning rate."
        )
    console.print(f"optimizer.lr={rate:.1e}", style="bold", highlight=False)
    console.print(f"Over {len(finder.results['lr'])} steps with rising rates, the loss falls fastest there.")
    plot = Path(config.output_dir) / "rates" / f"{config.name}.png"
    figure = finder.plot(suggest=True)
    figure.axes[0].set_title(config.name)
    write_atomically(plot, lambda file: figure.savefig(file, format="png", dpi=150))
    console.print(f"plot  {plot}", soft_wrap=True, highlight=False, markup=False)
    return float(rate)
