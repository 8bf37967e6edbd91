"""Cells that run at once share nothing, as long as there is enough."""

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlab.studies import slots
from charlab.studies.slots import Capacity, Slot, claim, share, usable_cores, visible_gpus


@given(count=st.integers(1, 9), cores=st.integers(1, 20))
def test_cores_are_dealt_out_evenly(count, cores):
    shares = [share(index, count, range(cores)).cores for index in range(count)]
    dealt = sorted(core for part in shares for core in part)
    if count <= cores:
        assert dealt == list(range(cores))  # each core once
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    else:
        assert set(map(len, shares)) == {1}
        assert set(dealt) == set(range(cores))


@pytest.mark.parametrize(
    ("count", "gpus", "expected"),
    [
        (4, ["0", "1"], ["0", "1", "0", "1"]),
        (3, ["GPU-a"], ["GPU-a"] * 3),
        (2, ["0", "1", "2", "3"], ["0,2", "1,3"]),
        (2, [], [None, None]),
    ],
)
def test_gpus_are_dealt_out_in_turn(count, gpus, expected):
    assert [share(index, count, [0], gpus).gpus for index in range(count)] == expected


def test_the_environment_of_a_slot():
    environment = Slot(0, (2, 3), "1").environment(
        {"PATH": "here", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    )
    assert environment == {
        "PATH": "here",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert "CUDA_VISIBLE_DEVICES" not in Slot(0, (2,)).environment({})
    assert set(Slot(0, (0, 1, 2)).environment({"OMP_NUM_THREADS": "2"}).values()) == {"2"}


def test_no_two_hold_the_same_slot(tmp_path):
    held, most, seen = set(), [0], []

    def work():
        with claim(tmp_path, 2) as slot:
            assert slot.index not in held
            held.add(slot.index)
            most[0] = max(most[0], len(held))
            seen.append(slot.index)
            time.sleep(0.05)
            held.remove(slot.index)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 6
    assert set(seen) == {0, 1}
    assert most == [2]


@pytest.mark.timeout(60)
def test_processes_with_other_cores_do_not_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "usable_cores", lambda: [0])
    with claim(tmp_path, 1) as first:
        monkeypatch.setattr(slots, "usable_cores", lambda: [1])
        with claim(tmp_path, 1) as second:
            assert (first.cores, second.cores) == ((0,), (1,))


def test_gpus_that_were_assigned_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert visible_gpus() == ["3", "5"]
    with claim(tmp_path, 2) as slot:
        assert slot.gpus == "3"
    with claim(tmp_path, 2, deal_gpus=False) as slot:
        assert slot.gpus is None
    with claim(tmp_path, 1) as slot:
        assert slot.gpus is None  # a lone cell may use them all


def test_threads_of_one_core_lie_side_by_side(monkeypatch):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("the system cannot pin processes")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(slots, "_place", lambda core: (0, core % 2))
    assert usable_cores() == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ({}, Capacity()),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, Capacity()),
        ({"_target_": "a.JoblibLauncher", "n_jobs": 3}, Capacity(3)),
        ({"_target_": "a.JoblibLauncher", "n_jobs": -1}, Capacity(8)),
        ({"_target_": "a.JoblibLauncher", "n_jobs": -3}, Capacity(6)),
        ({"_target_": "a.SlurmLauncher", "cpus_per_task": 4}, Capacity(2, outlives_sweep=True)),
        ({"_target_": "a.SlurmLauncher", "cpus_per_task": None}, Capacity(8, outlives_sweep=True)),
        ({"_target_": "a.RayLauncher", "init": {}, "remote": {"num_cpus": 2}}, Capacity(4)),
        ({"_target_": "a.RayLauncher", "init": {}, "remote": {"num_cpus": 0.5}}, Capacity(16)),
    ],
)
def test_what_launchers_run_at_once(launcher, expected, monkeypatch):
    monkeypatch.setattr(slots, "usable_cores", lambda: list(range(8)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Capacity.of(launcher) == expected
