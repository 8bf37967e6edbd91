"""The plainest loop that trains a model of charlab's: no framework, no logs, no checkpoints.

Freed memory is kept as in a run of charlab's, so that what differs is the framework.

    python -m tests.references.plain_loop STEPS OVERRIDE…

takes the overrides of `scripts/train.py` and prints what it took as one line of JSON.
"""

import json
import resource
import sys
import time

import torch
from torch import nn

from charlab.configuration.build import build
from charlab.configuration.compose import compose
from charlab.runs.identity import load_corpus
from charlab.training.device import keep_freed_memory


def train(steps: int, overrides: list[str]) -> dict[str, float]:
    config = compose(overrides)
    torch.manual_seed(config.seed)
    keep_freed_memory()
    data = build(config.data, corpus=load_corpus(config))
    data.setup()
    ids, length, batch_size = data.splits["train"], config.data.context_length, config.data.batch_size
    model = build(config.model, len(data.vocabulary))
    optimizer = build(config.optimizer)(model)
    offsets = torch.arange(length + 1)
    times = [time.perf_counter()]
    for _ in range(steps):
        starts = torch.randint(len(ids) - length, (batch_size,))
        window = ids[starts[:, None] + offsets].long()
        loss = model.loss(window)
        loss.backward()
        if config.trainer.gradient_clip_val is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.trainer.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter())
    return {
        "mean_step_ms": 1e3 * (times[-1] - times[10]) / (steps - 10),  # the first steps of a process are slower
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    print(json.dumps(train(int(sys.argv[1]), sys.argv[2:])))
