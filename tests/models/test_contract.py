"""What every language model promises, checked for each `conf/model/*.yaml` there is.

A new model is picked up by having its file there. Models are shrunk in width and depth, where they have such keys, so
that all sequences over a tiny alphabet can be enumerated.
"""

import copy
import functools
import itertools
import math
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import DictConfig, ListConfig

from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.models.decoding import stream
from charlab.models.mixture import Mixture
from tests.helpers.models import ALIKE, MODELS

CONF = Path(__file__).parents[2] / "conf"
V, T, B = 3, 4, 2
SMALLER = {"embed_dim": 24, "num_layers": 2}


@functools.cache
def configuration(name: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(overrides=[f"+model={name}", f"+data.context_length={T}", "+seed=0"]).model
    shrink(config)
    return config


def build(name: str, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return hydra.utils.instantiate(configuration(name), V).double().eval()


def shrink(config) -> None:
    """Make a model small, and the models that it is made of."""
    parts = config.values() if isinstance(config, DictConfig) else config if isinstance(config, ListConfig) else ()
    for part in parts:
        shrink(part)
    if isinstance(config, DictConfig):
        config.update({key: min(size, config[key]) for key, size in SMALLER.items() if key in config})


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in MODELS]
)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def original(name):
    model = build(name)
    if hasattr(model, "fit"):
        model.fit(torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 1, 2] * 5, dtype=torch.uint8))
    return model


@pytest.fixture
def model(original):
    return copy.deepcopy(original)


@pytest.fixture
def window():
    return torch.randint(0, V, (B, T + 1), generator=torch.Generator().manual_seed(1))


def is_trained_by_gradients(model):
    return any(parameter.requires_grad for parameter in model.parameters())


def test_nll_has_one_entry_per_scored_character(model, window):
    nll = model.nll(window, generator=torch.Generator().manual_seed(0))
    assert nll.shape == (B, T)
    assert torch.isfinite(nll).all()
    later = model.nll(window, scored_from=3, generator=torch.Generator().manual_seed(0))
    assert (later[:, :2] == 0).all()
    if model.likelihood == "exact":
        torch.testing.assert_close(later[:, 2:], nll[:, 2:])


