"""Learning-rate schedules against numbers worked out by hand."""

import itertools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from charlab.errors import UserError
from charlab.training.schedules import Constant, WarmupCosine, WarmupStableDecay, schedule_from
from tests.training import small

SPENT = [share / 200 for share in range(201)]


@pytest.mark.parametrize("spent", [0.0, 0.3, 1.0])
def test_constant(spent):
    assert Constant()(spent) == 1.0


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        (0.0, 0.0),
        (0.05, 0.25),
        (0.1, 0.5),
        (0.2, 1.0),
        (0.3, 1.0),
        (0.6, 1.0),
        (0.7, 0.775),  # a quarter of the way from 1 to 0.1
        (0.8, 0.55),
        (0.9, 0.325),
        (1.0, 0.1),
    ],
)
def test_warmup_stable_decay(spent, expected):
    assert WarmupStableDecay(warmup=0.2, decay=0.4, final=0.1)(spent) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"warmup": 0.0, "decay": 0.0, "final": 0.0}, {0.0: 1.0, 0.5: 1.0, 1.0: 1.0}),
        ({"warmup": 0.0, "decay": 0.5, "final": 0.0}, {0.0: 1.0, 0.5: 1.0, 0.75: 0.5, 1.0: 0.0}),
        ({"warmup": 0.5, "decay": 0.5, "final": 0.2}, {0.0: 0.0, 0.25: 0.5, 0.5: 1.0, 0.75: 0.6, 1.0: 0.2}),
        ({"warmup": 0.0, "decay": 1.0, "final": 0.5}, {0.0: 1.0, 0.25: 0.875, 0.5: 0.75, 1.0: 0.5}),
        ({"warmup": 1.0, "decay": 0.0, "final": 0.0}, {0.0: 0.0, 0.25: 0.25, 0.75: 0.75, 1.0: 1.0}),
        ({"warmup": 0.25, "decay": 0.25, "final": 1.0}, {0.125: 0.5, 0.5: 1.0, 0.875: 1.0, 1.0: 1.0}),
    ],
)
def test_warmup_stable_decay_without_one_of_its_parts(shares, expected):
    schedule = WarmupStableDecay(**shares)
    assert {spent: schedule(spent) for spent in expected} == pytest.approx(expected)


def test_warmup_stable_decay_takes_no_more_than_the_whole():
    with pytest.raises(UserError, match=r"scheduler\.warmup=0\.5 and scheduler\.decay=0\.6"):
        WarmupStableDecay(warmup=0.5, decay=0.6, final=0.0)


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        (0.0, 0.0),
        (0.1, 0.5),
        (0.2, 1.0),
        (0.4, 0.55 + 0.45 * math.sqrt(0.5)),
        (0.6, 0.55),
        (0.8, 0.55 - 0.45 * math.sqrt(0.5)),
        (1.0, 0.1),
    ],
)
def test_warmup_cosine(spent, expected):
    assert WarmupCosine(warmup=0.2, final=0.1)(spent) == pytest.approx(expected)


@pytest.mark.parametrize(("warmup", "final"), [(0.0, 0.0), (0.05, 0.1), (0.5, 1.0)])
def test_warmup_cosine_is_its_closed_formula(warmup, final):
    schedule = WarmupCosine(warmup=warmup, final=final)
    for spent in SPENT:
        if spent < warmup:
            expected = spent / warmup
        else:  # cos²(a / 2) = (1 + cos(a)) / 2
            expected = final + (1 - final) * math.cos(math.pi / 2 * (spent - warmup) / (1 - warmup)) ** 2
        assert schedule(spent) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "schedule", [WarmupCosine(warmup=0.3, final=0.2), WarmupStableDecay(warmup=0.3, decay=0.4, final=0.2)]
)
def test_no_schedule_jumps_or_leaves_its_range(schedule):
    rates = [schedule(spent) for spent in SPENT]
    assert min(rates) == 0.0
    assert max(rates) == pytest.approx(1.0)
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert max(abs(after - before) for before, after in itertools.pairwise(rates)) < 0.02


def halved(optimizer, *, gamma):
    return lr_scheduler.ExponentialLR(optimizer, gamma)


def test_a_function_of_an_optimizer_is_given_it():
    make = schedule_from({"_target_": f"{__name__}.halved", "gamma": 0.5}, small.datamodule())
    scheduler = make(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0))
    assert isinstance(scheduler, lr_scheduler.ExponentialLR)
    assert scheduler.gamma == 0.5


TORCH = "torch.optim.lr_scheduler"


def test_schedulers_of_torch_may_consist_of_others():
    def rates(make):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler, found = make(optimizer), []
        for _ in range(5):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    def by_hand(optimizer):
        parts = [lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.5)]
        return lr_scheduler.SequentialLR(optimizer, parts, [2])

    parts = [{"_target_": f"{TORCH}.LinearLR", "start_factor": 0.5, "total_iters": 2}]
    parts.append({"_target_": f"{TORCH}.ExponentialLR", "gamma": 0.5})
    sequence = {"_target_": f"{TORCH}.SequentialLR", "schedulers": parts, "milestones": [2]}
    assert rates(schedule_from(sequence, small.datamodule())) == rates(by_hand)
    chain = {"_target_": f"{TORCH}.ChainedScheduler", "schedulers": parts}
    assert rates(schedule_from(chain, small.datamodule()))[:2] == [0.5, 0.375]
