"""Muon against one matrix at a time, against singular values, and against torch's own."""

import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode

from charlab.errors import UserError
from charlab.models.backbone import Backbone
from charlab.models.bigram import Bigram
from charlab.models.feed_forward import FeedForward, SwiGLU
from charlab.models.mixers.attention import Attention
from charlab.models.mixers.full_value_attention import FullValueAttention
from charlab.models.mixers.minimal_rnn import MinLSTM
from charlab.models.positions import Learned
from charlab.models.rnn import LSTM
from charlab.training.muon import Muon, hidden_matrices, orthogonalize
from tests.references import muon as reference

SETTINGS = {
    "lr": 0.03,
    "momentum": 0.9,
    "iterations": 5,
    "adam_lr": 0.01,
    "betas": (0.8, 0.95),
    "eps": 1e-8,
    "weight_decay": 0.2,
    "decayed": "matrices",
}


def backbone(mixer, feed_forward, **settings):
    torch.manual_seed(0)
    defaults = {"context_length": 6, "embed_dim": 8, "num_layers": 2, "position": Learned, "norm": nn.LayerNorm}
    return Backbone(11, mixer=mixer, feed_forward=feed_forward, **{**defaults, **settings})


def transformer(**settings):
    attention = partial(Attention, num_heads=4, num_key_value_heads=2, bias=True)
    return backbone(attention, partial(SwiGLU, expansion=1.5, bias=False), **settings)


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 4, 9), (2, 9, 4), (1, 1, 6)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for matrix, result in zip(matrices, orthogonalize(matrices, 5), strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inner = left.T @ result @ right.T
        values = inner.diagonal()
        torch.testing.assert_close(inner, values.diag(), atol=1e-12, rtol=0)
        assert values.min() > 0.68
        assert values.max() < 1.21
        assert (result - reference.nearest_orthogonal(matrix)).norm() < 0.33 * len(values) ** 0.5
        torch.testing.assert_close(result, reference.newton_schulz(matrix, 5))


@pytest.mark.parametrize("shape", [(16, 16), (16, 48)])
def test_single_precision_is_enough_for_singular_values_of_all_sizes(shape):
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=generator).double(), full_matrices=False)
    matrix = left @ torch.logspace(0, -8, 16).double().diag() @ right
    result = orthogonalize(matrix[None].float(), 5)[0].double()
    torch.testing.assert_close(result, reference.newton_schulz(matrix, 5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 4, 9)])
def test_single_precision_stays_on_a_cpu(shape):
    """In bfloat16, as on a GPU, it would take many times as long."""
    seen = set()

    class Dtypes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            seen.add(result.dtype)
            return result

    matrices = torch.randn(shape)
    with Dtypes():
        orthogonalize(matrices, 5)
    assert seen == {torch.float32}


def test_tiny_gradients_are_normalized_as_in_the_authors_code():
    matrix = 1e-8 * torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(orthogonalize(matrix[None], 5)[0], reference.newton_schulz(matrix, 5))


def test_a_gradient_of_zeros_moves_nothing():
    assert not orthogonalize(torch.zeros(2, 3, 4), 5).any()


def test_every_step_equals_that_of_each_matrix_by_itself():
    model = transformer().double()
    heights = {}
    for layer in range(2):
        heights[f"blocks.{layer}.mixer.query_key_value.weight"] = [8, 4, 4]  # four heads of 2, keys and values of two
        heights[f"blocks.{layer}.mixer.projection.weight"] = [8]
        heights[f"blocks.{layer}.feed_forward.gate_and_value.weight"] = [12, 12]
        heights[f"blocks.{layer}.feed_forward.contract.weight"] = [8]
    expected = {}
    for name, parameter in model.named_parameters():
        parts = parameter.detach().split(heights.get(name, [len(parameter)]))
        if name in heights:
            expected[name] = [reference.Muon(part, momentum=0.9, iterations=5) for part in parts]
        else:
            expected[name] = [reference.AdamW(part, betas=(0.8, 0.95), eps=1e-8) for part in parts]
    optimizer = Muon(model, **SETTINGS)
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    windows = torch.randint(11, (4, 3, 7), generator=torch.Generator().manual_seed(1))
    for step, window in enumerate(windows):
        optimizer.zero_grad()
        model.loss(window).backward()
        for name, parameter in model.named_parameters():
            rate = (0.03 if name in heights else 0.01) / (1 + step)
            decay = 0.2 if parameter.ndim == 2 else 0.0
            for part, gradient in zip(
                expected[name], parameter.grad.split(heights.get(name, [len(parameter)])), strict=True
            ):
                part.step(gradient, lr=rate, weight_decay=decay)
        optimizer.step()
        schedule.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), torch.cat([part.weight for part in expected[name]]))


