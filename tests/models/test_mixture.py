"""Mixtures against sums of probabilities; their weights against EM by hand, and against all other weights."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from charlab.errors import UserError
from charlab.models.bigram import Bigram
from charlab.models.mixture import Ensemble, Mixture, NeuralNGram, most_likely_weights
from charlab.models.ngram import NGram
from charlab.models.rnn import GRU, LSTM
from charlab.models.smoothing import witten_bell
from tests.references import mixture as reference
from tests.training.small import SmallAttention

V = 5
TEXT = torch.tensor([0, 1, 2, 3, 0, 1, 4, 4, 2, 0, 1, 2] * 8, dtype=torch.uint8)


def gru(vocab_size):
    return GRU(vocab_size, embed_dim=6, hidden_dim=7, num_layers=1, dropout=0.0)


def lstm(vocab_size):
    return LSTM(vocab_size, embed_dim=4, hidden_dim=5, num_layers=2, dropout=0.0)


def ngram(vocab_size):
    return NGram(vocab_size, order=3, smoothing=witten_bell)


def mixture(*parts, weights=None, dtype=torch.float64):
    torch.manual_seed(0)
    model = Mixture(V, {str(number): part for number, part in enumerate(parts)}, weights).to(dtype).eval()
    model.fit(TEXT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # opinions strong enough to differ
    if weights is not None:  # in full precision
        model.weights.copy_(torch.tensor(weights, dtype=dtype))
    return model


def window(length=8):
    return torch.randint(V, (3, length + 1), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("part", [gru, lstm, ngram, Bigram, SmallAttention])
def test_of_one_model_equals_the_model(part):
    model = mixture(part)
    (member,) = model.members.values()
    tokens = window()
    assert torch.equal(model.nll(tokens, scored_from=3), member.nll(tokens, scored_from=3))
    torch.testing.assert_close(model(tokens[:, :-1]), member(tokens[:, :-1]).log_softmax(-1), rtol=1e-14, atol=1e-14)
    assert model.context_length == member.context_length
    torch.testing.assert_close(model.loss(tokens), member.loss(tokens))
    generators = (torch.Generator().manual_seed(2) for _ in range(2))
    drawn, expected = (
        m.sample(tokens[:, :2], 5, generator=g) for m, g in zip((model, member), generators, strict=True)
    )
    assert torch.equal(drawn, expected)


@pytest.mark.parametrize("weights", [[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.3, 0.7]], ids=str)
def test_equals_the_sum_of_probabilities_and_its_gradients(weights):
    model, tokens = mixture(gru, ngram, SmallAttention, weights=weights), window()
    members = list(model.members.values())
    p = reference.distribution(members, weights, tokens[:, :-1])
    torch.testing.assert_close(model(tokens[:, :-1]).exp(), p, rtol=1e-10, atol=1e-14)
    expected = reference.nll(members, weights, tokens)
    torch.testing.assert_close(model.nll(tokens), expected, rtol=1e-10, atol=1e-10)
    logits = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    for ours in (model.nll(tokens).mean(), logits):
        for parameter in model.parameters():
            (a,) = torch.autograd.grad(ours, parameter, retain_graph=True)
            (b,) = torch.autograd.grad(expected.mean(), parameter, retain_graph=True)
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_positions_before_the_first_scored_are_context():
    model, tokens = mixture(gru, ngram), window()
    scored = model.nll(tokens, scored_from=4)
    assert (scored[:, :3] == 0).all()
    torch.testing.assert_close(scored[:, 3:], model.nll(tokens)[:, 3:])


@pytest.mark.parametrize("pieces", [[1, 1, 6], [3, 5], [1] * 8], ids=str)
def test_extend_in_pieces_equals_forward(pieces):
    model, tokens = mixture(lstm, SmallAttention, ngram, weights=[0.1, 0.6, 0.3]), window()[:, :-1]
    state, outputs = model.init_state(3), []
    for piece in tokens.split(pieces, dim=1):
        logits, state = model.extend(piece, state)
        outputs.append(logits)
    torch.testing.assert_close(torch.cat(outputs, dim=1), model(tokens), rtol=1e-10, atol=1e-12)


def test_context_is_the_shortest_members():
    def longer(vocab_size):
        model = SmallAttention(vocab_size)
        model.context_length = 20
        return model

    assert mixture(gru, longer, SmallAttention).context_length == 8
    assert mixture(gru, ngram).context_length is None
    with pytest.raises(UserError, match="context_length=8"):
        mixture(longer, SmallAttention).nll(window(9))
    with pytest.raises(UserError, match="context_length=8"):
        mixture(gru, SmallAttention)(window(9)[:, :-1])


def test_each_member_learns_as_if_it_were_alone():
    model, tokens = mixture(gru, ngram, lstm, weights=[0.9, 0.1, 0.0]), window()
    model.loss(tokens).backward()
    for member in (model.members["0"], model.members["2"]):
        ours = [parameter.grad.clone() for parameter in member.parameters()]
        member.zero_grad()
        member.loss(tokens).backward()
        for a, parameter in zip(ours, member.parameters(), strict=True):
            torch.testing.assert_close(2 * a, parameter.grad)
    total = sum(model.members[name].loss(tokens) for name in "02") / 2
    torch.testing.assert_close(model.loss(tokens), total)


def test_half_precision_logits_are_mixed_in_full_precision():
    model, tokens = mixture(gru, ngram, dtype=torch.float32), window()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens[:, :-1])
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(3, 8), rtol=0, atol=1e-6)


def test_frozen_members_are_not_trained():
    model = mixture(gru, ngram)
    model.freeze()
    assert model.frozen
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.isfinite(model.loss(window()))


def random_nll(seed: int, num_members: int, num_characters: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -(scale * torch.randn(num_members, num_characters, generator=generator, dtype=torch.float64)).sigmoid().log()


def text_nll(nll: Tensor, weights: Tensor) -> float:
    return -(weights.double()[:, None] * (-nll.double()).exp()).sum(0).log().mean().item()


def test_an_iteration_is_the_mean_posterior():
    nll = random_nll(0, 3, 20, 2.0)
    weights = reference.em_step((-nll).exp().tolist(), [1 / 3] * 3)
    torch.testing.assert_close(most_likely_weights(nll, max_iterations=1), torch.tensor(weights, dtype=torch.float64))


def test_ends_where_em_does():
    nll = random_nll(2, 3, 20, 2.0)
    weights = [1 / 3] * 3
    for _ in range(2000):
        weights = reference.em_step((-nll).exp().tolist(), weights)
    found = most_likely_weights(nll, tolerance=1e-12)
    torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64), rtol=0, atol=1e-4)


def test_members_that_are_nearly_alike_are_told_apart():
    nll = torch.stack([torch.full((100,), 1.0), torch.linspace(1.0, 1.0003, 100)]).double()
    assert most_likely_weights(nll, tolerance=1e-9)[0] > 0.999


def test_too_few_iterations_end_no_worse_than_the_best_member():
    nll = torch.tensor([[5.0, 5.0, 5.0], [1.0, 1.0, 1.0]]).double()
    assert most_likely_weights(nll, max_iterations=1).tolist() == [0, 1]


def test_the_likelihood_never_falls():
    nll = random_nll(1, 4, 50, 3.0)
    values = [text_nll(nll, most_likely_weights(nll, tolerance=0.0, max_iterations=i)) for i in range(40)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(values))
    assert values[-1] < values[0] - 1e-3


@settings(max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    num_members=st.integers(1, 4),
    num_characters=st.integers(1, 60),
    scale=st.sampled_from([0.01, 1.0, 5.0, 60.0]),
)
def test_no_worse_than_the_best_member_and_than_any_other_weights(seed, num_members, num_characters, scale):
    nll = random_nll(seed, num_members, num_characters, scale)
    weights = most_likely_weights(nll)
    assert (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(1)
    mixed = text_nll(nll, weights)
    assert mixed <= nll.mean(1).min().item() + 2e-6
    generator = torch.Generator().manual_seed(seed)
    for _ in range(10):
        others = torch.rand(num_members, generator=generator, dtype=torch.float64).log().neg()
        assert mixed <= text_nll(nll, others / others.sum()) + 2e-6


def test_finds_the_weights_that_drew_the_text():
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], dtype=torch.float64)
    drawn = torch.multinomial(torch.tensor([0.3, 0.7], dtype=torch.float64) @ p, 200_000, True, generator=generator)
    weights = most_likely_weights(-p.log()[:, drawn])
    torch.testing.assert_close(weights, torch.tensor([0.3, 0.7], dtype=torch.float64), rtol=0, atol=0.01)


def test_very_improbable_characters_count():
    # Both probabilities are 0 in float64, but their ratio is not: the second member is the better one.
    nll = torch.tensor([[2000.0, 1.0], [1990.0, 1.0]])
    assert most_likely_weights(nll)[1] > 0.99


def test_what_tells_nothing_is_left_out():
    nll = torch.tensor([[1.0, math.inf, math.nan, math.inf], [2.0, math.inf, 0.0, 1.0]])
    torch.testing.assert_close(most_likely_weights(nll), most_likely_weights(nll[:, [0, 3]]))
    torch.testing.assert_close(most_likely_weights(nll[:, 1:3]), torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_weights_can_be_given():
    model = NeuralNGram(V, neural=gru, ngram=ngram, weights=[1.0, 3])
    assert model.weights_are_given
    torch.testing.assert_close(model.weights, torch.tensor([0.25, 0.75]))


def test_a_member_that_never_helps_keeps_a_trace_of_weight():
    weights = most_likely_weights(torch.tensor([[1.0, 1.0], [2000.0, 2000.0]]))
    assert 0 < weights[1] < 1e-9


def test_fitted_weights_are_used_and_saved():
    model, tokens = mixture(gru, ngram), window()
    model.fit_weights(torch.tensor([[3.0, 0.1, 2.0], [1.0, 1.2, 1.0]]))
    assert model.weights[0] != 0.5
    expected = reference.nll(list(model.members.values()), model.weights.tolist(), tokens)
    torch.testing.assert_close(model.nll(tokens), expected)
    other = mixture(gru, ngram)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.nll(tokens), model.nll(tokens))


class NotAutoregressive(torch.nn.Module):
    context_length = None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Ensemble(V, members=[], runs=[], weights=None), "no members"),
        (
            lambda: Ensemble(V, members=[gru, lambda v: NotAutoregressive()], runs=[], weights=None),
            "member 2, a NotAutoregressive",
        ),
        (
            lambda: NeuralNGram(V, neural=gru, ngram="outputs/runs/a", weights=None),
            "member ngram is 'outputs/runs/a'.*model.runs",
        ),
        (lambda: Ensemble(V, members=[gru], runs=["outputs/runs/a"], weights=None), "within another model"),
        (
            lambda: NeuralNGram(V, neural=gru, ngram=ngram, weights=[1.0]),
            r"weights=\[1.0\] has 1 numbers for 2 members",
        ),
    ],
)
def test_bad_members_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
