"""The `charlab` command. Its programs, most of them Hydra applications, report a user's error in one sentence.

The configuration is composed and checked before Hydra writes anything; what needs no torch is checked before torch is
imported, which is slow.
Exit codes: 0 success, 1 failure, 2 user error, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import re
import sys
import traceback
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, env_override, run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, read_write
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from charlab import __version__
from charlab.command import command, remember_call
from charlab.configuration.build import HYDRA_1_4, build
from charlab.configuration.check import check_output_folder, output_folder
from charlab.configuration.compose import (
    Composer,
    compose,
    config_loader,
    leave_out_sweep,
    resolve_values,
    typed_overrides,
)
from charlab.configuration.messages import COMPOSITION_ERRORS, exit_code, find_user_error, one_sentence
from charlab.configuration.overrides import escape_interpolations, without_effect
from charlab.configuration.sources import VERSION_BASE, conf_folder, hydra_config
from charlab.configuration.value_types import VALUES
from charlab.errors import PartError, UserError
from charlab.notebook import replace_missing_characters
from charlab.runs.display import show_if_finished  # its module `store` registers the resolver in `hydra.run.dir`
from charlab.runs.manage import browse
from charlab.runs.store import with_extended

atexit.register(gc.freeze)  # otherwise the garbage collector scans everything imported several times at exit

OWN = "charlab"  # the option of the group hydra/sweeper that runs sweeps as studies


# The parts of a program are imported when it runs: `--help`, a mistake and a finished run need no torch.


def usage() -> str:
    """Return what `charlab --help` prints."""
    listed = [f"charlab {name:8} …  {about}" for name, (_, about) in COMMANDS.items()]
    return f"""\
{chr(10).join(listed)}
charlab {"--version":10}  print the version

charlab COMMAND --help lists what a command takes. A first run (two minutes):

  {command("train", "experiment=quickstart")}

Complete commands with Tab, in bash: eval "$(charlab -sc install=bash)\""""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `charlab COMMAND …` with these arguments, the command line's by default; return the exit code."""
    given = _given(arguments)
    called = given[0] if given else "--help"
    if called in ("-sc", "--shell-completion"):
        return _complete(given)
    if called in COMMANDS:
        return COMMANDS[called][0](given[1:])
    if "LOCAL_RANK" in os.environ:  # a ddp strategy starts further ranks from sys.argv, where Hydra wants no command
        return train(given)
    if called == "--version":
        print(f"charlab {__version__}")
    elif called in ("--help", "-h"):
        print(usage())
    else:
        near = get_close_matches(called, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}."
        print(f"There is no command {called!r}: {hint}", file=sys.stderr)
        return 2
    return 0


def _complete(arguments: Sequence[str]) -> int:
    """Let Hydra complete a command's overrides, as it does for a program with a single command.

    A shell gives the line typed so far, `charlab train mod`, in the variable COMP_LINE.
    """
    if arguments[1:2] and arguments[1].startswith("query="):
        program, _, line = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
        called, space, rest = line.lstrip().partition(" ")
        if not space:
            print(" ".join(COMMANDS))
            return 0
        called = "train" if called == "find-lr" else called  # it takes the same overrides
        if called not in VALUES:  # not Hydra's
            print("model study project" if called == "new" else "")
            return 0
        os.environ["COMP_LINE"] = f"{program} {rest}"
        return COMMANDS[called][0](arguments)
    return train(arguments)


def report(arguments: Sequence[str] | None = None) -> int:
    """Run `charlab report` with these arguments, the command line's by default; return the exit code."""
    # Hydra would read study=NAME as the choice of a config file, and an ordinary sweep has none.
    return _hydra("report", _report, [re.sub("^study=", "name=", argument) for argument in _given(arguments)])


