"""nanoGPT's recipes, written again in the plainest way: what charlab's speed is measured against.

The model, the optimizer and the schedule are those that its README and `train_shakespeare_char.py` describe (Karpathy
2022): GELU, learned positions, no biases, tied embeddings; AdamW 1e-3 with 100 steps of warm-up and a cosine to 1e-4,
betas 0.9 and 0.99, weight decay 0.1 on matrices, clipping at 1. On a CPU in float32, on a GPU with bfloat16 autocast
and fused AdamW.

    python -m tests.references.nanogpt_recipe TEXT [--gpu] [--steps N] [--seed N] [--compile]

prints what it took, and the loss on the whole validation text, as one line of JSON.
"""

import argparse
import json
import math
import resource
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WARMUP, RATE, LAST_RATE = 100, 1e-3, 1e-4
SELF = resource.RUSAGE_SELF


@dataclass(frozen=True)
class Recipe:
    layers: int
    heads: int
    embed_dim: int
    context_length: int
    batch_size: int
    dropout: float
    steps: int
    evaluation_batches: int
    log_every: int
    evaluate_every: int = 250


CPU = Recipe(4, 4, 128, 64, 12, 0.0, 2000, 20, 1)
GPU = Recipe(6, 6, 384, 256, 64, 0.2, 5000, 200, 10)


