"""Cells that run at once share nothing, as long as there is enough."""

import os
import re
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import submitit
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from submitit.core.utils import FailedJobError

from charlab.configuration.sources import conf_folder
from charlab.errors import UserError
from charlab.studies import executors
from charlab.studies.definition import Arm
from charlab.studies.executors import local, ray, share, slurm, slurm_queue, usable_cores, visible_gpus
from charlab.studies.executors.local import Local
from charlab.studies.executors.ray import Ray
from charlab.studies.executors.slurm import Slurm
from charlab.studies.forks import Forks
from charlab.studies.plan import Cell, Plan
from charlab.studies.runner import Slot


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
def test_gpus_are_dealt_out_one_after_another(count, gpus, expected):
    assert [share(index, count, [0], gpus).gpus for index in range(count)] == expected


def test_gpus_that_were_assigned_are_the_ones_dealt_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert visible_gpus() == ["3", "5"]


def test_gpus_that_do_not_answer_end_a_study_in_a_sentence(monkeypatch):
    def wait(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", wait)
    with pytest.raises(UserError, match="nvidia-smi has not answered for a minute: repair the driver, or set CUDA_"):
        visible_gpus()


def test_no_two_cells_share_a_slot(tmp_path, monkeypatch):
    held, most, seen = set(), [0], []

    def work(study, key, slot, *, start, stopped, plan):
        assert plan.cells == tuple(cells)
        assert slot not in held
        held.add(slot)
        most[0] = max(most[0], len(held))
        seen.append((key, slot))
        time.sleep(0.05)
        held.remove(slot)

    monkeypatch.setattr(local, "usable_cores", lambda: [0, 1])
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(local, "run_cell", work)
    cells = [Cell("arm", seed, f"run/{seed}", ()) for seed in range(6)]
    arms, seeds = (Arm("arm", ()),), tuple(range(6))
    Plan(name="mine", baseline="arm", arms=arms, cells=tuple(cells), seeds=seeds, planned_seeds=6).save(tmp_path)
    Local(at_once=2).run(tmp_path, cells)
    assert [key for key, _ in seen] == [cell.key for cell in cells]
    assert {slot for _, slot in seen} == {Slot(1, (0,), "0"), Slot(1, (1,), "1")}
    assert most == [2]
    seen.clear()
    Local(at_once=1).run(tmp_path, cells[:1])
    assert seen == [("arm/0", Slot(2, (0, 1)))]  # a lone cell may use all GPUs


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_only_cells_of_one_process_on_linux_are_forked(tmp_path, monkeypatch, platform):
    started = []

    def fork(forks, file, log, slot):
        started.append((file.name, "fork"))

    def interpreter(file, log, slot):
        started.append((file.name, "new interpreter"))

    monkeypatch.setattr(Forks, "prepare", lambda forks: started.append(("", "fork server")))
    monkeypatch.setattr(Forks, "start", fork)
    monkeypatch.setattr(local, "start_interpreter", interpreter)
    monkeypatch.setattr(local, "run_cell", lambda study, key, slot, start, **_: start(study / key, None, slot))
    monkeypatch.setattr(local, "sys", types.SimpleNamespace(platform=platform))
    cells = [Cell("arm", seed, f"run/{seed}", (), processes=known) for seed, known in enumerate((1, 2, None))]
    arms, seeds = (Arm("arm", ()),), (0, 1, 2)
    Plan(name="mine", baseline="arm", arms=arms, cells=tuple(cells), seeds=seeds, planned_seeds=3).save(tmp_path)
    with Local(at_once=1) as executor:
        executor.run(tmp_path, cells)
    assert started == (
        [("", "fork server"), ("0", "fork"), ("1", "new interpreter"), ("2", "new interpreter")]
        if platform == "linux"
        else [("0", "new interpreter"), ("1", "new interpreter"), ("2", "new interpreter")]
    )


def test_threads_of_one_core_are_next_to_each_other(monkeypatch):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("the system cannot pin processes")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(executors, "physical_core", lambda core: (0, core % 2))
    assert usable_cores() == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("executor", "expected"),
    [
        (lambda: Local(at_once=3), 3),
        (lambda: Local(at_once=None), 8),
        (lambda: Ray(init={}, remote={"num_cpus": 2}), 4),
        (lambda: Ray(init={}, remote={"num_cpus": 0.5}), 16),
        (lambda: Ray(init={}, remote={}), 8),
    ],
)
def test_how_many_cells_run_at_once(executor, expected, monkeypatch):
    monkeypatch.setattr(local, "usable_cores", lambda: list(range(8)))
    monkeypatch.setattr(ray, "usable_cores", lambda: list(range(8)))
    assert executor().at_once == expected


def test_jobs_that_slurm_rejects_are_told_with_what_helps(tmp_path, monkeypatch):
    class Rejecting:
        def __init__(self, **_):
            pass

        def update_parameters(self, **_):
            pass

        def map_array(self, *_):
            raise FailedJobError("sbatch: error: invalid partition specified: fast\nsbatch: error: Batch job failed")

    monkeypatch.setattr(submitit, "AutoExecutor", Rejecting)
    monkeypatch.setattr(slurm, "cancel", lambda *_: None)
    monkeypatch.setattr(slurm, "longest_array", lambda: 1000)
    sentence = (
        "SLURM rejected the jobs (invalid partition specified: fast Batch job failed): change what it names by "
        "launcher.KEY=…, with the keys of conf/launcher/slurm.yaml, and run the command again."
    )
    with pytest.raises(UserError, match=re.escape(sentence)):
        slurm_executor().run(tmp_path, [Cell("arm", 1, "run/1", ())])