def _find_lr(overrides: list[str]) -> int:
    if "--help" in overrides or "-h" in overrides:
        print(f"{command('find-lr')} OVERRIDES suggests a learning rate for the run that the same overrides train.")
        return 0
    _find_own_modules()
    config = compose(overrides)
    from charlab.runs.find_lr import find_lr

    find_lr(config)
    return 0


def _browse(arguments: list[str]) -> int:
    _find_own_modules()  # to draw a run of the user's own model
    return browse(arguments)


def _verify(arguments: list[str]) -> int:
    from charlab.studies.verify import verify

    _find_own_modules()
    return verify(arguments)


def _new(arguments: list[str]) -> int:
    from charlab.new import new

    return new(arguments)


# Hydra's task functions.


def _train(config: DictConfig) -> object:
    hydra_config = HydraConfig.get()
    from charlab.runs.train import train

    resolve_values(config)
    leave_out_sweep(config)
    overrides = typed_overrides(hydra_config)
    return _task(lambda: train(config, Path(hydra_config.runtime.output_dir), overrides))


def _evaluate(config: DictConfig) -> object:
    from charlab.runs.evaluate import evaluate_run

    return _task(lambda: evaluate_run(config))


def _generate(config: DictConfig) -> object:
    from charlab.runs.generate import generate_from_run

    return _task(lambda: generate_from_run(config))


def _report(config: DictConfig) -> object:
    from charlab.studies.report.writer import report_study

    return _task(lambda: report_study(config))


def _export(config: DictConfig) -> object:
    from charlab.runs.export import export_run

    return _task(lambda: export_run(config))


def _task(run: Callable[[], object]) -> object:
    """Run a job, with the garbage collector on again: everything is imported by now."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    return run()


def _hydra(config_name: str, task: Callable[[DictConfig], object], arguments: Sequence[str] | None = None) -> int:
    return _guarded(partial(_run, config_name, task), arguments)


def _given(arguments: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if arguments is None else arguments)


def _guarded(program: Callable[[list[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Run a program with these arguments and return its exit code; a user's mistake is printed in one sentence."""
    remember_call()
    _open_closed_streams()
    replace_missing_characters()
    try:
        code = _exit_code(partial(program, _given(arguments)))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _open_closed_streams() -> None:
    """Open the null device in place of each standard stream that the caller has closed, as by `>&-`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (until the process ends)


def _exit_code(program: Callable[[], int]) -> int:
    """Run a program and return its exit code; the only exception that passes is `BrokenPipeError`."""
    try:
        return program()
    except BrokenPipeError:
        raise
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (KeyboardInterrupt, Exception) as error:
        return _told(error)


def _told(error: BaseException) -> int:
    """Print what ended a program and return its exit code; a failing part of the user's is one sentence as well."""
    divergence = sys.modules.get("charlab.training.callbacks.divergence")  # importing it takes a second
    if isinstance(error, PartError) and os.environ.get("HYDRA_FULL_ERROR") != "1":
        print(f"{error} (HYDRA_FULL_ERROR=1 before the command shows the traceback.)", file=sys.stderr)
    elif isinstance(error, PartError):
        traceback.print_exception(error)
    elif divergence is not None and isinstance(error, divergence.DivergedError):
        print(error, file=sys.stderr)
    else:
        return exit_code(error)
    return 1


def _find_own_modules() -> None:
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise UserError("The working folder has been removed: change to one that exists.") from None
    for folder in (here, os.path.join(here, "src")):
        if folder not in sys.path:
            sys.path.append(folder)


def _run(config_name: str, task: Callable[[DictConfig], object], arguments: list[str]) -> int:
    _find_own_modules()
    imports = "torch" not in sys.modules
    if imports:  # what torch and Lightning allocate is not garbage, and scanning it takes a second
        gc.disable()
    try:
        try:
            arguments, single = _checked(config_name, arguments)
            if single is None:
                _run_by_hydra(config_name, task, arguments)
        except InterpolationResolutionError as error:  # in a setting of Hydra's
            raise (find_user_error(error) or UserError(one_sentence(error))) from None
        if single is not None:
            with _command_line(arguments):
                _run_job(task, *single)
    finally:
        if imports:
            gc.enable()
    return 0