def test_same_seed_same_numbers(name, original):
    first, second, other = (build(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    if is_trained_by_gradients(original):
        assert any(not torch.equal(first[key], other[key]) for key in first)


def test_probabilities_of_all_sequences_sum_to_one(model):
    if model.likelihood == "bound":
        pytest.skip("a bound is no probability")
    windows = torch.tensor(list(itertools.product(range(V), repeat=T + 1)))  # sorted by the first, which is given
    totals = model.nll(windows).sum(dim=1).neg().exp().view(V, -1).sum(dim=1)
    assert totals.tolist() == pytest.approx([1] * V, abs=1e-9)


def test_nothing_depends_on_the_future(model, window):
    if not isinstance(model, AutoregressiveModel):
        pytest.skip("a model without an order has no future")
    logits = model(window[:, :-1])
    assert logits.shape == (B, T, V)
    for t in range(1, T):
        changed = window[:, :-1].clone()
        changed[:, t:] = (changed[:, t:] + 1) % V
        torch.testing.assert_close(model(changed)[:, :t], logits[:, :t], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pieces", [[1] * T, [T], [2, T - 2]], ids=str)
def test_extend_equals_forward(model, window, pieces):
    if not isinstance(model, AutoregressiveModel):
        pytest.skip("only autoregressive models read character by character")
    tokens = window[:, :-1]
    state, outputs = model.init_state(B), []
    for piece in tokens.split(pieces, dim=1):
        logits, state = model.extend(piece, state)
        outputs.append(logits)
    torch.testing.assert_close(torch.cat(outputs, dim=1), model(tokens), rtol=1e-9, atol=1e-9)


def test_two_continuations_of_one_state_do_not_disturb_each_other(model, window):
    if not isinstance(model, AutoregressiveModel):
        pytest.skip("only autoregressive models read character by character")
    tokens = window[:, :-1]
    other = (tokens + 1) % V
    initial = model.init_state(B)
    _, root = model.extend(tokens[:, :1], initial)
    _, first = model.extend(tokens[:, 1:2], root)
    _, second = model.extend(other[:, 1:3], root)
    after_first, _ = model.extend(tokens[:, 2:], first)
    after_second, _ = model.extend(other[:, 3:], second)
    again, _ = model.extend(other, initial)
    torch.testing.assert_close(after_first, model(tokens)[:, 2:], rtol=1e-9, atol=1e-9)
    branch = torch.cat([tokens[:, :1], other[:, 1:]], dim=1)
    torch.testing.assert_close(after_second, model(branch)[:, 3:], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again, model(other), rtol=1e-9, atol=1e-9)


def test_reading_is_extending_without_the_earlier_logits(model, window):
    if not isinstance(model, AutoregressiveModel):
        pytest.skip("only autoregressive models read character by character")
    tokens, state = window[:, :-1], model.init_state(B)
    for piece in tokens.split([1, 2, T - 3], dim=1):
        _, expected = model.extend(piece, state)
        logits, state = model.read_prompt(piece, state)
    torch.testing.assert_close(logits, model(tokens)[:, -1], rtol=1e-9, atol=1e-9)
    if model.context_length is None:
        torch.testing.assert_close(model.extend(tokens, state)[0], model.extend(tokens, expected)[0])


@pytest.mark.parametrize("length", [1, T])
def test_the_next_prediction_is_the_last_of_all(model, window, length):
    if not isinstance(model, AutoregressiveModel):
        pytest.skip("only autoregressive models predict the next character")
    expected = model(window[:, :length])[:, -1]
    torch.testing.assert_close(model.predict_next(window[:, :length]), expected, rtol=1e-9, atol=1e-9)


def test_advance_is_extend_by_one(model, window):
    if not isinstance(model, AutoregressiveModel):
        pytest.skip("only autoregressive models read character by character")
    advanced, _ = model.advance(window[:, 0], model.init_state(B))
    extended, _ = model.extend(window[:, :1], model.init_state(B))
    torch.testing.assert_close(advanced, extended[:, 0])


def test_one_batch_can_be_overfitted(model):
    if not is_trained_by_gradients(model):
        pytest.skip("not trained by gradients")
    window = torch.tensor([[0, 1, 2, 0, 1], [1, 2, 0, 1, 2]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.loss(window, generator=torch.Generator().manual_seed(0))
        if loss < 0.05 * math.log(V):  # there is nothing more to be learned
            break
        loss.backward()
        optimizer.step()
    if isinstance(model, Mixture):
        model.fit_weights(torch.stack([member.eval().nll(window).flatten() for member in model.members.values()]))
    assert model.eval().nll(window, generator=torch.Generator().manual_seed(0)).mean() < 0.2 * math.log(V)


def test_saved_and_loaded_gives_the_same_nll(name, model, window, tmp_path):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = build(name, seed=1)
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for each in (model, loaded):
        each.eval()
    assert torch.equal(
        model.nll(window, generator=torch.Generator().manual_seed(0)),
        loaded.nll(window, generator=torch.Generator().manual_seed(0)),
    )


def test_sample_continues_the_prompt(model):
    prompt = torch.tensor([[0, 1], [2, 2]])
    text = model.sample(prompt, 2 * T, generator=torch.Generator().manual_seed(0))
    assert torch.equal(text[:, :2], prompt)
    assert text.shape == (2, 2 + 2 * T)
    assert text.min() >= 0
    assert text.max() < V
    again = model.sample(prompt, 2 * T, generator=torch.Generator().manual_seed(0))
    assert torch.equal(text, again)


def test_samples_of_one_prompt_are_those_of_the_prompt_repeated(model):
    if not isinstance(model, AutoregressiveModel):
        pytest.skip("only autoregressive models stream")
    prompt = torch.tensor([[0, 1, 2]])
    once = stream(model, prompt, 2 * T, num_samples=3, generator=torch.Generator().manual_seed(0))
    each = stream(model, prompt.expand(3, -1), 2 * T, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.stack(list(once)), torch.stack(list(each)))


def test_a_window_longer_than_the_context_is_refused(model):
    if model.context_length is None:
        pytest.skip("any length will do")
    with pytest.raises(ValueError, match="context_length"):
        model.nll(torch.zeros(1, model.context_length + 2, dtype=torch.long))


def test_resuming_equals_not_stopping(name, model):
    if not is_trained_by_gradients(model):
        pytest.skip("not trained by gradients")
    window = torch.tensor([[0, 1, 2, 0, 1], [1, 2, 0, 1, 2]])

    def train(trained, optimizer, steps):
        trained.train()
        for step in steps:
            optimizer.zero_grad()
            trained.loss(window, generator=torch.Generator().manual_seed(step)).backward()
            optimizer.step()

    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    train(model, optimizer, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, range(3, 6))

    resumed = build(name, seed=1)
    resumed_optimizer = torch.optim.Adam(resumed.parameters(), lr=0.5)
    resumed.load_state_dict(saved[0])
    resumed_optimizer.load_state_dict(saved[1])
    train(resumed, resumed_optimizer, range(3, 6))
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in model.state_dict().items())
