import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from charlab.data.windows import gather_windows, window_starts
from charlab.errors import UserError
from tests.references import windows as reference


def test_starts_are_a_function_of_their_arguments_alone() -> None:
    batches = [window_starts(305, counter, 1, batch_size=8, num_starts=1000) for counter in range(5)]

    for counter in (3, 0, 4):
        np.testing.assert_array_equal(window_starts(305, counter, 1, batch_size=8, num_starts=1000), batches[counter])


def test_starts_stay_what_they_are() -> None:
    """A run that is resumed years later, on another version of numpy, still sees its windows."""
    starts = window_starts(305, 7, 2, batch_size=4, num_starts=1_003_598)

    assert starts.dtype == np.int64
    assert starts.tolist() == [117320, 267556, 991268, 350511]


@pytest.mark.parametrize("other", [(306, 7, 2), (305, 8, 2), (305, 7, 3), (305, 2, 7)])
def test_seed_counter_and_rank_each_change_all_starts(other: tuple[int, int, int]) -> None:
    starts = window_starts(305, 7, 2, batch_size=256, num_starts=10**9)

    assert not set(starts) & set(window_starts(*other, batch_size=256, num_starts=10**9))


def test_every_start_is_equally_likely() -> None:
    num_starts = 10
    starts = np.concatenate(
        [
            window_starts(0, counter, rank, batch_size=32, num_starts=num_starts)
            for counter, rank in itertools.product(range(100), range(4))
        ]
    )

    assert stats.chisquare(np.bincount(starts, minlength=num_starts)).pvalue > 0.01


@pytest.mark.parametrize(("counter_step", "rank_step"), [(1, 0), (0, 1)])
def test_starts_of_different_batches_are_independent(counter_step: int, rank_step: int) -> None:
    table = np.zeros((8, 8), dtype=np.int64)
    for counter in range(200):
        one = window_starts(0, counter, 0, batch_size=32, num_starts=8)
        other = window_starts(0, counter + counter_step, rank_step, batch_size=32, num_starts=8)
        np.add.at(table, (one, other), 1)

    assert stats.chi2_contingency(table).pvalue > 0.01


def test_a_text_without_room_for_a_window_is_an_error() -> None:
    with pytest.raises(UserError, match="at least one place"):
        window_starts(0, 0, 0, batch_size=1, num_starts=0)


@settings(deadline=None)
@given(st.data(), st.sampled_from([torch.uint8, torch.int16, torch.int32]))
def test_windows_are_slices_of_the_text(data: st.DataObject, dtype: torch.dtype) -> None:
    size = data.draw(st.integers(2, 40))
    length = data.draw(st.integers(1, size - 1))
    ids = torch.randperm(size).to(dtype)
    starts = torch.tensor(data.draw(st.lists(st.integers(0, size - length - 1), min_size=1, max_size=5)))

    windows = gather_windows(ids, starts, length)

    assert windows.dtype == torch.int64
    torch.testing.assert_close(windows, reference.gather_windows(ids, starts, length))


def test_a_window_beyond_the_end_is_an_error() -> None:
    with pytest.raises(IndexError):
        gather_windows(torch.arange(10), torch.tensor([6]), 4)
