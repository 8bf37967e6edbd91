"""The page of results: figures come from the records, bounds and leaks are marked, online figures are separate."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from matplotlib.figure import Figure

from charlab.errors import UserError
from charlab.runs.archive import CURVES, RUNS, Archive
from charlab.runs.record import Record
from charlab.studies.report.figures import Drawings
from tests.helpers.made_up_study import MadeUpArm, make_study
from tests.helpers.repository import Repository
from tools.results import speed
from tools.results.__main__ import README, differing_reports, keep, main, results_page, thin, write_reports
from tools.results.part1 import headline, part1, pictures
from tools.results.part2 import overview
from tools.results.speed import benchmarks, latest_change, unmeasured
from tools.results.wanted import LIST

HEADER = "step,characters,seconds,metric,value\n"
PROGRAM = "tools.results.__main__"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes the folder of a run."""

    def write(
        name,
        nll,
        *,
        seed=305,
        seconds=60.0,
        parameters=1000,
        likelihood="exact",
        online=None,
        status="finished",
        machine="a processor",
        overrides=(),
    ):
        figures = {"bpc": nll * 1.4427, "perplexity": 2.718**nll, "likelihood": likelihood, "standard_error": None}
        protocols = {"blocks": nll, "sliding": nll - 0.05} | ({"online": online} if online else {})
        record = Record(
            folder=tmp_path / "runs" / name / f"{nll}-{seed}-{seconds}",
            name=name,
            fingerprint=f"{nll}-{seed}-{seconds}",
            status=status,
            overrides=[f"experiment={name.replace('-', '/')}", f"seed={seed}", *overrides],
            config={"trainer": {"max_seconds": seconds}, "output_dir": "/somewhere/else"},
            seed=seed,
            parameters=parameters,
            characters_seen=123456,
            time={"training_s": seconds},
            machine={"threads": 2, "device": "cpu", "name": machine},
            metrics=[
                {"protocol": p, "split": "validation", "nll": v, "context_length": 128, **figures}
                for p, v in protocols.items()
            ],
        )
        record.save()
        (record.folder / "metrics.csv").write_text(f"{HEADER}0,0,0.000,train/loss,{nll}\n9,9,0.5,train/loss,1e-05\n")
        (record.folder / "samples.txt").write_text(f"To be, or\t{name}.\n")
        return record

    return write


@pytest.fixture
def records(write, tmp_path):
    """Return a function that writes a run and keeps it."""

    def add(*arguments, **settings):
        record = write(*arguments, **settings)
        keep(record.folder, tmp_path / "records")
        return record

    return add


def page(tmp_path):
    return results_page(Archive(tmp_path / "records"), tmp_path / "docs")


def row(text, label):
    return [
        cell.strip() for cell in next(line for line in text.splitlines() if line.startswith(f"| {label}")).split("|")
    ]


def test_seeds_are_averaged_with_their_spread(records, tmp_path):
    for seed, nll in ((1, 1.5), (2, 1.6), (3, 1.7)):
        records("part2-gru", nll, seed=seed)
    cells = row(page(tmp_path), "gru")
    assert cells[5] == "1.6000 ± 0.1000"
    assert cells[8] == "1.5500 ± 0.1000"
    assert cells[9] == "3"
    assert "-m study=table/one_minute\n" in page(tmp_path)


def test_budgets_have_tables_of_their_own(records, tmp_path):
    records("part2-gru", 1.7)
    records("part2-gru", 1.4, seconds=300.0)
    text = page(tmp_path)
    minute, five = text.split("### After 5 minutes")
    assert "After 60 seconds" in minute
    assert row(minute, "gru")[5] == "1.7000"
    assert row(five, "gru")[5] == "1.4000"


def test_counts_are_the_floor_that_families_are_sorted_by(records, tmp_path):
    records("part2-ngram_kneser_ney", 1.52, seconds=60.0, parameters=0)
    records("part2-gru", 1.45)
    records("part2-rnn", 1.7)
    text = page(tmp_path)
    assert "By *blocks*, counting n-grams reaches 1.520. Better: gru. Not better: rnn." in text
    assert "By *sliding*, counting n-grams reaches 1.470. Better: gru. Not better: rnn." in text
    assert [text.index(f"| {label}") for label in ("gru", "ngram kneser ney", "rnn")] == sorted(
        text.index(f"| {label}") for label in ("gru", "ngram kneser ney", "rnn")
    )


