import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from charlab.evaluation.metric import NegativeLogLikelihood
from tests.evaluation.processes import run_in_processes

NLL = 3 * torch.rand(1000, generator=torch.Generator().manual_seed(0))
EXACT = math.fsum(NLL.tolist()) / len(NLL)


def mean(parts):
    metric = NegativeLogLikelihood()
    for part in parts:
        metric.update(part)
    return metric.compute().item()


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 1000), max_size=8), seed=st.integers(0, 10))
def test_neither_sizes_nor_order_of_batches_change_it(cuts, seed):
    parts = NLL.tensor_split(sorted(cuts))
    order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(seed))
    assert mean(parts[i] for i in order) == pytest.approx(EXACT, rel=1e-13)
    assert mean([NLL.view(10, 100)]) == pytest.approx(EXACT, rel=1e-13)


def _mean_of_share(rank, world_size):
    return mean([NLL[:700], NLL[700:]][rank].split(64))


@pytest.mark.timeout(60)
def test_two_processes_that_share_the_characters_get_the_same():
    assert run_in_processes(_mean_of_share, 2) == pytest.approx([EXACT, EXACT], rel=1e-13)


def test_float32_sums_would_not_do():
    # The 10⁸th character still counts in full: in float32, sums above 2²⁴ stop growing by ones.
    metric = NegativeLogLikelihood()
    metric.nats += 2.0**24
    metric.characters += 2**24
    for _ in range(100):
        metric.update(torch.ones(1))
    assert metric.compute().item() == 1.0


def test_half_precision_is_added_up_in_float64():
    values = torch.full((3000,), 2.001953125, dtype=torch.bfloat16)
    assert mean([values]) == values[0].item()


def test_gradients_are_let_go_of():
    nll = NLL.clone().requires_grad_()
    metric = NegativeLogLikelihood()
    metric.update(nll)
    assert not metric.compute().requires_grad


@pytest.mark.parametrize(
    "convert", [lambda part: part.half(), lambda part: part.to(torch.float16), lambda part: part.float()]
)
def test_the_sums_keep_their_precision_whatever_happens_to_the_model(convert):
    part = nn.Sequential(nn.Linear(2, 2), NegativeLogLikelihood())
    part[1].update(NLL)
    convert(part)
    assert part[1].nats.dtype == torch.float64
    assert part[1].compute().item() == pytest.approx(EXACT, rel=1e-13)
    part[1].reset()
    assert part[1].nats.dtype == torch.float64


def test_the_sums_follow_the_device_unless_it_has_no_float64():
    metric = NegativeLogLikelihood().to("meta")
    assert metric.nats.device.type == metric.characters.device.type == "meta"
    metric = NegativeLogLikelihood()
    metric._apply(lambda tensor: SimpleNamespace(device=torch.device("mps")))  # what `.to("mps")` would do
    metric.update(NLL)
    metric.reset()
    metric.update(NLL)
    assert metric.nats.device.type == "cpu"
    assert metric.compute().item() == pytest.approx(EXACT, rel=1e-13)
