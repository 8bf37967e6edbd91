"""Plot the attention weights of every head."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from charlab.data.datamodule import CharacterDataModule
from charlab.data.tokenizers import Vocabulary, readable
from charlab.errors import warn_on_failure
from charlab.models.contract import LanguageModel
from charlab.models.side_effects import device_of, untouched_randomness
from charlab.training.module import LanguageModelModule
from charlab.training.trackers import log_image, shows_images
from charlab.types import PositiveInt

VISIBLE = str.maketrans({"\n": "⏎", " ": "␣", "\t": "⇥", "\r": "␍"})  # axis labels of whitespace characters


class AttentionMaps(Callback):
    """Plot the attention weights on the first validation window, every few optimizer steps and at the end.

    Every module with a method `attention_weights(x: (B, T, D)) -> (B, H, T, T)` is plotted: one image of all its heads,
    logged as `attention/` followed by the module's name. Plotting affects neither the random numbers nor the clock of
    training.

    Args:
        every_n_steps: optimizer steps between plots; None to plot at the end only.
        length: number of characters of the window to show, at most the context length; they label the axes if there
            are at most 64.

    Attributes:
        at_end: whether to plot at the end.
    """

    at_end = True

    def __init__(self, *, every_n_steps: PositiveInt | None = None, length: PositiveInt = 32) -> None:
        self.every_n_steps, self.length = every_n_steps, length
        self._logged_step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            with warn_on_failure("attention map"):
                self._log(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plot the final maps, after the last checkpoint is written."""
        if self.at_end:
            with warn_on_failure("attention map"):
                self._log(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"logged_step": self._logged_step} if self.every_n_steps else {}  # as in `SampleText`

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._logged_step = state_dict["logged_step"]

    def _log(self, trainer: Trainer, module: LightningModule) -> None:
        loggers = [logger for logger in trainer.loggers if shows_images(logger)]
        step = trainer.global_step
        if step == self._logged_step or not trainer.is_global_zero or not loggers:
            return
        self._logged_step = step
        data = trainer.datamodule
        assert isinstance(module, LanguageModelModule)
        assert isinstance(data, CharacterDataModule)
        device = device_of(module.model)
        window = data.ids("validation", device)[: min(self.length, data.context_length) + 1].long()
        with module.evaluating(), untouched_randomness(device):
            for name, image in attention_images(module.model, data.vocabulary, window, f"step {step:,}"):
                for logger in loggers:
                    log_image(logger, f"attention/{name}", image, step)


def attention_images(
    model: LanguageModel, vocabulary: Vocabulary, window: Int[Tensor, " T+1"], when: str
) -> Iterator[tuple[str, UInt8[np.ndarray, "height width 3"]]]:
    """Yield an image of all heads of every module of `model` that exposes its attention, with the module's name."""
    text = [readable(vocabulary.decode([index])) for index in window.tolist()]
    for name, weights in attention_maps(model, window).items():
        shown = text[: weights.shape[-1]]
        yield name, draw_heads(weights.float().cpu().numpy(), shown, title=f"{name} · {when}")


def attention_maps(model: LanguageModel, window: Int[Tensor, " T+1"]) -> dict[str, Float[Tensor, "H S S"]]:
    """Return the attention weights of every module of `model` that exposes them, by the module's name.

    The weights are those on the module's input when the model scores `window`: all characters but the last, if the
    model is autoregressive. Positions with which masked diffusion pads the window are left out.
    """
    parts = {name: part for name, part in model.named_modules() if hasattr(part, "attention_weights")}
    inputs: dict[str, Tensor] = {}
    if not parts:
        return {}
    with ExitStack() as hooks, torch.no_grad():
        for name, part in parts.items():
            remember = partial(_remember, inputs, name)
            hooks.enter_context(part.register_forward_pre_hook(remember))  # removed when the block ends
        model.nll(window[None])
        length = len(window)
        return {name: parts[name].attention_weights(x)[0, :, :length, :length] for name, x in inputs.items()}


def _remember(inputs: dict[str, Tensor], name: str, part: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    inputs[name] = arguments[0]


def draw_heads(
    weights: Float[np.ndarray, "H T T"], text: Sequence[str], *, title: str
) -> UInt8[np.ndarray, "height width 3"]:
    """Return an image with one panel per head, in which rows are queries and columns are keys.

    Args:
        weights: attention weights in [0, 1].
        text: the T tokens of the window.
        title: title of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    num_heads, length, _ = weights.shape
    num_columns = min(num_heads, math.ceil(math.sqrt(num_heads * 1.5)))
    num_rows = math.ceil(num_heads / num_columns)
    square = min(max(length * 0.1, 2.0), 3.2)  # inches
    width, height = num_columns * (square + 0.3) + 1.2, num_rows * (square + 0.3) + 1.0
    figure = Figure(figsize=(width, height), dpi=110)
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.6 / width,
        right=1 - 0.9 / width,
        bottom=0.5 / height,
        top=1 - 0.6 / height,
        wspace=0.1,
        hspace=0.1,
    )
    for head, panel in enumerate(panels.flat):
        if head >= num_heads:
            panel.set_axis_off()
            continue
        # On a linear scale, one weight near 1 would leave all others white.
        image = panel.imshow(weights[head], cmap="Blues", norm=PowerNorm(0.5, vmin=0.0, vmax=1.0))
        panel.set_title(f"head {head + 1}", fontsize=8)
        panel.spines[:].set_color("0.8")
        panel.tick_params(length=0, pad=2)
    if length <= 64:
        style = {"fontsize": 190 * square / 3.2 / length, "family": "monospace", "parse_math": False}
        labels = [token.translate(VISIBLE) for token in text]
        for panel in panels[-1]:  # the other panels share these ticks and show no labels
            panel.set_xticks(range(length), labels, **style)
        for panel in panels[:, 0]:
            panel.set_yticks(range(length), labels, **style)
    bar = figure.colorbar(image, cax=figure.add_axes((1 - 0.7 / width, 0.3, 0.1 / width, 0.4)))
    bar.set_label("weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    # Placed in inches, like the panels: at a fraction of the size, they would overlap the panels of many heads.
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / height)
    figure.supxlabel("key (attended to)", fontsize=8, y=0.1 / height)
    figure.supylabel("query (attending)", fontsize=8, x=0.1 / width)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    return np.ascontiguousarray(pixels[:, :, :3])
