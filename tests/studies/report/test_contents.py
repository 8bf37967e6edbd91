"""What the report says, before it is written in any format."""

import dataclasses
import math
import re
import shlex

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from charlab import cli
from charlab.evaluation.bootstrap import bootstrap_text
from charlab.evaluation.metric import Score
from charlab.runs.record import SCENE_LENGTH
from charlab.studies.plan import Plan
from charlab.studies.report.contents import gather, printable, without_paths
from charlab.studies.report.method import method
from charlab.studies.report.sentences import on_other_text
from charlab.studies.report.tables import Span
from charlab.studies.report.writer import csv_tables, make_report
from charlab.studies.state import read_results
from tests.helpers.made_up_study import LONG, NASTY, TEXT_LENGTH, MadeUpArm, make_study


def texts(notices) -> list[str]:
    return [notice.text.split(":")[0].split(".")[0] for notice in notices]


def row(table, name):
    return next(row for row in table.rows if row[0].text.startswith(name))


def test_results_are_means_over_seeds_with_t_intervals(plain):
    contents = gather(plain)
    nll = np.array([result.record.metric("blocks")["nll"] for result in plain.of("rotary")])
    half = stats.t.ppf(0.975, 7) * stats.sem(nll)
    cells = row(contents.results, "rotary")
    assert cells[1].text == f"{nll.mean():.4f} ± {half:.4f}"
    assert cells[2].text == f"{nll.mean() / math.log(2):.4f} ± {half / math.log(2):.4f}"
    ppl = np.exp(nll)
    assert cells[3].text == f"{ppl.mean():.3f} ± {stats.t.ppf(0.975, 7) * stats.sem(ppl):.3f}"


def test_verdicts_are_those_of_the_statistics(plain):
    contents = gather(plain)
    comparison = plain.comparisons()["rotary"]
    left, right = (np.array(list(plain.values(arm).values())) for arm in ("learned", "rotary"))
    cells = row(contents.verdicts, "rotary")
    assert [cell.text for cell in cells[1:4]] == ["improve", "✓ supported", f"+{(left - right).mean():.4f}"]
    assert cells[4].text == f"[+{comparison.interval[0]:.4f}, +{comparison.interval[1]:.4f}] at 95%"
    assert cells[6].text == "0.0078"  # 2 / 2⁸
    assert cells[7].text == "8"
    assert contents.judgments[0].comparison == comparison
    assert contents.judgments[1].expectation == "worsen"


def test_the_caption_of_verdicts_names_the_test_of_cells_without_a_finite_loss(told, plain):
    assert "exact sign test" in told.verdicts.caption
    assert "exact sign test" not in gather(plain).verdicts.caption


def test_a_study_without_faults_has_no_warnings(plain):
    assert gather(plain).notices == ()


def test_too_few_seeds_come_before_anything_else_and_budgets_next(make):
    few = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6, steps=500), seeds=3, planned_seeds=2, looks=(2,))
    notices = gather(few).notices
    assert texts(notices) == ["Too few seeds", "Budgets do not match", "Exploratory"]
    assert [notice.level for notice in notices] == ["alarm", "alarm", "caution"]
    assert "3 of 3 pairs" in notices[0].text
    assert "at least 6" in notices[0].text  # 1 + log₂(1 / 0.05), rounded up
    assert "planned with 2 seeds and extended to 3 after a look at 2" in notices[2].text


def test_a_verdict_that_is_read_alone_tells_what_weakens_it(make, told):
    few = gather(make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=3, planned_seeds=2))
    assert few.judgments[0].verdict == "not evidence yet"
    assert few.judgments[0].reason.startswith("Not evidence yet; supported so far: better than the baseline")
    assert few.judgments[0].shown == "none"  # neither a tick nor a color
    assert few.verdicts.rows[0][2].text == "– not evidence yet"
    judged = {judgment.comparison.arm: judgment.verdict for judgment in told.judgments}
    assert judged["counts"] == "supported, exploratory"
    assert judged["wrong axis"] == "no verdict"


def test_too_few_seeds_have_no_tick_and_no_color_in_any_format(make, tmp_path, capsys, without_figures):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=3)
    report = make_report(results, tmp_path / "report", console=Console(width=200))
    pages = {kind: path.read_text() for kind, path in report.files.items()} | {"terminal": capsys.readouterr().out}
    low, high = report.contents.judgments[0].comparison.interval
    for kind, page in pages.items():
        assert "not evidence yet" in page, kind
        assert not re.search(r"[✓✗≈]|\\checkmark|card supported", page), kind
        digits = 3 if kind == "terminal" else 4
        assert re.search(rf"{low:.{digits}f}\W+{high:.{digits}f}", page), kind
    assert "95% interval" in pages["terminal"]