class LayerNorm(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(recipe.embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Attention(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.heads, self.dropout = recipe.heads, recipe.dropout
        self.query_key_value = nn.Linear(recipe.embed_dim, 3 * recipe.embed_dim, bias=False)
        self.projection = nn.Linear(recipe.embed_dim, recipe.embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, embed_dim = x.shape
        heads = [
            part.view(batch, length, self.heads, embed_dim // self.heads).transpose(1, 2)
            for part in self.query_key_value(x).split(embed_dim, 2)
        ]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*heads, dropout_p=dropout, is_causal=True)
        mixed = self.projection(mixed.transpose(1, 2).contiguous().view(batch, length, embed_dim))
        return F.dropout(mixed, self.dropout, self.training)


class FeedForward(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.dropout = recipe.dropout
        self.expand = nn.Linear(recipe.embed_dim, 4 * recipe.embed_dim, bias=False)
        self.contract = nn.Linear(4 * recipe.embed_dim, recipe.embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.contract(F.gelu(self.expand(x))), self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.mixer_norm, self.mixer = LayerNorm(recipe), Attention(recipe)
        self.feed_forward_norm, self.feed_forward = LayerNorm(recipe), FeedForward(recipe)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """Names of parameters are charlab's, so that weights can be copied from one to the other."""

    def __init__(self, vocab_size: int, recipe: Recipe = CPU) -> None:
        super().__init__()
        self.dropout = recipe.dropout
        self.embedding = nn.Embedding(vocab_size, recipe.embed_dim)
        self.position = nn.ModuleDict({"table": nn.Embedding(recipe.context_length, recipe.embed_dim)})
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.layers))
        self.norm = LayerNorm(recipe)
        self.readout = nn.Linear(recipe.embed_dim, vocab_size, bias=False)
        self.readout.weight = self.embedding.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_last = name.endswith(("projection.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * recipe.layers) if is_last else 0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of (B, T) targets, in nats."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.embedding(inputs) + self.position["table"](positions)
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        logits = self.readout(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def build_optimizer(model: nn.Module) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    on_gpu = matrices[0].is_cuda
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), fused=on_gpu)


def rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    descent = (step - WARMUP) / (steps - WARMUP)
    return LAST_RATE + 0.5 * (1 + math.cos(math.pi * descent)) * (RATE - LAST_RATE)


def split(text: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return train and validation ids, and the number of distinct characters."""
    characters = sorted(set(text))
    numbers = {character: number for number, character in enumerate(characters)}
    ids = np.array([numbers[character] for character in text], dtype=np.uint16)
    boundary = int(0.9 * len(ids))
    return ids[:boundary], ids[boundary:], len(characters)


def draw_batch(ids: np.ndarray, recipe: Recipe, device: str) -> tuple[Tensor, Tensor]:
    length = recipe.context_length
    starts = torch.randint(len(ids) - length, (recipe.batch_size,))
    inputs = torch.stack([torch.from_numpy(ids[start : start + length].astype(np.int64)) for start in starts])
    targets = torch.stack([torch.from_numpy(ids[start + 1 : start + 1 + length].astype(np.int64)) for start in starts])
    if device == "cpu":
        return inputs, targets
    return inputs.pin_memory().to(device, non_blocking=True), targets.pin_memory().to(device, non_blocking=True)


def precision(device: str) -> AbstractContextManager[object]:
    return nullcontext() if device == "cpu" else torch.autocast(device, torch.bfloat16)


@torch.no_grad()
def estimate(model: nn.Module, texts: dict[str, np.ndarray], recipe: Recipe, device: str) -> dict[str, float]:
    model.eval()
    means = {}
    for name, ids in texts.items():
        losses = []
        for _ in range(recipe.evaluation_batches):
            with precision(device):
                losses.append(model(*draw_batch(ids, recipe, device)).item())
        means[name] = sum(losses) / len(losses)
    model.train()
    return means


@torch.no_grad()
def score_whole(model: nn.Module, ids: np.ndarray, recipe: Recipe, device: str) -> float:
    """Return the mean loss of all characters but the first, in windows side by side (charlab's `blocks`)."""
    model.eval()
    text = torch.from_numpy(ids.astype(np.int64)).to(device)
    length, total = recipe.context_length, 0.0
    whole = (len(text) - 1) // length * length
    inputs, targets = text[:whole].view(-1, length), text[1 : whole + 1].view(-1, length)
    windows = [*zip(inputs.split(recipe.batch_size), targets.split(recipe.batch_size), strict=True)]
    if whole < len(text) - 1:
        windows.append((text[whole:-1][None], text[whole + 1 :][None]))
    for given, wanted in windows:
        total += model(given, wanted).item() * wanted.numel()
    return total / (len(text) - 1)


def train(
    text: str,
    recipe: Recipe = CPU,
    *,
    steps: int | None = None,
    seed: int = 1337,
    compiled: bool = False,
    device: str = "cpu",
) -> dict[str, object]:
    """Train, and return seconds, steps and losses; `step_s` are the seconds of each step, or of each ten on a GPU."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    steps = steps or recipe.steps
    train_ids, validation_ids, vocab_size = split(text)
    texts = {"train": train_ids, "validation": validation_ids}
    model = Transformer(vocab_size, recipe).to(device)
    optimizer = build_optimizer(model)
    run = torch.compile(model) if compiled else model
    step_seconds, evaluation_seconds, estimates = [], 0.0, {}
    batch = draw_batch(train_ids, recipe, device)
    if compiled:  # before the clock starts
        state = torch.get_rng_state()
        with precision(device):
            run(*batch).backward()
        optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(state)
    since, steps_since = time.perf_counter(), 0
    for step in range(steps):
        if step % recipe.evaluate_every == 0:
            before = time.perf_counter()
            estimates = estimate(run, texts, recipe, device)
            spent = time.perf_counter() - before
            evaluation_seconds, since = evaluation_seconds + spent, since + spent
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        with precision(device):
            loss = run(*batch)
        batch = draw_batch(train_ids, recipe, device)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps_since += 1
        if (step + 1) % recipe.log_every == 0 or step + 1 == steps:
            loss.item()  # its log has a line for it; on a GPU this waits for the steps before
            now = time.perf_counter()
            step_seconds += [(now - since) / steps_since] * steps_since
            since, steps_since = now, 0
    before = time.perf_counter()
    estimates = estimate(run, texts, recipe, device)
    evaluation_seconds += time.perf_counter() - before
    total = time.perf_counter() - began
    since = time.perf_counter()
    blocks = score_whole(model, validation_ids, recipe, device)
    score_seconds = time.perf_counter() - since
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 1024 * resource.getrusage(SELF).ru_maxrss
    return {
        "steps": steps,
        "training_s": sum(step_seconds),
        "evaluation_s": evaluation_seconds,
        "total_s": total,
        "step_s": step_seconds,
        "estimate": estimates,
        "blocks": blocks,
        "score_s": score_seconds,
        "peak_memory_bytes": memory,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path)
    parser.add_argument("--gpu", action="store_true", help="the recipe for a GPU, on one")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    recipe, device = (GPU, "cuda") if arguments.gpu else (CPU, "cpu")
    found = train(text, recipe, steps=arguments.steps, seed=arguments.seed, compiled=arguments.compile, device=device)
    print(json.dumps(found))
