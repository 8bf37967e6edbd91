"""Classes of a notebook: what a run keeps of them, what an edit in a cell does, what other processes need."""

import functools
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

import charlab
from charlab.errors import UserError
from charlab.runs.record import Record
from tests.helpers.warm import warm

# Cells are executed as IPython does it: each compiled under a name of its own, by which `linecache` knows its source.
KERNEL = """
import hashlib, linecache, sys, traceback

def cell(text):
    name = f"/tmp/ipykernel_1/{hashlib.sha256(text.encode()).hexdigest()[:10]}.py"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), sys.modules["__main__"].__dict__)
"""

IMPORTS = """
import torch
from torch import nn
import torch.nn.functional as F
from charlab.models.contract import AutoregressiveModel
import charlab
"""

CONSTANTS = """
SCALE = 1.0
NAMES = {"table": [1, 2]}
"""

PARTS = """
def scaled(x):
    return SCALE * x
"""

MODEL = '''
class Base(AutoregressiveModel):
    pass

class Mine(Base):
    """A bigram."""

    def __init__(self, vocab_size: int, *, context_length: int = 8, std: float = 0.1) -> None:
        super().__init__()
        assert "table" in NAMES
        self.vocab_size, self.context_length = vocab_size, context_length
        self.table = nn.Embedding(vocab_size, vocab_size)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, tokens):
        return scaled(self.table(tokens))
'''

EDITED = MODEL.replace("scaled(self", "scaled(3 * self")

LIGHT_IMPORTS = """
import json
import json.decoder as decoder
from collections import OrderedDict
import charlab
"""

LIGHT = '''
class Base(OrderedDict):
    pass

class Mine(Base):
    """It scales."""

    def __init__(self, width: int = 8) -> None:
        assert "table" in NAMES
        self.width, self.decoder = width, decoder.JSONDecoder()

    def forward(self, x):
        return scaled(x)
'''

TORCH = [IMPORTS, CONSTANTS, PARTS, MODEL]
NOTEBOOK = [LIGHT_IMPORTS, CONSTANTS, PARTS, LIGHT]  # for what needs no torch, which takes seconds to import
EXTRACT = """
from charlab.runs import definitions
from charlab.runs.code import sources_of
from charlab.errors import UserError
try:
    print(definitions.extract(["Mine"]))
    print("CODE", sources_of({"_target_": "__main__.Mine"}, ()))
except UserError as error:
    print("REFUSED", error)
"""


def notebook(cells, folder, *more, check=True):
    """Run cells in a separate process and return what they print."""
    path = folder / "notebook.json"
    path.write_text(json.dumps([textwrap.dedent(cell) for cell in cells]))
    code = f"{KERNEL}\nimport json\nfor text in json.load(open({str(path)!r})): cell(text)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*more, *filter(None, sys.path)]))}
    done = subprocess.run(
        warm([sys.executable, "-c", code]), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout


def extracted(cells, folder):
    printed = notebook([*cells, EXTRACT], folder)
    text, _, code = printed.rpartition("CODE ")
    return text, code


def test_what_a_class_refers_to_is_gathered(tmp_path):
    unused = "UNUSED = object()\nclass Other(Base):\n    pass\n"
    text, _ = extracted([*NOTEBOOK, unused], tmp_path)
    assert text.index("class Base") < text.index("class Mine")
    lines = ("import json.decoder as decoder", "from collections import OrderedDict", "SCALE = 1.0", "def scaled(x):")
    for line in (*lines, "NAMES = {'table': [1, 2]}"):
        assert line in text
    for name in ("UNUSED", "Other", "charlab", "import json\n"):
        assert name not in text
    namespace = {"__name__": "elsewhere"}
    exec(compile(text, "definitions.py", "exec"), namespace)
    assert namespace["Mine"]().forward(3) == 3


def test_what_a_notebook_imports_is_followed(tmp_path):
    (tmp_path / "mine.py").write_text("def scaled(x): return x")
    cells = [LIGHT_IMPORTS, CONSTANTS, "from mine import scaled", LIGHT]
    assert "from mine import scaled" in extracted(cells, tmp_path)[0]
    _, before = extracted(cells, tmp_path)
    (tmp_path / "mine.py").write_text("def scaled(x): return 2 * x")
    assert extracted(cells, tmp_path)[1] != before


def test_definitions_that_refer_to_each_other_keep_their_order(tmp_path):
    cell = """
        class A:
            def f(self): return C()
        class C(A):
            def g(self): return A()
        """
    printed = notebook([cell, "from charlab.runs import definitions\nprint(definitions.extract(['A', 'C']))"], tmp_path)
    assert printed.index("class A") < printed.index("class C")
    printed = notebook([cell, "from charlab.runs import definitions\nprint(definitions.extract(['C']))"], tmp_path)
    assert printed.index("class A") < printed.index("class C")


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ("scaled(x)\n", "scaled(2 * x)\n"),
        ("SCALE * x", "SCALE + x"),
        ("SCALE = 1.0", "SCALE = 2.0"),
        pytest.param("[1, 2]", "[1, 3]", marks=pytest.mark.slow),
        pytest.param("    pass", "    has_scores = False", marks=pytest.mark.slow),
        pytest.param("width: int = 8", "width: int = 9", marks=pytest.mark.slow),
    ],
)
def test_an_edit_of_what_is_used_counts(tmp_path, former, new):
    assert sum(former in cell for cell in NOTEBOOK) == 1
    _, before = extracted(NOTEBOOK, tmp_path)
    _, after = extracted([cell.replace(former, new) for cell in NOTEBOOK], tmp_path)
    assert before != after


