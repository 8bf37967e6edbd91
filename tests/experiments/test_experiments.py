"""Every shipped experiment composes, and its name is that of its file."""

from pathlib import Path

import pytest

from charlab.configuration.compose import compose

FOLDER = Path(__file__).parents[2] / "conf" / "experiment"
EXPERIMENTS = sorted(
    str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml") if not path.name.startswith("_")
)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_composes(experiment):
    config = compose([f"experiment={experiment}"])
    assert config.name == experiment.replace("/", "-")