def test_matrices_of_equal_shape_on_their_side_or_not_are_orthogonalized_at_once(monkeypatch):
    shapes = []

    def recorded(matrices, iterations):
        shapes.append(tuple(matrices.shape))
        return orthogonalize(matrices, iterations)

    monkeypatch.setattr("charlab.training.muon.orthogonalize", recorded)
    model = transformer()
    optimizer = Muon(model, **SETTINGS)
    model.loss(torch.randint(11, (2, 7))).backward()
    optimizer.step()
    # Of two layers: keys and values; queries and projections; gates, values and, on their side, contractions.
    assert sorted(shapes) == [(4, 4, 8), (4, 8, 8), (6, 8, 12)]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has none of its own")
def test_matrices_move_as_torchs_own_muon_moves_them():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(12, 20, bias=False), nn.Tanh(), nn.Linear(20, 6, bias=False))
    theirs = nn.Sequential(nn.Linear(12, 20, bias=False), nn.Tanh(), nn.Linear(20, 6, bias=False))
    theirs.load_state_dict(ours.state_dict())
    start = [parameter.detach().clone() for parameter in ours.parameters()]
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    optimizers = [
        Muon(ours, **{**SETTINGS, **settings}),
        torch.optim.Muon(theirs.parameters(), **settings, nesterov=True, adjust_lr_fn="match_rms_adamw"),
    ]
    for x in torch.randn(5, 30, 12):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for initial, a, b in zip(start, ours.parameters(), theirs.parameters(), strict=True):
        assert (a - initial).norm() > 0.1
        assert (a - b).norm() < 0.02 * (a - initial).norm()  # torch's products are in bfloat16


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            backbone(partial(Attention, num_heads=2), partial(FeedForward, expansion=2, activation="relu", bias=True)),
            {
                "mixer.query_key_value.weight": (8, 8, 8),
                "mixer.projection.weight": (8,),
                "feed_forward.expand.weight": (16,),
                "feed_forward.contract.weight": (8,),
            },
        ),
        (
            backbone(partial(FullValueAttention, num_heads=2), None, tied_embeddings=True),
            {
                "mixer.query.weight": (8,),
                "mixer.key.weight": (8,),
                "mixer.value.weight": (8, 8),
                "mixer.projection.weight": (8,),
            },
        ),
        (
            backbone(partial(MinLSTM, expansion=2, conv_width=3), None, position=None),
            {"mixer.gates_and_candidate.weight": (16, 16, 16), "mixer.projection.weight": (8,)},
        ),
    ],
    ids=["attention", "full values", "minLSTM"],
)
def test_what_is_orthogonalized_in_a_backbone(model, expected):
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[parameter]: heights for parameter, heights in hidden_matrices(model).items()}
    assert found == {f"blocks.{i}.{name}": heights for i in range(2) for name, heights in expected.items()}


def test_the_gates_of_a_recurrent_layer_are_matrices_of_their_own():
    model = LSTM(11, embed_dim=6, hidden_dim=5, num_layers=2, dropout=0.0)
    found = hidden_matrices(model)
    weights = [w for name, w in model.recurrence.named_parameters() if name.startswith("weight")]
    assert [found.pop(weight) for weight in weights] == [(5,) * 4] * 4
    assert not found


def test_frozen_matrices_stay():
    model = transformer()
    model.blocks[0].requires_grad_(False)
    before = [p.clone() for p in model.blocks[0].parameters()]
    optimizer = Muon(model, **SETTINGS)
    model.loss(torch.randint(11, (2, 7))).backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.blocks[0].parameters(), strict=True))


def test_a_model_without_hidden_matrices_is_refused():
    with pytest.raises(UserError, match=r"optimizer=muon.*Bigram has none.*optimizer=adamw"):
        Muon(Bigram(5), **SETTINGS)


def test_its_state_can_be_saved_without_code_and_goes_on_to_the_bit():
    windows = torch.randint(11, (4, 3, 7), generator=torch.Generator().manual_seed(1))

    def train(model, optimizer, part):
        for window in windows[part]:
            optimizer.zero_grad()
            model.loss(window).backward()
            optimizer.step()

    whole, first, second = transformer(), transformer(), transformer()
    train(whole, Muon(whole, **SETTINGS), slice(0, 4))
    optimizer = Muon(first, **SETTINGS)
    train(first, optimizer, slice(0, 2))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second.load_state_dict(saved["model"])
    optimizer = Muon(second, **{**SETTINGS, "lr": 1.0})  # the saved rates count
    optimizer.load_state_dict(saved["optimizer"])
    train(second, optimizer, slice(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