def _run_by_hydra(config_name: str, task: Callable[[DictConfig], object], arguments: list[str]) -> None:
    with _command_line(arguments), env_override({"HYDRA_FULL_ERROR": "1"}):  # Hydra passes exceptions on
        hydra.main(config_path=str(conf_folder()), config_name=config_name, **VERSION_BASE)(task)()


def _show(config_name: str, arguments: list[str]) -> NoReturn:
    """Let Hydra show what the arguments ask for, and exit; what it raises is a mistake, told in one sentence."""
    try:
        _run_by_hydra(config_name, _train, arguments)
    except (HydraException, OmegaConfBaseException, LookupError, ValueError) as error:
        raise (find_user_error(error) or UserError(one_sentence(error))) from None
    except SystemExit as end:
        raise SystemExit(2 if end.code == 1 else end.code) from None  # Hydra has told of an unknown --package
    raise SystemExit(0)


def _run_job(task: Callable[[DictConfig], object], composer: Composer, job: DictConfig) -> None:
    """Run a task as `hydra.main` runs a single job, with the configuration that has been composed and checked."""
    told = _Callbacks(job)
    _set_up_logging(job)
    told.on_run_start(config=job, config_name=composer.config_name)
    context = HydraContext(composer.loader, cast(Any, told))
    done = run_job(task, job, job_dir_key="hydra.run.dir", job_subdir_key=None, hydra_context=context)
    told.on_run_end(config=job, config_name=composer.config_name, job_return=done)
    with redirect_stderr(io.StringIO()):  # to which Hydra writes a line of its own
        _ = done.return_value  # raises what the task has raised


def _set_up_logging(job: DictConfig) -> None:
    """Set up Hydra's logging, after trying the job's, which Hydra sets up once the job's folder is made."""
    output_dir = os.path.abspath(job.hydra.run.dir)
    try:
        try:
            with hydra_config(job):
                configure_log(job.hydra.job_logging, job.hydra.verbose)
        except ValueError as error:
            absent = error.__cause__
            if not isinstance(absent, FileNotFoundError) or os.path.dirname(absent.filename) != output_dir:
                raise
        configure_log(job.hydra.hydra_logging, job.hydra.verbose)
    except COMPOSITION_ERRORS as error:
        settings = "hydra.verbose, hydra.job_logging or hydra.hydra_logging"
        raise UserError(f"Python cannot log by {settings}: {one_sentence(error)}") from error


class _Callbacks:
    """The callbacks under `hydra.callbacks`: an event calls their method of its name; an error becomes a warning."""

    def __init__(self, job: DictConfig) -> None:
        self._callbacks: list[Any] = []
        for name, node in (job.hydra.get("callbacks") or {}).items():
            try:
                self._callbacks.append(build(node, _convert_="none"))
            except Exception as error:  # a user's constructor may raise any exception
                mistake = find_user_error(error) or one_sentence(error)
                raise UserError(f"hydra.callbacks.{name} cannot be built: {mistake}") from error

    def __getattr__(self, event: str) -> Callable[..., None]:
        def tell(**about: Any) -> None:
            for callback in reversed(self._callbacks) if event.endswith("_end") else self._callbacks:
                try:
                    getattr(callback, event)(**about)
                except Exception as error:
                    warnings.warn(f"{type(callback).__name__}.{event}: {type(error).__name__}: {error}", stacklevel=2)

        return tell