def test_comments_docstrings_and_cells_apart_do_not_count(tmp_path):
    _, before = extracted(NOTEBOOK, tmp_path)
    commented = LIGHT.replace("It scales.", "It says so.").replace("return", "# as said\n        return")
    apart = [
        LIGHT_IMPORTS + "import math\n",
        "unused = object()",
        "def scaled(x): return x",
        CONSTANTS + PARTS,
        commented,
    ]
    assert extracted(apart, tmp_path)[1] == before


def test_the_last_execution_of_a_cell_counts(tmp_path):
    _, before = extracted(NOTEBOOK, tmp_path)
    other = LIGHT.replace("scaled(x)", "scaled(3 * x)")
    _, edited = extracted([*NOTEBOOK, other], tmp_path)
    assert edited == extracted([LIGHT_IMPORTS, CONSTANTS, PARTS, other], tmp_path)[1] != before
    assert extracted([*NOTEBOOK, other, LIGHT], tmp_path)[1] == before


def test_a_file_that_is_run_again_after_an_edit_counts_as_it_is_now(tmp_path):
    """As by `%run` and in the consoles of editors."""
    run = """
        from pathlib import Path
        from charlab.runs import definitions
        def run(text):
            Path("script.py").write_text(text)
            exec(compile(text, "script.py", "exec"), globals())
        run("class Mine:\\n    def size(self): return 1\\n")
        print(definitions.extract(["Mine"]))
        run("class Mine:\\n    def size(self): return 1000\\n")
        print(definitions.extract(["Mine"]))
        Path("script.py").write_text("class Mine:\\n    def size(self): return 1000000\\n")  # not run yet
        print(definitions.extract(["Mine"]))
        """
    sizes = [line.split()[-1] for line in notebook([run], tmp_path).splitlines() if "return" in line]
    assert sizes == ["1", "1000", "1000"]


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (
            "SCALE = decoder.JSONDecoder()",
            "__main__.scaled refers to SCALE, an object of JSONDecoder that the notebook",
        ),
        ("scaled = lambda x: x", "whose definition cannot be found by that name"),
        (
            "def forward(self, x): return x\nMine.forward = forward",
            "forward was put into __main__.Mine after that had been defined",
        ),
        ("del Mine", "There is no Mine in the notebook or script that was run"),
        ("exec('def scaled(x): return x')", "The source of __main__.scaled is not known"),
        (
            "WIDTH = 8\nclass Mine:\n    def __init__(self, *, width=WIDTH): self.width = width\nWIDTH = 16",
            "__main__.Mine was defined when WIDTH was 8, and it is 16 now: run the definition of Mine again.",
        ),
        (
            "WIDTH = 8\nclass Mine:\n    width: int = 2 * WIDTH\n    def size(self): return self.width\nWIDTH = 16",
            "__main__.Mine was defined when 2 * WIDTH was 16, and it is 32 now: run the definition of Mine again.",
        ),
        (
            "def act(x): return x\nclass Mine:\n    def call(self, x, act=act): return act(x)\ndef act(x): return -x",
            "__main__.Mine still has the former act, which was defined again since: run the definition of Mine again.",
        ),
        (
            "class Mine:\n    depth = 4\n    def size(self): return self.depth\nMine.depth = 8",
            "__main__.Mine has depth=8, and its definition says 4: run the definition of Mine again.",
        ),
        (
            "class Base(OrderedDict):\n    has_scores = False",
            "__main__.Mine still has the former Base as its base, which was defined again since: run the definition of",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path, cell, sentence):
    printed = notebook([*NOTEBOOK, cell, EXTRACT], tmp_path)
    assert "REFUSED" in printed
    assert sentence in printed


