"""EM under Lightning's automatic optimization."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from charlab.models.hmm import HiddenMarkovModel
from charlab.training.em import ExpectationMaximization

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning's use of a torch function
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Module(LightningModule):
    def __init__(self, model: HiddenMarkovModel) -> None:
        super().__init__()
        self.model = model

    def training_step(self, window: Tensor, batch_idx: int) -> Tensor:
        return self.model.loss(window)

    def configure_optimizers(self) -> ExpectationMaximization:
        return ExpectationMaximization(self.model, lr=0.7, decay=0.5, smoothing=1e-3)


def new_model() -> HiddenMarkovModel:
    torch.manual_seed(0)
    return HiddenMarkovModel(5, num_states=3, parameterization="log_probabilities")


def test_accumulated_micro_batches_are_one_batch(tmp_path: Path) -> None:
    windows = torch.randint(5, (8, 12), generator=torch.Generator().manual_seed(1))
    trained, expected = new_model(), new_model()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        accumulate_grad_batches=2,
        gradient_clip_val=1e-3,  # a common factor of the counts is of no effect
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(trained), DataLoader(windows, batch_size=2))
    optimizer = ExpectationMaximization(expected, lr=0.7, decay=0.5, smoothing=1e-3)
    for _ in range(3):
        for batch in windows.split(4):
            optimizer.zero_grad()
            expected.loss(batch).backward()
            optimizer.step()
    assert trainer.global_step == 6
    for ours, theirs in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
