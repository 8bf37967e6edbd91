"""Measure how fast and how well block diffusion samples: `python -m benchmarks.block_sampling OVERRIDE…`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import torch

import charlab
from charlab.configuration.build import build
from charlab.configuration.compose import compose
from charlab.data.encoding import encode_part
from charlab.models.block_diffusion import BlockDiffusion
from charlab.runs.checkpoint import load
from charlab.runs.text import own_corpus, own_slices

TEXTS, LENGTH = 16, 500
STEPS = (4, 2, 1)  # evaluations per block of four


@torch.no_grad()
def measure(overrides: Sequence[str]) -> dict[str, float]:
    """Return the speed of sampling, and the nll of the samples by 7-gram counts, by evaluations per block.

    The model is that of the run that the overrides mean, which is trained unless it is finished.
    """
    record = charlab.run(*overrides)
    model, vocabulary = load(record.folder)
    assert isinstance(model, BlockDiffusion)
    corpus = own_corpus(record, None)
    parts = (own_slices(record, corpus)[name] for name in ("train", "validation"))
    train, validation = (torch.from_numpy(encode_part(corpus, part, vocabulary)) for part in parts)
    judge = build(compose(["model=ngram_kneser_ney"]).model, len(vocabulary.pieces))
    judge.fit(train)
    found = {"nll_of_text": judge.nll(validation[None].long()).mean().item()}
    prompt = validation[:1].long().repeat(TEXTS, 1)
    for steps in STEPS:
        model.num_steps = steps
        began = time.perf_counter()
        text = model.sample(prompt, LENGTH, generator=torch.Generator().manual_seed(0))
        found[f"characters_per_second_{steps}"] = TEXTS * LENGTH / (time.perf_counter() - began)
        found[f"nll_{steps}"] = judge.nll(text).mean().item()
    return found


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
