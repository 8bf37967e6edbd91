"""From training to text: masked diffusion, whose nll is a bound, and who can fill in."""

import io
import re

import pytest
from rich.console import Console

import charlab
from charlab.configuration.compose import compose
from charlab.errors import UserError
from charlab.runs.display import print_summary
from charlab.runs.generate import generate_from_run
from tests.helpers.tiny_runs import TINY


@pytest.fixture(scope="module")
def diffusion_run(text_path, tmp_path_factory):
    overrides = [
        "model=masked_diffusion",
        *TINY[1:],
        "callbacks.attention_maps.length=4",
        "at_end=[samples,attention_maps]",
    ]
    return charlab.run(*overrides, f"data.path={text_path}", f"output_dir={tmp_path_factory.mktemp('outputs')}")


def generated(record, *overrides):
    console = Console(file=io.StringIO())
    texts = generate_from_run(compose([f"run={record.folder}", "device=cpu", *overrides], "generate"), console)
    return texts, console.file.getvalue()


@pytest.mark.slow
def test_its_figures_are_bounds_with_an_error(diffusion_run):
    console = Console(file=io.StringIO(), width=120)
    print_summary(diffusion_run, console)
    assert {metric["likelihood"] for metric in diffusion_run.metrics} == {"bound"}
    for metric in diffusion_run.metrics:
        assert metric["standard_error"] > 0
        assert re.search(rf"≤ {metric['nll']:.4f} +{metric['standard_error']:.4f} +≤ ", console.file.getvalue())
    assert len((diffusion_run.folder / "samples.txt").read_text()) == 20 + 1


@pytest.mark.slow
def test_blanks_are_filled_in(diffusion_run):
    blanks = "to\nbe\nor____to\nbe\nn_t"
    texts, printed = generated(diffusion_run, f"infill={blanks}")
    assert re.fullmatch(blanks.replace("_", "[a-z\n]"), texts[0])
    assert printed == texts[0] + "\n"
    texts, _ = generated(diffusion_run, f"infill={blanks.replace('_', '~')}", "blank=~")
    assert re.fullmatch(blanks.replace("_", "[a-z\n]"), texts[0])
    texts, printed = generated(diffusion_run, f"infill={blanks}", "num_samples=3", "seed=7")
    assert len(set(texts)) == 3
    assert all(f"sample {number}" in printed and text in printed for number, text in enumerate(texts, start=1))


@pytest.mark.slow
def test_it_continues_a_prompt_too(diffusion_run):
    (text,), printed = generated(diffusion_run, "prompt=to\nbe", "length=30")
    assert re.fullmatch(r"to\nbe(.|\n){30}", text)
    assert printed == text + "\n"


def test_an_autoregressive_model_says_that_it_cannot(finished_run):
    with pytest.raises(UserError, match="Backbone model can only continue a text"):
        generated(finished_run, "infill=to____be")
