"""Sample text from the model during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from charlab.data.datamodule import CharacterDataModule
from charlab.errors import UserError, warn_on_failure
from charlab.files import write_atomically
from charlab.generation import sample_text
from charlab.models.side_effects import device_of, untouched_randomness
from charlab.training.module import LanguageModelModule
from charlab.training.trackers import log_text
from charlab.types import PositiveFloat, PositiveInt


class SampleText(Callback):
    """Sample a text from the model every few optimizer steps and at the end.

    Every text is logged as `sample`, and the last one is also written to `samples.txt` in the trainer's
    `default_root_dir`. All texts use the same random numbers, so that they differ only by what the model has learned.
    Sampling affects neither the random numbers nor the clock of training.

    Args:
        every_n_steps: optimizer steps between samples; None to sample at the end only.
        length: characters in a text; fewer if a character takes several tokens.
        temperature: divisor of the logits.
        seed: seed of the random numbers.

    Attributes:
        at_end: whether to sample at the end.
    """

    at_end = True

    def __init__(
        self,
        *,
        every_n_steps: PositiveInt | None = None,
        length: PositiveInt = 500,
        temperature: PositiveFloat = 1.0,
        seed: int,
    ) -> None:
        if not -(2**63) <= seed < 2**64:
            raise UserError(f"callbacks.samples.seed={seed} is too large for a random-number generator: lower it.")
        self.every_n_steps, self.length = every_n_steps, length
        self.temperature, self.seed = temperature, seed
        self._logged_step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        is_due = self.every_n_steps and step % self.every_n_steps == 0 and step != self._logged_step
        if is_due and trainer.is_global_zero:
            with warn_on_failure("sample"):
                self._log(trainer, self._draw(trainer, pl_module))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample the last text, after the last checkpoint is written; log it and write it to `samples.txt`."""
        if not self.at_end or not trainer.is_global_zero:
            return
        with warn_on_failure("sample"):
            text = self._draw(trainer, pl_module)
            if trainer.global_step != self._logged_step:
                self._log(trainer, text)
            path = Path(trainer.default_root_dir) / "samples.txt"
            write_atomically(path, lambda file: file.write(f"{text}\n".encode()))

    def state_dict(self) -> dict[str, Any]:
        return {"logged_step": self._logged_step} if self.every_n_steps else {}  # a resumed run may omit the callback

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._logged_step = state_dict["logged_step"]

    def _draw(self, trainer: Trainer, module: LightningModule) -> str:
        datamodule = trainer.datamodule
        assert isinstance(datamodule, CharacterDataModule)
        assert isinstance(module, LanguageModelModule)
        with module.evaluating(), untouched_randomness(device_of(module.model)):
            return sample_text(
                module.model, datamodule.vocabulary, self.length, temperature=self.temperature, seed=self.seed
            )

    def _log(self, trainer: Trainer, text: str) -> None:
        for logger in trainer.loggers:
            log_text(logger, "sample", text, trainer.global_step)
        self._logged_step = trainer.global_step
