"""The attention mixers against loops, against torch's own, and against themselves fed piece by piece."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.mixers.attention import Attention
from charlab.models.mixers.full_value_attention import QUERY_BLOCK, FullValueAttention
from charlab.models.mixers.running_average import RunningAverage
from charlab.models.positions import ALiBi, Rotary
from tests.references import attention as reference

B, T, D, H = 2, 7, 16, 4
LONG = 2 * QUERY_BLOCK + 3


def make_attention(position=None, **options):
    torch.manual_seed(0)
    return Attention(D, T, position, num_heads=H, **options).double()


def make_input():
    return torch.randn(B, T, D, dtype=torch.double, generator=torch.Generator().manual_seed(1), requires_grad=True)


def assert_same_gradients(mixer, expected, x, weights, expected_weights=None, **tolerances):
    """Compare both outputs, and their gradients with respect to the input and the weights.

    `expected_weights` are the weights that `expected` was computed with, if these are not the mixer's own.
    """
    actual = mixer(x)
    torch.testing.assert_close(actual, expected, **tolerances)
    probe = torch.randn_like(actual)
    for a, e in zip(
        torch.autograd.grad((actual * probe).sum(), [x, *weights]),
        torch.autograd.grad((expected * probe).sum(), [x, *(expected_weights or weights)]),
        strict=True,
    ):
        torch.testing.assert_close(a, e, **tolerances)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True},
        {"head_dim": 6},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 2},
        {"num_key_value_heads": 4},
        {"query_key_norm": True},
        {"attention_window": 3},
        {"soft_cap": 0.5},
        {"attention_window": 2, "soft_cap": 2.0, "query_key_norm": True, "num_key_value_heads": 2},
        {"softmax_axis": "queries"},
        {"softmax_axis": "queries", "attention_window": 3, "soft_cap": 0.5, "num_key_value_heads": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("position", [None, "rotary", "alibi"])
def test_attention_equals_loops(options, position):
    encoding = {
        None: lambda: None,
        "rotary": lambda: Rotary(D, T, base=100.0),
        "alibi": lambda: ALiBi(D, T),
    }[position]()
    mixer = make_attention(encoding, **options)
    x = make_input()
    width, shared = H * mixer.head_dim, options.get("num_key_value_heads", H) * mixer.head_dim
    q, k, v = (
        part.unflatten(-1, (-1, mixer.head_dim)).transpose(1, 2)
        for part in mixer.query_key_value(x).split([width, shared, shared], dim=-1)
    )
    if options.get("query_key_norm"):
        q, k = (y / (y.square().mean(-1, keepdim=True) + torch.finfo(y.dtype).eps).sqrt() for y in (q, k))
    if position == "rotary":
        q, k = reference.rotate(q, 100.0), reference.rotate(k, 100.0)
    slopes = torch.tensor([2 ** (-8 * (h + 1) / H) for h in range(H)]) if position == "alibi" else None
    heads = reference.attend(
        q,
        k,
        v,
        window=options.get("attention_window"),
        soft_cap=options.get("soft_cap"),
        slopes=slopes,
        softmax_axis=options.get("softmax_axis", "keys"),
    )
    expected = mixer.projection(heads.transpose(1, 2).flatten(2))
    tolerances = {"rtol": 1e-4, "atol": 1e-5} if position == "rotary" else {}  # its angle tables are in float32
    assert_same_gradients(mixer, expected, x, list(mixer.parameters()), **tolerances)


def test_attention_equals_torch():
    mixer = make_attention(bias=True)
    torch_attention = nn.MultiheadAttention(D, H, bias=True, batch_first=True, dtype=torch.double)
    weights = [*mixer.query_key_value.parameters(), *mixer.projection.parameters()]
    torch_weights = [torch_attention.in_proj_weight, torch_attention.in_proj_bias]
    torch_weights += [torch_attention.out_proj.weight, torch_attention.out_proj.bias]
    with torch.no_grad():
        for ours, theirs in zip(weights, torch_weights, strict=True):
            theirs.copy_(ours)
    x = make_input()
    mask = torch.ones(T, T, dtype=torch.bool).triu(1)
    expected, probabilities = torch_attention(x, x, x, attn_mask=mask, average_attn_weights=False)
    torch.testing.assert_close(mixer.attention_weights(x), probabilities)
    assert_same_gradients(mixer, expected, x, weights, torch_weights)


@pytest.mark.parametrize("heads", [1, H])
def test_full_value_attention_equals_one_matrix_per_head(heads):
    torch.manual_seed(0)
    mixer = FullValueAttention(D, T, num_heads=heads).double()
    x = make_input()
    weights = [mixer.query.weight, mixer.key.weight, mixer.value.weight, mixer.projection.weight, mixer.projection.bias]
    assert_same_gradients(mixer, reference.full_value_attention(x, *weights, num_heads=heads), x, weights)


def test_full_value_attention_has_a_slope_for_each_head():
    torch.manual_seed(0)
    mixer = FullValueAttention(D, T, ALiBi(D, T), num_heads=H).double()
    x, slopes = make_input(), torch.tensor([2.0 ** (-8 * (h + 1) / H) for h in range(H)])
    weights = [mixer.query.weight, mixer.key.weight, mixer.value.weight, mixer.projection.weight, mixer.projection.bias]
    expected = reference.full_value_attention(x, *weights, num_heads=H, slopes=slopes)
    assert_same_gradients(mixer, expected, x, weights)


def test_single_head_without_projection_gives_the_head_itself():
    torch.manual_seed(0)
    mixer = FullValueAttention(D, T, num_heads=1, projection=False).double()
    x = make_input()
    weights = [mixer.query.weight, mixer.key.weight, mixer.value.weight]
    identity, zero = torch.eye(D, dtype=torch.double), torch.zeros(D, dtype=torch.double)
    assert_same_gradients(mixer, reference.full_value_attention(x, *weights, identity, zero, num_heads=1), x, weights)


def test_running_average_is_the_cumulative_mean_and_a_softmax_of_zeros():
    x = make_input()
    average = RunningAverage(D, T).double()(x)
    means = torch.stack([x[:, : t + 1].mean(dim=1) for t in range(T)], dim=1)
    torch.testing.assert_close(average, means)
    scores = torch.zeros(T, T, dtype=torch.double).masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
    torch.testing.assert_close(average, scores.softmax(dim=-1) @ x)


@pytest.mark.parametrize(
    "make",
    [
        make_attention,
        lambda: make_attention(Rotary(D, T, base=100.0)),
        lambda: make_attention(ALiBi(D, T), num_key_value_heads=1),
        lambda: make_attention(Rotary(D, T, base=100.0), num_key_value_heads=2),
        lambda: make_attention(attention_window=3, soft_cap=1.0),
        lambda: FullValueAttention(D, T, num_heads=H).double(),
        lambda: FullValueAttention(D, T, ALiBi(D, T), num_heads=H).double(),
        lambda: RunningAverage(D, T).double(),
    ],
)
@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 1, 3], [1, 6]])
def test_extend_equals_forward(make, pieces):
    mixer, x = make(), make_input()
    state = mixer.init_state(B)
    outputs = []
    for piece in x.split(pieces, dim=1):
        output, state = mixer.extend(piece, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), mixer(x), rtol=1e-9, atol=1e-9)


def test_cache_is_full_at_context_length():
    mixer, x = make_attention(), make_input()
    _, state = mixer.extend(x, mixer.init_state(B))
    with pytest.raises(UserError, match="context_length=7"):
        mixer.extend(x[:, :1], state)


def test_softmax_over_queries_sees_the_future_and_over_keys_does_not():
    x = make_input()
    changed = x.detach().clone()
    changed[:, -1] += 1
    for axis, leaks in (("queries", True), ("keys", False)):
        mixer = make_attention(softmax_axis=axis)
        moved = (mixer(changed) - mixer(x))[:, :-1].abs().max() > 1e-9
        assert bool(moved) == leaks


def test_wrong_axis_still_masks_later_keys():
    weights = make_attention(softmax_axis="queries").attention_weights(make_input())
    assert (weights.triu(1) == 0).all()
    torch.testing.assert_close(weights.sum(dim=-2), torch.ones(B, H, T, dtype=torch.double))


def test_dropout_acts_in_training_only():
    mixer, x = make_attention(dropout=0.5), make_input()
    assert not torch.equal(mixer(x), mixer(x))
    mixer.eval()
    torch.testing.assert_close(mixer(x), make_attention()(x))


def test_rotary_scores_depend_on_distance_alone():
    rotary = Rotary(D, 50, base=100.0)
    rotary.prepare(1, 8)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    scores = [(rotary.rotate(q, start + 5) * rotary.rotate(k, start)).sum() for start in (0, 11, 40)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3), rtol=1e-4, atol=1e-4)
    assert not torch.allclose((rotary.rotate(q, 6) * rotary.rotate(k, 0)).sum(), scores[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads=5 does not divide embed_dim=16"),
        ({"num_heads": 4, "num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_heads=4"),
        ({"num_heads": 2, "num_key_value_heads": 4}, "num_key_value_heads=4 does not divide num_heads=2"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options, message):
    with pytest.raises(UserError, match=message):
        Attention(D, T, **options)


def test_full_values_without_projection_need_one_head():
    with pytest.raises(UserError, match="num_heads=2"):
        FullValueAttention(D, T, num_heads=2, projection=False)


def test_default_weights_are_torchs_linear_defaults():
    torch.manual_seed(3)
    mixer = FullValueAttention(D, T, num_heads=H)
    torch.manual_seed(3)
    query = nn.Linear(D, D, bias=False)
    assert torch.equal(mixer.query.weight, query.weight)
    assert F.linear(make_input().float(), query.weight).shape == (B, T, D)


@pytest.mark.parametrize("kind", [Attention, FullValueAttention])
def test_only_a_second_extension_of_a_state_copies_it(kind):
    torch.manual_seed(0)
    mixer = kind(D, T, num_heads=H)
    x = make_input().float()
    state = mixer.init_state(B)
    shared = [buffer.data_ptr() for buffer in state.buffers]
    for piece in x[:, :4].split([2, 1, 1], dim=1):
        former = state
        _, state = mixer.extend(piece, state)
        assert [buffer.data_ptr() for buffer in state.buffers] == shared
    _, branch = mixer.extend(x[:, 4:5], former)
    assert not {buffer.data_ptr() for buffer in branch.buffers} & set(shared)


def test_blocks_of_queries_change_nothing():
    torch.manual_seed(0)
    mixer = FullValueAttention(D, LONG, num_heads=H).double()
    x = torch.randn(1, LONG, D, dtype=torch.double)
    whole = mixer._combine(mixer.attention_weights(x), x, mixer._merged_values())
    torch.testing.assert_close(mixer(x), whole, rtol=1e-12, atol=1e-12)


def test_a_long_prompt_and_the_character_after_it_are_read_as_a_whole_text_is():
    torch.manual_seed(0)
    mixer = FullValueAttention(D, LONG, num_heads=H).double()
    x = torch.randn(1, LONG, D, dtype=torch.double)
    prompt, state = mixer.extend(x[:, :-1], mixer.init_state(1))  # more rows than D
    last, _ = mixer.extend(x[:, -1:], state)
    torch.testing.assert_close(torch.cat([prompt, last], dim=1), mixer(x), rtol=1e-9, atol=1e-9)
