"""The command that suggests a learning rate."""

import re

import pytest

from charlab import cli


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_rate_is_suggested_and_plotted_and_no_run_is_left(overrides, tmp_path, capsys):
    assert cli.main(["find-lr", *overrides, "optimizer.lr=1e-7"]) == 0
    said, bar = capsys.readouterr()
    assert bar == ""  # as stderr is no terminal
    rate = float(re.search(r"^optimizer\.lr=(\S+)$", said, flags=re.M)[1])
    assert 1e-4 < rate < 1.0
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert [str(path) for path in files] == ["outputs/rates/gpt-textfile.png"]
    assert cli.main(["find-lr", *overrides, "optimizer.lr=0.1"]) == 0  # the configured rate does not matter
    assert f"optimizer.lr={rate:.1e}" in capsys.readouterr().out


def test_a_model_without_gradients_has_no_rate(text_path, tmp_path, capsys):
    given = ["model=ngram_kneser_ney", "data=textfile", f"data.path={text_path}", "data.context_length=8"]
    assert cli.main(["find-lr", *given, "trainer.accelerator=cpu", f"output_dir={tmp_path}"]) == 2
    assert "is not trained by gradients, so it has no rate" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_is_a_sentence(capsys):
    assert cli.main(["find-lr", "--help"]) == 0
    assert "suggests a learning rate" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_rate_that_cannot_be_plotted_is_still_printed(overrides, tmp_path, capsys):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "rates").touch()
    assert cli.main(["find-lr", *overrides]) == 2
    said, error = capsys.readouterr()
    assert "optimizer.lr=" in said
    assert error.startswith(f"Could not write {tmp_path / 'outputs' / 'rates' / 'gpt-textfile.png'}")
    assert error.count("\n") == 1
