"""Whatever a launcher does, its study stays with the cells."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from charlab.configuration.location import conf_folder
from charlab.errors import UserError
from charlab.studies import clusters
from charlab.studies.cells import STOP_FILE
from charlab.studies.clusters import run_on_slurm
from charlab.studies.launching import ATTEMPTS, _launch_all
from charlab.studies.outcome import Outcome
from charlab.studies.plan import Cell

CELLS = [Cell("arm", seed, f"run/{seed}", ()) for seed in range(4)]
JOBS = {cell: [f"cell={cell.key}"] for cell in CELLS}


class Launcher:
    """A launcher that ends `finishes` cells at each attempt and gives up."""

    def __init__(self, folder, finishes):
        self.folder, self.finishes, self.attempts = folder, finishes, []

    def launch(self, job_overrides, initial_job_idx):
        self.attempts.append([overrides[0] for overrides in job_overrides])
        cells = [cell for cell in CELLS if JOBS[cell] in job_overrides]
        for cell in cells[: self.finishes]:
            Outcome("failed", "its own fault", started=str(len(self.attempts))).save(self.folder, cell)
        if len(cells) > self.finishes:
            Outcome("running", started=str(len(self.attempts))).save(self.folder, cells[self.finishes])
            raise RuntimeError("A worker was terminated.\nMany more lines.")


def test_what_is_lost_with_a_launcher_is_run_again(tmp_path, capsys):
    launcher = Launcher(tmp_path, 2)
    _launch_all(launcher, JOBS, tmp_path)
    assert launcher.attempts == [[f"cell=arm/{seed}" for seed in seeds] for seeds in ([0, 1, 2, 3], [2, 3])]
    assert "The launcher gave up" in capsys.readouterr().err


def test_it_is_not_tried_for_ever(tmp_path):
    launcher = Launcher(tmp_path, 0)
    _launch_all(launcher, JOBS, tmp_path)
    assert len(launcher.attempts) == ATTEMPTS


def test_a_stopped_study_is_not_tried_again(tmp_path):
    (tmp_path / STOP_FILE).touch()
    launcher = Launcher(tmp_path, 1)
    _launch_all(launcher, JOBS, tmp_path)
    assert len(launcher.attempts) == 1


def test_a_launcher_that_cannot_begin_is_an_error(tmp_path):
    Outcome("failed", "earlier").save(tmp_path, CELLS[0])

    class Broken:
        def launch(self, job_overrides, initial_job_idx):
            raise RuntimeError("sbatch: error: invalid partition")

    with pytest.raises(UserError, match="could not begin any cell: sbatch: error: invalid partition"):
        _launch_all(Broken(), JOBS, tmp_path)


class Slurm:
    """Stands in for submitit and for SLURM's own commands."""

    def __init__(self, monkeypatch):
        self.queue = ["1_0\n", "1_0\n", ""]
        self.submitted, self.commands = [], []
        monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=self))
        monkeypatch.setattr(clusters.subprocess, "run", self.run)
        monkeypatch.setattr(clusters, "SECONDS_BETWEEN_LOOKS", 0.0)

    def __call__(self, folder, cluster):
        self.folder = folder
        return self

    def update_parameters(self, **parameters):
        self.parameters = parameters

    def map_array(self, function, jobs):
        self.submitted += jobs

    def run(self, command, **_):
        self.commands.append(command)
        if command[0] == "scancel":
            self.queue = [""]
            return SimpleNamespace(returncode=0, stdout="")
        answer = self.queue.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return SimpleNamespace(returncode=int(answer is None), stdout=answer or "")


def slurm_settings(**changes):
    settings = OmegaConf.load(Path(conf_folder()) / "hydra" / "launcher" / "slurm.yaml")
    settings.pop("_target_")
    return {**settings, **changes}


def test_slurm_is_asked_for_what_the_settings_say(monkeypatch):
    slurm = Slurm(monkeypatch)
    settings = slurm_settings(partition="gpu", mem_gb=4, additional_parameters=OmegaConf.create({"qos": "long"}))
    run_on_slurm(["a", "b"], "folder", settings)
    assert slurm.submitted == ["a", "b"]
    assert slurm.folder == "folder/.submitit/%j"
    name = slurm.parameters.pop("name")
    assert slurm.parameters == {
        "stderr_to_stdout": True,
        "slurm_signal_delay_s": clusters.SECONDS_OF_WARNING,
        "timeout_min": 120,
        "cpus_per_task": 1,
        "mem_gb": 4,
        "slurm_partition": "gpu",
        "slurm_array_parallelism": 256,
        "slurm_setup": [],
        "slurm_additional_parameters": {"qos": "long"},
    }
    assert type(slurm.parameters["slurm_additional_parameters"]) is dict
    assert len(slurm.commands) == 3
    assert all(command[0] == "squeue" and f"--name={name}" in command for command in slurm.commands)


def test_a_silent_queue_is_not_an_empty_one(monkeypatch):
    slurm = Slurm(monkeypatch)
    slurm.queue = [None, "1_0\n", None, ""]
    run_on_slurm(["a"], "folder", slurm_settings())
    assert len(slurm.commands) == 4


def test_interrupted_jobs_are_cancelled(monkeypatch):
    slurm = Slurm(monkeypatch)
    slurm.queue = ["1_0\n", KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        run_on_slurm(["a"], "folder", slurm_settings())
    assert [command[0] for command in slurm.commands] == ["squeue", "squeue", "scancel", "squeue"]
    assert f"--name={slurm.parameters['name']}" in slurm.commands[2]
