import errno
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from charlab import cli
from charlab.errors import UserError
from tests.helpers.warm import warm

pytestmark = pytest.mark.usefixtures("logging_as_before")
ROOT = Path(__file__).parents[1]
LOG = "hydra.job_logging.handlers.file.filename"


class Diverged(RuntimeError):
    """Raised in place of the error of a run whose loss is no longer a number."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with a text next to it."""
    (tmp_path / "text.txt").write_text("To be, or not to be.\n" * 100)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def behave(seed: int) -> None:
    """What a run does, chosen by its seed."""
    match seed:
        case 2:
            raise UserError("The text is too short.")
        case 3:
            raise RuntimeError("a defect")
        case 4:
            raise KeyboardInterrupt
        case 5:
            raise Diverged("The loss is not a number.")
        case 6:
            raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")
        case 9:
            raise PermissionError(errno.EACCES, "Permission denied", "record.json")
        case 10:
            try:
                raise PermissionError(errno.EACCES, "Permission denied", "record.json")
            except OSError:
                {}["missing"]
        case 13:
            try:
                raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")
            except OSError:
                raise RuntimeError("unexpected pos")  # noqa: B904  (as torch.save does)
        case 7:
            try:
                raise UserError("num_heads is wrong.")
            except UserError as error:
                raise ValueError("Error in call to target") from error  # as hydra.utils.instantiate does


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[DictConfig]:
    """The configurations that the programs were run with; nothing is trained."""
    seen: list[DictConfig] = []

    def train(config: DictConfig, folder: Path, overrides: list[str]) -> None:
        assert folder.is_dir()
        other(config)

    def other(config: DictConfig) -> None:
        seen.append(config)
        behave(config.seed)

    monkeypatch.setattr("charlab.runs.train.train", train)
    monkeypatch.setattr("charlab.training.callbacks.divergence.DivergedError", Diverged)
    monkeypatch.setattr("charlab.runs.evaluate.evaluate_run", other)
    monkeypatch.setattr("charlab.runs.generate.generate_from_run", other)
    return seen


Train = Callable[..., int]


@pytest.fixture
def train() -> Train:
    """Runs `scripts/train.py` in this process, on the text of the test."""
    return lambda *arguments: cli.train(["data=textfile", "data.path=../text.txt", "trainer=cpu", *arguments])


def test_a_run(runs: list[DictConfig], train: Train, empty_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("seed=1", "logger=tensorboard,csv") == 0
    (config,) = runs
    assert (config.seed, config.name, list(config.logger)) == (1, "transformer-textfile", ["tensorboard", "csv"])
    assert not {"study", "search", "launcher", "dry_run"} & set(config)  # the record is that of a run alone
    (folder,) = empty_folder.glob("outputs/runs/transformer-textfile/*")
    assert len(folder.name) == 12  # the fingerprint
    assert [path.name for path in folder.iterdir()] == [".hydra"]  # no train.log
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seed", "code", "sentence"),
    [
        (2, 2, "The text is too short."),
        (4, 130, "Interrupted."),
        (6, 2, "No space left on device (last.ckpt): free some space or choose another output_dir."),
        (7, 2, "num_heads is wrong."),
        pytest.param(
            *(9, 2, "Permission denied (record.json): allow access to it or choose another output_dir."),
            marks=pytest.mark.slow,
        ),
        (13, 2, "No space left on device (last.ckpt): free some space or choose another output_dir."),
    ],
)
def test_a_failure_with_a_sentence(
    runs: list[DictConfig], capfd: pytest.CaptureFixture[str], seed: int, code: int, sentence: str
) -> None:
    assert cli.generate(["run=x", f"seed={seed}"]) == code
    assert capfd.readouterr() == ("", f"{sentence}\n")