def test_the_terminal_says_at_which_level_intervals_are(make, tmp_path, capsys, without_figures):
    arms = MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), MadeUpArm("c", 1.69)
    report = make_report(make(*arms, seeds=8), tmp_path / "report", console=Console(width=80))
    assert {judgment.comparison.confidence for judgment in report.contents.judgments} == {0.95, 0.975}
    assert "Intervals: 95% to 97.5%, the level at which Holm's method tested the arm." in capsys.readouterr().out


def test_one_seed_is_too_few_for_anything(make):
    contents = gather(make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=1))
    assert texts(contents.notices) == ["Too few seeds for any verdict"]
    assert contents.verdicts is None


def test_one_arm_is_described_and_not_judged(make):
    contents = gather(make(MadeUpArm("a", 1.7), seeds=3))
    assert texts(contents.notices) == ["There is only one arm, so nothing is compared"]
    assert contents.verdicts is None
    assert contents.compared_costs == []


def test_a_sweep_with_one_seed_is_a_plain_table(make):
    contents = gather(make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6, steps=500), seeds=1, sweep=True, hypothesis=""))
    assert contents.notices == ()
    assert contents.verdicts is None
    assert [cell.text for cell in row(contents.results, "a")] == ["a", "1.7020", "2.4554", "5.485"]
    assert "NOT matched" not in "".join(contents.budgets.headings)
    assert "baseline" not in contents.summary
    captions = [contents.captions["curves"], contents.captions["costs"]]
    said = " ".join([contents.results.caption, contents.budgets.caption, *contents.method, *captions])
    assert not [word for word in ("interval", "baseline's", "margin", "mean over", "budget") if word in said]


def test_a_sweep_over_seeds_alone_is_not_judged(make):
    contents = gather(make(MadeUpArm("a", 1.7), seeds=3, sweep=True, hypothesis=""))
    assert (contents.notices, contents.verdicts) == ((), None)
    assert "±" in row(contents.results, "a")[1].text


def test_a_sweep_with_several_seeds_is_judged_and_exploratory(make):
    contents = gather(make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=6, sweep=True, hypothesis=""))
    assert texts(contents.notices) == ["Exploratory"]
    assert contents.judgments[0].verdict == "supported, exploratory"


def test_everything_that_is_wrong_is_said(told):
    found = texts(told.notices)
    assert found == [
        "Budgets do not match",
        "The arm wrong axis sees what it predicts, so it gets no verdict",
        "Exploratory",
        "3 of 60 cells have no result (1 missing, 1 failed and 1 killed), so the verdicts are provisional",
        "1 of 60 cells diverged, which counts against their arms",
        "10 of 60 cells were run by other code than today's",
        "Upper bounds (≤)",
    ]


def test_a_text_that_a_model_finds_impossible_is_not_called_divergence(make):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=8)
    results.of("b")[0].record.metric("blocks").update(Score("blocks", math.inf, 10).as_dict())
    contents = gather(results)
    (notice,) = contents.notices
    assert notice.text.startswith("1 of 16 cells has no finite loss, which counts against their arms. The model finds")
    assert "optimizer.smoothing" in notice.text
    assert "the arm has no finite loss with 1 of 8 seeds" in contents.judgments[0].reason
    assert "diverge" not in notice.text + contents.judgments[0].reason
    assert row(contents.results, "b")[4].text == "7 of 8"
    results.of("b")[0].record.scenes[0] = math.inf
    assert gather(results).judgments[0].other_text == "Not known: some stretches of the text have no finite loss."


def test_different_texts_are_not_compared_in_silence(make, tmp_path):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=6)
    results.of("b")[0].record.corpus["sha256"] = "another"
    assert "The cells were scored on different texts" in texts(gather(results).notices)[0]


def test_different_parts_of_a_text_are_not_compared_in_silence(make):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=6)
    for result in results.of("b"):
        result.record.config["data"]["train_fraction"] = 0.8
    contents = gather(results)
    (notice,) = contents.notices
    assert notice.text.startswith("The cells were scored on different parts of the text, as data.train_fraction or")
    assert contents.judgments[0].other_text.startswith("Not known: no pair of finished cells has figures")


