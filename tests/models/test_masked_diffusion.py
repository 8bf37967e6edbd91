import copy
import itertools
import math
from collections import Counter
from functools import partial

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from charlab.errors import UserError
from charlab.evaluation.protocols import Blocks, evaluate
from charlab.models.contract import InfillingModel
from charlab.models.feed_forward import FeedForward
from charlab.models.masked_diffusion import MaskedDiffusion, random_ranks
from charlab.models.mixers.attention import Attention
from charlab.models.mixers.running_average import RunningAverage
from charlab.models.positions import ALiBi, Learned
from tests.references.masked_diffusion import (
    ExactPosterior,
    chain_log_probability,
    log_probabilities_by_order,
    mask_probabilities,
    masked_nll,
    neighbors,
)

V, T = 3, 4
TRANSITION = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.45, 0.05, 0.5]], dtype=torch.double)
starts = pytest.mark.parametrize("scored_from", [1, 3])


def make(*, vocab_size=V, context_length=T, num_steps=None, causal=False, mixer=Attention, **parts):
    """A small model with random weights, large enough for its predictions to differ."""
    torch.manual_seed(0)
    options = {"feed_forward": None, "position": Learned, "norm": nn.LayerNorm, "num_layers": 1} | parts
    mixer = partial(Attention, num_heads=2, causal=causal) if mixer is Attention else mixer
    model = MaskedDiffusion(
        vocab_size, context_length=context_length, num_steps=num_steps, embed_dim=8, mixer=mixer, **options
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter)
    return model.double().eval()


def knowing(*, context_length=T, num_steps=None):
    """A model whose denoiser knows the Markov chain of `TRANSITION`."""
    model = make(context_length=context_length, num_steps=num_steps)
    model.denoiser = ExactPosterior(TRANSITION, context_length + 1)
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def read_by_denoiser(model, run):
    """Return what `run` returns, and what the denoiser read during it: a list of (B, T+1)."""
    seen = []
    handle = model.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone()))
    result = run()
    handle.remove()
    return result, seen


def draw(model, window, scored_from, times=3000):
    """Score one window many times; return the nll's rows (times, T) and the masked positions of each."""
    windows = window.expand(times, -1)
    nll, (tokens,) = read_by_denoiser(
        model, lambda: model.nll(windows, scored_from=scored_from, generator=seeded()).detach()
    )
    masked = tokens[:, : len(window)] == model.mask_id  # the rest was never there
    return nll, [frozenset(row.nonzero().flatten().tolist()) for row in masked]


def expectation(model, window, scored_from):
    """Return the mean of `nll.sum()` over all masks, each of which must be drawn at least once."""
    nll, masks = draw(model, window, scored_from)
    by_mask = {mask: row.sum().item() for mask, row in zip(masks, nll, strict=True)}
    probabilities = mask_probabilities(range(scored_from, len(window)))
    assert by_mask.keys() == probabilities.keys()
    return sum(probability * by_mask[mask] for mask, probability in probabilities.items())