@pytest.mark.parametrize(
    "optimizer", ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "muon"))]
)
def test_a_rate_by_the_name_of_other_libraries_is_told_ours(
    runs: list[DictConfig], train: Train, capfd: pytest.CaptureFixture[str], optimizer: str
) -> None:
    assert train(f"optimizer={optimizer}", "optimizer.learning_rate=0.1") == 2
    assert capfd.readouterr() == ("", "There is no key optimizer.learning_rate; did you mean optimizer.lr?\n")
    assert runs == []


def test_a_run_that_diverges(runs: list[DictConfig], train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("seed=5") == 1
    assert capfd.readouterr() == ("", "The loss is not a number.\n")


def test_a_defect_while_an_error_is_handled_shows_its_traceback(
    runs: list[DictConfig], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.generate(["run=x", "seed=10"]) == 1
    assert "KeyError: 'missing'" in capfd.readouterr().err


def test_a_defect_shows_its_whole_traceback(runs: list[DictConfig], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.generate(["run=x", "seed=3"]) == 1
    error = capfd.readouterr().err
    assert "Traceback" in error
    assert "run_job" in error  # nothing is left out
    assert error.endswith("RuntimeError: a defect\n")
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_further_ranks_show_a_traceback_only_if_asked(
    runs: list[DictConfig], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ddp strategy starts them with this process's arguments and environment."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    seen: list[tuple[str | None, list[str]]] = []
    monkeypatch.setattr(
        "charlab.runs.train.train", lambda *_: seen.append((os.environ.get("HYDRA_FULL_ERROR"), sys.argv[1:]))
    )
    assert train("model=bigram") == 0
    ((full, arguments),) = seen
    assert full is None
    assert "model=bigram" in arguments


@pytest.mark.slow
def test_a_process_that_ends_scans_nothing_for_garbage() -> None:
    program = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); import charlab.cli"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.slow
def test_what_a_command_imports_is_not_scanned_for_garbage() -> None:
    program = """
import gc, sys, types
from charlab import cli
def look(config):
    print(gc.isenabled(), gc.get_freeze_count() > 10_000)
sys.modules["charlab.runs.generate"] = types.SimpleNamespace(generate_from_run=look)
print(cli.generate(["run=x"]), gc.isenabled())
print(cli.generate(["run=x", "typo=1"]), gc.isenabled())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True True", "0 True", "2 True"]


@pytest.mark.slow
def test_hydras_own_sweeper_goes_on_after_a_failed_job(
    runs: list[DictConfig], train: Train, empty_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train("-m", "hydra/sweeper=basic", "seed=2,8") == 2
    assert [config.seed for config in runs] == [2, 8]
    output = capfd.readouterr()
    assert output.out == ""
    assert "seed=2" in output.err
    assert output.err.endswith("The text is too short.\n")
    assert len(list(empty_folder.glob("outputs/runs/transformer-textfile/*"))) == 2


@pytest.mark.parametrize("override", ["dry_run=true", "study=demo", "launcher=slurm"])
def test_hydras_own_sweeper_refuses_what_it_would_ignore(
    runs: list[DictConfig], train: Train, empty_folder: Path, capfd: pytest.CaptureFixture[str], override: str
) -> None:
    assert train("-m", "hydra/sweeper=basic", "model=bigram", override) == 2
    assert capfd.readouterr() == (
        "",
        f"{override} concerns charlab's own sweeps, and hydra/sweeper=basic starts Hydra's: leave out one of them.\n",
    )
    assert runs == []
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["model=nope"],
        ["-m", "seed=1,x"],
        pytest.param(["-m", "data.path=../text.txt,../missing.txt"], marks=pytest.mark.slow),
        pytest.param(["output_dir=../text.txt"], marks=pytest.mark.slow),
    ],
)
def test_a_mistake_ends_before_anything_is_written(
    runs: list[DictConfig], train: Train, empty_folder: Path, capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert train(*arguments) == 2
    assert_one_sentence(capfd)
    assert runs == []
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["length=x"], ["+typo=1"], ["--nope"], ["--config-dir", "nope"], ["--cfg", "job", "seed=x"], ["--help", "x=1"]],
)
def test_a_mistake_is_told_in_a_sentence(
    runs: list[DictConfig], capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.generate(["run=x", *arguments]) == 2
    assert_one_sentence(capfd)
    assert runs == []


def assert_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.endswith((".\n", "?\n"))


def test_a_configuration_can_be_shown_while_values_are_missing(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.evaluate(["--cfg", "job"]) == 0
    assert "run: ???" in capfd.readouterr().out
    assert cli.evaluate([]) == 2
    assert capfd.readouterr().err == "run is missing: give run=….\n"


def test_files_of_the_users_own_folder(
    runs: list[DictConfig], train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nname: own\nseed: 11\n")
    assert train("--config-dir", "../mine", "experiment=own", "force=true") == 0
    assert (runs[0].name, runs[0].seed, runs[0].force) == ("own", 11, True)
    assert train("--config-dir", "../mine", "experiment=onw") == 2
    assert "did you mean own" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("prompt", "ROMEO: hi, you"),
        ("infill", "To be, or ____ to be"),
        pytest.param("infill", "a,b", marks=pytest.mark.slow),
        pytest.param("prompt", "line\nline", marks=pytest.mark.slow),
        ("prompt", '[it\'s "so"] = {x: ${y}} \\'),
        ("prompt", ""),
    ],
)
def test_a_text_arrives_as_typed(runs: list[DictConfig], empty_folder: Path, key: str, text: str) -> None:
    assert cli.generate(["run=a b/é", f"{key}={text}", "length=3", "greedy=true"]) == 0
    assert (runs[0][key], runs[0].run, runs[0].length, runs[0].greedy) == (text, "a b/é", 3, True)
    assert list(empty_folder.iterdir()) == []


def test_an_evaluation_leaves_nothing_behind(runs: list[DictConfig], empty_folder: Path) -> None:
    assert cli.evaluate(["run=x", "protocol=sliding", "stride=64"]) == 0
    assert (runs[0].protocol, runs[0].stride) == ("sliding", 64)
    assert list(empty_folder.iterdir()) == []


@pytest.mark.slow
def test_help_and_mistakes_do_without_torch(empty_folder: Path) -> None:
    program = """
import sys
from charlab import cli
assert (cli.train(["--help"]), cli.generate(["--cfg", "job"])) == (0, 0)
for mistake in (["-m", "model=bigram,gpt", "seed=x"], ["model=nope"], ["modle=gpt"], ["plot.typo=1"], ["+typo=1"]):
    assert cli.train(mistake) == 2, mistake
slow = {"torch", "lightning", "torchmetrics", "matplotlib", "scipy", "pandas"} & set(sys.modules)
assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "experiment/part1: " in done.stdout
    assert [line.partition(", ")[0].partition(" in ")[0].partition(";")[0] for line in done.stderr.splitlines()] == [
        "The arm bigram does not compose: seed must be an integer",
        "There is no model=nope",
        "There is no key modle",
        "There is no key plot.typo",
        "There is no key typo",
    ]
    assert list(empty_folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train", "evaluate", "generate"])
def test_scripts_pass_the_exit_code_on(script: str) -> None:
    done = subprocess.run(
        warm([sys.executable, ROOT / "scripts" / f"{script}.py", "sede=3"]), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("There is no key sede; did you mean seed")


def test_an_encoding_that_lacks_a_character_ends_no_program() -> None:
    program = "from charlab import cli; cli.main(['runs', '--help']); print('≤ ×')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(warm([sys.executable, "-c", program]), capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("? ?\n")


@pytest.mark.slow
def test_streams_that_are_closed_end_no_program(empty_folder: Path) -> None:
    command = shlex.join([sys.executable, "-m", "charlab", "runs"])
    done = subprocess.run(f"{command} <&- >&-", shell=True, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_reader_that_stops_reading_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, ROOT / "scripts" / "generate.py", "--help"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(warm(command), stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    "place", ["/proc/nope", pytest.param("../text.txt/below", marks=pytest.mark.slow), "../nowhere"]
)
def test_a_folder_that_cannot_be_made_is_known_before_the_run(
    runs: list[DictConfig], train: Train, empty_folder: Path, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    Path("../nowhere").symlink_to("../gone/astray")
    assert train(f"output_dir={place}") == 2
    assert_one_sentence(capfd)
    assert runs == []
    assert list(empty_folder.iterdir()) == []


def test_a_file_name_that_is_not_utf8_is_told_and_leaves_nothing(
    empty_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (empty_folder.parent / name).write_text("To be, or not to be.\n" * 100)
    assert cli.train(["data=textfile", f"data.path=../{name}", "model=bigram", "trainer=cpu"]) == 2
    assert capfd.readouterr().err.startswith("The file name ../caf\\udce9.txt is not UTF-8")
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    "form", ["output_dir={}", *(pytest.param(form, marks=pytest.mark.slow) for form in ("note={}", 'tags=["{}"]'))]
)
def test_a_value_that_is_not_utf8_is_told_and_leaves_nothing(
    runs: list[DictConfig], train: Train, empty_folder: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    assert train("model=bigram", form.format(os.fsdecode(b"caf\xe9"))) == 2
    key = form.partition("=")[0]
    assert capfd.readouterr().err.startswith(f"{key}=caf\\udce9 is not UTF-8")
    assert runs == []
    assert list(empty_folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["runs"], ["find-lr", "sede=1"]])
def test_every_command_finds_the_modules_in_the_working_folder(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])  # as a script that pip installs, which does not search the folder
    cli.main(arguments)
    assert {str(empty_folder), str(empty_folder / "src")} <= set(sys.path)


def test_a_working_folder_that_was_removed(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / "gone").mkdir()
    monkeypatch.chdir(empty_folder / "gone")
    (empty_folder / "gone").rmdir()
    assert cli.main(["runs"]) == 2
    assert capfd.readouterr() == ("", "The working folder has been removed: change to one that exists.\n")


def test_the_version_of_hydra_is_shown_and_nothing_is_trained(
    runs: list[DictConfig], train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train("--version") == 0
    assert capfd.readouterr().out.startswith("Hydra 1.")
    assert runs == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", "--cfg", "job", "seed=1,2"], "--multirun and --cfg exclude each other: give one of them.\n"),
        (["--resolve", "seed=1"], "--resolve goes with --cfg or --help: give one of them as well.\n"),
    ],
)
def test_flags_that_do_not_go_together(
    runs: list[DictConfig], train: Train, capfd: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert train(*arguments) == 2
    assert capfd.readouterr() == ("", sentence)
    assert runs == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--info", "Nope"], "Argument --info/-i: invalid choice: 'Nope'"),
        (["--Nope"], "Unrecognized arguments: --Nope; see --help.\n"),
        (["--cfg", "hydra", "--resolve"], "Interpolation key '"),
        (["hydra.job.chdir=true"], "hydra.job.chdir=true would have relative paths, such as data.path, read from"),
        (["+hydra.callbacks.mine._target_=nope.Mine"], "hydra.callbacks.mine cannot be built: "),
        (["hydra.verbose=null"], "Python cannot log by hydra.verbose, hydra.job_logging or hydra.hydra_logging: "),
        (["hydra.job_logging.root.level=LOUD"], "Python cannot log by hydra.verbose, hydra.job_logging or "),
        (["hydra/job_logging=default", f"{LOG}=logs/train.log"], "Python cannot log by hydra.verbose, "),
        (["hydra/job_logging=default", f"{LOG}=${{hydra.runtime.output_dir}}/logs/train.log"], "Python cannot log by "),
    ],
)
def test_a_mistake_in_what_is_hydras(
    runs: list[DictConfig],
    train: Train,
    empty_folder: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    assert train("model=bigram", *arguments) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith(sentence)
    assert told.err.count("\n") == 1
    assert runs == []
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-sc", "install=tcsh"], "No completion plugin for 'tcsh' found"),
        (["train", "--hydra-help", "model=gpt"], "Could not override 'model'"),
        (["train", "-m", "--help", "seed=1,2"], "Ambiguous value for argument 'seed=1,2'"),
        (["generate", "--cfg", "job", "--package", "nope"], "package 'nope' not found in config"),
        (["generate", "--experimental-rerun", "nope.pickle"], "There is no file nope.pickle: give "),
    ],
)
def test_a_mistake_in_what_hydra_shows(
    capfd: pytest.CaptureFixture[str], empty_folder: Path, arguments: list[str], sentence: str
) -> None:
    assert cli.main(arguments) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith(sentence)
    assert told.err.count("\n") == 1
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("name", ["hydra.runtime.output_dir", "hydra:runtime.output_dir"])
def test_a_log_in_the_folder_of_the_run(runs: list[DictConfig], train: Train, empty_folder: Path, name: str) -> None:
    assert train("model=bigram", "hydra/job_logging=default", f"{LOG}=${{{name}}}/mine.log") == 0
    for handler in logging.getLogger().handlers:
        handler.close()
    assert len(list(empty_folder.glob("outputs/runs/bigram-textfile/*/mine.log"))) == 1
    assert len(runs) == 1


def test_callbacks_of_hydra_are_called(runs: list[DictConfig], train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    Path("callbacks_of_mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, word):\n"
        "        self.on_run_start = lambda **_: print(word)\n"
        "    def __getattr__(self, event):\n"
        "        return lambda **_: None\n"
    )
    assert train("model=bigram", "+hydra.callbacks.mine={_target_:callbacks_of_mine.Mine,word:begun}") == 0
    assert capfd.readouterr().out == "begun\n"
    assert len(runs) == 1


@pytest.mark.slow
def test_callbacks_of_hydra_hear_of_a_failure(
    runs: list[DictConfig], train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("listeners_of_mine.py").write_text(
        "class Mine:\n"
        "    def on_job_end(self, config, job_return, **_):\n"
        "        print(job_return.status.name)\n"
        "    def on_run_end(self, **_):\n"
        "        print('ended')\n"
        "    def __getattr__(self, event):\n"
        "        return lambda **_: None\n"
    )
    for seed, code, told in ((2, 2, "The text is too short.\n"), (5, 1, "The loss is not a number.\n")):
        assert train("model=bigram", f"seed={seed}", "+hydra.callbacks.mine._target_=listeners_of_mine.Mine") == code
        assert capfd.readouterr() == ("FAILED\nended\n", told)


def test_a_folder_of_configuration_files_is_relative_to_the_working_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "mine")
    assert cli.generate(["--config-path", "../mine", "--cfg", "job", "length=7"]) == 0
    assert "length: 7" in capfd.readouterr().out


@pytest.mark.parametrize("flag", ["--config-path", "--config-dir"])
def test_a_package_is_no_folder_of_configuration_files(capfd: pytest.CaptureFixture[str], flag: str) -> None:
    assert cli.generate([flag, "pkg://mine.conf", "--cfg", "job"]) == 2
    assert capfd.readouterr() == (
        "",
        f"{flag} takes the path of a folder, not pkg://mine.conf: give the folder of its files, or add its options to "
        "charlab's with hydra.searchpath=[pkg://mine.conf].\n",
    )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
def test_text_is_generated_in_a_folder_that_is_not_writable(
    runs: list[DictConfig], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])  # to which the working folder is added
    monkeypatch.chdir("/proc")
    assert cli.generate(["run=x"]) == 0
    assert capfd.readouterr() == ("", "")
    assert len(runs) == 1
