"""What the quickstart says of counting."""

import re

import pytest

import charlab
from charlab.configuration.compose import compose


@pytest.mark.slow
def test_counting_reaches_what_the_quickstart_says(tmp_path):
    note = compose(["experiment=quickstart"]).note
    perplexity, command = re.fullmatch(r"counting 7-grams reaches a perplexity of ([\d.]+) \((.*)\)", note).groups()
    record = charlab.run(*command.split(), f"output_dir={tmp_path}", "data.context_length=64")
    assert f"{record.metric('sliding')['perplexity']:.3f}" == perplexity
