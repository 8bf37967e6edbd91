"""`scripts/evaluate.py protocol=online` from the command line, on finished runs."""

import shutil

import pytest

import charlab
from charlab import cli
from tests.helpers.tiny_runs import TINY


def test_an_online_evaluation_is_named_and_leaves_the_checkpoint(finished_run, tmp_path, capfd):
    run = shutil.copytree(finished_run.folder, tmp_path / "run")  # its record is added to
    (checkpoint,) = run.glob("checkpoints/last.ckpt")
    before = checkpoint.read_bytes()
    arguments = [f"run={run}", "device=cpu"]
    assert cli.evaluate([*arguments, "protocol=online", "block_length=4", "learning_rate=1e-3"]) == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "validation online " in printed
    assert "adapts to the text while it reads it (context_length=8, block_length=4," in printed
    assert "learning_rate=0.001, steps_per_block=1)" in printed
    assert checkpoint.read_bytes() == before
    assert cli.evaluate([*arguments, "protocol=sliding", "stride=4"]) == 0
    assert "adapts" not in capfd.readouterr().out


@pytest.mark.slow
def test_counts_that_came_from_a_checkpoint_go_on(text_path, tmp_path, capfd):
    tiny = [override for override in TINY if not override.startswith("model")]
    run = charlab.run("model=ngram_kneser_ney", *tiny, f"data.path={text_path}", f"output_dir={tmp_path}")
    assert cli.evaluate([f"run={run.folder}", "device=cpu", "protocol=online"]) == 0
    assert "adapts to the text while it reads it (block_length=1)" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("learning_rate=0", "learning_rate must be a number > 0"),
        ("block_length=9", "block_length=9 is more than the 8 characters"),
        ("steps_per_block=0", "steps_per_block must be an integer ≥ 1"),
    ],
)
def test_what_does_not_fit_ends_with_a_sentence(finished_run, capfd, argument, sentence):
    assert cli.evaluate([f"run={finished_run.folder}", "device=cpu", "protocol=online", argument]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(sentence)
