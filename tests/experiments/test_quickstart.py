"""What the quickstart and the README say of counting, of the floor and of the network."""

import math
import re
from pathlib import Path

import pytest

import charlab
from charlab.configuration.compose import compose
from charlab.runs.archive import Archive

ROOT = Path(__file__).parents[2]


def test_the_readme_has_the_figures_of_the_record():
    (record,) = (record for record in Archive(ROOT / "records").records() if record.name == "quickstart")
    reached, counting = record.metric("sliding")["perplexity"], re.search(r"[\d.]{5}", record.config["note"])[0]
    said = (
        f"perplexity of {math.exp(record.floor['validation']):.2f}. Counting 7-grams reaches {float(counting):.2f}; "
        f"this network reaches {reached:.2f} in its one minute on two cores."
    )
    assert said in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert record.config["note"] == compose(["experiment=quickstart"]).note


@pytest.mark.slow
def test_counting_reaches_what_the_quickstart_says(tmp_path):
    note = compose(["experiment=quickstart"]).note
    perplexity, command = re.fullmatch(r"counting 7-grams reaches a perplexity of ([\d.]+) \((.*)\)", note).groups()
    record = charlab.run(*command.split(), f"output_dir={tmp_path}", "data.context_length=64")
    assert f"{record.metric('sliding')['perplexity']:.3f}" == perplexity
