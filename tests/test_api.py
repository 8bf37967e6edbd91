"""What a notebook is shown, and keywords as overrides."""

import builtins
import math
import os
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import charlab
from charlab.api import _apart, _overrides, node_of
from charlab.configuration.compose import compose
from charlab.errors import UserError
from charlab.notebook import NotebookLive, Output
from charlab.runs.display import show_if_finished
from charlab.runs.record import Record
from charlab.studies.state import read_results
from charlab.training.device import set_threads
from tests.helpers.browser import visit
from tests.helpers.made_up_study import MadeUpArm, make_study


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += f"{data} "


@pytest.mark.parametrize(
    ("values", "overrides"),
    [
        ({"model": "gpt", "model/norm": "rms"}, ["model=gpt", "model/norm=rms"]),
        ({"trainer": {"max_steps": 3, "accelerator": "cpu"}}, ["trainer.max_steps=3", "trainer.accelerator=cpu"]),
        ({"callbacks": {"samples": None}, "force": True}, ["callbacks.samples=null", "force=true"]),
        ({"optimizer": {"lr": 1e-3, "betas": (0.9, 0.99)}}, ["optimizer.lr=0.001", "optimizer.betas=[0.9,0.99]"]),
        ({"seed": np.int64(3), "optimizer": {"lr": np.float64(1e-3)}}, ["seed=3", "optimizer.lr=0.001"]),
        ({"force": np.True_, "tags": ["a", "b"]}, ["force=true", 'tags=["a","b"]']),
        ({"data": {"path": Path("my texts/a,b.txt")}}, ['data.path="my texts/a,b.txt"']),
        (
            {"trainer": {"max_steps": 3, "profiler": {"_target_": "a.B", "c": None}}},
            ["trainer.max_steps=3", '++trainer.profiler={_target_:"a.B",c:null}'],
        ),
        (
            {"callbacks": {"mine": {"_target_": "a.B", "c": 1}, "samples": {"length": 5}}},
            ['++callbacks.mine={_target_:"a.B",c:1}', "callbacks.samples.length=5"],
        ),
    ],
)
def test_keywords_are_overrides(values, overrides):
    assert _overrides(values) == overrides


@pytest.mark.parametrize("text", ["true", "1e-3", "a,b", "null", 'say "hi"', "", "Größe", "x=y", "[1]"])
def test_a_text_stays_a_text(text):
    assert compose(_overrides({"name": text}), "report").name == text