class _ArgumentParser(ArgumentParser):
    """Parser of Hydra's flags (https://hydra.cc/docs/advanced/hydra-command-line-flags) that raises `UserError`."""

    def __init__(self) -> None:
        super().__init__(add_help=False)
        self.add_argument("overrides", nargs="*")
        for flags in ("--help -h", "--hydra-help", "--version", "--resolve", "--run -r", "--multirun -m"):
            self.add_argument(*flags.split(), action="store_true")
        self.add_argument("--shell-completion", "-sc", action="store_true")
        self.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
        known = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
        known += ["aliases"] if HYDRA_1_4 else []
        self.add_argument("--info", "-i", nargs="?", const="all", choices=known)
        for options in ("--package -p", "--config-path -cp", "--config-name -cn", "--config-dir -cd"):
            self.add_argument(*options.split())
        self.add_argument("--experimental-rerun")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}; see --help.")


def _checked(config_name: str, arguments: list[str]) -> tuple[list[str], tuple[Composer, DictConfig] | None]:
    """Check the configuration that the arguments describe.

    Returns:
        The arguments in the form that Hydra expects, the overrides first; and the configuration of a single job with
        its composer, or None if the arguments ask for a sweep by Hydra's own sweepers, or to rerun a saved job.

    Raises:
        SystemExit: if everything is done: something is shown, a run is finished already, or a study has been run.
    """
    options = _ArgumentParser().parse_intermixed_args(arguments)
    folders = _config_flags(options)  # Hydra takes the last one of each flag
    flags = [*(argument for argument in arguments if argument not in options.overrides), *folders]
    if options.experimental_rerun:
        if not Path(options.experimental_rerun).is_file():
            raise UserError(f"There is no file {options.experimental_rerun}: give --experimental-rerun a saved job.")
        return [*options.overrides, *flags], None
    if options.shell_completion or options.hydra_help or options.version:  # Hydra's alone
        _show(config_name, [*options.overrides, *flags])
    _check_flags(options)
    loader = config_loader(Path(options.config_path), options.config_dir) if options.config_path else None
    composer = Composer(options.config_name or config_name, loader, VALUES[config_name], options.config_dir)
    typed = [override for override in options.overrides if override not in ("study=null", "~study")]
    typed = with_extended(typed) if config_name == "train" else typed
    overrides = composer.prepare(typed)
    sweep = options.multirun or "hydra.mode=MULTIRUN" in overrides
    if options.cfg or options.help or options.info:  # what they show may lack values
        if sweep:
            composer.jobs(overrides)
        else:
            overrides = _as_composed(overrides, composer.job(overrides, complete=False))
        _show(config_name, [*overrides, *flags])
    if not sweep and not (config_name == "train" and _is_study(overrides)):
        job = composer.job(overrides, build=False)
        if job.hydra.mode != RunMode.MULTIRUN:  # which a config file of the user's may set
            _check_job(config_name, job, overrides)
            composer.build()
            return [*_as_composed(overrides, job), *flags], (composer, job)
    master = composer.master(overrides)
    _check_working_folder(master)
    if master.hydra.runtime.choices["hydra/sweeper"] == OWN:
        from charlab.studies.sweep import sweep as run_sweep

        results = run_sweep(master, composer, overrides, folders)
        raise SystemExit(int(results is not None and not results.finished))
    if config_name == "train" and (override := without_effect(overrides)) is not None:
        own = f"hydra/sweeper={master.hydra.runtime.choices['hydra/sweeper']}"
        raise UserError(f"{override} concerns charlab's own sweeps, and {own} starts Hydra's: leave out one of them.")
    for job in composer.jobs(overrides):
        check_output_folder(output_folder(job, sweep=True))
    return [*overrides, *flags], None


def _as_composed(overrides: Sequence[str], job: DictConfig) -> list[str]:
    """Return the overrides with the + of those that only a constructor declares."""
    composed = typed_overrides(job.hydra)
    return [f"+{override}" if f"+{override}" in composed else override for override in overrides]


