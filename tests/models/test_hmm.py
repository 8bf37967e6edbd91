"""Hidden Markov models against the enumeration of all paths and against hmmlearn, fitted by gradient and by EM."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from charlab.errors import UserError
from charlab.models.hmm import HiddenMarkovModel
from charlab.training.em import ExpectationMaximization
from tests.references.hmm import joint_probabilities, text_probability

if TYPE_CHECKING:
    from hmmlearn.hmm import CategoricalHMM

VOCAB_SIZE, NUM_STATES, MANY_STATES = 4, 3, 1024


def new_model(parameterization: str = "logits", *, seed: int = 0, num_states: int = NUM_STATES) -> HiddenMarkovModel:
    torch.manual_seed(seed)
    model = HiddenMarkovModel(VOCAB_SIZE, num_states=num_states, parameterization=parameterization).double()
    if parameterization == "log_probabilities":
        for leaf in leaves(model):
            leaf.data = leaf.data.log_softmax(dim=-1)  # as exact as float64 is
    return model


def leaves(model: HiddenMarkovModel) -> list[Tensor]:
    return [model.initial, model.transition, model.emission]


def probabilities(model: HiddenMarkovModel) -> list[Tensor]:
    return [leaf.softmax(dim=-1) for leaf in leaves(model)]


def texts(num: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB_SIZE, (num, length), generator=torch.Generator().manual_seed(seed))


def sample_texts(num: int, length: int) -> Tensor:
    """Texts with something to learn: drawn from a model whose states stay and emit what they prefer."""
    model = new_model(seed=9)
    with torch.no_grad():
        model.transition.copy_(3 * torch.eye(NUM_STATES) + 0.1)
        model.emission.copy_(3 * torch.eye(NUM_STATES, VOCAB_SIZE))
    return model.sample(texts(num, 1), length - 1, generator=torch.Generator().manual_seed(0))


def in_hmmlearn(model: HiddenMarkovModel) -> CategoricalHMM:
    """The same model in hmmlearn; its `fit` is one step of EM without a prior."""
    from hmmlearn.hmm import CategoricalHMM  # which takes long to import

    num_states = len(model.initial)
    theirs = CategoricalHMM(n_components=num_states, n_features=VOCAB_SIZE, n_iter=1, init_params="", params="ste")
    theirs.startprob_, theirs.transmat_, theirs.emissionprob_ = (p.detach().numpy() for p in probabilities(model))
    return theirs


def flat(window: Tensor) -> tuple[np.ndarray, list[int]]:
    """Several texts as hmmlearn takes them."""
    return window.reshape(-1, 1).numpy(), [window.shape[1]] * window.shape[0]


@pytest.mark.parametrize("parameterization", ["logits", "log_probabilities"])
def test_nll_and_its_gradient_equal_the_sum_over_paths(parameterization: str) -> None:
    model, window = new_model(parameterization), texts(2, 5)
    expected = torch.stack(
        [
            torch.stack([-text_probability(*probabilities(model), text[:t]).log() for t in range(1, 6)]).diff()
            for text in window.tolist()
        ]
    )
    weights = torch.rand(2, 4, dtype=torch.float64)
    expected_gradient = torch.autograd.grad((weights * expected).sum(), leaves(model))
    nll = model.nll(window)
    torch.testing.assert_close(nll, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad((weights * nll).sum(), leaves(model)), expected_gradient, rtol=1e-10, atol=1e-12
    )


def test_logits_and_their_gradient_equal_the_sum_over_paths() -> None:
    model, text = new_model(), texts(1, 4)
    expected = torch.stack(
        [
            torch.stack(
                [text_probability(*probabilities(model), [*text[0, :t].tolist(), v]) for v in range(VOCAB_SIZE)]
            )
            / text_probability(*probabilities(model), text[0, :t].tolist())
            for t in range(1, 5)
        ]
    ).log()[None]
    weights = torch.rand(1, 4, VOCAB_SIZE, dtype=torch.float64)
    expected_gradient = torch.autograd.grad((weights * expected).sum(), leaves(model))
    logits = model(text)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad((weights * logits).sum(), leaves(model)), expected_gradient, rtol=1e-10, atol=1e-12
    )


def test_posterior_and_path_equal_the_enumeration() -> None:
    model, window = new_model(), texts(2, 5, seed=1)
    posterior, (path, log_probability) = model.posterior(window), model.viterbi(window)
    for row, text in enumerate(window.tolist()):
        joint = joint_probabilities(*(p.detach() for p in probabilities(model)), text)
        expected = torch.zeros(5, NUM_STATES, dtype=torch.float64)
        for states, probability in joint.items():
            expected[range(5), states] += probability / sum(joint.values())
        torch.testing.assert_close(posterior[row], expected, rtol=1e-12, atol=1e-12)
        best = max(joint, key=lambda states: joint[states].item())
        assert tuple(path[row].tolist()) == best
        assert log_probability[row].item() == pytest.approx(joint[best].log().item())


@pytest.mark.parametrize("length", [1, 2, 200])
def test_posterior_path_and_likelihood_equal_hmmlearn(length: int) -> None:
    model, window = new_model(), texts(2, length)
    theirs, (data, lengths) = in_hmmlearn(model), flat(window)
    log_likelihood, posterior = theirs.score_samples(data, lengths)
    first = model.init_state(2) @ model.emission.softmax(dim=-1)
    ours = first.gather(1, window[:, :1]).log().sum() - model.nll(window).sum()
    assert ours.item() == pytest.approx(log_likelihood, rel=1e-10)
    np.testing.assert_allclose(model.posterior(window).reshape(-1, NUM_STATES).numpy(), posterior, atol=1e-10)
    log_probability, path = theirs.decode(data, lengths)
    assert np.array_equal(model.viterbi(window)[0].flatten().numpy(), path)
    assert model.viterbi(window)[1].sum().item() == pytest.approx(log_probability, rel=1e-10)


def test_the_likelihood_of_many_states_equals_hmmlearn() -> None:
    model, window = new_model(num_states=MANY_STATES), texts(1, 40)
    first = model.init_state(1) @ model.emission.softmax(dim=-1)
    ours = first.gather(1, window[:, :1]).log().sum() - model.nll(window).sum()
    assert ours.item() == pytest.approx(in_hmmlearn(model).score(*flat(window)), rel=1e-10)


def test_many_states_have_posteriors_and_a_path() -> None:
    model, window = new_model(num_states=MANY_STATES), texts(1, 40)
    posterior, (path, log_probability) = model.posterior(window), model.viterbi(window)
    assert posterior.shape == (1, 40, MANY_STATES)
    torch.testing.assert_close(posterior.sum(-1), torch.ones(1, 40, dtype=torch.float64))
    assert path.shape == window.shape
    initial, transition, emission = (p.detach().log() for p in probabilities(model))
    states = path[0]
    expected = initial[states[0]] + transition[states[:-1], states[1:]].sum() + emission[states, window[0]].sum()
    assert log_probability.item() == pytest.approx(expected.item())


def test_a_step_of_em_with_many_states_raises_the_likelihood() -> None:
    model, window = new_model("log_probabilities", num_states=MANY_STATES), texts(1, 40)
    optimizer = ExpectationMaximization(model, lr=1.0, decay=0.0, smoothing=0.0)
    before = model.loss(window)
    before.backward()
    optimizer.step()
    assert model.loss(window).item() < before.item()


@pytest.mark.parametrize("num_states", [1, 3])
def test_sums_to_one_over_all_sequences(num_states: int) -> None:
    model = new_model(num_states=num_states)
    for first in range(VOCAB_SIZE):
        grid = torch.cartesian_prod(torch.tensor([first]), *[torch.arange(VOCAB_SIZE)] * 4)  # (V⁴, 5)
        assert model.nll(grid).sum(1).neg().exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_nll_equals_the_cross_entropy_of_the_logits() -> None:
    model, window = new_model(), texts(3, 9).to(torch.uint8)
    expected = -model(window[:, :-1]).log_softmax(dim=-1).gather(2, window[:, 1:, None].long())[..., 0]
    torch.testing.assert_close(model.nll(window), expected, rtol=0, atol=1e-12)
    expected[:, :3] = 0
    torch.testing.assert_close(model.nll(window, scored_from=4), expected, rtol=0, atol=1e-12)


def test_extend_in_pieces_equals_forward() -> None:
    model, tokens = new_model(), texts(2, 20)
    state, pieces = model.init_state(2), []
    for piece in tokens.split([1, 1, 7, 11], dim=1):
        logits, state = model.extend(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=0, atol=1e-12)


def test_looks_at_all_of_the_past_and_nothing_of_the_future() -> None:
    model, tokens = new_model(), texts(3, 10)
    changed = tokens.clone()
    changed[1, 4] = (changed[1, 4] + 1) % VOCAB_SIZE
    differs = (model(tokens) != model(changed)).any(dim=-1)
    assert differs[1, 4:].all()
    assert not differs[1, :4].any()
    assert not differs[[0, 2]].any()


def test_a_long_text_does_not_underflow() -> None:
    model = new_model().float()
    nll = model.nll(texts(1, 2000))
    assert nll.sum() > 104  # e⁻¹⁰⁴ is less than the least float32
    torch.testing.assert_close(nll, model.double().nll(texts(1, 2000)).float(), rtol=1e-4, atol=1e-5)


def test_half_precision_does_not_touch_the_recursion() -> None:
    model, window = new_model().float(), texts(2, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll, logits = model.nll(window), model(window)
    torch.testing.assert_close(nll, model.nll(window), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, model(window), rtol=0, atol=1e-5)
    assert model.bfloat16().nll(window).dtype == torch.float32


def test_probabilities_sum_to_one_with_weights_in_half_precision() -> None:
    model = new_model().bfloat16()
    windows = torch.cartesian_prod(*[torch.arange(model.vocab_size)] * 3)
    first = torch.arange(model.vocab_size).repeat_interleave(model.vocab_size**2)
    probability = (-model.nll(windows).double().sum(1)).exp()  # of the last two characters, given the first
    sums = torch.zeros(model.vocab_size, dtype=torch.float64).index_add(0, first, probability)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)
    torch.testing.assert_close(model(windows).exp().sum(-1), torch.ones(windows.shape), rtol=0, atol=1e-5)


def test_a_step_of_em_equals_hmmlearn() -> None:
    model, window = new_model("log_probabilities"), texts(4, 7)
    theirs = in_hmmlearn(model)
    optimizer = ExpectationMaximization(model, lr=1.0, decay=0.0, smoothing=0.0)
    for half in window.chunk(2):  # as gradient accumulation does
        (model.loss(half) / 2).backward()
    optimizer.step()
    theirs.fit(*flat(window))
    expected = (theirs.startprob_, theirs.transmat_, theirs.emissionprob_)
    for ours, expected_probabilities in zip(leaves(model), expected, strict=True):
        np.testing.assert_allclose(ours.detach().exp().numpy(), expected_probabilities, atol=1e-10)


def test_the_gradient_for_em_is_minus_the_expected_counts() -> None:
    model, window = new_model("log_probabilities"), texts(2, 6)
    model.loss(window).backward()
    posterior = model.posterior(window)  # (B, T, K)
    torch.testing.assert_close(-model.initial.grad * window.numel(), posterior[:, 0].sum(0))
    one_hot = torch.nn.functional.one_hot(window, VOCAB_SIZE).double()
    torch.testing.assert_close(-model.emission.grad * window.numel(), torch.einsum("btk,btv->kv", posterior, one_hot))
    torch.testing.assert_close(-model.transition.grad.sum(1) * window.numel(), posterior[:, :-1].sum((0, 1)))
    assert model.loss(window).item() * window.numel() == pytest.approx(
        -sum(text_probability(*probabilities(model), text).log().item() for text in window.tolist())
    )


def test_the_likelihood_never_falls_under_em_on_the_full_batch() -> None:
    model, window = new_model("log_probabilities"), sample_texts(8, 40)
    optimizer = ExpectationMaximization(model, lr=1.0, decay=0.0, smoothing=0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(window)
        loss.backward()
        return loss.detach()

    losses = torch.stack([optimizer.step(closure) for _ in range(40)])
    assert (losses.diff() < 1e-12).all()
    assert losses[0] - losses[-1] > 0.3


def test_stochastic_em_keeps_a_running_mean_of_the_counts() -> None:
    model, window = new_model("log_probabilities"), texts(3, 8)
    optimizer = ExpectationMaximization(model, lr=0.8, decay=0.5, smoothing=0.1)
    means = [leaf.detach().exp() / (leaf.numel() // leaf.shape[-1]) for leaf in leaves(model)]
    for step, text in enumerate(window, start=1):
        optimizer.zero_grad()
        model.loss(text[None]).backward()
        rate = 0.8 / math.sqrt(step + 1)
        counts = [leaf.grad / leaf.grad.sum() for leaf in leaves(model)]
        means = [(1 - rate) * mean + rate * count for mean, count in zip(means, counts, strict=True)]
        optimizer.step()
        for mean, leaf in zip(means, leaves(model), strict=True):
            expected = 0.9 * mean / mean.sum(-1, keepdim=True) + 0.1 / leaf.shape[-1]
            torch.testing.assert_close(leaf.detach().exp(), expected)


def test_stochastic_em_makes_no_character_impossible() -> None:
    model = new_model("log_probabilities")
    optimizer = ExpectationMaximization(model, lr=1.0, decay=0.0, smoothing=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        model.loss(torch.tensor([[0, 1, 0, 1, 0, 1]])).backward()
        optimizer.step()
    assert model.nll(torch.tensor([[0, 3]])).item() == pytest.approx(-math.log(1e-3 / VOCAB_SIZE))
    assert model.nll(torch.tensor([[0, 1, 0, 1]])).mean().item() < 0.1


def test_em_continues_from_its_state_dict() -> None:
    window, models = texts(4, 8), []
    for restart in (False, True):
        model = new_model("log_probabilities")
        optimizer = ExpectationMaximization(model, lr=0.5, decay=0.6, smoothing=1e-3)
        for step, text in enumerate(window):
            if restart and step == 2:
                state = optimizer.state_dict()
                optimizer = ExpectationMaximization(model, lr=0.5, decay=0.6, smoothing=1e-3)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            model.loss(text[None]).backward()
            optimizer.step()
        models.append(model)
    assert all(torch.equal(a, b) for a, b in zip(*map(leaves, models), strict=True))


def test_a_state_that_em_never_uses_keeps_its_parameters() -> None:
    model = new_model("log_probabilities")
    with torch.no_grad():
        for leaf in (model.initial, model.transition):
            leaf.copy_(torch.tensor([0.5, 0.5, 0.0]).log().expand_as(leaf))  # nothing leads to the last state
        emission = model.emission[2].clone()
    optimizer = ExpectationMaximization(model, lr=1.0, decay=0.0, smoothing=0.0)
    model.loss(texts(2, 8)).backward()
    optimizer.step()
    assert torch.equal(model.emission[2], emission)
    assert not any(leaf.isnan().any() for leaf in leaves(model))


def test_an_impossible_text_has_infinite_nll() -> None:
    model = new_model("log_probabilities")
    with torch.no_grad():
        model.emission[:, 3] = -math.inf
    nll = model.nll(torch.tensor([[0, 1, 3, 1]]))[0]
    assert nll.isinf().tolist() == [False, True, True]


def test_gradients_fit_a_text() -> None:
    torch.manual_seed(0)
    model = HiddenMarkovModel(VOCAB_SIZE, num_states=8, parameterization="logits")
    window = torch.tensor([[0, 0, 1, 2, 3] * 4])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(window).backward()
        optimizer.step()
    assert model.loss(window).item() < 0.1
    assert torch.equal(model.loss(window), model.nll(window).mean())


def test_em_takes_log_probabilities_and_refuses_logits() -> None:
    with pytest.raises(UserError, match=r"initial .*model\.parameterization=log_probabilities"):
        ExpectationMaximization(new_model(), lr=1.0, decay=0.0, smoothing=0.0)
    taken = HiddenMarkovModel(VOCAB_SIZE, num_states=MANY_STATES, parameterization="log_probabilities")
    ExpectationMaximization(taken, lr=1.0, decay=0.0, smoothing=0.0)


def test_log_probabilities_refuse_another_optimizer() -> None:
    model, window = new_model("log_probabilities"), texts(2, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.loss(window).backward()
    optimizer.step()
    with pytest.raises(UserError, match="optimizer=em"):
        model.loss(window)
    grid = torch.cartesian_prod(torch.tensor([0]), torch.arange(VOCAB_SIZE))
    assert model.nll(grid).neg().exp().sum().item() == pytest.approx(1.0)  # what is reported stays a likelihood


@pytest.mark.parametrize(
    ("num_states", "parameterization", "message"),
    [(0, "logits", "num_states of HiddenMarkovModel"), (2, "softmax", "parameterization of HiddenMarkovModel")],
)
def test_refuses_what_does_not_fit(num_states: int, parameterization: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        HiddenMarkovModel(VOCAB_SIZE, num_states=num_states, parameterization=parameterization)


@pytest.mark.corpus
def test_em_beats_the_bigram_counts_on_shakespeare() -> None:
    text = Path(os.environ["CHARLAB_DATA"], "tinyshakespeare", "input.txt").read_text(encoding="utf-8")
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(a) for a in text])
    train, validation = ids[:1_003_854], ids[1_003_854:]
    torch.manual_seed(0)
    model = HiddenMarkovModel(65, num_states=64, parameterization="log_probabilities")
    optimizer = ExpectationMaximization(model, lr=0.3, decay=0.0, smoothing=1e-5)
    for _ in range(150):
        starts = torch.randint(len(train) - 64, (64, 1))
        optimizer.zero_grad()
        model.loss(train[starts + torch.arange(65)]).backward()
        optimizer.step()
    with torch.no_grad():
        assert model.nll(validation[: 111 * 1000].view(1000, 111)).mean().item() < 2.4  # bigram counts have 2.482
