"""The code of a run: what changes its hash, and what does not."""

import importlib
import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import FunctionType

import pytest

from charlab.errors import UserError
from charlab.runs.code import changed, code_hash, sources_of
from charlab.runs.source import digest_of
from tests.helpers.warm import warm

ROOT = Path(__file__).parents[2]

SOURCE = '''
"""A model."""
import torch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from somewhere import Tensor


class Net:
    """It doubles."""

    factor = 2  # twice

    def forward(self, x: "Tensor") -> "Tensor":
        """Return twice x."""
        return x * self.factor
'''

SAME_SOURCE = '''
import torch
from typing import TYPE_CHECKING
if TYPE_CHECKING: from elsewhere import Array
class Net:
    "It says this differently."
    factor = 0x2
    """What x is multiplied by."""
    def forward(
        self,
        x: 'Tensor',
    ) -> 'Tensor':
        pass
        return (x * self.factor)
'''


def test_comments_docstrings_and_layout_do_not_count():
    assert digest_of(SOURCE) == digest_of(SAME_SOURCE)


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ("factor = 2", "factor = 2.0"),
        ("x * self.factor", "self.factor * x"),
        ("return x *", "yield x *"),
        ('x: "Tensor"', 'x: "Tensor" = None'),
        ("import torch", "import torch as t"),
        ("class Net:", "class Net(object):"),
        ("def forward", "async def forward"),
        ("factor = 2", "factor = True"),
        ("factor = 2", "factor = None"),
    ],
)
def test_every_change_of_what_is_computed_counts(former, new):
    assert former in SOURCE
    assert digest_of(SOURCE.replace(former, new)) != digest_of(SOURCE)


# Where versions of Python differ: f-strings, escapes, positions, empty type parameters, what a text's kind is.
VERSIONS_DIFFER = {
    "f-strings": '''
a = f"{x}" "y" f"z{w!r:>{n}}" rf"\\d{q}" f"{{}}" f"{v = }" f"{v:}" f"{u:.{p}f}" f"" "é" f"ß{s}\\n" "\\N{BULLET}"
b = f"""
{x
 + 1}""" f'{d["k"]}'
''',
    "classes": '''
class A(B, metaclass=C):
    """Text\n        indented."""
    x: int = 1
    def f(self, a, /, b=1, *c, d=None, **e): return lambda *, g: (yield)
async def h(): return [i async for i in j if (k := await i)]
''',
    "constants": """
c = (u"text", b"\\x00\\xff", 1_000, 0xFF, 1e400, 1.0, 1j, ..., None, True, "\\U0001fae8", "\\ud800", -0.0, 10**30)
""",
    "statements": """
match p:
    case {"a": [1, *_], **rest} if rest: pass
    case A(x=None) | "s": pass
try: pass
except* ValueError as e: raise
with (open(f) as g, h): del i[1:2, ...]
global_ = {**a, "b": [*c]} ; x @= y ; z[1:, ::2] += 1
for q, in r: continue
else: assert s, "t"
""",
}
DIGESTS = {
    "f-strings": "7f50518fe277",
    "classes": "957d91d77d15",
    "constants": "12a30e0caed2",
    "statements": "996eb5bd02e8",
}

PRINT_DIGESTS = """
import json, sys
from charlab.runs.source import digest_of
print(json.dumps({name: digest_of(text) for name, text in json.load(sys.stdin).items()}))
"""