@pytest.mark.slow
def test_the_threads_of_a_run_are_not_those_of_the_next(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    used = []

    def train(config, folder, overrides):
        set_threads(config.compute.threads)
        used.append(torch.get_num_threads())

    monkeypatch.setattr("charlab.api.train", train)
    run = partial(charlab.run, "data=play", "data.corpus.length=20000", "model=bigram", f"output_dir={tmp_path}")
    run(compute={"threads": before + 1})
    run()
    assert used == [before + 1, before]
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_a_deterministic_run_leaves_the_next_one_as_it_is(tmp_path, monkeypatch):
    def flags():
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark

    def train(config, folder, overrides):
        seen.append(flags())
        torch.use_deterministic_algorithms(True)  # as Lightning does for trainer.deterministic=true
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark

    seen = [flags()]
    monkeypatch.setattr("charlab.api.train", train)
    for _ in range(2):
        charlab.run("data=play", "data.corpus.length=20000", "model=bigram", f"output_dir={tmp_path}")
    assert seen == 3 * [(False, seen[0][1])]
    assert flags() == seen[0]


CALLS = (charlab.run, charlab.study, partial(charlab.evaluate, "run"), partial(charlab.generate, "run"))


@pytest.mark.parametrize("call", CALLS)
def test_overrides_are_texts(call):
    with pytest.raises(UserError, match=r"\['model=gpt'\] is not an override: give each as a text of its own"):
        call(["model=gpt"])


@pytest.mark.parametrize(("override", "folders"), [("hydra.output_subdir=null", []), ("hydra.output_subdir=a", ["a"])])
def test_a_run_keeps_its_configuration_where_hydra_would(tmp_path, monkeypatch, override, folders):
    monkeypatch.setattr("charlab.api.train", lambda config, folder, overrides: None)
    charlab.run("data=play", "data.corpus.length=20000", "model=bigram", f"output_dir={tmp_path}", override)
    (folder,) = tmp_path.glob("runs/*/*")
    assert [path.name for path in folder.iterdir()] == folders
    for path in folder.iterdir():
        assert {file.name for file in path.iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}


def test_what_is_hydras_counts_or_is_refused(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("charlab.api.train", lambda config, folder, overrides: seen.append(os.environ.get("MINE")))
    run = partial(charlab.run, "data=play", "data.corpus.length=20000", "model=bigram", f"output_dir={tmp_path}")
    run("+hydra.job.env_set.MINE=1")
    assert (seen, os.environ.get("MINE")) == (["1"], None)
    with pytest.raises(UserError, match=r"hydra\.callbacks are called by the command line alone"):
        run("+hydra.callbacks.mine._target_=x.Y")
    assert len(seen) == 1


def test_classes_are_told_from_values():
    objects, typed = _apart({"model": dict, "seed": 3, "callbacks": {"mine": dict}, "data": {"context_length": 8}})
    assert set(objects) == {"model", "callbacks"}
    assert typed == ["seed=3", "data.context_length=8"]
    assert _apart({"seed": np.arange(4)[3]}) == ({}, ["seed=3"])


def test_numbers_stay_the_keys_of_a_mapping():
    for table, kept in (({1: "a", 2: "b"}, {1: "a", 2: "b"}), ({1: "a", "b": 2}, {"1": "a", "b": 2})):
        assert node_of(partial(dict, table=table), "model")["table"] == kept


def test_a_mistake_is_one_sentence_in_a_notebook(capsys):
    InteractiveShell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    shell = InteractiveShell.instance()
    try:
        shell.run_cell("from charlab.errors import UserError\ndef f(): raise UserError('Give a seed.')\nf()")
    finally:
        InteractiveShell.clear_instance()
    printed = capsys.readouterr()
    assert (printed.out + printed.err).strip() == "UserError: Give a seed."


@pytest.fixture
def displayed(monkeypatch):
    """What rich displays in boxes of its own, as in a notebook."""
    shown = []
    monkeypatch.setattr(builtins, "get_ipython", type("ZMQInteractiveShell", (), {}), raising=False)
    monkeypatch.setattr("rich.jupyter.display", lambda segments, text: shown.append(text))
    return shown


def test_text_that_is_generated_is_not_printed_in_a_notebook(displayed, monkeypatch):
    def generated(config, console):
        console.print("sample 1")
        return ["text"]

    monkeypatch.setattr("charlab.runs.generate.generate_from_run", generated)
    assert charlab.generate("somewhere") == "text"
    assert displayed == []


def test_the_table_of_a_finished_run_is_plain_output_in_a_notebook(displayed, record, monkeypatch, capsys):
    consoles = []

    def show(record, console, at_end):
        consoles.append(console)
        console.print("finished")

    monkeypatch.setattr("charlab.runs.display.show", show)
    monkeypatch.setattr("charlab.runs.store.locate_in", lambda folder, config: SimpleNamespace(finished=record))
    assert show_if_finished(OmegaConf.create({"force": False}), record.folder) is record
    assert isinstance(consoles[0], Output)
    assert (displayed, capsys.readouterr().out) == ([], "finished\n")


def entry(split="validation", protocol="blocks", nll: float | None = 1.5, likelihood="exact"):
    known = nll is not None
    values = {"nll": nll, "bpc": nll / math.log(2) if known else None, "perplexity": math.exp(nll) if known else None}
    return {"split": split, "protocol": protocol, "likelihood": likelihood, **values}


@pytest.fixture
def record(tmp_path):
    (tmp_path / "samples.txt").write_bytes(b"<b>To be\xff</b>\n")
    (tmp_path / "metrics.csv").write_text(
        "step,characters,seconds,metric,value\n0,0,0.0,validation/nll,4.1\n9,99,1.0,validation/nll,1.5\n"
    )
    metrics = [entry(), entry(protocol="sliding", likelihood="bound", nll=1.4), entry("train", nll=None)]
    return Record(tmp_path, "a <i>name</i>", "f", "finished", metrics=metrics, parameters=4225, steps=9)


def test_a_record_shows_itself_as_a_card(record):
    page = Page(record._repr_html_())
    for text in ("a <i>name</i>", "finished", "4,225 parameters", "blocks", "1.5000", "≤ 1.4000", "not finite"):
        assert text in page.words, text
    assert "<b>To be\ufffd</b>" in page.words
    assert not {"b", "i", "style", "script"} & {tag for tag, _ in page.tags}  # nothing reaches beyond the card
    [picture] = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert picture.startswith("data:image/svg+xml;base64,")
    assert repr(record) == f"<Record of a <i>name</i>, finished, in {record.folder}>"


def test_a_card_says_that_figures_are_false(record):
    record.causality = {"leaks": True, "reason": "It looks ahead."}
    page = Page(record._repr_html_())
    assert "leaks  It looks ahead." in " ".join(page.words.split(" "))
    assert any("line-through" in attrs.get("style", "") for tag, attrs in page.tags if tag == "table")


def test_figures_and_tables_are_matplotlibs_and_pandas(record):
    assert record.table()["nll"][:2].tolist() == [1.5, 1.4]
    assert record.curves()["value"].tolist() == [4.1, 1.5]
    assert record.plot().axes[0].get_ylabel() == "loss (nats per character)"


def test_a_study_shows_itself_as_its_report(tmp_path):
    plan = make_study(tmp_path, [MadeUpArm("a", 1.7), MadeUpArm("b", 1.6)], seeds=3)
    results = read_results(plan, tmp_path / "outputs")
    shown = results._repr_html_()
    page = Page(shown)
    assert [tag for tag, _ in page.tags][:2] == ["style", "div"]
    assert "not evidence yet" in page.words
    assert "[!" not in shown
    assert all(attrs["src"].startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert results.plot().axes


def test_a_study_that_has_not_begun_has_nothing_to_draw(tmp_path):
    plan = make_study(tmp_path, [MadeUpArm("a", 1.7, fates={305: ("missing", "")})], seeds=1)
    with pytest.raises(UserError, match="nothing to draw yet"):
        read_results(plan, tmp_path / "outputs").plot()


BAR = """
  const line = document.querySelector("div").getBoundingClientRect(), bar = document.querySelector("progress");
  const text = document.querySelector("span"), words = text.firstChild, range = document.createRange(), heights = [];
  for (const found of words.data.matchAll(/\\S+(\u00a0\\S+)*/g)) {
    range.setStart(words, found.index);
    range.setEnd(words, found.index + found[0].length);
    heights.push(range.getClientRects().length);
  }
  const seen = { errors: window.errors, page: document.documentElement.scrollWidth, line: line.right,
    bar: bar.getBoundingClientRect().width, right: Math.max(...[bar, text].map((e) => e.getBoundingClientRect().right)),
    words: text.innerText, heights: Math.max(...heights) };
"""


@pytest.mark.slow
@pytest.mark.rendering
@pytest.mark.parametrize("width", [390, 800, 1200])
def test_the_bar_is_whole_at_any_width(width):
    figures = "1,234/5,000  loss 1.234  perplexity 3.43  1,234,567 characters/s  1.2 TFLOP/s  0:01:02  0:12:34 left"
    line = f"training  {figures}\nstep 1,200  train 1.234  validation 1.345  dev 1.345  (estimate)"
    shown = NotebookLive(lambda: (0.25, line))._html().data
    seen = visit(f"<html><head><title>Progress</title></head><body>{shown}</body></html>", BAR, width)
    assert seen["errors"] == []
    assert seen["page"] <= width
    assert seen["right"] <= seen["line"] <= width
    assert seen["bar"] >= 100
    assert seen["words"].replace("\xa0", " ") == line  # with the spaces between figures
    assert seen["heights"] == 1  # no figure is broken


def test_progress_lives_in_one_output_area(capsys):
    pytest.importorskip("IPython")
    shown = []
    live = NotebookLive(lambda: (0.25, "loss < 2"))
    live.refresh()  # before it has begun, and after its end, nothing happens
    live._handle = type("Handle", (), {"display": shown.append, "update": shown.append})
    live.refresh()
    live.stop()
    live.refresh()
    assert len(shown) == 2
    page = Page(shown[0].data)
    assert ("progress", "0.2500") in [(tag, attrs.get("value")) for tag, attrs in page.tags]
    assert "loss\xa0<\xa02" in page.words
