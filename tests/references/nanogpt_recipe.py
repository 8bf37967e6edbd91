"""nanoGPT's recipe for a CPU, written again in the plainest way: what charlab's speed is measured against.

The model, the optimizer and the schedule are those that its README and `train_shakespeare_char.py` describe (Karpathy
2022): 4 layers, 4 heads, D = 128, T = 64, batches of 12, GELU, learned positions, no biases, tied embeddings; AdamW
1e-3 with 100 steps of warm-up and a cosine to 1e-4, betas 0.9 and 0.99, weight decay 0.1 on matrices, clipping at 1;
2,000 steps, and an estimate over 20 batches of each text every 250 of them.

    python -m tests.references.nanogpt_recipe TEXT [--steps N] [--seed N] [--compile]

prints what it took, and the loss on the whole validation text, as one line of JSON.
"""

import argparse
import json
import math
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, HEADS, D, T, BATCH = 4, 4, 128, 64, 12
STEPS, WARMUP, RATE, LAST_RATE = 2000, 100, 1e-3, 1e-4
EVALUATE_EVERY, EVALUATION_BATCHES = 250, 20


class LayerNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (D,), self.weight, None, 1e-5)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(D, 3 * D, bias=False)
        self.projection = nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = [
            part.view(batch, length, HEADS, D // HEADS).transpose(1, 2) for part in self.query_key_value(x).split(D, 2)
        ]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.projection(mixed.transpose(1, 2).contiguous().view(batch, length, D))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Linear(D, 4 * D, bias=False)
        self.contract = nn.Linear(4 * D, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer_norm, self.mixer = LayerNorm(), Attention()
        self.feed_forward_norm, self.feed_forward = LayerNorm(), FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """Names of parameters are charlab's, so that weights can be copied from one to the other."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, D)
        self.position = nn.ModuleDict({"table": nn.Embedding(T, D)})
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = LayerNorm()
        self.readout = nn.Linear(D, vocab_size, bias=False)
        self.readout.weight = self.embedding.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_last = name.endswith(("projection.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if is_last else 0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss of (B, T) targets, in nats."""
        x = self.embedding(inputs) + self.position["table"](torch.arange(inputs.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.readout(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def build_optimizer(model: nn.Module) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99))


def rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    descent = (step - WARMUP) / (steps - WARMUP)
    return LAST_RATE + 0.5 * (1 + math.cos(math.pi * descent)) * (RATE - LAST_RATE)


def split(text: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns train and validation ids, and the number of distinct characters."""
    characters = sorted(set(text))
    numbers = {character: number for number, character in enumerate(characters)}
    ids = np.array([numbers[character] for character in text], dtype=np.uint16)
    boundary = int(0.9 * len(ids))
    return ids[:boundary], ids[boundary:], len(characters)


def draw_batch(ids: np.ndarray) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(ids) - T, (BATCH,))
    inputs = torch.stack([torch.from_numpy(ids[start : start + T].astype(np.int64)) for start in starts])
    targets = torch.stack([torch.from_numpy(ids[start + 1 : start + 1 + T].astype(np.int64)) for start in starts])
    return inputs, targets


@torch.no_grad()
def estimate(model: nn.Module, texts: dict[str, np.ndarray]) -> dict[str, float]:
    model.eval()
    means = {}
    for name, ids in texts.items():
        losses = [model(*draw_batch(ids)).item() for _ in range(EVALUATION_BATCHES)]
        means[name] = sum(losses) / len(losses)
    model.train()
    return means


@torch.no_grad()
def score_whole(model: nn.Module, ids: np.ndarray) -> float:
    """Returns the mean loss of all characters but the first, in windows side by side (charlab's `blocks`)."""
    model.eval()
    text = torch.from_numpy(ids.astype(np.int64))
    total = 0.0
    for start in range(0, len(text) - 1, T):
        window = text[start : start + T + 1][None]
        total += model(window[:, :-1], window[:, 1:]).item() * (window.shape[1] - 1)
    return total / (len(text) - 1)


def train(text: str, *, steps: int = STEPS, seed: int = 1337, compiled: bool = False) -> dict[str, object]:
    """Trains, and returns seconds, steps and losses; `step_s` are the seconds of each step."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    train_ids, validation_ids, vocab_size = split(text)
    texts = {"train": train_ids, "validation": validation_ids}
    model = Transformer(vocab_size)
    optimizer = build_optimizer(model)
    run = torch.compile(model) if compiled else model
    step_seconds, evaluation_seconds, estimates = [], 0.0, {}
    batch = draw_batch(train_ids)
    for step in range(steps):
        if step % EVALUATE_EVERY == 0:
            since = time.perf_counter()
            estimates = estimate(run, texts)
            evaluation_seconds += time.perf_counter() - since
        since = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        loss = run(*batch)
        batch = draw_batch(train_ids)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # its log has a line for each step
        step_seconds.append(time.perf_counter() - since)
    since = time.perf_counter()
    estimates = estimate(run, texts)
    evaluation_seconds += time.perf_counter() - since
    total = time.perf_counter() - began
    return {
        "steps": steps,
        "training_s": sum(step_seconds),
        "evaluation_s": evaluation_seconds,
        "total_s": total,
        "step_s": step_seconds,
        "estimate": estimates,
        "blocks": score_whole(model, validation_ids),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    print(json.dumps(train(text, steps=arguments.steps, seed=arguments.seed, compiled=arguments.compile)))