def test_cells_with_another_dev_split_are_scored_on_the_same_text(make):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=6)
    for result in results.of("b"):
        result.record.config["data"]["dev_fraction"] = 0.1
    contents = gather(results)
    assert contents.notices == ()
    assert contents.judgments[0].other_text.startswith("On other text")


def test_a_leak_is_crossed_out_next_to_the_honest_figure(told):
    cells = row(told.results, "wrong axis")
    assert cells[1].spans[1:] == (Span(" leaks", "alarm"), Span(" honest 4.03 ± 0.00", "strong"))
    assert {cell.spans[0].style for cell in cells[1:4]} == {"struck"}
    assert cells[1].key == pytest.approx(4.03)  # it ranks by the honest one
    assert row(told.verdicts, "wrong axis")[2].text == "– no verdict"
    assert {cell.text for cell in row(told.verdicts, "wrong axis")[3:7]} == {"–"}


def test_a_bound_is_marked_wherever_it_is_shown(told):
    assert all(cell.text.startswith("≤ ") for cell in row(told.results, "diffusion")[1:4])
    judgment = next(judgment for judgment in told.judgments if judgment.comparison.arm == "diffusion")
    assert "bound" in judgment.caution
    assert "Not asked" in judgment.other_text
    assert sum(bool(judgment.caution) for judgment in told.judgments) == 1


def test_the_floor_and_the_n_gram_are_below_the_arms(told, plain):
    last = [row[0].text for row in told.results.rows[-2:]]
    assert last == ["entropy of the text", "Kneser–Ney n-gram of order 7"]
    assert told.floor == 0.7
    assert [row[0].text for row in gather(plain).results.rows[3:]] == ["Kneser–Ney n-gram of order 7"]


@pytest.mark.parametrize("split", [{"dev_fraction": 0.1}, {"validation_fraction": 0.05, "test_fraction": 0.05}])
def test_the_n_gram_is_from_the_same_split(make, split):
    results = make(MadeUpArm("a", 1.7), seeds=2)
    assert len(gather(results).results.rows) == 2
    results.cells[0].record.config["data"] |= split
    assert len(gather(results).results.rows) == 1


def test_cells_without_a_result_are_named_with_their_command(told):
    found = {cell.cell: cell for cell in told.unfinished}
    assert list(found) == [f"{NASTY}/306", f"{NASTY}/307", f"{LONG}/308"]
    failed = found[f"{NASTY}/307"]
    assert failed.status == "failed"
    assert failed.reason.splitlines()[1:] == ['  File "…/lab/x.py", line 3', "RuntimeError: <b>100%</b> & $1"]
    assert failed.command.startswith("charlab train model=gpt ")
    assert failed.command.endswith(" seed=307")
    assert told.waiting == {"Not run yet": f"{LONG} (305)"}
    assert told.older == "counts (all seeds)"


def test_budgets_show_the_range_and_what_should_have_matched(told, plain):
    assert told.budgets.headings[4] == "training (NOT matched)"
    assert row(told.budgets, "counts")[4].text == "1.1 s (0.7 s – 1.3 s)"
    assert row(told.budgets, "counts")[5].text == "counts only"
    assert gather(plain).budgets.headings[1] == "steps (matched)"
    assert row(gather(plain).budgets, "learned")[3].text == "4.23 T"  # 10,571,218,944 × 400


