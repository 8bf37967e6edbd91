"""Windows that continue one another."""

from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from charlab.data.corpora import Corpus
from charlab.data.datamodule import CharacterDataModule
from charlab.data.windows import consecutive_starts

TEXT = "".join(chr(ord("a") + (index * index + index // 7) % 26) for index in range(200))
SIZES = {"batch_size": 6, "num_starts": 100, "length": 7}


def batches(seed, count):
    return [consecutive_starts(seed, step, **SIZES) for step in range(count)]


def test_a_window_starts_where_the_one_before_ended_or_at_the_beginning_of_the_text():
    for before, after in pairwise(batches(305, 50)):
        assert ((after - before == 7) | (after - before == 7 - 100)).all()
        assert after.min() >= 0
        assert after.max() < 100
        assert after.dtype == np.int64


def test_rows_share_out_the_text():
    first = sorted(batches(305, 1)[0])
    gaps = np.diff([*first, first[0] + 100])
    assert set(gaps) <= {16, 17}  # 100 / 6
    read = {start + i for batch in batches(305, 3) for start in batch for i in range(7)}
    assert len(set(range(100)) - read) < 7  # but for a few at the beginning, which the next round reads


def test_the_seed_says_where_reading_begins():
    assert len({batches(seed, 1)[0][0] for seed in range(5)}) > 1


def test_a_run_may_be_long():
    assert consecutive_starts(305, 10**9, **SIZES).max() < 100


@pytest.fixture
def data():
    made = CharacterDataModule(
        corpus=Corpus.of("squares", TEXT, None),
        context_length=6,
        batch_size=3,
        train_fraction=0.8,
        validation_fraction=0.1,
        dev_fraction=0.0,
        order="contiguous",
        seed=305,
    )
    made.setup()
    return made


def test_the_datamodule_serves_texts_that_go_on(data):
    windows = [data.on_after_batch_transfer(starts, 0) for starts in islice(data.train_dataloader(), 4)]
    whole = 0
    for row in range(3):
        ends = torch.stack([window[row, -1] for window in windows[:-1]])
        begins = torch.stack([window[row, 0] for window in windows[1:]])
        text = data.vocabulary.decode(torch.cat([window[row, :-1] for window in windows]))
        whole += torch.equal(ends, begins) and text in TEXT[:160]
    assert whole >= 2  # three readers, of whom one may have come to the end of the text and gone on at its beginning


def test_a_loader_goes_on_from_its_state(data):
    loader, other = data.train_dataloader(), data.train_dataloader()
    list(islice(loader, 5))
    other.load_state_dict(loader.state_dict())
    assert torch.equal(next(loader), next(other))
