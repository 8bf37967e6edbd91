"""Every shipped study is right: it can be planned, and says what it asks and why its margin matters."""

from pathlib import Path

import pytest

from charlab.configuration.compose import Composer
from charlab.configuration.location import conf_folder
from charlab.studies import expansion
from charlab.studies.definition import define
from charlab.studies.paired import minimum_seeds

STUDIES = sorted(path.stem for path in (conf_folder() / "study").glob("*.yaml") if path.stem != "_base")


@pytest.fixture(scope="module")
def composer() -> Composer:
    composer = Composer()
    composer.loader.remember()
    return composer


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_is_right(
    name: str, composer: Composer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The real text is not needed: what tells runs apart is all but the text.
    monkeypatch.setattr(expansion, "fingerprint", lambda config: str(hash((expansion._meaning(config), config.seed))))
    monkeypatch.setattr(expansion, "check_output_folder", lambda config, sweep: None)
    definition = define(composer.master([f"study={name}"]).study, name)
    plan = expansion.Expansion(definition, composer, ["trainer.accelerator=cpu"]).plan("")
    assert plan.name == name
    assert plan.hypothesis.endswith(".")
    assert plan.hypothesis.count(". ") == 0
    assert len(plan.seeds) >= minimum_seeds(len(plan.arms) - 1)
    assert len({cell.run for cell in plan.cells}) == len(plan.cells)
    assert all(arm.paired for arm in plan.arms)
    margin = next(
        line for line in (conf_folder() / "study" / f"{name}.yaml").read_text().splitlines() if "margin:" in line
    )
    assert "#" in margin, "the margin has no reason"
