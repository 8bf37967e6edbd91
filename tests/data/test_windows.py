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
    batches = [window_starts(305, step, batch_size=8, num_starts=1000) for step in range(5)]

    for step in (3, 0, 4):
        np.testing.assert_array_equal(window_starts(305, step, batch_size=8, num_starts=1000), batches[step])


def test_starts_stay_what_they_are() -> None:
    """A run that is resumed years later, on another version of numpy, still sees its windows."""
    starts = window_starts(305, 7, batch_size=4, num_starts=1_003_598)

    assert starts.dtype == np.int64
    assert starts.tolist() == [773091, 879671, 791880, 281719]


@pytest.mark.parametrize("other", [(306, 7), (305, 8), (7, 305)])
def test_seed_and_step_each_change_all_starts(other: tuple[int, int]) -> None:
    starts = window_starts(305, 7, batch_size=256, num_starts=10**9)

    assert not set(starts) & set(window_starts(*other, batch_size=256, num_starts=10**9))


def test_every_start_is_equally_likely() -> None:
    num_starts = 10
    starts = np.concatenate([window_starts(0, step, batch_size=32, num_starts=num_starts) for step in range(400)])

    assert stats.chisquare(np.bincount(starts, minlength=num_starts)).pvalue > 0.01


@pytest.mark.parametrize(("step_apart", "windows_apart"), [(1, 0), (0, 1)])
def test_starts_of_different_windows_are_independent(step_apart: int, windows_apart: int) -> None:
    table = np.zeros((8, 8), dtype=np.int64)
    for step in range(200):
        one = window_starts(0, step, batch_size=64, num_starts=8)
        other = window_starts(0, step + step_apart, batch_size=64, num_starts=8)
        np.add.at(table, (one[:32], other[windows_apart : 32 + windows_apart]), 1)

    assert stats.chi2_contingency(table).pvalue > 0.01


def test_a_text_without_room_for_a_window_is_an_error() -> None:
    with pytest.raises(UserError, match="at least one place"):
        window_starts(0, 0, batch_size=1, num_starts=0)


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