def test_an_array_is_cut_into_pieces_that_slurm_takes(tmp_path, monkeypatch):
    submitted = []

    class Executor:
        def __init__(self, **_):
            pass

        def update_parameters(self, **_):
            pass

        def map_array(self, _, studies, keys, slots):
            assert len(studies) == len(keys) == len(slots)
            submitted.append(keys)

    answer = "SlurmctldPort           = 6817\nMaxArraySize            = 1001\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, answer))
    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    monkeypatch.setattr(slurm, "wait_for_queue", lambda _: None)
    cells = [Cell(f"arm{arm}", seed, "run/1", ()) for arm in range(130) for seed in range(8)]
    slurm_executor().run(tmp_path, cells)
    assert [len(keys) for keys in submitted] == [1000, 40]
    assert [key for keys in submitted for key in keys] == [cell.key for cell in cells]


def test_a_queue_that_does_not_answer_is_asked_again_and_that_is_said_once(monkeypatch, capsys):
    answers = [(1, "", "slurm_load_jobs error"), (1, "", "slurm_load_jobs error"), (0, "7\n", ""), (0, "", "")]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], *answers.pop(0)))
    monkeypatch.setattr("time.sleep", lambda _: None)
    slurm_queue.wait_for_queue("mine")
    assert not answers
    assert capsys.readouterr().err == "squeue does not answer; asking again: slurm_load_jobs error\n"


def test_pending_jobs_of_a_killed_command_are_replaced(tmp_path, monkeypatch):
    calls = []

    class Executor:
        def __init__(self, **_):
            pass

        def update_parameters(self, *, name, **_):
            calls.append(("name", name))

        def map_array(self, *_):
            calls.append(("submit",))

    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    monkeypatch.setattr(slurm, "cancel", lambda *given: calls.append(given))
    monkeypatch.setattr(slurm, "longest_array", lambda: 1000)
    monkeypatch.setattr(slurm, "wait_for_queue", lambda _: None)
    for study in (tmp_path, tmp_path, tmp_path / "other"):
        slurm_executor().run(study, [Cell("arm", 1, "run/1", ())])
    first, again, other = calls[:3], calls[3:6], calls[6:]
    name = first[0][0]
    assert first == again == [(name, "--state=PENDING"), ("name", name), ("submit",)]
    assert other[0][0] != name


def test_a_job_inherits_nothing_from_the_job_that_submits_it(tmp_path, monkeypatch):
    seen = []

    class Executor:
        def __init__(self, **_):
            pass

        def update_parameters(self, **_):
            pass

        def map_array(self, *_):
            seen.extend(name for name in os.environ if name.startswith("SLURM_"))

    for name in ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SLURM_CONF"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    monkeypatch.setattr(slurm, "cancel", lambda *_: None)
    monkeypatch.setattr(slurm, "longest_array", lambda: 1000)
    monkeypatch.setattr(slurm, "wait_for_queue", lambda _: None)
    slurm_executor().run(tmp_path, [Cell("arm", 1, "run/1", ())])
    assert seen == ["SLURM_CONF"]
    assert os.environ["SLURM_CPU_BIND"] == "1"


@pytest.mark.parametrize("asked", [None, "1"])
def test_ray_does_not_upload_the_working_folder_unless_asked(tmp_path, monkeypatch, asked):
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", raising=False)
    if asked:
        monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", asked)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    seen = []
    stub = types.SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **settings: seen.append((os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"], "runtime_env" in settings)),
        remote=lambda **_: lambda function: None,
        shutdown=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "ray", stub)
    Ray(init={}, remote={}).run(tmp_path, [])
    assert seen == [(asked or "0", False)]


def test_a_ray_cluster_that_does_not_exist_is_a_sentence(tmp_path, monkeypatch):
    def init(**settings):
        raise ConnectionError("Could not find any running Ray instance.")

    errors = types.SimpleNamespace(RayError=RuntimeError)
    stub = types.SimpleNamespace(is_initialized=lambda: False, init=init, exceptions=errors)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "ray", stub)
    with pytest.raises(UserError, match="Ray does not start: Could not find any running Ray instance"):
        Ray(init={"address": "auto"}, remote={}).run(tmp_path, [])


def test_cells_that_ray_has_when_it_is_interrupted_are_cancelled(tmp_path, monkeypatch):
    submitted, cancelled = [], []

    def submit(study, key, slot):
        if submitted:
            raise KeyboardInterrupt
        submitted.append(key)
        return key

    stub = types.SimpleNamespace(
        is_initialized=lambda: True,
        remote=lambda **_: lambda function: types.SimpleNamespace(remote=submit),
        cancel=lambda reference, force: cancelled.append(reference),
    )
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "ray", stub)
    with pytest.raises(KeyboardInterrupt):
        Ray(init={}, remote={}).run(tmp_path, [Cell("arm", seed, f"run/{seed}", ()) for seed in (1, 2)])
    assert cancelled == ["arm/1"]


def slurm_executor(**changes):
    settings = OmegaConf.to_container(OmegaConf.load(conf_folder() / "launcher" / "slurm.yaml"))
    settings.pop("_target_")
    return Slurm(**settings | changes)


@pytest.mark.parametrize(("cpus", "expected"), [(1, None), (8, ["--cpus-per-task=8"])])
def test_a_cell_has_all_the_cores_of_its_job(cpus, expected):
    assert slurm_executor(cpus_per_task=cpus).parameters.get("slurm_srun_args") == expected


@pytest.mark.parametrize("part", ["100%j", "x%t", "a\\\\b"])
def test_slurm_refuses_a_folder_that_it_would_read_as_a_pattern(part, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: "sbatch")
    executor = slurm_executor()
    executor.check(Path("outputs"))
    with pytest.raises(UserError, match="a pattern to SLURM"):
        executor.check(Path("outputs") / part)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="needs sbatch"):
        executor.check(Path("outputs"))
