"""The device that a run computes on, and its threads."""

from collections.abc import Iterator

import pytest
import torch

from charlab.training.device import set_threads


@pytest.fixture
def default() -> Iterator[int]:
    """Torch's number of threads, which is restored."""
    set_threads(None)  # an earlier run of this process may have set them
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_the_threads_of_one_run_are_not_those_of_the_next(default: int) -> None:
    set_threads(None)
    assert torch.get_num_threads() == default
    for threads in (default + 1, default + 2):
        set_threads(threads)
        assert torch.get_num_threads() == threads
    set_threads(None)
    assert torch.get_num_threads() == default
    torch.set_num_threads(default + 1)  # by the user
    set_threads(None)
    assert torch.get_num_threads() == default + 1
