"""A report on times to a target: sentences, table, figure, and how many cells ran at once."""

from __future__ import annotations

import dataclasses
import math

import pytest
from omegaconf import OmegaConf

from charlab.configuration.sources import conf_folder
from charlab.errors import UserError
from charlab.studies.definition import define
from charlab.studies.executors.local import Local
from charlab.studies.outcomes import Outcome
from charlab.studies.report.contents import gather
from charlab.studies.report.differences import draw_differences
from charlab.studies.report.style import drawing, looks
from charlab.studies.report.writer import write_report
from tests.helpers.made_up_study import MadeUpArm

ARMS = (MadeUpArm("learned", 1.70), MadeUpArm("rotary", 1.55), MadeUpArm("none", 1.95, expect="worsen"))
OPTIONS = {"metric": "steps_to", "target": 1.8, "margin": 1.05, "hypothesis": "It is sooner."}


@pytest.fixture
def results(make):
    return make(*ARMS, **OPTIONS)


def test_what_is_said_of_times(results):
    contents = gather(results)
    sooner, later = (judgment.reason for judgment in contents.judgments)
    assert sooner.startswith(
        "Supported: at the target sooner than the baseline by more than the margin of 1.05 (speed-up"
    )
    assert "97.5% interval 1." in sooner
    assert "×" in sooner
    assert later.startswith("Supported: at the target later than the baseline")
    assert "the arm did not reach the target with 8 of 8 seeds" in later
    assert "≤ " in later
    assert any("not reached by none with 8 seeds" in notice.text for notice in contents.notices)
    method = " ".join(contents.method)
    assert "number of optimizer steps until the estimate" in method
    assert "a factor of 1.05" in method
    assert contents.captions["curves"].endswith(" Dotted: the target.")
    assert not any("Circular Block" in source.listed for source in contents.sources)
    assert contents.verdicts.headings[3:5] == ("speed-up", "interval")
    assert contents.verdicts.rows[0][3].text.endswith("×")
    assert [entry.text for entry in contents.verdicts.rows[1]][-2:] == ["8", "0"]


def test_a_baseline_that_misses_the_target_is_counted_whichever_arms_have_run(make):
    lost = dict.fromkeys(range(305, 309), ("missing", ""))
    arms = (MadeUpArm("learned", 1.95), MadeUpArm("rotary", 1.55, fates=lost), MadeUpArm("none", 1.55))
    notices = [notice.text for notice in gather(make(*arms, **OPTIONS)).notices]
    assert any("was not reached by learned with 8 seeds: such a cell" in text for text in notices)


def test_without_any_time_no_speed_up_is_named(make):
    (judgment,) = gather(make(MadeUpArm("learned", 1.95), MadeUpArm("rotary", 1.95), **OPTIONS)).judgments
    assert judgment.reason.startswith("Inconclusive: a speed-up is not shown, and one by a factor of 1.05 is not ruled")
    assert "(the arm did not reach the target with 8 of 8 seeds, the baseline did not" in judgment.reason


def test_times_are_those_of_the_curves(results):
    table = results.table()
    times = table[table["arm"] == "rotary"]["time_to_target"]
    assert times.between(40, 400).all()
    assert math.isinf(table[table["arm"] == "none"]["time_to_target"].min())


def test_a_cell_that_diverged_has_no_time_in_the_table_either(make):
    diverged = {305: ("diverged", "The loss became nan at step 390.")}
    results = make(ARMS[0], dataclasses.replace(ARMS[1], fates=diverged), **OPTIONS)
    times = results.table().set_index(["arm", "seed"])["time_to_target"]
    assert math.isinf(times["rotary", 305])
    assert math.isfinite(times["rotary", 306])
    assert results.comparisons()["rotary"].unreached == (305,)


def draw(contents, **changes):
    """The axes of the first arm, whose comparison has other figures."""
    judgment = contents.judgments[0]
    judgment = judgment._replace(comparison=dataclasses.replace(judgment.comparison, **changes))
    with drawing():
        return draw_differences([judgment], looks(list(contents.arms), contents.plan.baseline), width=4).axes[0]


def test_ratios_close_to_one_have_ticks(results):
    found = {"differences": {305: 0.001, 306: 0.002}, "mean": 0.0015, "interval": (-0.002, 0.004)}
    axes = draw(gather(results), margin=math.log(1.01), **found)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.99×", "1×", "1.01×"]
    assert "margin 1.01×" in [text.get_text() for text in axes.texts]


def test_an_interval_outside_the_figure_is_marked_on_its_side_alone(results):
    axes = draw(gather(results), interval=(math.inf, math.inf), mean=math.nan)
    assert {"<", ">"} & {line.get_marker() for line in axes.lines} == {">"}


@pytest.mark.slow
def test_the_whole_report_is_written(results, tmp_path):
    report = write_report(results, tmp_path / "report", ["markdown", "latex"])
    page = report.files["markdown"].read_text()
    assert "Wilcoxon" in page
    assert "nats per character" in page
    assert "Wilcoxon" in report.files["latex"].read_text()
    assert "unreached" in (tmp_path / "report" / "tables" / "verdicts.csv").read_text()


def test_seconds_say_how_many_cells_ran_at_once(make):
    results = make(*ARMS, **OPTIONS | {"metric": "seconds_to"})
    limits = " ".join(gather(results).limits)
    assert "the number of cells that ran at once on a machine is not known" in limits
    assert "not equal seconds on another machine" in limits
    for i, cell in enumerate(results.plan.cells):  # two at a time, ten seconds each
        started = f"2026-11-29T10:{i // 12:02d}:{i // 2 % 6 * 10:02d}+00:00"
        Outcome("finished", seconds=10.4, host="here", started=started).save(results.folder, cell)
    assert results.most_at_once() == 2
    assert "was 2, each on cores of its own" in " ".join(gather(results).limits)


def test_cells_that_share_a_core_compete(monkeypatch):
    monkeypatch.setattr("charlab.studies.executors.local.usable_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr("charlab.studies.executors.local.physical_core", lambda core: (0, core // 2))
    monkeypatch.setattr("charlab.studies.executors.local.visible_gpus", lambda: ["0"])
    assert Local(at_once=2).competition(gpu=False) is None
    assert Local(at_once=1).competition(gpu=True) is None
    assert "compete for 2 cores: give launcher.at_once=2" in str(Local(at_once=4).competition(gpu=False))
    assert "compete for 1 GPU: give launcher.at_once=1" in str(Local(at_once=2).competition(gpu=True))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("metric: steps_to\nmargin: 1.1", "study.metric=steps_to (in study/mine.yaml) needs the loss to reach"),
        ("metric: steps_to\ntarget: 1.6", "has a ratio as its margin, so study.margin=0.01 must be above 1"),
        ("metric: seconds_to\ntarget: 1.6\nmargin: 1.1\nlooks: [6, 9]", "cannot be tested at planned looks"),
        ("target: 1.6", "study.target=1.6 (in study/mine.yaml) needs study.metric=steps_to or seconds_to"),
        ("metric: step_to\ntarget: 1.6", "study.metric (in study/mine.yaml) must be one of"),
    ],
)
def test_times_that_cannot_be_compared(body, message):

    base = OmegaConf.load(conf_folder() / "study" / "_base.yaml")
    own = OmegaConf.create(f"baseline: a\narms: {{a: [], b: [model=lstm]}}\n{body}")
    with pytest.raises(UserError) as error:
        define(OmegaConf.merge(base, own), "mine")
    assert message in str(error.value)
