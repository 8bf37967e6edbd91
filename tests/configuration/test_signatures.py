from pathlib import Path

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
