"""Every shipped study is right: it can be planned, and says what it asks and why its margin matters."""

import shlex
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from charlab.configuration.compose import Composer
from charlab.configuration.overrides import translate
from charlab.configuration.sources import conf_folder
from charlab.runs.identity import fingerprinted_config
from charlab.studies import planner as planner_module
from charlab.studies.definition import define
from charlab.studies.evidence import minimum_seeds
from charlab.studies.plan import Plan
from charlab.studies.scaling import FEWEST_SEEDS

ROOT = Path(__file__).parents[2]
REPORTS = sorted(ROOT.glob("docs/studies/*/report.md"))
STUDIES = sorted(path.stem for path in (conf_folder() / "study").glob("*.yaml") if path.stem != "_base")


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_is_right(
    name: str, composer: Composer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The real text is not needed: what tells runs apart is all but the text.
    monkeypatch.setattr(
        planner_module,
        "fingerprint",
        lambda config: f"{hash(str((fingerprinted_config(config), config.seed))):x}".lstrip("-"),
    )
    monkeypatch.setattr(planner_module, "output_folder", lambda config, sweep: None)
    definition = define(composer.master([f"study={name}"]).study, name)
    plan = planner_module.Planner(definition, composer, ["trainer.accelerator=cpu"]).plan("")
    assert plan.name == name
    assert plan.hypothesis.endswith(".")
    assert plan.hypothesis.count(". ") == 0
    assert len(plan.seeds) >= (minimum_seeds(len(plan.arms) - 1) if plan.compares else FEWEST_SEEDS)
    assert len({cell.run for cell in plan.cells}) == len(plan.cells)
    assert all(arm.paired for arm in plan.arms) or name in ("bpe", "diffusion")  # whose windows hold other texts
    margin = next(
        line for line in (conf_folder() / "study" / f"{name}.yaml").read_text().splitlines() if "margin:" in line
    )
    assert "#" in margin, "the margin has no reason"


@pytest.mark.slow
@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.parent.name)
def test_commands_of_kept_reports_compose_by_their_present_names(
    report: Path, composer: Composer, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = [block.content for block in MarkdownIt().parse(report.read_text()) if block.info == "sh"]
    cells = [shlex.split(block)[2:] for block in blocks if block.startswith("charlab train ")]
    plan = Plan.load(report.parent)
    assert cells.pop(0)[:2] == ["-m", f"study={plan.name}"]
    assert len(cells) == len(plan.arms)
    for overrides in cells:
        assert translate(overrides) == (overrides, [])
        assert composer.job(composer.prepare(overrides)).seed == plan.seeds[0]
