import math
from collections import Counter
from functools import partial
from itertools import product

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from charlab.errors import UserError
from charlab.models.block_diffusion import BlockDiffusion, ranks_in_blocks
from charlab.models.feed_forward import FeedForward
from charlab.models.mixers.attention import Attention
from charlab.models.mixers.blockwise_attention import BlockwiseAttention
from charlab.models.positions import ALiBi, Learned, Rotary
from tests.references.block_diffusion import block_logits, log_probabilities_by_order, positions_of_blocks

V, T = 3, 5
WINDOW = torch.tensor([2, 0, 1, 1, 0, 2])


def make(block_size=2, *, vocab_size=V, context_length=T, masked_share=(0.0, 1.0), num_steps=None, **parts):
    """A small model with random weights, large enough for its predictions to differ."""
    torch.manual_seed(0)
    mixer = partial(BlockwiseAttention, num_heads=2, block_size=block_size)
    options = {"mixer": mixer, "feed_forward": None, "position": Learned, "norm": nn.LayerNorm, "num_layers": 2} | parts
    model = BlockDiffusion(
        vocab_size,
        context_length=context_length,
        block_size=block_size,
        num_steps=num_steps,
        masked_share=list(masked_share),
        embed_dim=8,
        **options,
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter)
    return model.double().eval()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def masked_in(model, run):
    """Return what `run` returns, and where each window was masked, (B, T)."""
    seen = []
    handle = model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1] == model.mask_id))
    result = run()
    handle.remove()
    return result, seen[0]


