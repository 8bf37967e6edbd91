"""A callback that undoes exemptions from weight decay, for `benchmarks.losses`."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from charlab.models.initialization import UNDECAYED


class DecayAll(Callback):
    """Let the optimizer decay the parameters that are exempt from it, too."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for parameter in pl_module.parameters():
            if hasattr(parameter, UNDECAYED):
                delattr(parameter, UNDECAYED)
