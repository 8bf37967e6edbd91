"""Turn a mistake into one sentence that says what is wrong, where, and what the user may have meant."""

from __future__ import annotations

import difflib
import re
import sys
import sysconfig
import traceback
from collections.abc import Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.types import Glob, Override, Sweep
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException
from yaml import MappingNode, MarkedYAMLError, Node, YAMLError

from charlab.configuration.overrides import keys_set, parse
from charlab.errors import UserError
from charlab.files import advice
from charlab.quantities import joined

if TYPE_CHECKING:
    from charlab.configuration.sources import Composition

_PYTHONS_OWN = (LookupError, TypeError, ValueError, OSError, AssertionError, RecursionError)
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, *_PYTHONS_OWN)
"""Exceptions that Hydra raises when a user's configuration does not compose."""

EXTRAS = {
    "launcher=slurm": ("slurm", "submitit"),
    "launcher=ray": ("ray", "ray"),
    "search": ("search", "optuna"),
}
"""For each part that needs an extra: the extra's name and a module that it installs."""

OTHER_NAMES = {"learning_rate": "lr", "ema": "averaging=ema"}
"""Names that other libraries use, and their equivalents in charlab."""

_MOST_NAMED = 12
_DUPLICATE = "found duplicate key "
_INTERNAL = ("See https://", "full_key:", "object_type=", "reference_type=")
_PROGRAMS_OWN = (FileNotFoundError, FileExistsError, ConnectionError, ChildProcessError, ProcessLookupError)
_OUT_OF_MEMORY = re.compile(r"out of memory|(can't allocate|not enough) memory")  # torch's messages, by device


def similar(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return the end of a sentence that suggests the known words closest to `word`, or "." if none is close.

    A known word with slashes also matches by its last part alone. Each suggestion is shown with `prefix` before it.
    """
    names = sorted(set(known), reverse=True)
    spellings = {name.rpartition("/")[2].lower(): name for name in names} | {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower(), spellings, n=3, cutoff=0.6)
    close = dict.fromkeys(prefix + spellings[match] for match in matches)
    return f"; did you mean {joined(list(close), 'or')}?" if close else "."


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return the end of a sentence that suggests the known words closest to `word`, or lists all if none is close.

    Each word is shown with `prefix` before it.
    """
    names = sorted(set(known))
    inside = [name for name in names if name.startswith(f"{word}/")]  # the word is a folder of options
    hint = "." if inside else similar(word, names, prefix)
    if hint != "." or not names:
        return hint
    shown = [prefix + name for name in inside or names]
    return f"; known {'is' if len(shown) == 1 else 'are'} {joined(shown, most=_MOST_NAMED)}."


def unknown_key(path: str, siblings: Collection[str], everywhere: Collection[str], place: str = "") -> UserError:
    """Return the error for a key that does not exist, with a suggestion.

    Args:
        path: the dotted key.
        siblings: names that exist at the same level.
        everywhere: all dotted keys of the configuration, to suggest the same name in another place.
        place: where the key was set, as " (in FILE.yaml)"; "" for the command line.
    """
    parent, _, leaf = path.rpartition(".")
    prefix = f"{parent}." if parent else ""
    former = OTHER_NAMES.get(leaf, "")
    if former in siblings or "=" in former:
        return UserError(f"There is no key {path}{place}; did you mean {'' if '=' in former else prefix}{former}?")
    elsewhere = [key for key in everywhere if key.rpartition(".")[2] == leaf and key != path]
    hint = similar(elsewhere[0], elsewhere) if elsewhere else nearest(leaf, siblings, prefix)
    if parent in ("callbacks", "logger"):
        hint = (
            f"{hint.removesuffix('.')}. To add one, write +{path}._target_=MODULE.CLASS, and +{path}.KEY=… as needed."
        )
    return UserError(f"There is no key {path}{place}{hint}")


def missing_extra(part: str) -> UserError | None:
    """Return the error for a part whose extra is not installed; None if the part can be used.

    Args:
        part: a key of `EXTRAS`, such as "launcher=ray"; any other part needs no extra.
    """
    if part not in EXTRAS:
        return None
    extra, module = EXTRAS[part]
    needed = UserError(f'{part} needs an extra: pip install "charlab[{extra}]".')
    return needed if find_spec(module) is None else None


def find_user_error(error: BaseException | None) -> UserError | None:
    """Return the user error that caused this one; None if no user error did.

    Most errors of the operating system, such as a full disk or memory, count as user errors: no change to the code
    fixes them. A cause counts even without `raise … from` if the error is a `RuntimeError`, such as torch raises when
    it cannot finish a file, another error of the operating system, or OmegaConf's error about a resolver. Any other
    error raised in an `except` block, such as a `KeyError`, is a bug.
    """
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, OSError) and error.errno and not isinstance(error, _PROGRAMS_OWN):
            where = f" ({error.filename})" if error.filename else ""
            return UserError(f"{error.strerror}{where}: {advice(error)}.")
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
            return _out_of_memory(error)
        hides_its_cause = isinstance(error, OmegaConfBaseException)  # of a resolver that failed
        torn = not error.__suppress_context__ and (type(error) is RuntimeError or isinstance(error, OSError))
        error = error.__cause__ or (error.__context__ if hides_its_cause or torn else None)
    return error


