"""The report as Markdown, HTML and LaTeX, read back."""

import re
import subprocess
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from charlab.studies.report import latex, markdown
from charlab.studies.report.contents import gather
from charlab.studies.report.writer import write_report
from tests.helpers.made_up_study import LONG, NASTY, MadeUpArm

pytestmark = pytest.mark.slow

FIGURES = ("differences", "curves", "costs")


class Page(HTMLParser):
    """What a browser would make of a page, as far as needed here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if data.strip() and self.tags[-1][0] not in ("style", "script"):
            self.texts.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text())


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def paper(folder):
    return (folder / "latex" / "report.tex").read_text()


def test_the_page_loads_nothing(page):
    addresses = [attrs[key] for _, attrs in page.tags for key in ("src", "href", "action", "data") if key in attrs]
    assert len(addresses) == 1 + 3 + 2  # differences, curves, costs
    assert all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_page_says_first_what_has_to_be_read_first(page):
    order = [
        "Hypothesis",
        "Verdicts",
        "Results",
        "Costs",
        "Cells that need attention",
        "Learning curves",
        "Quality against cost",
        "Samples",
        "Limits",
        "Reproduce",
    ]
    starts = ["Budgets do not match.", "The arm wrong axis sees", "Exploratory:"]
    places = [next(i for i, shown in enumerate(page.texts) if shown.startswith(start)) for start in starts]
    places += [page.texts.index(heading) for heading in order]
    assert places == sorted(places)
    alarms = [attrs for tag, attrs in page.tags if attrs.get("class") == "notice alarm"]
    assert len(alarms) == 2


def test_what_users_wrote_stays_text_on_the_page(page):
    assert NASTY in page.texts
    assert any("RuntimeError: <b>100%</b> & $1" in shown for shown in page.texts)
    assert not any(tag == "b" for tag, _ in page.tags)
    assert ("s", {}) in page.tags  # the leaking arm's figures


def test_the_page_changes_nothing_around_it(folder):
    text = (folder / "report.html").read_text()
    css = re.sub(
        r"/\*.*?\*/|@media print", "", text[text.index("<style>") + 7 : text.index("</style>")], flags=re.DOTALL
    )
    selectors = [selector.strip() for rule in re.findall(r"([^{}]+)\{[^{}]*\}", css) for selector in rule.split(",")]
    assert len(selectors) > 50
    assert {selector.split(" ")[0] for selector in selectors} == {".charlab-report"}


def test_a_notebook_shows_the_page_itself(plain, tmp_path, without_figures):
    report = write_report(plain, tmp_path, ["html"])
    shown = Page(report._repr_html_())
    assert [tag for tag, _ in shown.tags][:2] == ["style", "div"]
    assert not {"html", "head", "body", "meta", "title"} & {tag for tag, _ in shown.tags}
    assert shown.texts[:2] == ["Study", "plain"]
    assert write_report(plain, tmp_path, [])._repr_html_() is None


def test_only_markdown_has_github_s_marks(folder):
    assert "[!CAUTION]" in (folder / "report.md").read_text()
    assert "[!" not in (folder / "report.html").read_text()


def test_the_paper_breaks_commands_as_a_shell_allows(paper, told):
    arms = list(told.arms)
    assert [f"One cell of {arm}" in told.commands for arm in arms] == [True] * 6
    command = "charlab train " + " ".join(f"data.key_{i}='a b{i}/c.txt'" for i in range(9))
    lines = latex.command_lines(command)
    assert len(lines) > 2
    assert all(len(line) <= latex.COMMAND_COLUMNS for line in lines)
    echoed = [
        subprocess.run(["bash", "-c", f"printf '%s\\n' {text}"], capture_output=True, text=True, check=True).stdout
        for text in (command, "\n".join(lines))
    ]
    assert echoed[0] == echoed[1]
    assert paper.count(r"\begin{command}") == len(told.commands)


def test_markdown_shows_what_users_wrote(text):
    tokens = MarkdownIt().enable(["table", "strikethrough"]).parse(text)
    inline = [token for token in tokens if token.type == "inline"]
    shown = ["".join(child.content for child in token.children) for token in inline]
    assert NASTY in shown
    assert LONG in shown
    blocks = [token.content for token in tokens if token.type == "fence"]
    assert any("RuntimeError: <b>100%</b> & $1" in block for block in blocks)
    assert any(block.startswith("charlab train -m study=troubled") for block in blocks)
    assert not any(child.type.startswith("html") for token in inline for child in token.children)
    struck = [child.type for token in inline for child in token.children].count("s_open")
    assert struck == 3


def test_markdown_tables_are_tables_and_links_are_relative(text):
    tokens = MarkdownIt().enable("table").parse(text)
    assert [token.type for token in tokens].count("table_open") == 4
    images = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert images == [f"figures/{name}.png" for name in FIGURES]
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)]*)\)", text.replace(markdown.escape(NASTY), ""))
    assert links == ["tables/cells.csv"]


@example("_a_ *b* `c` <d> [e](f) ![g](h) &amp; \\\\")
@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=40))
def test_markdown_gives_any_line_back(written):
    line = " ".join(f"x {written} x".split())
    [paragraph] = [token for token in MarkdownIt().parse(f"{markdown.escape(line)}\n") if token.type == "inline"]
    assert "".join(child.content for child in paragraph.children) == line


@pytest.mark.parametrize("line", ["1. It is better.", "2) so", "- no", "+ 0.1 nats", "-0.1 nats", "1.5 nats"])
def test_markdown_takes_no_line_for_a_list(line):
    tokens = MarkdownIt().parse(f"{markdown.escape(line)}\n")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert "".join(child.content for child in tokens[1].children) == line


def test_a_text_with_fences_of_its_own_stays_one_block():
    block = markdown.block("```\ncode\n````\n")
    [token] = [token for token in MarkdownIt().parse(block) if token.type == "fence"]
    assert token.content.startswith("```\ncode\n````\n")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("50% & $x_1$ #2 {a} ~ ^", r"50\% \& \$x\_\allowbreak{}1\$ \#2 \{a\} \textasciitilde{} \textasciicircum{}"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("−0.1 ± 2 ≤ ∞", r"\ensuremath{-}0.1 \ensuremath{\pm} 2 \ensuremath{\le} \ensuremath{\infty}"),
        ("--flag=<x>", r"-{}-{}flag=\textless{}x\textgreater{}"),
        ("[Exit] *", "{[}Exit] {*}"),
        ("e\u0301 λ 中\x07", r"é \ensuremath{\lambda} \unknown{4E2D}\unknown{0007}"),
    ],
)
def test_tex_prints_what_is_written(written, expected):
    assert latex.escape(written) == expected


def test_the_paper_leaves_to_a_person_what_only_a_person_knows(paper):
    assert paper.count(r"\place{") == 6 + 1  # the seventh is in a comment
    assert "Anonymous author" in paper
    assert "someone" not in paper
    assert "7ffa33234afa" not in paper  # a commit by which a repository can be found
    assert r"\notice{alarm}{\bfseries Budgets do not match." in paper
    assert paper.index("Budgets do not match") < paper.index(r"\section{Hypothesis}")
    assert r"\struck{" in paper


def test_the_paper_has_room_for_so_many_arms_only(troubled, monkeypatch):
    monkeypatch.setattr(latex, "MOST_ARMS", 2)
    contents = gather(troubled)
    short = latex.abridge(contents)
    assert list(short.arms) == ["gpt", "diffusion"]
    assert [row[0].text for row in short.verdicts.rows] == ["diffusion"]
    assert [row[0].text for row in short.results.rows[:3]] == ["gpt (baseline)", "diffusion", "entropy of the text"]
    assert "4 more arms are in the other formats" in latex.render_latex(short, FIGURES)
    assert latex.abridge(short) is short


def test_the_paper_says_where_the_other_unfinished_cells_are(told, monkeypatch):
    monkeypatch.setattr(latex, "MOST_UNFINISHED", 1)
    assert "2 more; the other formats of this report have them all." in latex.render_latex(told, FIGURES)


def test_the_paper_of_runs_that_are_not_compared_names_no_baseline(make):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6), seeds=1, sweep=True, hypothesis="")
    assert "(baseline)" not in latex.render_latex(gather(results), ())
