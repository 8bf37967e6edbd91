"""Values that name folders and seed generators, and the parts of a run that the user names."""

import pytest

from charlab.configuration.compose import compose
from charlab.errors import UserError


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("name=../x", "name='../x' is not a valid folder name: use letters, digits and the signs _ . + - only."),
        ("name=''", "name='' is not a valid folder name: use letters, digits and the signs _ . + - only."),
        (f"name={'a' * 300}", "name has 300 bytes, too many for a folder: use 200 at most."),
        (f"name={'ä' * 150}", "name has 300 bytes, too many for a folder: use 200 at most."),
        ("seed=9223372036854775808", "seed=9223372036854775808 is too large for a random-number generator: give at"),
        ("output_dir=", "output_dir is empty: name a folder, or output_dir=. for the one you are in."),
        ("data.path=", "data.path is empty: name a file, or data.path=. for all files in the folder that you are in."),
        ("callbacks.samples=3", "callbacks.samples must be a mapping with a _target_, or null, which leaves"),
        ("logger.csv=3", "logger.csv must be a mapping with a _target_, or null, which leaves"),
    ],
)
def test_what_a_run_could_not_begin_with(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        compose(["model=bigram", override])
    assert str(raised.value).startswith(sentence)


def test_what_it_can_begin_with() -> None:
    config = compose(["model=bigram", "name=part1-bigram_2.0+x", "callbacks.samples=null", "logger=null"])
    assert config.callbacks.samples is None
