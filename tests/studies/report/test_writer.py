import dataclasses
import subprocess
import sys

import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from charlab import cli
from charlab.studies.plan import Plan
from charlab.studies.report.figures import Drawings
from charlab.studies.report.writer import make_report, with_look, write_report
from charlab.studies.state import read_results
from tests.helpers.made_up_study import MadeUpArm, make_study


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_written(folder):
    figures = ("differences", "curves", "costs")
    assert files(folder) == {
        "plan.json",
        "report.md",
        "report.html",
        "latex/report.tex",
        "latex/charlab.sty",
        "latex/references.bib",
        *(f"tables/{name}.csv" for name in ("cells", "results", "budgets", "verdicts")),
        *(f"figures/{name}.{kind}" for name in figures for kind in ("png", "pdf")),
        *(f"latex/figures/{name}.pdf" for name in figures),
    }


def test_nothing_tells_whose_machine_it_was(folder, troubled):
    for name in files(folder):
        content = (folder / name).read_bytes()
        for trace in (b"/home/", str(troubled.folder.parents[2]).encode()):
            assert trace not in content, name


def test_the_same_results_give_the_same_files(plain, tmp_path, without_figures):  # which have a test of their own
    for name in "ab":
        write_report(plain, tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    for name in files(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_tables_hold_the_full_figures(folder, troubled):
    cells = pd.read_csv(folder / "tables" / "cells.csv")
    assert len(cells) == 60
    assert cells["value"][0] == troubled.values("gpt")[305]
    verdicts = pd.read_csv(folder / "tables" / "verdicts.csv").set_index("arm")
    comparison = troubled.comparisons()["diffusion"]
    assert verdicts.loc["diffusion", "mean"] == comparison.mean
    assert verdicts.loc["diffusion", "interval_95_low"] == comparison.interval_95[0]
    assert verdicts.loc["diffusion", "difference_306"] == comparison.differences[306]
    results = pd.read_csv(folder / "tables" / "results.csv").set_index("arm")
    assert results.loc["wrong axis", "honest_nll"] == pytest.approx(4.03)
    assert bool(results.loc["wrong axis", "leaks"])


def test_a_paper_that_was_worked_on_is_left_alone(make, without_figures):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=6)
    folder = results.folder / "report"
    assert write_report(results, folder, ["latex"]).kept is None
    assert write_report(results, folder, ["latex"]).kept is None  # it is as it was written
    paper = folder / "latex" / "report.tex"
    worked_on = paper.read_text().replace(r"\place{Title}", "Attention is enough")
    paper.write_text(worked_on)
    report = write_report(results, folder, ["latex"])
    assert paper.read_text() == worked_on
    assert report.kept == paper
    assert r"\place{Title}" in report.files["latex"].read_text()
    assert report.files["latex"].name == "report-new.tex"
    paper.write_bytes(worked_on.replace("Attention", "L'attention né").encode("latin-1", "replace"))
    assert write_report(results, folder, ["latex"]).kept == paper


def test_figures_of_a_former_report_are_gone(make, tmp_path, monkeypatch):
    results = make(MadeUpArm("a", 1.7), seeds=2)
    monkeypatch.setattr(Drawings, "for_paper", lambda self: {"costs": Figure(figsize=(1, 1))})
    write_report(results, tmp_path / "report", ["markdown"])
    assert {"figures/costs.png", "figures/costs.pdf"} <= files(tmp_path / "report")
    monkeypatch.setattr(Drawings, "for_paper", lambda self: {})
    write_report(results, tmp_path / "report", ["markdown"])
    assert not any(name.startswith("figures") for name in files(tmp_path / "report"))


@pytest.mark.slow
def test_pages_of_a_former_report_are_gone_unless_they_were_edited(make, tmp_path, monkeypatch):
    results, report = make(MadeUpArm("a", 1.7), seeds=2), tmp_path / "report"
    monkeypatch.setattr(Drawings, "for_paper", lambda self: {"costs": Figure(figsize=(1, 1))})
    monkeypatch.setattr(Drawings, "for_page", lambda self: {})
    shared = {"plan.json", *(f"tables/{name}.csv" for name in ("cells", "results", "budgets"))}
    figures = {"figures/costs.png", "figures/costs.pdf"}
    write_report(results, report)
    write_report(results, report, ["markdown"])
    assert files(report) == {*shared, *figures, "report.md"}
    assert not (report / "latex").exists()
    write_report(results, report, ["html"])
    assert files(report) == {*shared, "report.html"}
    write_report(results, report)
    whole = files(report)
    for name in ("report.md", "report.html", "latex/report.tex"):
        with (report / name).open("a") as page:
            page.write("mine\n")
    write_report(results, report, ["latex"])  # next to the edited paper
    assert files(report) == {*whole, "latex/report-new.tex"}
    write_report(results, report, [])
    assert files(report) == whole
    for name in ("report.md", "report.html", "latex/report.tex"):
        assert (report / name).read_text().endswith("mine\n")


@pytest.mark.slow
def test_a_users_files_next_to_a_former_report_stay(make, tmp_path, monkeypatch):
    results, report = make(MadeUpArm("a", 1.7), seeds=2), tmp_path / "report"
    monkeypatch.setattr(Drawings, "for_paper", lambda self: {"costs": Figure(figsize=(1, 1))})
    monkeypatch.setattr(Drawings, "for_page", lambda self: {})
    write_report(results, report)
    latex = report / "latex"
    (latex / "mine.tex").write_bytes((latex / "report.tex").read_bytes())  # which needs figures, style and sources
    (report / "charlab.sty").write_bytes((latex / "charlab.sty").read_bytes())
    needed = {path for path in files(latex) if path != "report.tex"}
    write_report(results, report, ["html"])
    assert files(latex) == needed
    assert "figures/costs.pdf" in needed
    assert (report / "charlab.sty").exists()
    assert not (report / "report.md").exists()


def test_tables_of_a_former_report_are_gone(make, tmp_path):
    write_report(make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=2), tmp_path / "report", [])
    assert "tables/verdicts.csv" in files(tmp_path / "report")
    write_report(make(MadeUpArm("a", 1.7), seeds=2, name="alone"), tmp_path / "report", [])
    tables = {f"tables/{name}.csv" for name in ("cells", "results", "budgets")}
    assert files(tmp_path / "report") == {"plan.json", *tables}


