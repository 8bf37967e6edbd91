"""Command lines of runs that take a second, and what a run leaves in its folder."""

import csv
from pathlib import Path

import torch

from charlab.runs.folder import events_folder

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
TINY = (
    "model=gpt",
    "data=textfile",
    "data.context_length=8",
    "data.batch_size=4",
    "model.embed_dim=16",
    "model.num_layers=1",
    "model.dropout=0.2",
    "trainer.accelerator=cpu",
    "trainer.max_steps=12",
    "trainer.accumulate_grad_batches=2",
    "evaluate_every=4",
    "estimate_batches=2",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpointing.every_n_steps=3",
    "callbacks.samples.length=20",
)
BARE = ("~logger.tensorboard",)  # slow, and changes nothing that a run learns; the fixture `finished_run` has it
EVERYTHING = "at_end=[samples,attention_maps,loss_plot]"


def weights(record):
    """Return the weights in a run's last checkpoint, by name."""
    return torch.load(record.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def curves(record):
    """Return every logged measurement except those of time."""
    with (record.folder / "metrics.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["metric"] != "characters_per_second"]
    return [(row["step"], row["characters"], row["metric"], row["value"]) for row in rows]


def event_steps(folder):
    """Return the steps of the training loss, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(events_folder(folder)), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in accumulator.Scalars("train/loss")]


def assert_same_outcome(a, b):
    """Check that two runs have the same weights and curves, bit for bit."""
    assert weights(a).keys() == weights(b).keys()
    assert all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())
    assert curves(a) == curves(b)
