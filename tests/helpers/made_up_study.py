"""Studies whose numbers are made up: a plan and its cells' records on disk, without any training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from charlab.data.corpora import TextFile
from charlab.runs.record import FILE_NAME, SCENE_LENGTH, Record
from charlab.studies.definition import Arm
from charlab.studies.outcomes import Outcome
from charlab.studies.parameters import Tuned
from charlab.studies.plan import Cell, Plan
from charlab.studies.state import StudyResults

TEXT_LENGTH = 60_000  # characters of validation text
SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
LONG = "an_arm_whose_name_goes_on_and_on_as_sweeps_over_five_keys_do"
NASTY = r"50% of $x_1$ & <b>#2</b> \ {~^} | `*a*` [b](c) ü"
LINES = ["ROMEO:", "But soft, what light", "through yonder window breaks?", "", "JULIET:", "Ay me."]

TEXT = "To be, or not to be: that is the Question 3.\n" * 100  # of runs with nll
TRAIN = len(TEXT) * 9 // 10  # characters of it that are trained on
CONTEXT = 16
CODE = "c0dec0dec0de"  # of the plan


@dataclass(frozen=True)
class MadeUpArm:
    """How an arm does.

    Attributes:
        name: of the arm.
        nll: its mean over seeds, in nats per character.
        expect: what was expected of it.
        likelihood: "exact" or "bound".
        honest: nll if scored step by step, where the model leaks.
        parameters: their number; 0 for a model that counts.
        steps: optimizer steps that its budget allows.
        seconds: of training.
        code: hash of the code that made its cells; today's if empty.
        factors: values by which arms of a grid or a scaling study differ.
        tuned: what tuning chose for it; None if it was not tuned.
        fates: by seed, what became of cells that did not finish: fate and reason.
    """

    name: str
    nll: float
    expect: str = "improve"
    likelihood: str = "exact"
    honest: float | None = None
    parameters: int = 807_808
    steps: int = 400
    seconds: float = 40.0
    code: str = ""
    factors: Mapping[str, str] = field(default_factory=dict)
    tuned: Tuned | None = None
    fates: Mapping[int, tuple[str, str]] = field(default_factory=dict)


def make_study(
    root: Path,
    arms: Sequence[MadeUpArm],
    *,
    seeds: int = 8,
    name: str = "made_up",
    corpus: str = "tinyshakespeare",
    floor: float | None = None,
    noise: float = 0.004,
    **plan: Any,
) -> Plan:
    """Write the plan, the records and the outcomes of a study below `root`/outputs, and return the plan.

    Seeds move all arms together by 0.02 nats, and each arm by itself by `noise`.
    """
    numbers = tuple(range(305, 305 + seeds))
    random = np.random.default_rng(0)
    shared = dict(zip(numbers, 0.02 * random.standard_normal(seeds), strict=True))
    own = {(arm.name, seed): noise * random.standard_normal() for arm in arms for seed in numbers}
    cells = tuple(
        Cell(arm.name, seed, f"{name}/{_fingerprint(index, seed)}", _overrides(arm, seed), CODE)
        for seed in numbers
        for index, arm in enumerate(arms)
    )
    made = Plan(
        **{
            "name": name,
            "hypothesis": "Rotary position encodings predict the next character better than learned ones.",
            "baseline": arms[0].name,
            "arms": tuple(
                Arm(arm.name, _overrides(arm, None), arm.expect, arm.factors, tuned=arm.tuned) for arm in arms
            ),  # type: ignore[arg-type]
            "cells": cells,
            "seeds": numbers,
            "planned_seeds": seeds,
            "command": f"-m study={name}",
            **plan,
        }
    )
    study = root / "outputs" / "studies" / name
    made.save(study)
    by_name = {arm.name: arm for arm in arms}
    for cell in cells:
        arm = by_name[cell.arm]
        fate, reason = arm.fates.get(cell.seed, ("finished", ""))
        if fate == "missing":
            continue
        if fate != "finished":
            Outcome(fate, reason, seconds=arm.seconds + 5, exit_code=1).save(study, cell)  # type: ignore[arg-type]
        if fate == "killed":
            continue
        nll = arm.nll + shared[cell.seed] + own[arm.name, cell.seed]
        _write_run(root / "outputs" / "runs" / cell.run, cell, arm, nll, fate, reason, corpus, floor)
    return made


def give_nll(results: StudyResults, folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """Write the nll of each character of every finished run, and return it by arm and seed."""
    text = folder / "text.txt"
    text.write_text(TEXT)
    corpus = TextFile(path=str(text)).load()
    loader = {"_target_": "charlab.data.corpora.TextFile", "path": str(text)}
    fractions = {"train_fraction": 0.9, "validation_fraction": 0.1, "dev_fraction": 0.0}
    written = {}
    random = np.random.default_rng(0)
    for result in results.cells:
        record = result.record
        if record is None or result.status != "finished":
            continue
        nll = random.gamma(2.0, 0.5 + 0.01 * len(result.cell.arm), len(TEXT) - TRAIN - 1).astype(np.float32)
        np.save(record.folder / "nll.npy", nll)
        record.config |= {"data": {"corpus": loader, **fractions}}
        record.corpus = {"name": corpus.name, "sha256": corpus.sha256, "characters": corpus.length}
        record.metric("blocks")["context_length"] = CONTEXT
        record.save()
        written[result.cell.arm, result.cell.seed] = nll
    return written


def _overrides(arm: MadeUpArm, seed: int | None) -> tuple[str, ...]:
    own = ("model=gpt", f"model.embed_dim={len(arm.name)}")
    return own if seed is None else (*own, f"seed={seed}")


def _fingerprint(index: int, seed: int) -> str:
    return f"{index:04x}{seed:08x}"


def _write_run(
    folder: Path, cell: Cell, arm: MadeUpArm, nll: float, fate: str, reason: str, corpus: str, floor: float | None
) -> None:
    finished = fate == "finished"
    metrics = [_entry(split, protocol, nll, arm) for split, protocol in _EVALUATIONS] if finished else []
    random = np.random.default_rng(cell.seed)
    scenes = SCENE_LENGTH * (nll + 0.1 * np.random.default_rng(1).standard_normal(TEXT_LENGTH // SCENE_LENGTH))
    scenes += SCENE_LENGTH * 0.02 * np.random.default_rng(len(arm.name)).standard_normal(len(scenes))  # the arm's own
    scenes += SCENE_LENGTH * 0.003 * random.standard_normal(len(scenes))
    record = Record(
        folder=folder,
        name="made_up",
        fingerprint=cell.fingerprint,
        status="finished" if finished else "diverged" if fate == "diverged" else "failed",
        error=reason or None,
        overrides=list(cell.overrides),
        config=_config(arm),
        seed=cell.seed,
        corpus={"name": corpus, "sha256": SHAKESPEARE, "characters": 1_115_394},
        machine={"device": "cpu", "name": "Made-up CPU", "precision": "32-true", "threads": 1, "processes": 1},
        versions={"python": "3.11.7", "charlab": "0.1.0", "torch": "2.13.0"},
        code=arm.code or CODE,
        git_commit="7ffa33234afa7206c1ff5a51ea325b5d78b944f6",
        parameters=arm.parameters,
        steps=arm.steps,
        characters_seen=arm.steps * 2048,
        flops_per_step=10_571_218_944 if arm.parameters else None,
        time={"setup_s": 0.5, "training_s": arm.seconds + 0.1 * (cell.seed % 7), "evaluation_s": 6.0},
        peak_memory_bytes=685_338_624,
        metrics=metrics,
        scenes=scenes.tolist() if finished and arm.likelihood == "exact" else [],
        causality=_causality(arm),
        floor={"train": floor, "validation": floor} if floor is not None else {},
        started="2026-11-21T21:09:12+00:00",
        finished="2026-11-21T21:11:31+00:00" if finished else None,
    )
    folder.mkdir(parents=True)
    (folder / FILE_NAME).write_text(json.dumps(record.as_dict()), encoding="utf-8")  # faster than `save`, which syncs
    _write_curve(folder / "metrics.csv", arm, nll, random)
    text = "\n".join(LINES * 8)
    (folder / "samples.txt").write_text(text, encoding="utf-8")


def _config(arm: MadeUpArm) -> dict[str, Any]:
    """What such a run is configured with, as far as anything reads it."""
    position = {"_target_": "charlab.models.positions.Rotary", "_partial_": True, "base": 10000.0}
    mixer = {"_target_": "charlab.models.mixers.attention.Attention", "_partial_": True, "num_heads": 4}
    model = {"_target_": "charlab.models.backbone.Backbone", "num_layers": 4, "embed_dim": 64, "mixer": mixer}
    return {
        "trainer": {"max_steps": arm.steps},
        "data": {"train_fraction": 0.9, "dev_fraction": 0.0, "batch_size": 32, "context_length": 64},
        "model": model | ({"position": position} if arm.name == "rotary" else {}),
        "optimizer": {"_target_": "charlab.training.optimizers.adamw", "lr": 3e-3},
        "scheduler": {"_target_": "charlab.training.schedules.WarmupCosine"},
    }


_EVALUATIONS = (("train", "estimate"), ("validation", "estimate"), ("validation", "blocks"), ("validation", "sliding"))


def _entry(split: str, protocol: str, nll: float, arm: MadeUpArm) -> dict[str, Any]:
    shifted = nll + {"estimate": -0.01, "blocks": 0.0, "sliding": -0.03}[protocol] - 0.2 * (split == "train")
    return {
        "split": split,
        "protocol": protocol,
        "nll": shifted,
        "bpc": shifted / math.log(2),
        "perplexity": math.exp(shifted),
        "standard_error": None,
        "characters": TEXT_LENGTH,
        "likelihood": arm.likelihood,
    }


def _causality(arm: MadeUpArm) -> dict[str, Any]:
    leaks = arm.honest is not None
    return {
        "leaks": leaks,
        "reason": "Its prediction after 1 of 16 characters changes when only the last 15 of them do." if leaks else "",
        "claimed_nll": arm.nll,
        "honest_nll": arm.honest if leaks else arm.nll,
        "honest_error": 0.11,
        "characters": 512,
    }


def _write_curve(path: Path, arm: MadeUpArm, nll: float, random: np.random.Generator) -> None:
    rows = ["step,characters,seconds,metric,value"]
    for step in range(0, arm.steps + 1, max(1, arm.steps // 10)):
        share = step / arm.steps
        loss = nll - 0.01 + (4.2 - nll) * math.exp(-6 * share) + 0.01 * random.standard_normal()
        clock = f"{step},{step * 2048},{share * arm.seconds * (1 + 0.02 * random.standard_normal()):.3f}"
        rows.append(f"{clock},estimate/train/nll,{loss - 0.2}")
        rows.append(f"{clock},estimate/validation/nll,{loss}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
