"""The studies behind the table of Part 2 can be planned, leave out no family, and go on with the best."""

import pytest

from charlab.configuration.compose import Composer
from charlab.configuration.sources import conf_folder
from charlab.runs.archive import Archive
from charlab.runs.identity import fingerprinted_config
from charlab.studies import planner as planner_module
from charlab.studies.definition import define
from tools.results.__main__ import RECORDS
from tools.results.part2 import STUDIES, leaders

FLOOR = "ngram_kneser_ney"

DIFFUSION = ("modern_gpt", "block_diffusion", "masked_diffusion")  # a transformer next to two models of its size


@pytest.fixture(scope="module", params=STUDIES)
def plan(request, module_patch):
    """The plan of a table's study, on whatever text: what tells runs apart is all but the text."""
    name = STUDIES[request.param]
    composer = Composer()
    module_patch.setattr(
        planner_module,
        "fingerprint",
        lambda config: f"{hash(str((fingerprinted_config(config), config.seed))):x}".lstrip("-"),
    )
    module_patch.setattr(planner_module, "output_folder", lambda config, sweep: None)
    definition = define(composer.master([f"study={name}"]).study, name)
    return request.param, planner_module.Planner(definition, composer, ["trainer.accelerator=cpu"]).plan("")


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.slow
def test_every_family_has_a_minute_and_the_best_six_have_five(plan):
    seconds, found = plan
    experiments = {path.stem for path in (conf_folder() / "experiment" / "part2").glob("[!_]*.yaml")}
    best = leaders([record for record in Archive(RECORDS).records() if record.name.startswith("part2-")])
    assert {arm.name for arm in found.arms} == (experiments if seconds == 60 else {FLOOR, *best, *DIFFUSION})
    assert found.baseline == FLOOR
    for cell in found.cells:
        assert cell.run.startswith(f"part2-{cell.arm}/")