def interpreters(version):
    """Return the interpreters of a version of Python on this machine."""
    here = [sys.executable] if version == f"{sys.version_info.major}.{sys.version_info.minor}" else []
    homes = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin"))
    found = [*here, shutil.which(f"python{version}"), *(str(home / "python") for home in homes)]
    found = list(filter(None, dict.fromkeys(found)))
    return [python for python in found if subprocess.run([python, "-V"], capture_output=True).returncode == 0]


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_version_of_python_does_not_count(version):
    """The hashes above were computed by all three."""
    if not (found := interpreters(version)):
        pytest.skip(f"Python {version} is not installed")
    for python in found:
        printed = subprocess.run(
            [python, "-c", PRINT_DIGESTS],
            input=json.dumps(VERSIONS_DIFFER),
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert json.loads(printed) == DIGESTS, python


# --- What is followed -------------------------------------------------------------------------------------------------

PROJECT = {
    "pyproject.toml": """
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "student-lab"
        version = "1.0"
        [tool.setuptools]
        packages = ["studentlab"]
        """,
    "studentlab/__init__.py": "",
    "studentlab/models.py": """
        import torch
        from .blocks import Block


        class Net:
            def forward(self, x):
                return Block()(x)
        """,
    "studentlab/blocks.py": """
        class Block:
            def __call__(self, x):
                from studentlab import activations
                return activations.relu(x)
        """,
    "studentlab/activations.py": """
        def relu(x):
            return max(x, 0)
        """,
    "studentlab/unrelated.py": "x = 1",
}
TARGET = "studentlab.models.Net"
REACHED = ["studentlab", "studentlab.activations", "studentlab.blocks", "studentlab.models"]


@pytest.fixture
def project(tmp_path):
    """The folder of a student's project."""
    for name, text in PROJECT.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "project"


def sources(*sites, target=TARGET, always=()):
    """What `sources_of` finds in a process of its own in which these folders are sites of packages."""
    code = f"""
import json, site, sys
for folder in {list(map(str, sites))!r}:
    site.addsitedir(folder)
from charlab.runs.code import sources_of
print(json.dumps(sources_of({{"model": {{"_target_": {target!r}}}}}, {tuple(always)!r})))
assert not any(name.startswith("studentlab") for name in sys.modules), "it was imported"
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(warm([sys.executable, "-c", code]), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def edit(path, former, new):
    text = path.read_text()
    assert former in text
    path.write_text(text.replace(former, new))


def assert_edits_count(folder, read):
    """Edit a package in `folder` and compare what `read` finds."""
    first = read()
    assert sorted(first) == REACHED
    edit(folder / "models.py", "Block()(x)", "-Block()(x)")
    second = read()
    assert changed(first, second) == ["studentlab.models"]
    assert code_hash(first) != code_hash(second)
    edit(folder / "activations.py", "max(x, 0)", "max(x, 0.1)")
    assert changed(second, read()) == ["studentlab.activations"]
    edit(folder / "activations.py", "max(x, 0.1)", "max(x, 0)  # a comment")
    edit(folder / "blocks.py", "class Block:", 'class Block:\n    """A docstring."""\n')
    edit(folder / "unrelated.py", "x = 1", "x = 2")
    assert read() == second


def test_a_package_in_a_folder_counts_by_the_files_it_reaches(project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    assert_edits_count(project / "studentlab", lambda: sources_of({"model": {"_target_": TARGET}}, ()))
    assert "studentlab" not in sys.modules, "it was imported"


def install(project, prefix, *options):
    """Install a project with pip below `prefix` and return the folder of the packages there."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    options = ("--ignore-installed", "--disable-pip-version-check", "--prefix", str(prefix), *options)
    subprocess.run([*command, *options, str(project)], check=True, capture_output=True)
    return prefix / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"


@pytest.mark.slow
def test_a_package_that_is_installed_editable_counts_by_its_files(project, tmp_path):
    site = install(project, tmp_path / "env", "-e")
    assert not (site / "studentlab").exists()
    assert_edits_count(project / "studentlab", lambda: sources(site))


@pytest.mark.slow
def test_a_package_that_is_installed_from_a_folder_counts_by_its_files(project, tmp_path):
    site = install(project, tmp_path / "env")
    assert_edits_count(site / "studentlab", lambda: sources(site))


@pytest.mark.slow
def test_a_package_from_an_index_counts_by_its_version(project, tmp_path):
    site = install(project, tmp_path / "env")
    (dist_info,) = site.glob("student_lab-*.dist-info")
    (dist_info / "direct_url.json").unlink()  # as it is after an installation from an index
    assert sources(site) == {"student-lab": "1.0"}
    edit(dist_info / "METADATA", "Version: 1.0", "Version: 1.1")
    assert sources(site) == {"student-lab": "1.1"}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "mine.py").write_text("import studentlab.models\n")
    assert sources(site, mine, target="mine.Net").keys() == {"mine", "student-lab"}
    assert sources(site, mine, target="torch.nn.Linear", always=["mine"]).keys() == {"mine"}
    (mine / "mine.py").write_text("""
def needs_it():
    import studentlab.models

def leads_to_it():
    return needs_it

def alone():
    return 1

class Alone:
    pass
""")
    reached = {name: sources(site, mine, target=f"mine.{name}").keys() for name in ("leads_to_it", "alone", "Alone")}
    assert reached == {"leads_to_it": {"mine", "student-lab"}, "alone": {"mine"}, "Alone": {"mine"}}


@pytest.mark.slow
def test_the_platform_counts_for_nothing():
    assert sources(target="torch.optim.AdamW") == {}