def test_a_bound_is_marked_and_not_ranked(records, tmp_path):
    records("part2-ngram_kneser_ney", 1.52, parameters=0)
    records("part2-masked_diffusion", 1.3, likelihood="bound")
    records("part2-gru", 1.6)
    text = page(tmp_path)
    assert row(text, "masked diffusion")[5].startswith("≤ ")
    assert text.index("| masked diffusion") > text.index("| gru")
    assert "Better: none. Not better: gru." in text
    assert "Known only by an upper bound: masked diffusion." in text


def test_block_diffusion_is_compared_with_the_transformer_of_its_size(records, tmp_path):
    records("part2-ngram_kneser_ney", 1.52, parameters=0)
    records("part2-modern_gpt", 1.6, seconds=300.0)
    assert "Block diffusion" not in page(tmp_path)
    records("part2-block_diffusion", 1.68, seconds=300.0, likelihood="bound")
    assert "Block diffusion is at most 5.0% above modern gpt" in page(tmp_path)


def test_a_table_says_which_machine_trained_what(records, tmp_path):
    records("part2-gru", 1.6)
    assert "Trained on a processor.\n" in page(tmp_path)
    records("part2-gru", 1.5, seed=306, machine="another")
    records("part2-lstm", 1.4, machine="another")
    records("part2-lstm", 1.3, machine="another", seconds=300.0)
    text = page(tmp_path)
    assert "Trained on a processor: gru; on another: lstm, gru.\n" in text.split("### After 5 minutes")[0]
    assert "Trained on another.\n" in text.split("### After 5 minutes")[1]


def test_online_figures_have_their_own_table(records, tmp_path):
    records("part2-gru", 1.6, online=1.4321)
    text = page(tmp_path)
    static, online = text.split("### Online")
    assert "1.4321" not in static
    assert "1.4321" in online


def test_online_figures_of_several_seeds_are_one_row(records, tmp_path):
    for seed, nll in ((305, 1.40), (306, 1.44), (307, 1.42)):
        records("part2-lstm", 1.6, seed=seed, online=nll)
    records("part2-lstm", 1.5, seconds=300.0, online=1.35)
    online = page(tmp_path).split("### Online")[1]
    rows = [line for line in online.splitlines() if line.startswith("| lstm")]
    assert [line.split(" | ")[1:4] for line in rows] == [
        ["5 minutes", "1.5000", "1.3500"],
        ["60 seconds", "1.6000 ± 0.0000", "1.4200 ± 0.0200"],
    ]
    assert [line.split(" | ")[-1] for line in rows] == ["1 |", "3 |"]


def test_a_model_that_is_fitted_as_a_whole_is_among_the_online_ones(records, tmp_path):
    records("part2-gru", 1.6)
    records("online-context_mixing", 1.3, online=1.2468, seconds=None)
    assert "| context mixing | fitted as a whole | 1.3000 | 1.2468 |" in page(tmp_path).split("### Online")[1]


def test_the_readmes_table_has_online_figures_after_five_minutes(records, tmp_path):
    records("part2-ngram_kneser_ney", 1.52, parameters=0, online=1.41)
    records("part2-lstm", 1.6, online=1.9)  # after one minute
    for seed, nll in ((305, 1.40), (306, 1.44)):
        records("part2-lstm", 1.5, seed=seed, seconds=300.0, online=nll)
    records("part2-min_gru", 1.54, seed=305, seconds=300.0, online=1.45)
    records("part2-min_gru", 1.56, seed=306, seconds=300.0)  # not a mean over all seeds
    records("part2-masked_diffusion", 2.2, likelihood="bound")
    records("online-context_mixing", 1.44, seconds=None, online=1.25)
    assert overview(Archive(tmp_path / "records").records()).splitlines() == [
        "| model | | parameters | one minute | five minutes | online |",
        "|---|---|---:|---:|---:|---:|",
        "| `ngram_kneser_ney` | counts of 7-grams, no training | counts | 1.520 | – | 1.410 |",
        "| `lstm` | two layers of LSTM | 1,000 | 1.600 | 1.500 | 1.420 |",
        "| `min_gru` | minimal GRU, trained by a parallel scan | 1,000 | – | 1.550 | – |",
        "| `masked_diffusion` | masked diffusion | 1,000 | ≤ 2.200 | – | – |",
        "| `context_mixing` | counts in many contexts, mixed with an LSTM | 1,000 | – | – | 1.250 |",
    ]


