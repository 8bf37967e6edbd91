"""Measure how fast and how well block diffusion samples: `python -m benchmarks.block_sampling OVERRIDE…`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import torch

import charlab
from benchmarks.pairs import OURS
from charlab.configuration.build import build
from charlab.configuration.compose import compose
from charlab.data.encoding import encode_part
from charlab.models.block_diffusion import BlockDiffusion
from charlab.runs.checkpoint import load
from charlab.runs.record import Record
from charlab.runs.text import own_corpus, own_slices

TEXTS, LENGTH = 16, 500
STEPS = {OURS: 1, "2 evaluations": 2, "4 evaluations": 4}  # per block of four; 4 uncover one character at a time
TEXT = "the validation text"


def measure(overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the speed of sampling with each number of evaluations, and the nll by 7-gram counts of samples and text.

    The model is that of the run that the overrides mean, which is trained unless it is finished.
    """
    return _sample(charlab.run(*overrides))


@torch.no_grad()
def _sample(record: Record) -> dict[str, dict[str, float]]:
    model, vocabulary = load(record.folder)
    assert isinstance(model, BlockDiffusion)
    corpus = own_corpus(record, None)
    parts = (own_slices(record, corpus)[name] for name in ("train", "validation"))
    train, validation = (torch.from_numpy(encode_part(corpus, part, vocabulary)) for part in parts)
    judge = build(compose(["model=ngram_kneser_ney"]).model, len(vocabulary.pieces))
    judge.fit(train)
    found = {TEXT: {"nll": judge.nll(validation[None].long()).mean().item()}}
    prompt = validation[:1].long().repeat(TEXTS, 1)
    model.sample(prompt, model.block_size)  # warm up
    for side, steps in STEPS.items():
        model.num_steps = steps
        began = time.perf_counter()
        text = model.sample(prompt, LENGTH, generator=torch.Generator().manual_seed(0))
        rate = TEXTS * LENGTH / (time.perf_counter() - began)
        found[side] = {"characters_per_second": rate, "nll": judge.nll(text).mean().item()}
    return found


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