class TestBound:
    @starts
    def test_masks_are_drawn_with_their_probabilities(self, scored_from):
        _, masks = draw(make(), torch.tensor([0, 1, 2, 0, 1]), scored_from)
        num_scored = T + 1 - scored_from
        assert set(Counter(map(len, masks)).values()) == {len(masks) // num_scored}  # stratified
        counts = Counter(masks)
        for mask, probability in mask_probabilities(range(scored_from, T + 1)).items():
            deviation = math.sqrt(len(masks) * probability)
            assert counts[mask] == pytest.approx(len(masks) * probability, abs=4 * deviation)

    def test_each_row_of_a_batch_has_any_number_of_masks(self):
        model, windows, generator = make(), torch.zeros(3, T + 1, dtype=torch.long), seeded()
        counts = []
        for _ in range(200):
            _, (tokens,) = read_by_denoiser(model, lambda: model.nll(windows, generator=generator))
            counts.append((tokens == model.mask_id).sum(dim=1))
            assert counts[-1].max() - counts[-1].min() >= T // 2  # spread over the batch
        for row in torch.stack(counts, dim=1):
            assert row.bincount(minlength=T + 1)[1:].tolist() == pytest.approx([50] * T, abs=25)

    @starts
    def test_estimates_and_gradients_are_those_of_the_slow_version(self, scored_from):
        model = make(
            feed_forward=partial(FeedForward, expansion=2, activation="gelu", bias=True), position=ALiBi, num_layers=2
        )
        windows = torch.randint(V, (12, T + 1), generator=seeded(1))
        nll, (tokens,) = read_by_denoiser(
            model, lambda: model.nll(windows, scored_from=scored_from, generator=seeded())
        )
        masks = [set(row.nonzero().flatten().tolist()) for row in tokens == model.mask_id]
        slow = torch.stack(
            [masked_nll(model, window, mask, scored_from) for window, mask in zip(windows, masks, strict=True)]
        )
        torch.testing.assert_close(nll, slow, rtol=1e-9, atol=1e-12)
        parameters = list(model.parameters())
        for fast, expected in zip(
            torch.autograd.grad(nll.sum(), parameters), torch.autograd.grad(slow.sum(), parameters), strict=True
        ):
            torch.testing.assert_close(fast, expected, rtol=1e-8, atol=1e-10)

    @starts
    def test_its_expectation_is_the_mean_over_all_orders_and_no_less_than_the_exact_nll(self, scored_from):
        model, window = make(), torch.tensor([2, 0, 0, 1, 2])
        by_order = torch.tensor(log_probabilities_by_order(model, window, scored_from))
        bound = expectation(model, window, scored_from)
        assert bound == pytest.approx(-by_order.mean().item(), rel=1e-6)
        exact = math.log(len(by_order)) - by_order.logsumexp(0).item()  # of p = the mean over orders
        assert bound > exact

    @starts
    @pytest.mark.parametrize("length", [T, T - 1])
    def test_it_is_tight_where_the_denoiser_knows_the_posterior(self, scored_from, length):
        model = knowing()
        for text in ([0, 0, 0, 0, 0], [2, 1, 0, 2, 1], [1, 2, 2, 0, 1]):
            window = text[: length + 1]
            exact = -chain_log_probability(TRANSITION, window[scored_from - 1 :])
            assert expectation(model, torch.tensor(window), scored_from) == pytest.approx(exact, rel=1e-9)

    def test_evaluation_says_that_it_is_a_bound_and_how_uncertain_its_estimate_is(self):
        text = torch.randint(V, (401,), generator=seeded())
        exact = -chain_log_probability(TRANSITION, text.tolist()) / 400
        options = {"context_length": T, "batch_size": 16, "num_draws": 8}
        score = evaluate(knowing(), text, Blocks(), **options)
        assert score == evaluate(knowing(), text, Blocks(), **options)  # the draws are fixed
        assert 0 < score.standard_error < 0.1
        assert score.nll == pytest.approx(exact, abs=4 * score.standard_error)
        assert str(score).startswith(f"nll ≤ {score.nll:.4f} ± ")

    def test_training_masks_the_shares_that_it_is_told_to(self):
        model, windows = make(context_length=8, masked_share=(0.3, 0.8)), torch.zeros(64, 9, dtype=torch.long)
        _, (tokens,) = read_by_denoiser(model, lambda: model.loss(windows, generator=seeded()))
        assert set((tokens == model.mask_id).sum(1).tolist()) == {2, 3, 4, 5, 6}
        _, (tokens,) = read_by_denoiser(model, lambda: model.nll(windows, generator=seeded()))
        assert set((tokens == model.mask_id).sum(1).tolist()) == set(range(1, 9))

    def test_half_precision_is_scored_in_float32(self):
        model = make().bfloat16()
        assert model.nll(torch.zeros(2, T + 1, dtype=torch.uint8)).dtype == torch.float32

    @pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
    def test_the_order_does_not_depend_on_the_default_precision(self, precision):
        """Which Lightning sets for trainer.precision=bf16-true and 64-true, and `charlab evaluate` does not."""
        candidates, former = torch.ones(3, 300, dtype=torch.bool), torch.get_default_dtype()
        expected = random_ranks(candidates, seeded())
        torch.set_default_dtype(precision)
        try:
            assert torch.equal(random_ranks(candidates, seeded()), expected)
        finally:
            torch.set_default_dtype(former)


class Then(nn.Module):
    """A position encoding, and a function of what it returns."""

    def __init__(self, position, function):
        super().__init__()
        self.position, self.function = position, function

    def forward(self, x, start):
        return self.function(self.position(x, start))


class TestDenoiser:
    def test_a_prediction_depends_on_both_sides_and_not_on_what_is_hidden(self):
        model, tokens = make(), torch.tensor([[0, 1, V, 2, 1]])
        for position in (0, 4):
            changed = tokens.clone()
            changed[0, position] = (changed[0, position] + 1) % V
            assert not torch.allclose(model(changed)[0, 2], model(tokens)[0, 2])
        assert model(tokens).shape == (1, T + 1, V)

    def test_what_is_missing_on_the_right_is_masked(self):
        model = make()
        torch.testing.assert_close(model(torch.tensor([[0, 1]])), model(torch.tensor([[0, 1, V, V, V]]))[:, :2])

    def test_the_convolution_adds_up_the_neighbors_on_both_sides(self):
        model, tokens = make(conv_width=3, num_layers=2), torch.tensor([[0, 1, V, 2, 1], [2, V, V, 0, 0]])
        slow = copy.deepcopy(model)
        kernels, slow.denoiser.convolution = slow.denoiser.convolution.weight, None
        slow.denoiser.position = Then(slow.denoiser.position, lambda x: x + neighbors(x, kernels))
        torch.testing.assert_close(model(tokens), slow(tokens))
        weights = torch.randn(model(tokens).shape, generator=seeded(), dtype=torch.double)
        (model(tokens) * weights).sum().backward()
        (slow(tokens) * weights).sum().backward()
        torch.testing.assert_close(model.denoiser.convolution.weight.grad, kernels.grad)
        torch.testing.assert_close(model.denoiser.embedding.weight.grad, slow.denoiser.embedding.weight.grad)

    def test_attention_to_both_sides_is_torchs(self):
        torch.manual_seed(0)
        attention, reference = Attention(8, 5, num_heads=2, causal=False), nn.MultiheadAttention(8, 2, bias=False)
        reference.in_proj_weight = attention.query_key_value.weight
        reference.out_proj.weight = attention.projection.weight
        x = torch.randn(3, 5, 8)
        expected = reference(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1)
        torch.testing.assert_close(attention(x), expected)

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"causal": True}, r"mixer=Attention.*model\.mixer\.causal=false"),
            ({"mixer": RunningAverage, "position": None}, "mixer=RunningAverage looks to the left only"),
            ({"num_steps": 0}, "num_steps of MaskedDiffusion must be an integer ≥ 1 or none"),
            ({"masked_share": (0.8, 0.3)}, r"masked_share=\[0.8, 0.3\] is not a range"),
            ({"conv_width": 4}, "conv_width=4 has no middle: give an odd number"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options, named):
        with pytest.raises(UserError, match=named):
            make(**options)

    def test_more_characters_than_the_context_are_refused(self):
        with pytest.raises(UserError, match=f"{T + 1} characters .* context_length={T}"):
            make()(torch.zeros(1, T + 2, dtype=torch.long))