def _check_job(config_name: str, job: DictConfig, overrides: Sequence[str]) -> None:
    """Check a single job and set its folder, or exit if it is a finished run, whose table is shown."""
    trains = config_name == "train"
    if trains and (override := without_effect(overrides)) is not None:
        raise UserError(f"{override} concerns a sweep, and this is a single run: give -m, or leave it out.")
    _check_working_folder(job)
    folder = output_folder(job, sweep=False)
    assert folder is not None  # as for every single run
    if trains:
        resolve_values(job)
        if show_if_finished(job, folder) is not None:  # its folder may be read-only
            raise SystemExit(0)
    with read_write(job.hydra):
        job.hydra.run.dir = escape_interpolations(str(folder))  # the identity in its name is not computed again
        job.hydra.runtime.output_dir = escape_interpolations(os.path.abspath(folder))  # for logs
    if trains or not folder.is_dir():  # the other programs write nothing there
        check_output_folder(folder)


def _check_working_folder(job: DictConfig) -> None:
    if job.hydra.job.chdir:
        raise UserError(
            "hydra.job.chdir=true would have relative paths, such as data.path, read from the run's folder: leave it "
            "out; ${hydra:runtime.output_dir} names that folder."
        )


def _check_flags(options: Namespace) -> None:
    """Check that the flags go together; Hydra would end in a traceback."""
    flags = {"--run": options.run, "--multirun": options.multirun, "--cfg": options.cfg, "--info": options.info}
    given = [flag for flag, value in flags.items() if value]
    if len(given) > 1 and not options.help:
        raise UserError(f"{' and '.join(given)} exclude each other: give one of them.")
    if options.resolve and not (options.cfg or options.help):
        raise UserError("--resolve goes with --cfg or --help: give one of them as well.")


def _is_study(overrides: Sequence[str]) -> bool:
    """Return whether the overrides ask for a study or a search, which are sweeps even without -m."""
    return any(
        override.startswith(("study=", "search=")) or override.lower() == "dry_run=true" for override in overrides
    )


def _config_flags(options: Namespace) -> list[str]:
    """Return the given options that say which configuration files are read, with absolute paths.

    Raises:
        UserError: if one of them names a package, which Hydra allows for `--config-path`.
    """
    given = {"--config-path": options.config_path, "--config-dir": options.config_dir}
    for flag, folder in given.items():
        if folder and "://" in folder:
            raise UserError(
                f"{flag} takes the path of a folder, not {folder}: give the folder of its files, or add its options to "
                f"charlab's with hydra.searchpath=[{folder}]."
            )
    folders = [part for flag, folder in given.items() if folder for part in (flag, os.path.abspath(folder))]
    return [*folders, *(("--config-name", options.config_name) if options.config_name else ())]


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Set `sys.argv`, which Hydra reads, and from which a ddp strategy starts further ranks, while the block runs."""
    former = sys.argv
    sys.argv = [former[0], *arguments]
    try:
        yield
    finally:
        sys.argv = former


train = partial(_hydra, "train", _train)
evaluate = partial(_hydra, "evaluate", _evaluate)
generate = partial(_hydra, "generate", _generate)

Program = Callable[[Sequence[str]], int]
COMMANDS: dict[str, tuple[Program, str]] = {
    "train": (train, "train a model and evaluate it, or run a sweep or a study"),
    "evaluate": (evaluate, "compute the perplexity of a trained model"),
    "generate": (generate, "write text with a trained model"),
    "report": (report, "write the report on a study"),
    "find-lr": (partial(_guarded, _find_lr), "suggest a learning rate, from a short training"),
    "runs": (partial(_guarded, _browse), "list, compare, tag and remove runs"),
    "verify": (partial(_guarded, _verify), "check a run or a study without trusting it"),
    "export": (partial(_hydra, "export", _export), "write a trained model for use without charlab"),
    "new": (partial(_guarded, _new), "write a model, a study or a project to start from"),
}
"""For each command: the function that runs it with its arguments and returns the exit code, and what it does."""

if __name__ == "__main__":
    sys.exit(main())
