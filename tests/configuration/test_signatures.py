from pathlib import Path
from typing import Any

import pytest

from charlab.configuration.build import UNKNOWN, find, signature
from charlab.errors import UserError


def test_forms_of_definition(package: Path) -> None:
    inherited, record, opened = (signature(f"toy.parts.{name}") for name in ("Inherits", "Record", "Open"))
    assert list(inherited.annotations) == ["width"]
    assert record.required == {"size"}
    assert set(record.annotations) == {"size", "tags"}  # neither the class variable nor what is not initialized
    assert opened.open
    assert signature("builtins.range") is UNKNOWN  # Python itself does not know it


def test_only_charlabs_own_code_keeps_its_positional_parameters_from_the_configuration(package: Path) -> None:
    net, bigram = signature("toy.parts.Net"), signature("charlab.models.bigram.Bigram")
    assert net.supplied == set()
    assert bigram.supplied == {"vocab_size"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("charlab.models.bigrm.Bigram", "There is no bigrm in charlab.models; did you mean bigram"),
        ("charlab.models.bigram.Bigrm", "There is no Bigrm in charlab.models.bigram; did you mean Bigram"),
        ("charlb.models", f"There is no module charlb (for charlb.models) in {Path.cwd()} or among the installed ones"),
    ],
)
def test_names_that_do_not_exist(name: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        find(name)
    assert str(raised.value).startswith(sentence)
    assert "did you mean" in str(raised.value)


def test_an_annotation_that_cannot_be_hashed_is_any_type(package: Path) -> None:
    described = "from typing import Annotated\ndef f(*, width: Annotated[int, {'doc': 'wide'}], depth: int): ...\n"
    (package / "described.py").write_text(described)
    assert signature("described.f").annotations == {"width": Any, "depth": int}


def test_a_script_that_exits_when_it_is_imported(package: Path) -> None:
    (package / "exiting.py").write_text("import sys\n\nclass Net: ...\n\nsys.exit(0)\n")
    with pytest.raises(UserError, match=r"Importing exiting failed in .*exiting\.py, line 5: SystemExit: 0"):
        find("exiting.Net")
