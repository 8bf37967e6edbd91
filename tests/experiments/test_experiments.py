"""Every shipped experiment composes, and its name is that of its file."""

from pathlib import Path

import pytest

from charlab.configuration.compose import compose

FOLDER = Path(__file__).parents[2] / "conf" / "experiment"
EXPERIMENTS = sorted(
    str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml") if not path.name.startswith("_")
)


SOME = ("quickstart", "part1/bigram", "part2/gpt", "benchmark/fast")  # one of each kind


@pytest.mark.parametrize(
    "experiment",
    [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS],
)
def test_composes(experiment):
    config = compose([f"experiment={experiment}"])
    assert config.name == experiment.replace("/", "-")
