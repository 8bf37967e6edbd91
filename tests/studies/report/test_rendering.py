"""The page in a real browser, and the paper through pdflatex. CI installs both."""

import dataclasses
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from charlab.studies.parameters import Tuned
from charlab.studies.report import latex
from charlab.studies.report.writer import write_report
from tests.helpers.browser import visit
from tests.helpers.made_up_study import LONG, NASTY, MadeUpArm, give_nll

pytestmark = [pytest.mark.slow, pytest.mark.rendering]

PLAIN = (MadeUpArm("learned", 1.70), MadeUpArm("rotary", 1.55))

# Runs on the page once it is there.
PROBE = """
  const table = document.querySelector("table.results");
  const column = (n) => [...table.tBodies[0].rows].map((row) => row.cells[n].innerText);
  const sorted = [];
  for (const n of [1, 1, 0, 4]) { table.tHead.rows[0].cells[n].querySelector("button").click(); sorted.push(column(0)); }
  const wide = [...document.querySelectorAll(".charlab-report *")].filter((element) =>
    !element.closest(".scroll, pre") && element.getBoundingClientRect().right > innerWidth + 1);
  const seen = {
    width: innerWidth, page: document.documentElement.scrollWidth, wide: wide.map((element) => element.outerHTML.slice(0, 200)),
    images: [...document.images].map((image) => image.naturalWidth), sorted, errors: window.errors,
    headings: [...document.querySelectorAll("h2")].map((heading) => heading.innerText),
    loaded: performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !name.startsWith("data:")),
    alarm: getComputedStyle(document.querySelector(".notice.alarm")).color,
    top: document.querySelector(".notice.alarm").offsetTop,
    verdicts: document.querySelector(".card").offsetTop,
    letters: getComputedStyle(document.querySelector(".charlab-report")).fontSize,
  };
"""  # noqa: E501


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_works_in_a_browser(folder, width):
    seen = visit((folder / "report.html").read_text(), PROBE, width)
    assert seen["errors"] == []
    assert seen["loaded"] == []
    assert seen["width"] == width
    assert seen["page"] <= width  # only tables scroll sideways, within their frames
    assert seen["wide"] == []
    assert len(seen["images"]) == 6
    assert all(size > 0 for size in seen["images"])
    assert "Verdicts" in seen["headings"]
    red, green, blue = map(int, re.findall(r"\d+", seen["alarm"]))
    assert red > 100 > max(green, blue)
    assert seen["top"] < seen["verdicts"]
    assert seen["letters"] == "16px"


def test_a_table_is_sorted_by_its_figures(folder):
    rising, falling, by_name, by_seeds = visit((folder / "report.html").read_text(), PROBE, 1280)["sorted"]
    assert [name.split(" ")[0] for name in rising[:3]] == ["entropy", "Kneser–Ney", "counts"]
    assert rising[-1] == "wrong axis"  # by its honest figure
    assert falling == rising[::-1]
    assert by_name == sorted(by_name, key=str.casefold)
    assert set(by_seeds[:2]) == {NASTY, LONG}  # 8 seeds come before 10, and those that have none last
    assert [name.split(" ")[0] for name in by_seeds[-2:]] == ["entropy", "Kneser–Ney"]


def compile_paper(folder: Path) -> tuple[int, str]:
    """Compile a copy of the paper; return its number of pages and the log."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder / "latex", copy, dirs_exist_ok=True)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
        for _ in range(2):
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, errors="replace", timeout=120)
            assert done.returncode == 0, done.stdout[-3000:]
        log = Path(copy, "report.log").read_text(errors="replace")
    return int(re.search(r"Output written on report.pdf \((\d+) page", log)[1]), log


def test_the_paper_of_a_troubled_study_has_four_pages(folder):
    pages, log = compile_paper(folder)
    assert pages <= 4
    overfull = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(overfull, default=0) < 5


@pytest.mark.parametrize("arms", [1, 2, 30])
def test_the_paper_has_four_pages_at_most(make, arms):
    names = [f"learning_rate={2.0**-i:g},layers={i}" for i in range(arms)]
    samples = [MadeUpArm(name, 1.7 + 0.01 * (i % 7)) for i, name in enumerate(names)]
    results = make(*samples, seeds=3, sweep=True, hypothesis="")
    write_report(results, results.folder / "report", ["latex"])
    assert compile_paper(results.folder / "report")[0] <= 4


def timed(make):
    return make(*PLAIN, MadeUpArm("late", 1.95), metric="steps_to", target=1.8, margin=1.05)


def tuned(make):
    rate = Tuned({"optimizer.lr": 0.02}, 1.6, 8, (105, 106), 1, 16, 400.0, 5, {"optimizer.lr": (0.01, 0.04)})
    ended = dataclasses.replace(rate, at_end=("optimizer.lr",))
    return make(*(MadeUpArm(arm.name, arm.nll, tuned=found) for arm, found in zip(PLAIN, (rate, ended), strict=True)))


def scaled(make):
    sizes = {"w16": 2e4, "w32": 5e4, "w64": 1.2e5, "w128": 3e5, "w256": 8e5}
    arms = [
        MadeUpArm(f"{family}+{name}", 1.2 + (size / 1e5) ** -0.3, parameters=int(size),
                  factors={"family": family, "size": name})
        for family in ("transformer", "lstm")
        for name, size in sizes.items()
    ]  # fmt: skip
    return make(*arms, kind="scaling", held_out="w256", margin=0.08)


def located(make):
    results = make(*PLAIN, *(MadeUpArm(f"{name}_of_eight_arms", 1.6) for name in "abcdef"))
    give_nll(results, results.folder.parents[2])
    return results


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (timed, ["Speed-up", "Wilcoxon"]),
        (tuned, ["every arm was tuned", "at the end of the range"]),
        (scaled, ["with the fitted laws", "took no part in the fit"]),
        (located, ["Where the difference is", "first letter", "differences by part of the text"]),
    ],
)
def test_the_paper_of_every_kind_of_study(make, study, words):
    results = study(make)
    report = write_report(results, results.folder / "report", ["latex"])
    pages, log = compile_paper(results.folder / "report")
    assert pages <= 4
    assert not re.search(r"Overfull|undefined|Missing character", log)
    paper = " ".join(report.files["latex"].read_text().replace("-{}", "-").split())
    assert [word for word in words if word not in paper] == []


def test_tex_has_every_letter_that_is_left_to_it(tmp_path):
    letters = [chr(code) for code in [*range(32, 127), *range(0xA0, 0x180), *range(0x391, 0x3CA)]]
    signs = list(latex._SIGNS)
    (tmp_path / "latex").mkdir()
    text = "\n\n".join(latex.escape(f"x{sign}x") for sign in [*letters, *signs, "中", "\0"])
    layout = Path(latex.__file__).parent / "templates" / "charlab.sty"
    shutil.copy(layout, tmp_path / "latex")
    document = f"\\documentclass{{article}}\\usepackage{{charlab}}\\begin{{document}}\n{text}\n\\end{{document}}\n"
    (tmp_path / "latex" / "report.tex").write_text(document)
    _, log = compile_paper(tmp_path)
    assert "Missing character" not in log
