"""Where arms differ, in the report: intervals over seeds, parts that add up, and no section without figures."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from charlab.runs.record import Record
from charlab.studies.report.contents import gather
from charlab.studies.report.html import render_html
from charlab.studies.report.latex import render_latex
from charlab.studies.report.markdown import render_markdown
from charlab.studies.report.where import locate
from charlab.studies.report.writer import csv_tables
from tests.helpers.made_up_study import CONTEXT, TEXT, TRAIN, MadeUpArm, give_nll
from tests.references.breakdown import describe
from tests.studies.report.conftest import read


@pytest.fixture
def study(tmp_path):
    """A study of five seeds with nll, and that nll by arm and seed."""
    results = read(tmp_path, [MadeUpArm("base", 1.7), MadeUpArm("one", 1.6), MadeUpArm("other", 1.8)], seeds=5)
    return results, give_nll(results, tmp_path)


def test_parts_have_the_paired_intervals_of_scipy_and_add_up(study):
    results, nll = study
    where = locate(results)
    assert list(where.arms) == ["one", "other"]
    validation = TEXT[TRAIN:]
    parts = [
        describe(validation, i + 1, i % CONTEXT + 1, TEXT[:TRAIN], TEXT[TRAIN - 3 : TRAIN])
        for i in range(len(TEXT[TRAIN:]) - 1)
    ]
    seeds = results.plan.seeds
    for arm, found in where.arms.items():
        apart = np.array([nll["base", seed].astype(float) - nll[arm, seed] for seed in seeds])
        assert found.whole.mean == pytest.approx(apart.mean(), abs=1e-8)
        for column, label in ((1, "first letter"), (2, "capital"), (3, "10 to 99 times")):
            [part] = [part for part in found.parts if part.label == label]
            is_in = np.array([described[column] == label for described in parts])
            per_seed = np.where(is_in, apart, 0.0).mean(axis=1)
            expected = stats.ttest_1samp(per_seed, 0.0).confidence_interval(0.95)
            assert (part.characters, part.mean) == (is_in.sum(), pytest.approx(per_seed.mean(), abs=1e-8))
            assert part.interval == pytest.approx((expected.low, expected.high), abs=1e-7)
        for split in {part.split for part in found.parts}:
            assert sum(part.nats for part in found.parts if part.split == split) == found.whole.nats
        passage = found.passages[0]
        assert passage.nats == pytest.approx(apart[:, passage.start : passage.stop].sum() / len(seeds), abs=1e-6)


def test_the_pages_have_a_section_that_is_marked_as_exploratory(study):
    results, _ = study
    contents = gather(results)
    for page in (render_html(contents, {}), render_markdown(contents, ())):
        assert "Where the difference is (exploratory)" in page
        assert "first letter" in page
        assert "passages that differ most" in page
    table = csv_tables(results, contents)["where"]
    splits = table[table["split"] != ""].groupby(["arm", "split"], sort=False)["mean"].sum()
    assert splits["one"].tolist() == pytest.approx([contents.where.arms["one"].whole.mean] * 4)


def test_without_nll_there_is_no_section(plain):
    contents = gather(plain)
    assert contents.where.tables == ()
    assert "Where the difference is" not in render_markdown(contents, ())


def test_an_arm_that_cannot_be_compared_is_left_out_with_a_sentence(study):
    results, _ = study
    records = [result.record for result in results.of("one")]
    for record, change in (
        (records[0], {"corpus": {"sha256": "0"}}),
        (records[1], {"causality": {"leaks": True}}),
    ):
        dataclasses.replace(record, **change).save()
        again = dataclasses.replace(
            results,
            cells=tuple(
                dataclasses.replace(result, run=dataclasses.replace(result.run, record=Record.load(result.folder)))
                for result in results.cells
            ),
        )
        where = locate(again)
        assert list(where.arms) == ["other"]
        assert where.note.startswith("one is left out. ")
        assert "one is left out. " in render_latex(gather(again), ())
        record.save()


def test_a_missing_text_is_a_sentence_and_no_failure(study, tmp_path):
    results, _ = study
    (tmp_path / "text.txt").unlink()
    contents = gather(results)
    assert contents.where.tables == ()
    assert "There is no file" in contents.where.note
    assert "Where the difference is" in render_markdown(contents, ())


def test_a_single_pair_has_no_interval(tmp_path):
    lost = {306: ("missing", "")}
    results = read(tmp_path, [MadeUpArm("base", 1.7), MadeUpArm("one", 1.6, fates=lost)], seeds=2)
    give_nll(results, tmp_path)
    assert {part.interval for part in locate(results).arms["one"].parts} == {None}