REDEFINED = """
def size(): return 1
class Mine(OrderedDict):
    size = 3
    count = 0
    seen = []
    twice = 2 * size
    def forward(self, x, size=size):
        Mine.count += 1
        self.seen.append(x)
        return x
size = 5
Mine().forward(1)
"""


def test_attributes_of_a_class_are_no_names_of_the_notebook_and_may_be_changed_by_it(tmp_path):
    assert "twice = 2 * size" in extracted([LIGHT_IMPORTS, REDEFINED], tmp_path)[0]


@pytest.mark.parametrize("beginning", ["class Mine(OrderedDict):\n", "@dataclass\nclass Mine:\n"])
@pytest.mark.parametrize("end", ["    width: int = 16", "    width: int = 8\n    depth: int = 1", "    sizes = [16]"])
def test_a_class_without_functions_is_the_one_that_was_defined_last(tmp_path, beginning, end):
    imports = LIGHT_IMPORTS + "from dataclasses import dataclass\n"
    cell, other = f"{beginning}    width: int = 8", f"{beginning}{end}"
    printed = notebook([imports, cell, EXTRACT, other, EXTRACT, cell, EXTRACT, other, EXTRACT], tmp_path)
    for text, defined in zip(printed.split("CODE")[:4], (cell, other, cell, other), strict=True):
        assert text.rstrip().endswith(defined)


@pytest.mark.parametrize(
    ("again", "sentence"),
    [
        ("", "still has the former Base as its base, which ownparts has defined again since: import it again, and run"),
        ("from ownparts import Base", "still has the former Base as its base, which ownparts has defined again since"),
        (f"from ownparts import Base\n{LIGHT}", "scaled refers to the former factor, which ownparts has"),
    ],
)
def test_what_a_reloaded_module_has_defined_again_is_refused(tmp_path, again, sentence):
    (tmp_path / "ownparts.py").write_text("class Base:\n    width = 8\ndef factor(): return 1\n")
    light = LIGHT.replace("class Base(OrderedDict):\n    pass\n", "")
    cells = [
        LIGHT_IMPORTS + "import importlib, ownparts\nfrom pathlib import Path\nfrom ownparts import Base, factor",
        CONSTANTS,
        "def scaled(x): return factor() * x",
        light,
        """Path("ownparts.py").write_text("class Base:\\n    width = 1000\\ndef factor(): return 2\\n")""",
        "importlib.reload(ownparts)",
        again.replace("class Base(OrderedDict):\n    pass\n", ""),
    ]
    assert sentence in notebook([*cells, EXTRACT], tmp_path)


OTHER = """
class Another:
    def __init__(self):
        self.scaled = scaled(2)
"""
IMPORT = """
from pathlib import Path
from charlab.runs import definitions
definitions.import_into_main(definitions.extract(["Another", "Mine"]), Path("run"))
"""


def test_what_is_imported_from_a_run_is_known_by_the_source_there(tmp_path):
    told = extracted(NOTEBOOK, tmp_path)
    imported = [*NOTEBOOK, OTHER, IMPORT]
    assert extracted([*imported, "SCALE = 5.0"], tmp_path) == told  # not that of `scaled`, which has its own
    again = extracted([*imported, LIGHT.replace("scaled(x)", "scaled(3 * x)")], tmp_path)
    assert "scaled(3 * x)" in again[0]
    assert again[1] != told[1]
    mixed = """
        def scaled(x): return x
        class Third:
            def f(self): return scaled(1)
        try:
            definitions.extract(["Mine", "Third"])
        except definitions.UserError as error:
            print("REFUSED", error)
        """
    printed = notebook([*imported, mixed], tmp_path)
    assert "REFUSED __main__.Third refers to another scaled than the other parts of this run" in printed


def test_a_part_of_what_a_run_kept_is_what_it_would_be_alone(tmp_path):
    narrow = """
        from charlab.runs import definitions
        kept = definitions.extract(["Another", "Mine"])
        assert kept.index("def scaled") < kept.index("class Mine")
        for names in (["Another"], ["Mine"], ["Another", "Mine"]):
            print(definitions.extract(names, kept) == definitions.extract(names))
        """
    assert notebook([*NOTEBOOK, OTHER, narrow], tmp_path).split() == ["True"] * 3


