"""What `charlab verify` finds wrong with a run or a study that was tampered with."""

import dataclasses
import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

import charlab
from charlab.cli import main
from charlab.errors import UserError
from charlab.models.bigram import Bigram
from charlab.runs.record import SCENE_LENGTH, Record
from charlab.runs.verify import RunToVerify, verify_run
from charlab.studies.verify import verify
from tests.helpers.tiny_runs import BARE, TINY
from tests.helpers.warm import warm

CHECKS = ["settings", "code", "text", "figures", "nll.npy", "weights", "normalization", "causality"]


@pytest.fixture
def copied(finished_run, tmp_path):
    """A finished run of its own folder, which a test may change."""
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return Record.load(tmp_path / "run")


def failing(record, **options):
    """Return the names of the checks that fail, after checking that all were made."""
    findings = list(verify_run(RunToVerify(record), **options))
    assert [finding.name for finding in findings] == CHECKS[: len(findings)]
    return [finding.name for finding in findings if finding.passed is False]


def test_an_untouched_run_passes_every_check(copied, capsys):
    assert main(["verify", str(copied.folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed] == [["✓", check] for check in CHECKS]
    assert charlab.verify(copied, quick=True)["holds"].tolist() == [True] * 5


def test_a_long_finding_wraps_under_itself_on_a_terminal(copied):
    output = io.StringIO()
    verify([str(copied.folder), "quick=true"], Console(file=output, force_terminal=True, color_system=None, width=60))
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert len(lines) > 5
    assert all(len(line) <= 60 and line.startswith(("✓ ", "– ", " " * 16)) for line in lines)


def test_a_changed_figure_is_found(copied):
    [entry] = [entry for entry in copied.metrics if entry["protocol"] == "blocks"]
    entry["nll"] -= 0.01
    assert failing(copied) == ["figures", "nll.npy", "weights"]
    entry["bpc"], entry["perplexity"] = entry["nll"] / np.log(2), np.exp(entry["nll"])
    assert failing(copied) == ["nll.npy", "weights"]


def test_a_changed_setting_is_found(copied):
    copied.config["optimizer"]["lr"] *= 2
    assert failing(copied, scoring=False) == ["settings"]


def test_a_changed_weight_is_found(copied):
    path = copied.folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["model.readout.weight"][3, 5] += 0.1
    torch.save(checkpoint, path)
    assert failing(copied) == ["weights"]
    path.write_bytes(b"PK")
    assert failing(copied) == ["weights", "normalization", "causality"]
    path.unlink()
    findings = list(verify_run(RunToVerify(copied)))
    assert [finding.passed for finding in findings[5:]] == [None, None, None]


def test_changed_nll_of_characters_is_found(copied):
    kept = np.load(copied.folder / "nll.npy")
    np.save(copied.folder / "nll.npy", kept[:-1])
    assert failing(copied) == ["nll.npy", "weights"]
    np.save(copied.folder / "nll.npy", np.roll(kept, 1))  # with the same mean
    assert failing(copied) == ["weights"]
    np.save(copied.folder / "nll.npy", kept * 0.99)
    assert failing(copied) == ["nll.npy", "weights"]
    (copied.folder / "nll.npy").write_bytes(b"no array")
    assert failing(copied) == ["nll.npy", "weights"]


def test_weights_in_half_precision_were_scored_with_its_rounding(copied):
    [entry] = [entry for entry in copied.metrics if entry["protocol"] == "blocks"]
    kept = np.load(copied.folder / "nll.npy")

    def shift(nats):
        nll = kept + np.float32(nats)
        np.save(copied.folder / "nll.npy", nll)
        entry["nll"] = float(nll.mean(dtype=np.float64))
        entry["bpc"], entry["perplexity"] = entry["nll"] / np.log(2), np.exp(entry["nll"])
        copied.scenes = np.add.reduceat(nll, np.arange(0, len(nll), SCENE_LENGTH), dtype=np.float64).tolist()

    shift(0.005)
    assert failing(copied) == ["weights"]
    copied.machine["precision"] = "bf16-true"
    assert failing(copied) == ["settings"]  # the fingerprint is of the precision that the run had
    shift(0.05)
    assert failing(copied) == ["settings", "weights"]


def test_a_changed_text_is_found(copied, tmp_path, text_path):
    changed = tmp_path / "words.txt"
    changed.write_text(text_path.read_text().replace("be", "bee", 1))
    findings = list(verify_run(RunToVerify(copied, path=changed), scoring=False))
    assert [finding.name for finding in findings if finding.passed is False] == ["settings", "text"]
    moved = tmp_path / "moved.txt"
    shutil.copy(text_path, moved)
    assert all(finding.passed for finding in verify_run(RunToVerify(copied, path=moved), scoring=False))


@pytest.mark.slow
def test_changed_source_of_the_model_is_found(tmp_path, text_path):
    """Also that of a user's own model, by a command in another process."""
    (tmp_path / "mine.py").write_text(
        "from charlab.models.bigram import BigramEmbedding\n\n\nclass Mine(BigramEmbedding):\n    scale = 1.0\n"
    )
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: mine.Mine\nembed_dim: 4\n")
    kept = [given for given in (*TINY, *BARE) if not given.startswith("model")]
    command = [sys.executable, "-m", "charlab"]

    def call(*arguments):
        return subprocess.run(warm([*command, *arguments]), cwd=tmp_path, capture_output=True, text=True)

    trained = call("train", "model=mine", f"data.path={text_path}", *kept)
    assert trained.returncode == 0, trained.stderr
    [record] = tmp_path.glob("outputs/runs/*/*/record.json")
    assert call("verify", record.parent.name[:6]).returncode == 0
    source = tmp_path / "mine.py"
    source.write_text(source.read_text().replace("1.0", "2.0"))
    found = call("verify", record.parent.name[:6])
    assert found.returncode == 1
    assert [line for line in found.stdout.splitlines() if line.startswith("✗")] == [
        "✗ code          changed since: mine (charlab.requalify tells whether it computes the same)"
    ]


class Peeking(Bigram):
    """A bigram that gives what comes next twice its probability."""

    def nll(self, window, **options):
        return super().nll(window, **options) - np.log(2)


def test_probabilities_that_do_not_add_up_are_found(copied, monkeypatch):
    run = RunToVerify(copied)
    model, vocabulary = run.loaded
    peeking = Peeking(len(vocabulary))
    peeking.context_length = model.context_length
    run.loaded = peeking, vocabulary
    [found] = [finding for finding in verify_run(run) if finding.name == "normalization"]
    assert found.passed is False
    assert "add up to 2.000" in found.text


def test_a_check_that_fails_names_the_error(copied, monkeypatch):
    monkeypatch.setattr("charlab.evaluation.protocols.evaluate", lambda *_, **__: {}["weights"])
    [found] = [finding for finding in verify_run(RunToVerify(copied)) if finding.name == "weights"]
    assert (found.passed, found.text) == (False, "it cannot be checked: KeyError: 'weights'.")


@pytest.mark.slow
def test_a_bound_is_checked_as_far_as_its_contract_allows(run_tiny):
    record = run_tiny("model=masked_diffusion", "data.batch_size=4")
    findings = {finding.name: finding for finding in verify_run(RunToVerify(record))}
    assert {name for name, finding in findings.items() if finding.passed is None} == {"causality"}
    assert all(finding.passed for name, finding in findings.items() if name != "causality")
    assert "add up to 1.000" in findings["normalization"].text


def test_bad_names_and_options_are_one_sentence(tmp_path, monkeypatch, capsys, finished_run):
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (["nope"], "There is no run nope"),
        ([], "one run or study, not 0"),
        (["a", "b"], "one run or study, not 2"),
        (["nope", "quik=true"], "did you mean quick?"),
    ):
        assert main(["verify", *arguments]) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1
    half = dataclasses.replace(finished_run, folder=tmp_path / "half", status="running")
    half.save()
    with pytest.raises(UserError, match="only a finished run"):
        charlab.verify(half)
    assert main(["verify", "--help"]) == 0