def assert_distributed(texts, probabilities):
    """Check that texts (B, n) have these probabilities, each by an exact binomial test at 4.5 standard deviations."""
    found = Counter(map(tuple, texts.tolist()))
    assert found.keys() <= {text for text, probability in probabilities.items() if probability > 0}
    for text, probability in probabilities.items():
        assert binomtest(found[text], len(texts), min(probability, 1.0)).pvalue > 7e-6, text


def chain_probabilities(first, length):
    return {
        rest: math.exp(chain_log_probability(TRANSITION, [first, *rest]))
        for rest in itertools.product(range(V), repeat=length)
    }


class TestSample:
    def test_one_character_at_a_time_is_exact(self):
        texts = knowing().sample(torch.full((8_000, 1), 2), T, generator=seeded())
        assert_distributed(texts[:, 1:], chain_probabilities(2, T))

    @pytest.mark.parametrize("prompt", [[1], [0, 1, 2, 0, 0, 1]])
    def test_beyond_the_context_it_goes_on_block_by_block(self, prompt):
        texts = knowing(context_length=2).sample(torch.tensor([prompt] * 8_000), 5, generator=seeded())
        assert (texts[:, : len(prompt)] == torch.tensor(prompt)).all()
        assert_distributed(texts[:, len(prompt) :], chain_probabilities(prompt[-1], 5))

    @pytest.mark.parametrize(
        ("num_steps", "first", "later"), [(None, [9, 8, 7, 6, 5, 4, 3, 2, 1], [5, 4, 3, 2, 1]), (2, [9, 5], [5, 3])]
    )
    def test_each_window_beyond_the_context_keeps_half_of_its_characters(self, num_steps, first, later):
        model, prompt = make(context_length=9, num_steps=num_steps), torch.zeros(2, 1, dtype=torch.long)
        texts, seen = read_by_denoiser(model, lambda: model.sample(prompt, 24, generator=seeded()))
        reads = [(0, left) for left in first] + [(start, left) for start in (5, 10, 15) for left in later]
        for tokens, (start, left) in zip(seen, reads, strict=True):
            hidden = tokens == V
            assert hidden.sum(dim=1).tolist() == [left, left]
            assert torch.equal(tokens[~hidden], texts[:, start : start + 10][~hidden])

    def test_in_one_step_each_character_has_its_own_distribution(self):
        powers = [torch.linalg.matrix_power(TRANSITION, steps)[2] for steps in range(1, T + 1)]
        independent = {
            text: math.prod(power[character].item() for power, character in zip(powers, text, strict=True))
            for text in itertools.product(range(V), repeat=T)
        }
        texts = knowing(num_steps=1).sample(torch.full((8_000, 1), 2), T, generator=seeded())
        assert_distributed(texts[:, 1:], independent)

    @pytest.mark.parametrize(("num_steps", "left"), [(1, [7]), (3, [7, 5, 3]), (7, [7, 6, 5, 4, 3, 2, 1]), (50, None)])
    def test_steps_uncover_about_equally_many(self, num_steps, left):
        model = make(context_length=9, num_steps=num_steps)
        _, seen = read_by_denoiser(model, lambda: model.sample(torch.zeros(2, 3, dtype=torch.long), 7))
        assert [(tokens == V).sum(dim=1).tolist() for tokens in seen] == [[n, n] for n in left or range(7, 0, -1)]

    def test_the_order_is_random_and_differs_by_row(self):
        model = make()
        _, seen = read_by_denoiser(
            model, lambda: model.sample(torch.zeros(4000, 1, dtype=torch.long), T, generator=seeded())
        )
        first = (seen[1] != V)[:, 1:].double()  # the one character uncovered in the first step
        assert first.mean(dim=0).tolist() == pytest.approx([1 / T] * T, abs=0.03)

    def test_choices_are_honoured(self):
        model, prompt = make(context_length=9), torch.zeros(50, 1, dtype=torch.long)

        def sample(**options):
            return model.sample(prompt, 9, generator=seeded(), **options)

        greedy, seen = read_by_denoiser(model, lambda: sample(temperature=0.0))
        for before, after in itertools.pairwise([*seen, greedy]):
            uncovered = before != after
            assert (before[uncovered] == V).all()  # what is uncovered stays
            assert torch.equal(after[uncovered], model(before)[uncovered].argmax(-1))
        assert greedy.unique().numel() == V
        assert torch.equal(sample(top_k=1), greedy)
        assert torch.equal(sample(top_p=1e-9), greedy)
        assert torch.equal(sample(temperature=1e-9), greedy)
        assert not torch.equal(sample(), greedy)

    @pytest.mark.parametrize(
        ("prompt", "length", "options", "named"),
        [
            ([], 3, {}, "prompt is empty"),
            ([0], -1, {}, "length=-1"),
            ([0], 3, {"temperature": -1.0}, "temperature=-1"),
        ],
    )
    def test_wrong_arguments_are_refused(self, prompt, length, options, named):
        with pytest.raises(UserError, match=named):
            make().sample(torch.tensor([prompt], dtype=torch.long), length, **options)

    def test_a_diverged_model_says_so(self):
        model = make()
        nn.init.constant_(model.denoiser.readout.weight, math.nan)
        with pytest.raises(UserError, match="diverged"):
            model.sample(torch.zeros(1, 1, dtype=torch.long), 3)


