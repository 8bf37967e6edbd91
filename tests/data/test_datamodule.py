from fractions import Fraction
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from charlab.configuration.build import build, plain
from charlab.configuration.compose import compose
from charlab.data.corpora import Corpus
from charlab.data.datamodule import CharacterDataModule
from charlab.data.windows import window_starts
from charlab.errors import UserError
from tests.references import windows as reference

TEXT = "".join(chr(ord("a") + (index * index + index // 7) % 26) for index in range(200))

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's use of a torch function


def make(text: str = TEXT, floor: np.ndarray | None = None, **changes: Any) -> CharacterDataModule:
    settings = {
        "context_length": 6,
        "batch_size": 3,
        "train_fraction": 0.8,
        "validation_fraction": 0.1,
        "dev_fraction": 0.0,
        "seed": 305,
    }
    return CharacterDataModule(corpus=Corpus.of("squares", text, floor), **(settings | changes))


def prepared(**arguments: Any) -> CharacterDataModule:
    data = make(**arguments)
    data.setup()
    return data


class Recorder(LightningModule):
    """Keep the batches that Lightning hands to its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained: list[Tensor] = []
        self.validated: dict[int, list[Tensor]] = {}
        self.predicted: list[Tensor] = []

    def training_step(self, batch: Tensor) -> Tensor:
        self.trained.append(batch)
        return self.weight * batch.sum()

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated.setdefault(dataloader_idx, []).append(batch)

    def predict_step(self, batch: Tensor) -> Tensor:
        self.predicted.append(batch)
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def make_trainer(**settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=settings.pop("limit_val_batches", 0),
        **settings,
    )


def expected_windows(data: CharacterDataModule, step: int) -> Tensor:
    ids = data.splits["train"]
    starts = window_starts(data.seed, step, batch_size=data.batch_size, num_starts=len(ids) - data.context_length)
    return reference.gather_windows(ids, torch.from_numpy(starts), data.context_length)


# Splits


def test_the_text_is_split_by_position() -> None:
    data = prepared(dev_fraction=0.05)

    parts = {name: data.vocabulary.decode(ids) for name, ids in data.splits.items()}
    assert parts == {"dev": TEXT[:10], "train": TEXT[10:160], "validation": TEXT[160:180]}
    assert data.vocabulary.characters == "".join(sorted(set(TEXT)))
    assert {ids.dtype for ids in data.splits.values()} == {torch.uint8}


def test_without_a_fraction_there_is_no_dev_split() -> None:
    assert set(prepared().splits) == {"train", "validation"}


@pytest.mark.parametrize(
    ("name", "size", "train", "validation"),
    [
        ("tinyshakespeare", 1_115_394, 1_003_854, 111_540),
        ("textfile", 1_115_394, 1_003_854, 111_540),
        ("text8", 10**5, 90_000, 5_000),
        ("enwik8", 10**5, 90_000, 5_000),
    ],
)
def test_the_usual_splits_have_the_usual_lengths(name: str, size: int, train: int, validation: int) -> None:
    path = ["data.path=some.txt"] if name == "textfile" else []

    data = build(plain(compose([f"data={name}", "model=bigram", *path]).data), corpus=Corpus.of("zeros", "0" * size))
    data.setup()

    test = {"test": validation} if name in ("text8", "enwik8") else {}
    assert {split: len(ids) for split, ids in data.splits.items()} == {"train": train, "validation": validation, **test}


@settings(deadline=None)
@given(st.integers(1, 79), st.integers(0, 20), st.integers(0, 20), st.integers(100, 1000))
@example(70, 10, 0, 120)  # in floating point, 0.7 + 0.1 is 0.7999999999999999
def test_fractions_are_taken_as_they_are_written(train: int, validation: int, dev: int, size: int) -> None:
    train, validation, dev = train + dev + 1, validation + 1, dev
    if train + validation > 100:
        return
    data = make(
        "01" * (size // 2),
        context_length=1,
        train_fraction=train / 100,
        validation_fraction=validation / 100,
        dev_fraction=dev / 100,
    )
    size = size // 2 * 2
    ends = [int(Fraction(part, 100) * size) for part in (dev, train, train + validation)]
    lengths = {"train": ends[1] - ends[0], "validation": ends[2] - ends[1]} | ({"dev": ends[0]} if dev else {})
    if min(lengths.values()) < 2:
        return

    data.setup()

    assert {name: len(ids) for name, ids in data.splits.items()} == lengths


@pytest.mark.parametrize(
    "changes",
    [
        {"context_length": 0},
        {"context_length": -3},
        {"context_length": 2.5},
        {"batch_size": 0},
        {"batch_size": -1},
        {"train_fraction": 0.0},
        {"train_fraction": -0.1},
        {"train_fraction": 0.95},
        {"train_fraction": 1.2},
        {"validation_fraction": 0.0},
        {"validation_fraction": float("nan")},
        {"dev_fraction": -0.1},
        {"dev_fraction": 0.8},
    ],
)
def test_impossible_sizes_are_errors_that_name_them(changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        make(**changes)


@pytest.mark.parametrize(
    ("changes", "split", "length"),
    [
        ({"context_length": 20}, "validation", 20),
        ({"dev_fraction": 0.03}, "dev", 6),
        ({"train_fraction": 0.02}, "train", 4),
    ],
)
def test_a_split_shorter_than_a_window_is_an_error(changes: dict[str, float], split: str, length: int) -> None:
    data = make(**changes)

    with pytest.raises(UserError, match=rf"The {split} split of squares is {length} of its 200 characters.*window of"):
        data.setup()


def test_a_split_of_just_one_window_is_enough() -> None:
    data = prepared(context_length=19)

    assert [batch.shape for batch in data.predict_dataloader()] == [(1, 20)]


def test_the_corpus_is_loaded_once() -> None:
    class Counting:
        loads = 0

        def load(self) -> Corpus:
            self.loads += 1
            return Corpus.of("squares", TEXT)

    loader = Counting()
    data = CharacterDataModule(
        corpus=loader,
        context_length=6,
        batch_size=3,
        train_fraction=0.9,
        validation_fraction=0.1,
        dev_fraction=0,
        seed=1,
    )
    assert loader.loads == 0
    data.setup("fit")
    vocabulary = data.vocabulary
    data.setup("validate")

    assert loader.loads == 1
    assert data.vocabulary is vocabulary


def test_ids_are_copied_to_a_device_once() -> None:
    data = prepared()

    there = data.ids("validation", "meta")

    assert there.device.type == "meta"
    assert there.dtype == torch.uint8
    assert data.ids("validation", torch.device("meta")) is there
    assert torch.equal(data.ids("train"), data.splits["train"])


def test_a_split_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UserError, match="no dev split, only train, validation"):
        prepared().ids("dev")


def test_floor_is_the_mean_over_all_characters_of_a_split_but_the_first() -> None:
    costs = np.arange(len(TEXT), dtype=np.float64) ** 2
    data = prepared(floor=costs, dev_fraction=0.05)

    assert data.floor("train") == pytest.approx(sum(costs[11:160]) / 149)
    assert data.floor("dev") == pytest.approx(sum(costs[1:10]) / 9)
    assert data.floor("validation") == pytest.approx(sum(costs[161:180]) / 19)


def test_a_text_without_known_origin_has_no_floor() -> None:
    assert prepared().floor("train") is None


# Windows


def test_a_train_loader_goes_on_where_another_had_stopped() -> None:
    data = prepared()
    former, later = data.train_dataloader(), data.train_dataloader()
    for _ in range(5):
        next(former)
    later.load_state_dict(former.state_dict())

    batches = [data.on_after_batch_transfer(starts, 0) for starts in islice(later, 3)]

    for counter, batch in enumerate(batches, start=5):
        torch.testing.assert_close(batch, expected_windows(data, counter))


def as_part_of(data: CharacterDataModule, rank: int, world_size: int, accumulate: int) -> CharacterDataModule:
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, accumulate_grad_batches=accumulate, overfit_batches=0.0
    )
    return data


@pytest.mark.parametrize("order", ["random", "contiguous"])
@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (1, 4), (2, 3), (4, 1)])
def test_devices_and_accumulation_only_divide_the_windows_of_a_step(
    world_size: int, accumulate: int, order: str
) -> None:
    whole = [next(loader) for loader in [prepared(batch_size=12, order=order).train_dataloader()] for _ in range(3)]
    parts = [
        as_part_of(prepared(batch_size=12, order=order), rank, world_size, accumulate).train_dataloader()
        for rank in range(world_size)
    ]

    for starts in whole:
        seen = torch.cat([next(loader) for loader in parts for _ in range(accumulate)])
        assert torch.equal(seen, starts)


@pytest.mark.parametrize(
    ("world_size", "accumulate", "nearest"), [(2, 3, "6 or data.batch_size=12"), (16, 1, "16"), (1, 7, "7 or")]
)
def test_a_batch_that_cannot_be_divided_names_the_nearest_that_can(
    world_size: int, accumulate: int, nearest: str
) -> None:
    data = as_part_of(prepared(batch_size=10), 0, world_size, accumulate)

    with pytest.raises(UserError, match=f"batch_size=10 is .* set data.batch_size={nearest}"):
        data.train_dataloader()


def test_an_epoch_scores_as_many_characters_as_the_train_text_has() -> None:
    assert prepared().steps_per_epoch == 9  # 160 characters, 18 of which a step predicts
    assert prepared(epoch_steps=5).steps_per_epoch == 5
    assert len(as_part_of(prepared(batch_size=4), 0, 2, 2).train_dataloader()) == 14


def test_epochs_go_on_and_overfitted_batches_repeat() -> None:
    for changes, steps in (({}, range(6)), ({"overfit_batches": 2}, [0, 1, 0, 1, 0, 1])):
        data, module = make(epoch_steps=3), Recorder()
        make_trainer(max_steps=6, max_epochs=-1, **changes).fit(module, datamodule=data)
        for step, batch in zip(steps, module.trained, strict=True):
            torch.testing.assert_close(batch, expected_windows(data, step))


def test_every_window_of_the_train_text_can_be_drawn_and_no_other() -> None:
    data = prepared(text="01" * 30, context_length=27, batch_size=100, train_fraction=0.5, validation_fraction=0.5)

    starts = torch.cat(list(islice(data.train_dataloader(), 3)))

    assert starts.unique().tolist() == [0, 1, 2]


def test_lightning_trains_on_the_windows_of_each_micro_batch() -> None:
    data, module = make(batch_size=4), Recorder()

    make_trainer(max_steps=3, accumulate_grad_batches=2, max_epochs=-1).fit(module, datamodule=data)

    assert len(module.trained) == 6
    for step in range(3):
        torch.testing.assert_close(torch.cat(module.trained[2 * step : 2 * step + 2]), expected_windows(data, step))


def test_epochs_of_a_limited_length_do_not_repeat_each_other() -> None:
    data, module = make(), Recorder()

    make_trainer(max_epochs=2, limit_train_batches=2).fit(module, datamodule=data)

    assert len(module.trained) == 4
    for counter, batch in enumerate(module.trained):
        torch.testing.assert_close(batch, expected_windows(data, counter))


def test_reloaded_loaders_go_on_with_new_windows() -> None:
    data, module = make(), Recorder()

    make_trainer(max_epochs=3, limit_train_batches=2, reload_dataloaders_every_n_epochs=1).fit(module, datamodule=data)

    assert len(module.trained) == 6
    for counter, batch in enumerate(module.trained):
        torch.testing.assert_close(batch, expected_windows(data, counter))


def test_lightning_fetches_no_batch_that_it_does_not_train_on(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make()
    loaders = []
    make_loader = data.train_dataloader
    monkeypatch.setattr(data, "train_dataloader", lambda: loaders.append(make_loader()) or loaders[-1])

    make_trainer(max_steps=4, max_epochs=-1).fit(Recorder(), datamodule=data)

    assert [loader.counter for loader in loaders] == [4]


@pytest.mark.parametrize("validation", [0.1, 0.11, 0.095])  # 20, 22 and 19 characters: 3 windows and a rest of 1, 3, 0
def test_every_validation_character_but_the_first_is_predicted_once(validation: float) -> None:
    data, module = make(validation_fraction=validation, batch_size=2), Recorder()

    make_trainer().predict(module, datamodule=data)

    given = [batch[:, 0] for batch in module.predicted]
    predicted = torch.cat([window[1:] for batch in module.predicted for window in batch])
    assert torch.equal(predicted, data.splits["validation"][1:].long())
    assert torch.cat(given).tolist() == data.splits["validation"][:-1][::6].tolist()
    assert len(module.predicted) == len(data.predict_dataloader())


def test_an_evaluation_samples_train_and_validation_text_and_reads_all_of_dev() -> None:
    data, module = make(dev_fraction=0.1, estimate_batches=4, batch_size=2), Recorder()

    make_trainer(limit_val_batches=None).validate(module, datamodule=data, verbose=False)

    assert data.evaluated == ["train", "validation", "dev"]
    train, validation, dev = (module.validated[index] for index in range(3))
    for batches, split in ((train, "train"), (validation, "validation")):
        text = data.vocabulary.decode(data.splits[split])
        assert [batch.shape for batch in batches] == [(2, 7)] * 4
        assert all(data.vocabulary.decode(window) in text for batch in batches for window in batch)
    assert torch.equal(torch.cat([window[1:] for batch in dev for window in batch]), data.splits["dev"][1:].long())


def test_processes_share_the_batches_of_an_evaluation() -> None:
    alone = list(prepared(estimate_batches=3, batch_size=4).val_dataloader()[0])
    parts = [as_part_of(prepared(estimate_batches=3, batch_size=4), rank, 2, 1).val_dataloader()[0] for rank in (0, 1)]
    shared = [batch for pair in zip(*parts, strict=True) for batch in pair]

    assert torch.equal(torch.cat(shared), torch.cat(alone))


def test_every_process_has_a_batch_of_each_split_if_only_an_empty_one() -> None:
    shapes = []
    for rank in range(4):  # 13 dev characters to predict: two windows of 6 and one of 1
        part = as_part_of(prepared(dev_fraction=0.07, batch_size=4), rank, 4, 1).val_dataloader()[2]
        shapes.append([tuple(batch.shape) for batch in part])
    assert shapes == [[(1, 7)], [(1, 7)], [(1, 2)], [(0, 7)]]


def test_the_test_split_follows_validation_and_has_to_be_there_to_be_scored() -> None:
    data = prepared(train_fraction=0.7, test_fraction=0.1)

    assert data.vocabulary.decode(data.splits["test"]) == TEXT[160:180]
    assert torch.equal(torch.cat([w[1:] for batch in data.test_dataloader() for w in batch]), data.splits["test"][1:])
    with pytest.raises(UserError, match=r"no test split: set data\.test_fraction"):
        prepared().test_dataloader()