def test_only_a_finished_run_is_kept(write, tmp_path):
    running = write("part2-gru", 1.6, status="running")
    with pytest.raises(UserError, match="is running: finish it"):
        keep(running.folder, tmp_path / "kept")
    debugged = write("part2-gru", 1.6)
    debugged.config["debug"] = "overfit"
    debugged.save()
    with pytest.raises(UserError, match=r"was for debugging \(debug=overfit\), and is not a result"):
        keep(debugged.folder, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_kept_run_says_all_that_its_folder_did_but_for_the_machines_folders(write, tmp_path):
    run = write("part2-rnn", 1.6, overrides=["output_dir=/somewhere/else"])
    keep(run.folder, tmp_path / "kept")
    archive, key = Archive(tmp_path / "kept"), f"part2-rnn/{run.fingerprint}"
    record = archive.record(key)
    assert record.metrics == run.metrics
    assert record.overrides == run.overrides[:-1]
    assert "/somewhere/else" not in (tmp_path / "kept" / RUNS).read_text()
    assert archive.sample(record) == (run.folder / "samples.txt").read_text()
    assert archive.curves(record)["value"].tolist() == [1.6, 1e-05]
    assert archive.curves(record)["metric"].tolist() == ["train/loss"] * 2


def test_an_archive_depends_neither_on_order_nor_on_time(write, tmp_path):
    runs = [write("part2-gru", nll).folder for nll in (1.5, 1.6, 1.7)]
    for place, order in (("a", runs), ("b", [runs[2], runs[0], runs[1], runs[0]])):
        for run in order:
            keep(run, tmp_path / place)
    for file in (RUNS, CURVES):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert gzip.decompress((tmp_path / "a" / CURVES).read_bytes()).decode().splitlines()[0] == f"run,{HEADER.strip()}"


def test_runs_that_are_kept_at_the_same_time_are_all_kept(write, tmp_path):
    runs = [write("part2-gru", nll).folder for nll in (1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8)]
    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(keep, runs, [tmp_path / "kept"] * len(runs)))
    archive = Archive(tmp_path / "kept")
    assert [record.fingerprint for record in archive.records()] == [run.name for run in runs]
    assert all(len(archive.curves(record)) == 2 for record in archive.records())


@pytest.mark.parametrize("reports", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_documents_are_those_of_the_records_in_the_repository(monkeypatch, reports):
    if not reports:
        monkeypatch.setattr(f"{PROGRAM}.differing_reports", lambda archive: [])
    assert main(["--check"]) == 0


@pytest.mark.slow
def test_what_differs_from_the_records_is_found_and_left_alone(monkeypatch, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text(former := README.read_text(encoding="utf-8").replace("| `lstm`", "| `lstn`"), encoding="utf-8")
    monkeypatch.setattr(f"{PROGRAM}.README", page)
    monkeypatch.setattr(f"{PROGRAM}.ROOT", tmp_path)
    monkeypatch.setattr(f"{PROGRAM}.differing_reports", lambda archive: [tmp_path / "docs/studies/mine/report.md"])
    assert main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{name} differs from the records: run make results." for name in ("README.md", "docs/studies/mine/report.md")
    ]
    assert page.read_text(encoding="utf-8") == former


def test_reports_are_written_from_the_kept_plan_and_records_alone(monkeypatch, tmp_path):
    plan = make_study(tmp_path, [MadeUpArm("learned", 1.7), MadeUpArm("rotary", 1.6)], seeds=2)
    outputs, docs, archive = tmp_path / "outputs", tmp_path / "docs", Archive(tmp_path / "records")
    for cell in plan.cells:
        keep(outputs / "runs" / cell.run, archive.folder)
        (outputs / "runs" / cell.run / "record.json").write_text("{")  # of this machine, and no matter
    home = docs / "studies" / plan.name
    plan.save(home)
    (docs / "studies" / "picture_alone").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"{PROGRAM}.DOCS", docs)
    monkeypatch.setattr(Drawings, "for_paper", lambda drawings: {"costs": Figure((1, 1))})
    write_reports(docs / "studies", archive)
    assert differing_reports(archive) == []
    page = home / "report.md"
    assert "4 of 4 cells finished" in page.read_text()
    assert "charlab report study=made_up\n" in page.read_text()
    assert "corrupt" not in page.read_text()

    page.write_text(page.read_text().replace("4 of 4 cells", "5 of 5 cells"))
    (home / "figures" / "costs.png").unlink()
    (home / "tables" / "verdicts.csv").write_text("arm\n")
    (home / "figures" / "costs.pdf").write_bytes(b"by another version of matplotlib")
    assert differing_reports(archive) == [home / "figures/costs.png", page, home / "tables/verdicts.csv"]