class TestInfill:
    @pytest.mark.parametrize("length", [3, T + 1, 23])
    @pytest.mark.parametrize("num_steps", [None, 2])
    def test_what_is_given_stays_and_the_rest_is_filled_in(self, length, num_steps):
        model = make(num_steps=num_steps)
        assert isinstance(model, InfillingModel)
        tokens = torch.randint(V, (40, length), generator=seeded())
        for share in (0.0, 0.2, 0.7, 1.0):
            mask = torch.rand(tokens.shape, generator=seeded(1)) < share
            filled = model.infill(tokens, mask, generator=seeded())
            assert torch.equal(filled[~mask], tokens[~mask])
            assert 0 <= filled.min() <= filled.max() < V
            assert torch.equal(filled, model.infill(tokens, mask, generator=seeded()))
            if share == 1.0:
                assert not torch.equal(filled, tokens)

    def test_the_content_of_a_blank_is_not_read(self):
        model, tokens = make(), torch.zeros(30, 12, dtype=torch.long)
        mask = torch.rand(tokens.shape, generator=seeded()) < 0.5
        others = torch.where(mask, (tokens + 1) % V, tokens)
        assert torch.equal(
            model.infill(tokens, mask, generator=seeded()), model.infill(others, mask, generator=seeded())
        )

    def test_a_blank_is_filled_in_from_both_sides(self):
        mask = torch.tensor([False, True, True, False, True]).expand(8_000, -1)
        texts = knowing().infill(torch.tensor([0, 0, 0, 1, 0]).expand(8_000, -1), mask, generator=seeded())
        joint = torch.einsum("a,ab,b,c->abc", TRANSITION[0], TRANSITION, TRANSITION[:, 1], TRANSITION[1])
        expected = {text: (joint[text] / joint.sum()).item() for text in itertools.product(range(V), repeat=3)}
        assert_distributed(texts[:, [1, 2, 4]], expected)

    @pytest.mark.parametrize("context_length", [2, 4])
    def test_both_sides_are_seen_anywhere_in_a_long_text(self, context_length):
        """Each inner position by itself, and every other one at once, in a text of several context lengths."""
        model, length = knowing(context_length=context_length), 11
        tokens = torch.randint(V, (200, length), generator=seeded())
        best = (TRANSITION[:, :, None] * TRANSITION[None]).argmax(dim=1)  # (V, V): between a left and a right one
        for blanks in [*([position] for position in range(1, length - 1)), range(1, length - 1, 2)]:
            mask = torch.zeros_like(tokens, dtype=torch.bool)
            mask[:, blanks] = True
            filled = model.infill(tokens, mask, temperature=0.0)
            for position in blanks:
                assert torch.equal(filled[:, position], best[tokens[:, position - 1], tokens[:, position + 1]])

    def test_a_mask_of_another_shape_is_refused(self):
        with pytest.raises(UserError, match=r"mask has shape \(1, 4\), the text \(1, 3\)"):
            make().infill(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool))