def test_a_study_that_has_not_begun_has_a_report_too(tmp_path):
    arms = [MadeUpArm(name, 1.7, fates=dict.fromkeys((305, 306), ("missing", ""))) for name in "ab"]
    results = read_results(make_study(tmp_path, arms, seeds=2), tmp_path / "outputs")
    report = write_report(results, tmp_path / "r", ["markdown", "latex"])
    page = report.files["markdown"].read_text()
    assert "4 of 4 cells have no result (4 missing)" in page
    assert "matched" not in page


def test_looks_are_counted_once(make):
    arms = [MadeUpArm("a", 1.7), MadeUpArm("b", 1.6, fates={305: ("missing", ""), 306: ("diverged", "nan")})]
    results = make(*arms, seeds=6)
    console = Console(file=None, quiet=True)
    make_report(results, formats=[], console=console)
    plan = Plan.load(results.folder)
    assert plan.looks == (5,)  # a diverged cell has ended, a missing one has not
    again = read_results(plan, results.folder.parents[1])
    assert with_look(again) is plan


def test_a_report_keeps_what_another_process_has_written_into_the_plan(make):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=6)
    changed = dataclasses.replace(results.plan, looks=(3,), amendments=("The arm c was left out.",))
    changed.save(results.folder)
    make_report(results, formats=[], console=Console(file=None, quiet=True))
    assert Plan.load(results.folder) == dataclasses.replace(changed, looks=(3, 6))
    assert Plan.load(results.folder / "report").looks == (3,)


def test_a_planned_look_counts_although_an_arm_was_settled_before(make):
    arms = [MadeUpArm("base", 1.5), MadeUpArm("clear", 0.5), MadeUpArm("unclear", 1.48)]
    results = make(*arms, seeds=9, noise=0.03, planned_looks=(6, 9))
    assert {arm: len(found.seeds) for arm, found in results.comparisons().items()} == {"clear": 6, "unclear": 9}
    assert with_look(results).looks == (9,)


def test_the_program_prints_verdicts_and_places(make, without_figures, tmp_path, monkeypatch, capsys):
    make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=6, name="mine")
    monkeypatch.chdir(tmp_path)
    assert cli.report(["study=mine", "formats=[markdown]"]) == 0
    printed = capsys.readouterr().out
    assert "supported" in printed
    assert "markdown  outputs/studies/mine/report/report.md" in printed
    assert (tmp_path / "outputs/studies/mine/report/report.md").exists()
    assert not (tmp_path / "outputs/studies/mine/report/report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study=min"], "There is no study 'min' in outputs/studies or docs/studies; did you mean mine?"),
        (["study=2026"], "There is no study '2026' in outputs/studies or docs/studies; known is mine."),
        ([], "No study is named: give study=NAME; known is mine."),
        (["study=mine", "formats=[markdown,pdf]"], "formats must be a list of values"),
        (["study=mine", "folder=x"], "There is no key folder;"),
    ],
)
def test_mistakes_end_in_a_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    make_study(tmp_path, [MadeUpArm("a", 1.7)], seeds=1, name="mine")
    monkeypatch.chdir(tmp_path)
    assert cli.report(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(said)
    assert "Traceback" not in captured.err


@pytest.mark.slow
def test_a_report_needs_no_torch(make, tmp_path):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=2)
    code = f"""
import sys
from pathlib import Path
from charlab.studies.plan import Plan
from charlab.studies.state import read_results
from charlab.studies.report.writer import write_report
folder = Path({str(results.folder)!r})
write_report(read_results(Plan.load(folder), folder.parents[1]), folder / "report", ["html"])
assert not {{"torch", "lightning"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)
