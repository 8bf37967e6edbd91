"""What a report cites, and what it says that its arms were trained with."""

import re

from hydra.utils import get_object

from charlab.studies.report.contents import gather
from charlab.studies.report.document import Heading, page, paper
from charlab.studies.report.latex import render_latex
from charlab.studies.report.literature import bibliography
from tests.helpers.made_up_study import MadeUpArm

STATISTICS = {"several arms", "planned looks", "other text"}


def test_every_source_is_whole_and_of_something_that_exists():
    for source in bibliography():
        assert set(re.findall(r"^  (\w+) =", source.entry, flags=re.M)) >= {"title", "author", "year"}
        assert source.covers
        assert all(what in STATISTICS or get_object(what) for what in source.covers)
        assert re.fullmatch(r"[^\W\d].* (19|20)\d\d", source.cited)
        assert not re.search("[{}]", source.listed)
    assert len({source.entry.partition(",")[0] for source in bibliography()}) == len(bibliography())


def test_authors_are_cited_as_papers_do():
    cited = {source.cited for source in bibliography()}
    assert {"Elman 1990", "Gu and Dao 2023", "Su et al. 2021", "Hu et al. 2024"} <= cited
    (loshchilov,) = (s for s in bibliography() if "Decoupled" in s.listed)
    assert loshchilov.listed.startswith("Ilya Loshchilov, Frank Hutter. Decoupled Weight Decay Regularization. ")


def test_what_the_runs_use_is_cited_and_nothing_else(plain, make):
    contents = gather(plain)
    (methods,) = (sentence for sentence in contents.method if sentence.startswith("Methods from the literature"))
    assert methods == (
        "Methods from the literature: Attention (Vaswani et al. 2017), Rotary (Su et al. 2021), "
        "WarmupCosine (Loshchilov and Hutter 2017) and adamw (Loshchilov and Hutter 2019)."
    )
    listed = " ".join(source.listed for source in contents.sources)
    for word in ("RoFormer", "Sequentially Rejective", "Circular Block"):  # three arms: Holm; other text: the bootstrap
        assert word in listed
    assert "Mamba" not in listed
    assert "Repeated Confidence" not in listed
    two = gather(make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6)))
    assert not any("Holm" in source.listed for source in two.sources)


def test_settings_are_those_of_the_runs(plain):
    table = gather(plain).settings
    assert table.headings[:2] == ("arm", "model")
    learned, rotary, _ = ([cell.text for cell in row] for row in table.rows)
    assert learned[1:] == [
        "Backbone + Attention; num_layers 4, embed_dim 64, num_heads 4",
        "807,808",
        "adamw",
        "0.003",
        "WarmupCosine",
        "400",
        "32 × 64",
    ]
    assert rotary[1].startswith("Backbone + Attention + Rotary")
    assert [table.rows[0][column].key for column in (2, 4, 6)] == [807_808, 3e-3, 400]  # not sorted as text


def test_settings_are_not_those_of_a_run_that_was_cut_short(make):
    results = make(MadeUpArm("a", 1.7), MadeUpArm("b", 1.6, fates={305: ("failed", "It raised.")}), seeds=6)
    results.of("b")[0].record.steps = 37
    assert [row[6].text for row in gather(results).settings.rows] == ["400", "400"]


def test_every_table_and_figure_of_the_paper_is_referred_to(plain):
    contents = gather(plain)
    written = render_latex(contents, ("differences", "curves", "costs"))
    labels = re.findall(r"\\label\{(.*?)\}", written)
    assert labels == list(dict.fromkeys(labels))
    assert set(labels) == set(re.findall(r"\\ref\{(.*?)\}", written))
    assert {"table:settings", "table:verdicts", "table:results", "table:budgets", "figure:differences"} <= set(labels)
    for parts in (page(contents, ()), paper(contents, (), judged=True)):
        assert Heading("References") in list(parts)