def test_charlab_counts_as_far_as_it_is_reached():
    found = sources_of({"model": {"_target_": "charlab.models.bigram.Bigram"}})
    assert {"charlab.models.bigram", "charlab.models.contract", "charlab.training.module"} <= found.keys()
    assert {"charlab.seeding", "charlab.data.windows", "charlab.evaluation.protocols"} <= found.keys()
    assert {"charlab.evaluation.online", "charlab.training.callbacks.metrics"} <= found.keys()
    conduct = {"charlab.runs", "charlab.runs.train", "charlab.runs.setup", "charlab.runs.origin"}
    assert {name for name in found if name.startswith("charlab.runs")} == conduct
    apart = (
        "charlab.models.rnn",
        "charlab.models.mixture",
        "charlab.models.smoothing",
        "charlab.curves",
        "charlab.studies",
        "charlab.api",
        "charlab.cli",
    )
    assert not [name for name in found if name.startswith(apart)]


def test_an_extra_counts_only_where_it_is_used():
    optimizer = "charlab.training.optimizers."
    used = {name: sources_of({"optimizer": {"_target_": optimizer + name}}) for name in ("adamw", "sgd", "lion")}
    extras = {name: [part for part in found if not part.startswith("charlab")] for name, found in used.items()}
    assert extras == {"adamw": [], "sgd": [], "lion": ["pytorch_optimizer"]}
    corpus = {"data": {"_target_": "charlab.data.corpora.PublishedText"}}
    assert [name for name in sources_of(corpus) if not name.startswith("charlab")] == []


def test_what_only_shows_a_run_does_not_count():
    found = sources_of({"model": {"_target_": "charlab.models.bigram.Bigram"}})
    shows = ("configuration", "training.loggers", "training.callbacks.progress", "training.callbacks.samples", "errors")
    assert not [name for name in found if name.startswith(tuple(f"charlab.{part}" for part in shows))]
    assert [name for name in found if not name.startswith("charlab.")] == []


def test_a_nested_part_and_a_named_function_are_followed(project):
    nested = {"model": {"_target_": "torch.nn.Linear", "parts": [{"mixer": {"_target_": TARGET, "_partial_": True}}]}}
    named = {"model": {"_target_": "hydra.utils.get_class", "path": TARGET}}
    sys.path.insert(0, str(project))
    try:
        assert [sorted(sources_of(config, ())) for config in (nested, named)] == [REACHED, REACHED]
    finally:
        sys.path.remove(str(project))


@pytest.mark.parametrize("package", ["__package__", "package='studentlab'"])
def test_a_module_that_is_imported_by_a_relative_name_is_followed(project, monkeypatch, package):
    blocks = f"from importlib import import_module\n\nactivations = import_module('.activations', {package})\n"
    (project / "studentlab" / "blocks.py").write_text(blocks)
    monkeypatch.syspath_prepend(project)
    assert sorted(sources_of({"_target_": TARGET}, ())) == REACHED


@pytest.mark.parametrize("star", ["from . import *", "from studentlab import *"])
def test_a_module_that_is_imported_by_a_star_is_followed(project, monkeypatch, star):
    (project / "studentlab" / "__init__.py").write_text('__all__ = ["activations"]\n')
    (project / "studentlab" / "blocks.py").write_text(f"{star}\n\nclass Block: relu = activations.relu\n")
    monkeypatch.syspath_prepend(project)
    assert sorted(sources_of({"_target_": TARGET}, ())) == REACHED


def test_a_module_without_source_counts_by_its_bytes(project, monkeypatch):
    file, compiled = (project / "studentlab" / f"activations.{suffix}" for suffix in ("py", "pyc"))
    py_compile.compile(str(file), str(compiled))
    monkeypatch.syspath_prepend(project)
    file.rename(file.with_suffix(".txt"))
    found = sources_of({"_target_": TARGET}, ())
    assert sorted(found) == REACHED
    compiled.write_bytes(compiled.read_bytes() + b"\0")
    assert changed(found, sources_of({"_target_": TARGET}, ())) == ["studentlab.activations"]


