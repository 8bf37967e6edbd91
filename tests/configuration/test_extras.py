"""What an extra is missing for is said in one sentence."""

import importlib.util

import pytest

from charlab import cli
from charlab.configuration import messages
from charlab.configuration.messages import EXTRAS, missing_extra


@pytest.fixture
def nothing_installed(monkeypatch):
    modules = {module for _, module in EXTRAS.values()}
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(messages, "find_spec", lambda name: None if name in modules else find_spec(name))


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("launcher", ["slurm", "ray"])
def test_a_sweep_says_so(launcher, tmp_path, capsys):
    overrides = ["-m", "data=play", "model=bigram,gpt", f"launcher={launcher}", f"output_dir={tmp_path}"]
    assert cli.train(overrides) == 2
    sentence = f'launcher={launcher} needs an extra: pip install "charlab[{launcher}]".\n'
    assert capsys.readouterr().err == sentence
    assert list(tmp_path.iterdir()) == []


def test_what_is_installed_or_needs_nothing_is_no_error():
    assert missing_extra("launcher=local") is None
    assert missing_extra("launcher=slurm") is None