def test_other_text_is_asked_of_the_pairs_that_have_finished(troubled, told):
    seeds = [seed for seed in range(305, 315) if seed not in (306, 307)]
    scenes = [
        np.array([result.record.scenes for result in troubled.of(arm) if result.cell.seed in seeds])
        for arm in ("gpt", NASTY)
    ]
    expected = bootstrap_text(*scenes, np.full(TEXT_LENGTH // SCENE_LENGTH, SCENE_LENGTH))
    judgment = next(judgment for judgment in told.judgments if judgment.comparison.arm == NASTY)
    assert judgment.other_text == on_other_text(expected, left_out=True)  # 306 diverged
    assert judgment.other_text.endswith("Pairs without a finite loss are left out.")


def test_the_difference_on_other_text_is_by_blocks_whatever_the_protocol(make):
    arms = (MadeUpArm("a", 1.7), MadeUpArm("b", 1.6))
    for protocol, said in (("sliding", True), ("blocks", False)):
        contents = gather(make(*arms, seeds=6, name=protocol, protocol=protocol))
        assert ("improvement by blocks" in contents.judgments[0].other_text) == said
        assert ("of the difference by blocks" in contents.verdicts.caption) == said


def test_commands_do_not_name_the_working_folder(plain, monkeypatch):
    monkeypatch.chdir(plain.folder)
    command = f"scripts/train.py -m study=plain data.path={plain.folder}/words.txt"
    object.__setattr__(plain.plan, "command", command)
    try:
        shown = gather(plain).commands
    finally:
        object.__setattr__(plain.plan, "command", "scripts/train.py -m study=plain")
    assert next(iter(shown.values())) == "charlab train -m study=plain data.path=words.txt"
    assert shown["One cell of rotary"].endswith("seed=305")


@pytest.mark.parametrize(
    "folder",
    [
        "outputs",
        "my outputs, 50%",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("elsewhere", "Größe {1}")),
    ],
)
def test_the_reports_own_command_finds_the_study(tmp_path, monkeypatch, folder, capsys):
    make_study(tmp_path, [MadeUpArm("a", 1.7), MadeUpArm("b", 1.6)], seeds=2, name="a+b-c")
    (tmp_path / "outputs").rename(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    plan = Plan.load(tmp_path / folder / "studies" / "a+b-c")
    command = gather(read_results(plan, tmp_path / folder)).commands["This report"]
    assert str(tmp_path) not in command
    assert ("output_dir" in command) == (folder != "outputs")
    assert cli.report([*shlex.split(command)[2:], "formats=[]"]) == 0, capsys.readouterr().err
    assert (tmp_path / folder / "studies" / "a+b-c" / "report" / "tables" / "cells.csv").exists()


def test_a_bound_above_an_exact_figure_is_not_ranked_below_it(make):
    results = make(MadeUpArm("exact", 1.7), MadeUpArm("bound", 2.0, expect="worsen", likelihood="bound"))
    told = gather(results)
    assert row(told.verdicts, "bound")[2].text == "? inconclusive (≤)"
    assert row(told.verdicts, "bound")[3].text.startswith("≥ −0.3")
    verdicts = csv_tables(results, told)["verdicts"]
    assert verdicts.loc[0, ["verdict", "bound", "baseline_bound"]].tolist() == ["inconclusive", True, False]
    assert verdicts.loc[0, "in_words"] == "inconclusive (≤)"
    assert "may be lower" in verdicts.loc[0, "caution"]
    assert "(≤): judged by an upper bound" in told.verdicts.caption


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('File "/home/ann/lab/src/charlab/runs/train.py", line 5', 'File "…/runs/train.py", line 5'),
        ("data.path=/home/ann/words.txt", "data.path=…/words.txt"),
        ("/tmp/words.txt is gone", "…/words.txt is gone"),
        (r"C:\Users\ann\words.txt", "…/words.txt"),
        ("~/lab/words.txt", "…/words.txt"),
        ("outputs/runs/a/b and https://example.org/a/b and 3/4", None),
    ],
)
def test_paths_do_not_tell_whose_machine_it_was(text, shown):
    assert without_paths(text) == (text if shown is None else shown)


def test_what_cannot_be_shown_is_replaced():
    assert printable("a\tb\x00\x1b[31m\u202e\nc") == "a   b\ufffd\ufffd[31m\ufffd\nc"


def test_arms_that_reach_other_modules_were_run_by_the_same_code(make):
    results = make(MadeUpArm("gpt", 1.7), MadeUpArm("bpe", 1.6, code="reaches more"))
    sentence = "Code: the cells were not all run by the same code."
    assert sentence in gather(results).limits  # which modules differ is not known
    for result in results.cells:
        result.record.sources = {"charlab.seeding": "first", f"charlab.{result.cell.arm}": result.cell.arm}
    assert sentence not in gather(results).limits
    results.cells[0].record.sources["charlab.seeding"] = "second"
    assert sentence in gather(results).limits


def test_seeds_that_do_not_follow_each_other_are_listed(plain):
    listed = dataclasses.replace(plain.plan, seeds=(1, 5, 9))
    assert "Every arm was trained with the same 3 seeds, 1, 5 and 9." in method(listed, [], {}, ())
    assert "Every arm was trained with the same 8 seeds, starting at 305." in method(plain.plan, [], {}, ())


def test_the_law_of_a_scaling_study_is_over_what_its_axis_shows(plain):
    over_flops = dataclasses.replace(plain.plan, kind="scaling", against="flops", held_out="w256")
    assert "A power law with an offset over FLOPs is fitted to all sizes but w256" in method(over_flops, [], {}, ())[2]