def printed_by(code, folder):
    """Run a script in a folder, and return the words that it prints."""
    (folder / "script.py").write_text(code)
    os.utime(folder / "script.py", (0, 0))  # written before the process began, which may be a fork of an older one
    done = subprocess.run(warm([sys.executable, "script.py"]), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_script_may_define_two_models(tmp_path):
    """Neither is an edit of the other."""
    code = """
from charlab.runs.code import sources_of
class A:
    def size(self): return 1
class B:
    def size(self): return 2
print(*(sources_of({"_target_": f"__main__.{name}"}, ())["__main__"] for name in "ABA"))
"""
    first, second, again = printed_by(code, tmp_path)
    assert first == again != second


def test_a_script_may_give_a_constant_one_value_after_another(tmp_path):
    """That is no edit of its file."""
    code = """
from charlab.runs.code import sources_of
class Mine:
    def size(self): return WIDTH
for WIDTH in (1, 2, 1):
    print(sources_of({"_target_": "__main__.Mine"}, ())["__main__"])
"""
    first, second, again = printed_by(code, tmp_path)
    assert first == again != second


def test_a_class_without_code_and_a_dataclass_are_found(tmp_path):
    cells = """
        from dataclasses import dataclass
        @dataclass
        class Sizes:
            width: int = 3
        class Bare:
            sizes = Sizes(4)
        """
    find = """
        from charlab.runs import definitions
        print(definitions.extract(["Bare"]))
        """
    printed = notebook([cells, find], tmp_path)
    assert "@dataclass\nclass Sizes:\n    width: int = 3" in printed
    assert printed.index("class Sizes") < printed.index("class Bare")


@pytest.fixture
def overrides(text_path):
    """The command line of a run of a second."""
    return [
        "data=textfile",
        f"data.path={text_path}",
        "data.context_length=8",
        "data.batch_size=4",
        "trainer.accelerator=cpu",
        "trainer.max_steps=4",
        "callbacks.attention_maps=null",
        "callbacks.samples=null",
        "callbacks.evaluation.num_batches=2",
        "logger=csv",
    ]


@pytest.fixture
def undefined():
    """Let this process forget what it imported from the folder of a run."""

    def forget():
        for name in ("Mine", "Base", "scaled"):
            vars(sys.modules["__main__"]).pop(name, None)

    yield forget
    forget()


@pytest.mark.slow
def test_a_notebooks_class_is_trained_edited_and_loaded_elsewhere(tmp_path, overrides, undefined):
    run = f"""
        import functools
        record = charlab.run(*{overrides!r}, model=functools.partial(Mine, std=0.5))
        print("NLL", record.metric("blocks")["nll"])
        """
    printed = notebook([*TORCH, run, MODEL.replace("A bigram.", "A table."), run, EDITED, run], tmp_path)
    _, second, third = (" ".join(text.split()).partition(" ")[2] for text in printed.split("NLL")[:3])
    assert second.startswith("This run is finished already")
    assert third.startswith("This run was finished by different code (changed since: __main__)")
    values = [text.split()[0] for text in printed.split("NLL")[1:]]
    assert values[0] == values[1] != values[2]
    folders = sorted((tmp_path / "outputs" / "runs" / "Mine-textfile").iterdir())
    assert len(folders) == 2
    records = [Record.load(folder) for folder in folders]
    assert {record.config["model"]["std"] for record in records} == {0.5}
    old = next(record for record in records if "-" not in record.folder.name)
    with pytest.raises(
        UserError, match=r"Mine was defined in the notebook .* import it from .*definitions\.py with trust"
    ):
        charlab.load(old.folder)
    checks = charlab.verify(old.folder, quick=True, trust=True).set_index("check")
    assert checks.holds["code"], checks.found["code"]
    undefined()
    model, vocabulary = charlab.load(old.folder, trust=True)
    assert model(torch.zeros(1, 2, dtype=torch.long)).shape == (1, 2, len(vocabulary))


def ensemble_of_record(overrides):
    """A cell that trains an ensemble of the run `record`."""
    return f"""
        mixed = charlab.run(*{overrides!r}, "model=ensemble", f"model.runs=[{{record.folder}}]", name="mixed")
        print("NLL", mixed.metric("blocks")["nll"])
        """


@pytest.mark.slow
def test_an_ensemble_of_a_notebooks_class_is_trained_edited_and_loaded_elsewhere(tmp_path, overrides, undefined):
    run, mix = f"record = charlab.run(*{overrides!r}, model=Mine)\nprint('NLL', 0)", ensemble_of_record(overrides)
    printed = notebook([*TORCH, run, mix, mix, EDITED, mix], tmp_path).split("NLL")
    _, first, again, edited = (" ".join(text.split()).partition(" ")[2] for text in printed[:4])
    assert "different code" not in first
    assert again.startswith("This run is finished already")
    assert "was trained by different code (changed since: __main__): its weights now run in the changed" in edited
    assert edited.partition(". ")[2].startswith("This run was finished by different code (changed since: __main__)")
    folders = sorted((tmp_path / "outputs" / "runs" / "mixed").iterdir(), key=lambda folder: len(folder.name))
    assert len(folders) == 2
    seen = []
    for folder in folders:
        with pytest.raises(UserError, match=r"Mine was defined .*: import it from .*definitions\.py with"):
            charlab.load(folder)
        model, _ = charlab.load(folder, trust=True)
        seen.append(model(torch.zeros(1, 2, dtype=torch.long)))
        undefined()
    torch.testing.assert_close((3 * seen[0]).log_softmax(-1), seen[1])


@pytest.mark.slow
def test_an_edit_of_a_members_callback_is_none_of_its_model(tmp_path, overrides):
    callback = """
        from lightning.pytorch import Callback
        class Watch(Callback):
            def on_train_start(self, trainer, pl_module):
                self.seen = 1
        """
    run = f"""
        record = charlab.run(*{overrides!r}, model=Mine, callbacks={{"watch": Watch}})
        print("NLL", 0)
        """
    mix = ensemble_of_record([*overrides, "force=true"])  # a finished run says nothing of its members
    cells = [*TORCH, callback, run, mix, callback.replace("= 1", "= 2"), mix, "del Watch", mix, EDITED, mix]
    printed = notebook(cells, tmp_path).split("NLL")
    _, first, edited, deleted, of_other_code = (" ".join(text.split()).partition(" ")[2] for text in printed[:5])
    for text in (first, edited, deleted):
        assert "different code" not in text
    assert "was trained by different code (changed since: __main__)" in of_other_code


@pytest.mark.slow
def test_a_study_after_an_edited_cell_is_new_runs_and_the_old_ones_are_kept(tmp_path, overrides):
    study = f"""
        results = charlab.study("model=Mine", "seed=1,2", *{overrides!r}, model=Mine)
        print("STATES", sorted(result.status for result in results.cells))
        """
    keep = """
        from pathlib import Path
        kept = {path: path.read_bytes() for path in Path("outputs/runs").glob("*/*/*") if path.is_file()}
        """
    kept = "print('KEPT', len(kept), all(path.read_bytes() == former for path, former in kept.items()))"
    printed = notebook([*TORCH, study, keep, EDITED, study, kept], tmp_path)
    first, second, third = printed.split("STATES")
    assert "different code" not in first
    assert "2 cells of this study were run by different code (changed since: __main__)" in " ".join(second.split())
    for text in (second, third):
        assert text.startswith(" ['finished', 'finished']")
    number, same = third.partition("KEPT")[2].split()
    assert (int(number) >= 2 * 3, same) == (True, "True")
    records = [Record.load(path.parent) for path in tmp_path.glob("outputs/runs/Mine-textfile/*/record.json")]
    assert sorted(record.seed for record in records) == [1, 1, 2, 2]
    codes = {record.code: "-" in record.folder.name for record in records}
    assert sorted(codes.values()) == [False, True]
    figures = {(record.seed, record.code): record.metric("blocks")["nll"] for record in records}
    assert len(set(figures.values())) == 4


class NotAModel:
    def __init__(self, width=1):
        self.width = width


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"model": NotAModel()}, r"model is an instance of NotAModel: give the class, or functools\.partial"),
        ({"model": functools.partial(NotAModel, 3)}, "model has an argument without a name"),
        ({"model": functools.partial(NotAModel, width=torch.ones(1))}, r"model\.width is an instance of Tensor"),
        ({"model": lambda vocab_size: None}, "model is an instance of function"),
        ({"trainer": NotAModel}, "trainer=… cannot be given as a Python object: give model, optimizer"),
        ({"callbacks": NotAModel}, "callbacks=… cannot be given as a Python object"),
    ],
)
def test_objects_that_no_file_could_hold_are_refused(tmp_path, parts, sentence):
    with pytest.raises(UserError, match=sentence):
        charlab.run(f"output_dir={tmp_path}", **parts)
    assert not list(tmp_path.iterdir())


def test_a_class_that_was_defined_in_a_function_is_refused(tmp_path):
    class Inner(NotAModel):
        pass

    with pytest.raises(UserError, match=r"Inner is not, or no longer, found by that name"):
        charlab.run(f"output_dir={tmp_path}", model=Inner)
