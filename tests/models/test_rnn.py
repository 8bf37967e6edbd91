import copy

import pytest
import torch

from charlab.models.rnn import GRU, LSTM, RNN
from charlab.models.side_effects import untouched_randomness
from tests.references.rnn import logits

VOCAB_SIZE = 7


def make(constructor, *, num_layers=2, dropout=0.0):
    torch.manual_seed(0)
    return constructor(VOCAB_SIZE, embed_dim=5, hidden_dim=6, num_layers=num_layers, dropout=dropout).double()


def text(batch_size=3, length=20):
    return torch.randint(VOCAB_SIZE, (batch_size, length), generator=torch.Generator().manual_seed(1))


every_model = pytest.mark.parametrize("constructor", [RNN, GRU, LSTM])


def gradients(model, value):
    return torch.autograd.grad(value, list(model.parameters()), allow_unused=True)


@every_model
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_the_cell_loop(constructor, num_layers, dtype, tolerance):
    model, tokens = make(constructor, num_layers=num_layers).to(dtype), text()
    actual, expected = model(tokens), logits(model, tokens)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    weights = torch.randn_like(expected)
    for fast, slow in zip(
        gradients(model, (actual * weights).sum()), gradients(model, (expected * weights).sum()), strict=True
    ):
        torch.testing.assert_close(fast, slow, rtol=10 * tolerance, atol=10 * tolerance)


@every_model
@pytest.mark.parametrize("lengths", [[20], [1] * 20, [7, 1, 12]])
def test_extends_equally(constructor, lengths):
    model, tokens = make(constructor), text()
    state, pieces = model.init_state(3), []
    for piece in tokens.split(lengths, dim=1):
        output, state = model.extend(piece, state)
        pieces.append(output)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-12, atol=1e-12)


@every_model
def test_is_causal(constructor):
    model, tokens = make(constructor), text()
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % VOCAB_SIZE
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


@every_model
class TestLossWithState:
    def test_windows_add_up_to_the_text(self, constructor):
        model, tokens = make(constructor), text(length=21)
        state, losses = model.init_state(3), []
        for start in range(0, 20, 5):
            loss, state = model.loss_with_state(tokens[:, start : start + 6], state)
            losses.append(loss)
        torch.testing.assert_close(torch.stack(losses).mean(), model.nll(tokens).mean(), rtol=1e-12, atol=0)

    def test_no_gradient_reaches_an_earlier_window(self, constructor):
        model, tokens = make(constructor), text(length=11)
        earlier = copy.deepcopy(model)
        _, state = earlier.loss_with_state(tokens[:, :6], earlier.init_state(3))
        loss, _ = model.loss_with_state(tokens[:, 5:], state)
        loss.backward()
        assert all(parameter.grad is None for parameter in earlier.parameters())
        assert model.recurrence.weight_hh_l0.grad.abs().max() > 0

    def test_state_matters(self, constructor):
        model, tokens = make(constructor), text(length=11)
        _, state = model.loss_with_state(tokens[:, :6], model.init_state(3))
        carried, _ = model.loss_with_state(tokens[:, 5:], state)
        fresh, _ = model.loss_with_state(tokens[:, 5:], model.init_state(3))
        assert carried != fresh

    def test_small_integers_will_do(self, constructor):
        model, tokens = make(constructor), text(length=11)
        loss, _ = model.loss_with_state(tokens.int(), model.init_state(3))
        torch.testing.assert_close(loss, model.nll(tokens).mean())


@every_model
@pytest.mark.parametrize("num_layers", [1, 2])
def test_dropout_acts_in_training_only(constructor, num_layers):
    model, tokens = make(constructor, num_layers=num_layers, dropout=0.5), text()
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
    assert model.recurrence.dropout == (0.5 if num_layers > 1 else 0.0)


@every_model
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")
def test_dropout_on_a_gpu_depends_on_the_state_of_the_generator_alone(constructor):
    """A resumed run drops what it would have dropped, and an evaluation in between changes nothing."""
    model, tokens = make(constructor, dropout=0.5).cuda(), text().cuda()
    model(tokens)  # cuDNN now has random numbers of its own
    saved = torch.cuda.get_rng_state()
    expected = [model(tokens) for _ in range(3)]
    assert not torch.equal(expected[0], expected[1])
    torch.cuda.set_rng_state(saved)  # as a resumed run does
    found = []
    for _ in range(3):
        found.append(model(tokens))
        with untouched_randomness(tokens.device):
            model(tokens)
    torch.testing.assert_close(found, expected)