def test_make_results_writes_the_reports(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(f"{PROGRAM}.wanted", lambda runs, outputs: [])
    monkeypatch.setattr(f"{PROGRAM}.write", lambda runs: written.append("documents"))
    monkeypatch.setattr(f"{PROGRAM}.write_reports", lambda folder, archive: written.append(folder.name))
    assert main(["--output-dir", str(tmp_path)]) == 0
    assert written == ["documents", "studies"]


def test_what_a_reader_meets_first_is_made_first():
    groups = [*dict.fromkeys(item.group for item in LIST)]
    assert groups[:5] == [
        "Quickstart",
        "Part 1: the transformer to its end",
        "Part 2: one minute",
        "Part 2: five minutes",
        "Online",
    ]
    pages = ("A loss within a time", "Part 1: the ladder", "The track", "Study: position", "Study: heads")
    assert sorted(pages, key=groups.index) == [*pages]
    runs = [item.overrides[0] for item in LIST if item.overrides]
    of_the_readme, of_the_page = (f"experiment=benchmark/{name}" for name in ("one_hour", "ten_minutes"))
    assert runs.index(of_the_readme) < runs.index("experiment=part1/bigram") < runs.index(of_the_page)


def test_curves_are_thinned_each_by_itself():
    rows = [f"{step},train/loss,{step / 1000}\n" for step in range(1000)] + ["999,blocks/validation/nll,1.5\n"]
    kept = thin(["step,metric,value\n", *rows], points=10).splitlines()
    assert kept[0] == "step,metric,value"
    steps = [0, 1, 2, *range(99, 1000, 100)]  # with the first ones, which a requalification repeats
    assert kept[1:] == [f"{step},train/loss,{step / 1000}" for step in steps] + ["999,blocks/validation/nll,1.5"]


def test_a_loss_within_a_time_has_its_command(records, tmp_path):
    assert "A loss within a time" not in page(tmp_path)
    records("benchmark-four_minutes", 1.4963, overrides=["model.ngrams.orders=[2,3]"])
    text = page(tmp_path)
    assert row(text, "four minutes")[5:7] == ["128", "1.4963"]
    assert "charlab train experiment=benchmark/four_minutes seed=305 'model.ngrams.orders=[2,3]'" in text


def test_the_seeds_of_an_experiment_are_one_row_with_a_command_each(records, tmp_path):
    for seed, nll in ((307, 1.44), (305, 1.46), (306, 1.45)):
        records("benchmark-track", nll, seed=seed, seconds=108.0, overrides=["force=true"])
    records("benchmark-track", 1.47, seconds=90.0, overrides=["optimizer.lr=1"])
    text = page(tmp_path).split("## A loss within a time")[1]
    assert [line for line in text.splitlines() if line.startswith("| track")] == [
        "| track | 1,000 | 0 | 108 | 128 | 1.4500 ± 0.0100 | 1.4000 ± 0.0100 | 3 | 2 on a processor |",
        "| track | 1,000 | 0 | 90 | 128 | 1.4700 | 1.4200 | 1 | 2 on a processor |",
    ]
    assert [line for line in text.splitlines() if line.startswith("charlab")] == [
        "charlab train experiment=benchmark/track seed=305",
        "charlab train experiment=benchmark/track seed=306",
        "charlab train experiment=benchmark/track seed=307",
        "charlab train experiment=benchmark/track seed=305 optimizer.lr=1",
    ]


def test_a_benchmark_says_whether_its_code_was_committed(tmp_path):
    file, record = tmp_path / "benchmarks.jsonl", {"title": "A step", "measured": "2026-12-01T00:00:00+00:00"}
    record |= {"machine": {"cores": 2, "architecture": "x86_64"}, "versions": {"torch": "2"}, "rounds": [{}]}
    step = {"what": "step", "unit": "ms", "against": None, "compared": "itself", "medians": {"charlab": 1.0}}
    record["figures"] = [step | {"value": 1.0, "lowest": 1.0, "highest": 1.0, "goal": None, "reached": None}]
    commits = {"a": "0123456789", "b": "0123456789+changes", "c": None}
    lines = [json.dumps(record | {"name": name, "git_commit": found}) for name, found in commits.items()]
    file.write_text("\n".join(lines))
    assert [line for line in benchmarks(file).splitlines() if line.startswith("- ")] == [
        "- `a`: A step (2026-12-01, 01234567).",
        "- `b`: A step (2026-12-01, 01234567, with uncommitted changes).",
        "- `c`: A step (2026-12-01, no commit).",
    ]


def test_benchmarks_without_a_record_or_from_before_a_change_are_named(monkeypatch, tmp_path):
    names = ("former", "today", "absent", "other", "gpu_step", "gpu_cells")
    monkeypatch.setattr(speed, "BENCHMARKS", dict.fromkeys(names))
    file = tmp_path / "benchmarks.jsonl"
    hours = {"former": "23:30:00-01:00", "today": "23:30:00-02:00", "gone": "01:00:00+00:00"}
    lines = [json.dumps({"name": name, "measured": f"2026-11-30T{hour}"}) for name, hour in hours.items()]
    file.write_text("\n".join(lines))
    missing = [
        "Benchmarks not measured (python -m benchmarks NAME): absent, other.",
        "Benchmarks not measured that need a GPU: gpu_step, gpu_cells.",
    ]
    former = "Benchmarks measured before the latest change of src/charlab: former."
    assert unmeasured(file, datetime.fromisoformat("2026-12-01T02:00:00+01:00")) == [*missing, former]
    assert unmeasured(file, None) == missing


def test_the_latest_change_of_the_code_is_that_of_its_latest_commit(tmp_path):
    assert latest_change(tmp_path) is None
    repository = Repository(tmp_path)
    assert latest_change(tmp_path) is None
    repository.commit("src/charlab/a.py", "2026-11-30T12:00:00+01:00")
    repository.commit("docs/a.md", "2026-12-01T12:00:00+00:00")
    assert latest_change(tmp_path) == datetime.fromisoformat("2026-11-30T11:00:00+00:00")


def test_help_is_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "RUN" in capsys.readouterr().out


def test_the_transformer_is_next_to_the_published_figures_with_a_sample(write, tmp_path):
    run = write("part1-transformer", 1.9)
    run.metrics += [{"protocol": "estimate", "split": split, "nll": 2.48} for split in ("train", "validation")]
    run.save()
    rows = "0,0,0,train/nll,4.25\n0,0,0,validation/nll,4.26\n200,9,9,train/nll,2.48\n200,9,9,validation/nll,2.49\n"
    (run.folder / "metrics.csv").write_text(HEADER + rows)
    keep(run.folder, tmp_path / "records")
    archive = Archive(tmp_path / "records")
    assert headline(archive).splitlines() == [
        "| steps | 0 | 200 |",
        "|---|---:|---:|",
        "| train | 4.250 | 2.480 |",
        "| published | 4.233 | 2.486 |",
        "| validation | 4.260 | 2.490 |",
        "| published | 4.232 | 2.496 |",
        "",
        "```text",
        "To be, or\tpart1-transformer.",
        "```",
    ]
    assert "| transformer | 200 | 2.480 / 2.490 | 2.486 / 2.496 |" in part1(archive, tmp_path / "docs")


def test_the_losses_of_the_long_run_are_drawn_from_the_archive(write, tmp_path, monkeypatch):
    for name in ("part1-long", "part1-bigram"):
        run = write(name, 1.6)
        rows = "0,0,0,train/nll,4.2\n0,0,0,validation/nll,4.3\n500,9,9,train/nll,2.1\n500,9,9,validation/nll,2.2\n"
        (run.folder / "metrics.csv").write_text(HEADER + rows)
        keep(run.folder, tmp_path / "records")
    monkeypatch.setattr("tools.results.part1.picture", lambda figure, kind: (figure, kind))
    ((name, draw),) = pictures(Archive(tmp_path / "records")).items()
    figure, kind = draw()
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines]
    assert (name, kind) == ("part1-long", "png")
    assert lines == [([0, 500], [4.2, 2.1]), ([0, 500], [4.3, 2.2])]