def test_a_users_file_that_is_named_like_a_standard_module_counts(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "sched", raising=False)
    assert sources_of({"_target_": "sched.scheduler"}, ()) == {}
    (tmp_path / "sched.py").write_text("import json\nimport graphlib\nclass Halving: x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = sources_of({"_target_": "sched.Halving"}, ())
    assert found.keys() == {"sched"}
    edit(tmp_path / "sched.py", "x = 1", "x = 2")
    assert changed(found, sources_of({"_target_": "sched.Halving"}, ())) == ["sched"]


REGISTRY = """
MAKERS = {}


def register(function):
    MAKERS[function.__name__] = function
    return function


@register
def small():
    from studentlab.activations import relu

    return relu


def other():
    from studentlab import unrelated

    return unrelated


def make(*, kind):
    return MAKERS[kind]()
"""


def test_a_function_that_a_decorator_registers_is_followed(project, monkeypatch):
    (project / "studentlab" / "registry.py").write_text(REGISTRY)
    monkeypatch.syspath_prepend(project)
    config = {"_target_": "studentlab.registry.make", "kind": "small"}
    assert sorted(sources_of(config, ())) == ["studentlab", "studentlab.activations", "studentlab.registry"]


def test_a_file_that_is_no_python_is_named(project):
    edit(project / "studentlab" / "blocks.py", "class Block:", "class Block")
    sys.path.insert(0, str(project))
    try:
        with pytest.raises(UserError, match=r"blocks\.py, line 2, is not Python"):
            sources_of({"_target_": TARGET}, ())
    finally:
        sys.path.remove(str(project))


# --- What is loaded ---------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(project, monkeypatch):
    """The project, imported into this process."""
    monkeypatch.syspath_prepend(project)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.import_module("studentlab.models")
    yield project / "studentlab"
    for name in [name for name in sys.modules if name.partition(".")[0] == "studentlab"]:
        del sys.modules[name]


def now():
    return sources_of({"_target_": TARGET}, ())


@pytest.mark.parametrize("looked_before", [True, False])
def test_an_edit_after_the_import_is_refused_until_the_module_is_reloaded(loaded, looked_before):
    before = now() if looked_before else None
    edit(loaded / "models.py", "Block()(x)", "-Block()(x)")
    with pytest.raises(UserError, match=r"models\.py was edited after studentlab\.models had been imported: restart"):
        now()
    importlib.reload(sys.modules["studentlab.models"])
    assert before is None or changed(before, now()) == ["studentlab.models"]


def test_a_comment_after_the_import_is_no_edit(loaded):
    before = now()
    edit(loaded / "models.py", "class Net:", "class Net:  # a comment")
    assert now() == before


def test_an_edit_with_a_former_time_is_seen(loaded):
    now()
    time = (loaded / "models.py").stat().st_mtime_ns
    edit(loaded / "models.py", "Block()(x)", "Block()(y)")
    os.utime(loaded / "models.py", ns=(time, time))
    with pytest.raises(UserError, match="was edited"):
        now()


def test_who_imports_a_reloaded_module_is_to_be_reloaded_too(loaded):
    now()
    edit(loaded / "blocks.py", "activations.relu(x)", "-activations.relu(x)")
    importlib.reload(sys.modules["studentlab.blocks"])
    with pytest.raises(UserError, match=r"blocks was reloaded, but studentlab\.models, which imports it"):
        now()
    importlib.reload(sys.modules["studentlab.models"])
    assert sorted(now()) == REACHED


def test_a_function_that_a_notebook_puts_into_a_class_of_a_module_is_refused(loaded, monkeypatch):
    now()
    forward = FunctionType((lambda self, x: x).__code__, vars(sys.modules["__main__"]))
    monkeypatch.setattr(sys.modules["studentlab.models"].Net, "forward", forward)
    with pytest.raises(UserError, match=r"studentlab\.models\.Net\.forward is a function of the notebook"):
        now()


def test_looking_for_a_module_is_not_loading_it(loaded):
    before = now()
    importlib.util.find_spec("studentlab.activations")
    edit(loaded / "activations.py", "max(x, 0)", "max(x, 1)")  # not imported yet: only a call does that
    assert changed(before, now()) == ["studentlab.activations"]
    importlib.import_module("studentlab.activations")
    assert changed(before, now()) == ["studentlab.activations"]


def test_an_edit_between_a_models_import_and_its_first_run_is_seen(tmp_path):
    (tmp_path / "mine.py").write_text("import charlab\nclass Net: x = 1\n")
    code = """
import time
import mine
time.sleep(0.05)  # more than the clock of a file system is late
open("mine.py", "w").write("class Net: x = 2\\n")
from charlab.runs.code import sources_of
sources_of({"_target_": "mine.Net"}, ())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(tmp_path)])}
    done = subprocess.run(
        warm([sys.executable, "-c", code]), env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert "mine.py was edited after mine had been imported" in done.stderr