def _out_of_memory(error: BaseException) -> UserError:
    wanted = re.search(r"allocate ([\d.]+ \w+)", str(error))
    amount = f" for {wanted[1]} more" if wanted else ""
    return UserError(
        f"There is not enough memory{amount}: use a smaller model, data.context_length or data.batch_size, or raise "
        "trainer.accumulate_grad_batches."
    )


def exit_code(error: BaseException) -> int:
    """Print the error that ended a program and return its exit code.

    A user's mistake is printed as one sentence, a bug as its traceback.
    """
    if isinstance(error, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        return 130
    if (mistake := find_user_error(error)) is None:
        traceback.print_exception(error)
        return 1
    print(mistake, file=sys.stderr)
    return 2


def line_of_user(error: BaseException) -> str | None:
    """Return the innermost line of the user's code in a traceback; None if only libraries are in it."""
    libraries = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"))
    frames = [(frame.filename, frame.lineno, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    compiled = re.findall(r'^ *File "(.+)", line (\d+), in (.+)$', str(error), flags=re.MULTILINE)
    for file, line, name in reversed([*frames, *compiled]):
        if not file.startswith((*libraries, "<")) and "-packages" not in file:
            return f"{file}, line {line}, in {name}"
    return None


def one_sentence(error: BaseException) -> str:
    """Return the message of an error and its cause on one line."""
    messages = [str(part) for part in (error, error.__cause__) if part is not None and str(part)]
    text = ": ".join(messages) or type(error).__name__
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(_INTERNAL)]
    return " ".join(told).rstrip(".") + "."


def diagnose(error: Exception, composition: Composition) -> UserError:
    """Return the error to show to the user for an error that Hydra raised while composing."""
    if isinstance(error, UserError):
        return error
    if type(error) is KeyError:
        return UserError(f"hydra.job.env_copy names {error}, which is not set: set it, or leave it out.")
    if isinstance(error, UnicodeDecodeError):
        named = composition.file_with(error.object) or "A configuration file"
        return UserError(f"{named} is not UTF-8 text ({error.reason}): convert it to UTF-8.")
    if isinstance(error, MarkedYAMLError) and str(error.problem).startswith(_DUPLICATE):
        return _duplicate_key(error)
    if isinstance(error, YAMLError):
        return UserError(one_sentence(error))
    if isinstance(error, AssertionError):
        return UserError(
            "Hydra cannot read a configuration file, perhaps because its defaults list names a group by a number, yes "
            "or no: put such a name in quotes."
        )
    if "Cannot merge DictConfig with ListConfig" in str(error) or "incompatible container types" in str(error):
        return UserError(
            "A list replaces a mapping, or a mapping a list: leave the replaced part out of the defaults list, as "
            "conf/model/hybrid.yaml does."
        )
    parsed = []
    for typed in composition.overrides:
        try:
            parsed.append(parse(typed))
        except (HydraException, RecursionError) as failure:
            return _unreadable(typed, failure)
    if isinstance(error, RecursionError):
        return _circle(composition, parsed)
    for override in parsed:
        if (mistake := _mistaken_choice(override, composition)) is not None:
            return mistake
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_file(error.missing_cfg_file, composition, parsed)
    groups = [override for override in parsed if composition.is_group(override.key_or_group)]
    choices = [override for override in groups if not isinstance(override.value(), Sweep | Glob | dict)]
    try:
        base = composition.plain([override.input_line or "" for override in choices])
    except COMPOSITION_ERRORS as failure:
        return _mistaken_group(failure, choices) or UserError(one_sentence(failure))
    for override in parsed:
        if override not in choices and not override.is_sweep_override():
            for key in keys_set(override.key_or_group, override.value()):
                if (mistake := _mistaken_key(key, override, base)) is not None:
                    return mistake
    return UserError(one_sentence(error))


def _duplicate_key(error: MarkedYAMLError) -> UserError:
    """Return the error for a key that appears twice in a file, which OmegaConf rejects."""
    key, mark = str(error.problem).removeprefix(_DUPLICATE), error.problem_mark
    file = Path(mark.name)
    place = f"{file.parent.name}/{file.name}, line {mark.line + 1}"
    path = _path_to(yaml.compose(file.read_text(encoding="utf-8")), mark.line, key) or key
    if path == f"arms.{key}":
        return UserError(f"Two arms are named {key} (in {place}): give each a name of its own.")
    return UserError(f"The key {path} is given twice (in {place}): keep one of them.")


def _path_to(node: Node, line: int, key: str) -> str | None:
    """Return the dotted path of a key on a given line of a YAML file."""
    for name, value in node.value if isinstance(node, MappingNode) else ():
        if name.value == key and name.start_mark.line == line:
            return key
        if (inner := _path_to(value, line, key)) is not None:
            return f"{name.value}.{inner}"
    return None


def _unreadable(override: str, failure: Exception) -> UserError:
    key, equals, _ = override.partition("=")
    if not equals:
        return UserError(f"{override!r} is not of the form key=value.")
    if not re.fullmatch(r"[+~]{0,2}[\w./@:$-]+", key):
        return UserError(f"{override!r} has no valid key: write key=value.")
    evaluated = re.search(r"while evaluating '.*': (.*)", str(failure))
    if evaluated is not None:
        return UserError(f"The value of {override!r} cannot be read: {evaluated[1]}.")
    return UserError(
        f"The value of {override!r} cannot be read: close its brackets and quotes, "
        f"or put quotes within quotes to have it taken as text, '{key}=\"…\"'."
    )


def _mistaken_choice(override: Override, composition: Composition) -> UserError | None:
    """Return the error for an override that chooses an unknown option, or several where only one is allowed."""
    key, typed = override.key_or_group, override.input_line or ""
    if not key:
        return UserError(f"{typed!r} has no key before its =: write key=value.")
    if override.is_sweep_override() and not composition.multirun:
        values, is_text = typed.partition("=")[2], key in composition.composer.text_keys
        listed = "" if values.endswith(")") else f", or make them a list, {key}=[{values}]"  # range(1,3) makes none
        text = f""", or quote it if it is one text, '{key}="{values}"'""" if is_text else ""
        return UserError(
            f"{typed} has several values: sweep over them with -m (charlab.study in Python){listed}{text}."
        )
    if not composition.is_group(key):
        return UserError(f"There is no group {key}{nearest(key, composition.groups())}") if "/" in key else None
    if override.is_delete() or override.is_sweep_override():
        return None
    value = override.value()
    for choice in value if isinstance(value, list) else [value]:
        if not (isinstance(choice, dict) or (isinstance(choice, str) and composition.exists(key, choice))):
            named = str(choice) if choice is not None else "null"
            return _unknown_option(key, named, "", composition)
    return None


def _unknown_option(group: str, option: str, place: str, composition: Composition) -> UserError:
    hint = nearest(option, composition.options(group))
    return UserError(f"There is no {group}={option}{place} in {joined(composition.searched(), 'or')}{hint}")


def _missing_file(missing: str, composition: Composition, parsed: list[Override]) -> UserError:
    """Return the error for an option that a file names but that does not exist."""
    group, _, option = missing.rpartition("/")
    if not group:
        return UserError(f"There is no configuration {missing}.yaml{nearest(option, composition.options(''))}")
    chosen = _chosen_files(composition, parsed)
    naming = [name for name in [*chosen, "local/default"] if composition.file_chooses(name, missing)]
    return _unknown_option(group, option, f" (in {naming[0]}.yaml)" if naming else "", composition)


def _circle(composition: Composition, parsed: list[Override]) -> UserError:
    """Return the error for files that include each other, which Hydra follows until Python gives up."""
    for name in _chosen_files(composition, parsed):
        if {f"/{name}", name.rpartition("/")[2]} & set(composition.included(name)):
            return UserError(f"The defaults list of {name}.yaml has the file itself: leave it out there.")
    return UserError(
        "A defaults list leads back to its own file, or a value is nested too deeply: let no file include itself."
    )


def _chosen_files(composition: Composition, parsed: list[Override]) -> list[str]:
    """Return the names of the files that overrides choose, such as "model/gpt"."""
    groups = [override for override in parsed if composition.is_group(override.key_or_group)]
    return [f"{each.key_or_group}/{each.value()}" for each in groups if isinstance(each.value(), str)]


def _mistaken_group(error: Exception, choices: list[Override]) -> UserError | None:
    """Return the error for a group override that does not fit the other choices."""
    message = str(error)
    for override in choices:
        key, typed = override.get_key_element(), override.input_line or ""
        if f"Could not override '{key}'" in message or f"Could not delete '{key.lstrip('~')}" in message:
            return UserError(f"{typed} changes nothing: the other choices have no {key.lstrip('~')}.")
        if override.is_add() and f"{override.key_or_group}" in message:
            return UserError(f"{typed} adds a second choice for the group: leave out the +.")
        if override.is_force_add():
            return UserError(f"{typed} chooses an option of a group: leave out the ++.")
    return None


def _mistaken_key(key: str, override: Override, base: dict[str, object]) -> UserError | None:
    """Return the error for an override of a key that the chosen configuration does not have."""
    parts = key.split(".")
    node: object = base
    for depth, part in enumerate(parts):
        path = ".".join(parts[: depth + 1])
        if isinstance(node, list):
            node = {str(index): item for index, item in enumerate(node)}
        if not isinstance(node, dict):
            return UserError(f"There is no key {path}: {'.'.join(parts[:depth])} is a single value.")
        if part not in node:
            if override.is_add() or override.is_force_add():
                return None
            siblings = {str(name) for name in node if not str(name).startswith("_")}
            if depth == 0:
                groups = {str(group) for group in base["hydra"]["runtime"]["choices"]}  # type: ignore[index]
                siblings = siblings - {"hydra"} | {group for group in groups if "/" not in group}
            return unknown_key(path, siblings, all_keys(base))
        node = node[part]
    if override.is_add():
        return UserError(f"{override.input_line} adds a key that exists already: leave out the +.")
    return None


def all_keys(tree: object, path: str = "") -> list[str]:
    """Return the dotted paths of all keys of a plain configuration, except Hydra's own."""
    found = []
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if (path or key != "hydra") and not str(key).startswith("_"):
            inner = f"{path}.{key}" if path else str(key)
            found += [inner, *all_keys(value, inner)]
    return found
