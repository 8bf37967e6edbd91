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
    """Runs cells in a process of its own and returns what they print."""
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
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path, cell, sentence):
    printed = notebook([*NOTEBOOK, cell, EXTRACT], tmp_path)
    assert "REFUSED" in printed
    assert sentence in printed


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


@pytest.mark.slow
def test_a_notebooks_class_is_trained_edited_and_loaded_elsewhere(tmp_path, text_path):
    overrides = [
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
    run = f"""
        import functools
        record = charlab.run(*{overrides!r}, model=functools.partial(Mine, std=0.5))
        print("NLL", record.metric("blocks")["nll"])
        """
    commented, edited = MODEL.replace("A bigram.", "A table."), MODEL.replace("scaled(self", "scaled(3 * self")
    printed = notebook([*TORCH, run, commented, run, edited, run], tmp_path)
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
    try:
        model, vocabulary = charlab.load(old.folder, trust=True)
        assert model(torch.zeros(1, 2, dtype=torch.long)).shape == (1, 2, len(vocabulary))
    finally:
        for name in ("Mine", "Base", "scaled"):
            vars(sys.modules["__main__"]).pop(name, None)


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
        ({"trainer": NotAModel}, "trainer=… is no part that takes a Python object: give model, optimizer"),
        ({"callbacks": NotAModel}, "callbacks=… is no part"),
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