@pytest.mark.parametrize("block_size", [1, 2, 3, 5])
@pytest.mark.parametrize("position", [Learned, ALiBi, partial(Rotary, base=100.0)], ids=["learned", "alibi", "rotary"])
def test_one_pass_denoises_as_block_by_block_does(block_size, position):
    model = make(
        block_size, position=position, feed_forward=partial(FeedForward, expansion=2, activation="gelu", bias=True)
    )
    noisy = torch.where(torch.rand(T, generator=seeded()) < 0.6, model.mask_id, WINDOW[1:])
    fast = model(WINDOW[None], noisy[None])[0]
    blocks = positions_of_blocks(T + 1, block_size)
    slow = torch.cat([block_logits(model, WINDOW, [int(noisy[p - 1]) for p in block], block) for block in blocks])
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)
    weights = torch.rand(fast.shape, generator=seeded(1), dtype=torch.double)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for gradient, expected in zip(
        torch.autograd.grad((fast * weights).sum(), parameters, allow_unused=True),
        torch.autograd.grad((slow * weights).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        if gradient is not None or expected is not None:
            torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block_size", [1, 2, 3, 5])
def test_reading_block_by_block_equals_reading_at_once(block_size):
    model = make(block_size, position=partial(Rotary, base=100.0))
    logits, state = model.denoiser.extend(WINDOW[None, :1], model.denoiser.init_state(1))
    for block in positions_of_blocks(T + 1, block_size):
        more, state = model.denoiser.extend(WINDOW[None, block], state)
        logits = torch.cat([logits, more], dim=1)
    torch.testing.assert_close(logits, model.denoiser(WINDOW[None]))


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_shorter_window_is_scored_as_the_beginning_of_a_longer_one(length):
    model = make(2)
    noisy = torch.full((1, T), model.mask_id)
    whole = model(WINDOW[None], noisy)[:, :length]
    torch.testing.assert_close(model(WINDOW[None, : length + 1], noisy[:, :length])[:, :2], whole[:, :2])


def test_blocks_of_one_are_an_autoregressive_model():
    model = make(1)
    assert model.likelihood == "exact"
    windows = torch.tensor([[0, *text] for text in product(range(V), repeat=T)])
    nll = model.nll(windows)
    assert nll.sum(1).neg().exp().sum().item() == pytest.approx(1.0)  # probabilities of all texts
    torch.testing.assert_close(nll, model.nll(windows, generator=seeded(5)))  # nothing is left to chance
    for position in range(1, T + 1):
        logits = block_logits(model, WINDOW, [model.mask_id], [position])[0]
        expected = -logits.log_softmax(0)[WINDOW[position]]
        torch.testing.assert_close(model.nll(WINDOW[None])[0, position - 1], expected)


@pytest.mark.parametrize("scored_from", [1, 2, 4])
@pytest.mark.parametrize("block_size", [2, 3])
def test_its_expectation_is_the_mean_over_all_orders_and_no_less_than_the_exact_nll(block_size, scored_from):
    model = make(block_size)
    assert model.likelihood == "bound"
    times = 4000
    windows = WINDOW.expand(times, -1)
    nll, masked = masked_in(model, lambda: model.nll(windows, scored_from=scored_from, generator=seeded()).detach())
    assert not nll[:, : scored_from - 1].any()
    for block in positions_of_blocks(T + 1, block_size):
        scored = [position for position in block if position >= scored_from]
        if not scored:
            continue
        columns = [position - 1 for position in scored]
        by_mask = {
            tuple(mask): value
            for mask, value in zip(masked[:, columns].tolist(), nll[:, columns].sum(1).tolist(), strict=True)
        }
        assert len(by_mask) == 2 ** len(scored) - 1  # each mask is drawn
        size = len(scored)
        mean = sum(value / (size * math.comb(size, sum(mask))) for mask, value in by_mask.items())
        by_order = torch.tensor(log_probabilities_by_order(model, WINDOW, block, scored_from))
        assert mean == pytest.approx(-by_order.mean().item(), rel=1e-6)
        assert mean >= math.log(len(by_order)) - by_order.logsumexp(0).item() - 1e-6
        counts = Counter(sum(mask) for mask in masked[:, columns].tolist())
        assert list(counts.values()) == pytest.approx([times / size] * size, rel=0.1)


def test_training_masks_the_shares_that_it_is_told_to():
    model = make(4, context_length=8, masked_share=(0.3, 0.8))
    windows = torch.zeros(64, 9, dtype=torch.long)
    _, masked = masked_in(model, lambda: model.loss(windows, generator=seeded()))
    assert set(masked.view(64, 2, 4).sum(2).flatten().tolist()) == {1, 2, 3}
    _, masked = masked_in(model, lambda: model.nll(windows, generator=seeded()))
    assert set(masked.view(64, 2, 4).sum(2).flatten().tolist()) == {1, 2, 3, 4}


def test_the_order_in_a_late_block_is_as_random_without_float64(monkeypatch):
    """As on mps: the number of a block takes no digits from the random numbers."""
    rand, size = torch.rand, (8, 1024, 4)
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, **options: rand(*shape, dtype=torch.float32, **options))
    block = torch.arange(1, 1025).repeat_interleave(4)
    ranks = ranks_in_blocks(block, torch.ones(8, 4096, dtype=torch.bool), seeded())
    expected = rand(8, 4096, dtype=torch.float32, generator=seeded()).view(size).argsort(dim=2).argsort(dim=2)
    assert torch.equal(ranks.view(size), expected)


@pytest.mark.parametrize("length", [3, 11])
def test_samples_have_the_probabilities_of_the_chain(length):
    """One at a time in random order: the probability of a block is the mean over orders."""
    model = make(2, context_length=4)
    prompt = torch.tensor([[2, 0]])  # ends within a block
    times = 4000
    texts = model.sample(prompt.expand(times, -1), length, generator=seeded())
    assert texts.shape == (times, 2 + length)
    assert (texts < V).all()
    drawn = Counter(tuple(row) for row in texts[:, 2:5].tolist())
    for text in product(range(V), repeat=3):
        window = torch.tensor([2, 0, *text])
        first = log_probabilities_by_order(model, window, [1, 2], first=2)
        second = torch.tensor(log_probabilities_by_order(model, window, [3, 4], first=3))
        probability = math.exp(first[0] + second.logsumexp(0).item() - math.log(len(second)))
        assert binomtest(drawn[text], times, probability).pvalue > 1e-5


@pytest.mark.parametrize(("size", "read"), [(7, 7), (8, 8), (9, 4), (20, 4)])
def test_a_prompt_that_fits_is_read_whole_and_half_a_context_of_a_longer_one(size, read):
    model, pieces = make(2, context_length=8), []
    prompt = torch.randint(V, (1, size), generator=seeded())
    handle = model.denoiser.embedding.register_forward_pre_hook(lambda _, inputs: pieces.append(inputs[0].clone()))
    text = model.sample(prompt, 1, generator=seeded())
    handle.remove()
    assert torch.equal(text[:, :size], prompt)
    first = next(number for number, piece in enumerate(pieces) if (piece == model.mask_id).any())
    known = torch.cat(pieces[: first + 1], dim=1)
    assert torch.equal(known[known != model.mask_id], prompt[0, -read:])


def test_characters_uncovered_together_take_fewer_evaluations():
    model = make(4, context_length=8, num_steps=2)
    calls = []
    handle = model.denoiser.readout.register_forward_pre_hook(lambda *_: calls.append(1))
    model.sample(torch.zeros(1, 1, dtype=torch.long), 8, generator=seeded())
    handle.remove()
    assert len(calls) == 1 + 2 * (2 + 1)  # the prompt; two blocks, each in two steps, and read once


def test_mixers_of_another_kind_or_size_are_refused():
    with pytest.raises(UserError, match="Attention does not look at blocks of 2: use model/mixer=blockwise_attention"):
        make(2, mixer=partial(Attention, num_heads=2))
    with pytest.raises(UserError, match="with block_size=3 does not look at blocks of 2"):
        make(2, mixer=partial(BlockwiseAttention, num_heads=2, block_size=3))
    with pytest.raises(UserError, match=r"masked_share=\[0.8, 0.3\] is not a range"):
        make(2, masked_share=(0.8, 0.3))
