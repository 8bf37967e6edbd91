import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from charlab.errors import UserError
from charlab.models.backbone import Backbone
from charlab.models.bigram import Bigram
from charlab.models.contract import AutoregressiveModel
from charlab.models.decoding import choose, stream
from charlab.models.mixers.attention import Attention
from charlab.models.positions import Learned
from tests.references.generation import choice_probabilities, continue_slowly

VOCAB_SIZE = 7
DRAWS = 4000


class Recurrent(AutoregressiveModel):
    context_length = None
    vocab_size = VOCAB_SIZE

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.readout = nn.Linear(8, VOCAB_SIZE)
        self.calls = []

    def forward(self, tokens):
        return self.extend(tokens, None)[0]

    def init_state(self, batch_size):
        return None

    def extend(self, tokens, state):
        self.calls.append(tokens.shape[1])
        hidden, state = self.gru(self.embedding(tokens), state)
        return self.readout(hidden), state


def transformer(context_length=6):
    torch.manual_seed(1)
    model = Backbone(
        VOCAB_SIZE,
        context_length=context_length,
        embed_dim=8,
        num_layers=2,
        mixer=partial(Attention, num_heads=2),
        feed_forward=None,
        position=Learned,
        norm=None,
    )
    with torch.no_grad():  # sharp enough for wrong logits to choose other characters
        model.readout.weight *= 10
        model.position.table.weight *= 3
    return model.double().eval()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def collect(drawn):
    return torch.stack(list(drawn), dim=1)


# Logits on a grid far coarser than rounding errors, with ties.
grid = st.lists(st.integers(-12, 12).map(lambda n: n / 2), min_size=1, max_size=9)
# Off every sum of probabilities that ties can make, since rounding decides there.
cutoff = st.sampled_from([0.0001, 0.137, 0.3001, 0.5003, 0.77, 0.9, 0.9991, 1.0])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    logits=grid,
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.none() | st.integers(1, 10),
    top_p=st.none() | cutoff,
)
def test_frequencies_are_those_of_the_definition(logits, temperature, top_k, top_p):
    expected = torch.tensor(choice_probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p))
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    drawn = choose(torch.tensor(logits).expand(DRAWS, -1), **options, generator=seeded())
    frequencies = torch.bincount(drawn, minlength=len(logits)) / DRAWS
    assert (frequencies[expected == 0] == 0).all()
    five_deviations = 5 * (expected * (1 - expected) / DRAWS).sqrt() + 5 / DRAWS
    assert ((frequencies - expected).abs() <= five_deviations).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(logits=st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=6), top_p=cutoff)
def test_top_p_keeps_the_fewest_that_reach_p(logits, top_p):
    drawn = choose(torch.tensor(logits).expand(DRAWS, -1), top_p=top_p, generator=seeded())
    kept = torch.tensor(logits).softmax(0)[drawn.unique()]  # at least 0.02 each, so none goes undrawn
    assert kept.sum() >= top_p - 1e-6
    assert kept.sum() - kept.min() < top_p


@settings(max_examples=30, deadline=None, derandomize=True)
@given(logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=9, unique=True))
def test_temperature_0_top_1_and_tiny_top_p_all_take_the_most_probable(logits):
    rows = torch.tensor([logits, logits[::-1]])
    best = rows.argmax(-1)
    tiny = ({"temperature": temperature} for temperature in (1e-30, 1e-38, 1e-46, 5e-324))
    for options in ({"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}, *tiny):
        assert choose(rows, **options, generator=seeded()).tolist() == best.tolist()


@pytest.mark.parametrize("temperature", [1e30, 1e39, 1e300])
def test_no_temperature_makes_the_impossible_possible(temperature):
    rows = torch.tensor([[0.0, -math.inf, 3.0]]).expand(DRAWS, -1)
    drawn = torch.bincount(choose(rows, temperature=temperature, generator=seeded()), minlength=3) / DRAWS
    torch.testing.assert_close(drawn, torch.tensor([0.5, 0.0, 0.5]), atol=0.05, rtol=0)


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.9}], ids=str)
def test_a_clock_that_a_device_rounds_to_zero_draws_nothing_forbidden(monkeypatch, zero, options):
    def rounded(clocks, *, generator=None):
        clocks.fill_(1.0)
        clocks[:, 1] = zero
        return clocks

    monkeypatch.setattr(torch.Tensor, "exponential_", rounded)
    forbidden = torch.tensor([[1.0, -math.inf, 0.5]])
    assert choose(forbidden, **options).tolist() == [0]
    assert choose(torch.tensor([[1.0, -1e-3, 0.5]])).tolist() == [1]  # a clock of 0 is the first to ring


def test_top_k_breaks_ties_so_that_only_k_are_left():
    drawn = choose(torch.zeros(DRAWS, 5), top_k=2, generator=seeded())
    assert len(drawn.unique()) == 2


def test_what_rounding_makes_equal_is_still_ranked():
    rows = torch.tensor([[0.0, 1e-9], [1e-9, 0.0]])  # the same probability in float32
    for options in ({"top_k": 1}, {"top_p": 1e-9}, {"top_p": 1e-50}):
        assert choose(rows, **options, generator=seeded()).tolist() == [1, 0]


def test_what_restricts_nothing_changes_no_draw():
    logits = 3 * torch.randn(DRAWS, VOCAB_SIZE, generator=seeded(3))
    drawn = choose(logits, generator=seeded(5))
    for options in (
        {"top_k": VOCAB_SIZE},
        {"top_k": VOCAB_SIZE + 1},
        {"top_p": 1.0},
        {"top_k": VOCAB_SIZE, "top_p": 1.0},
    ):
        assert torch.equal(drawn, choose(logits, **options, generator=seeded(5)))


def test_half_precision_logits_and_minus_infinity_are_fine():
    logits = torch.tensor([[0.0, -torch.inf, 1.0]]).expand(DRAWS, -1)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert set(choose(logits.to(dtype), generator=seeded()).tolist()) == {0, 2}


def test_the_generator_alone_decides():
    logits = torch.randn(50, VOCAB_SIZE, generator=seeded(3))
    state = torch.get_rng_state()
    first = choose(logits, generator=seeded(5))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, choose(logits, generator=seeded(5)))
    assert not torch.equal(first, choose(logits, generator=seeded(6)))


@pytest.mark.parametrize("overflow", ["slide", "rebase"])
@pytest.mark.parametrize("prompt_length", [1, 4, 6, 9])
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.8, "top_k": 5, "top_p": 0.95}])
def test_a_stream_is_what_forward_on_the_last_characters_gives(overflow, prompt_length, options):
    model = transformer()
    prompt = torch.randint(VOCAB_SIZE, (3, prompt_length), generator=seeded(2))
    drawn = collect(stream(model, prompt, 20, overflow=overflow, generator=seeded(), **options))
    expected = continue_slowly(model, prompt, 20, rebase=overflow == "rebase", generator=seeded(), **options)
    assert drawn.tolist() == expected.tolist()


def test_sliding_and_rebasing_differ_only_once_the_context_is_full():
    model, prompt = transformer(), torch.tensor([[1], [2], [3], [4]])
    slide, rebase = (
        collect(stream(model, prompt, 40, overflow=overflow, generator=seeded())) for overflow in ("slide", "rebase")
    )
    assert torch.equal(slide[:, :6], rebase[:, :6])  # six characters are drawn before one has to go
    assert not torch.equal(slide, rebase)


def test_a_context_of_one_character_can_overflow():
    model, prompt = transformer(context_length=1), torch.tensor([[1, 2]])
    for overflow in ("slide", "rebase"):
        assert collect(stream(model, prompt, 5, overflow=overflow, generator=seeded())).shape == (1, 5)


def test_an_unbounded_model_reads_each_character_once():
    torch.manual_seed(0)
    model = Recurrent().double()
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    drawn = collect(stream(model, prompt, 30, generator=seeded()))
    assert model.calls == [3] + [1] * 29
    assert drawn.tolist() == continue_slowly(model, prompt, 30, generator=seeded()).tolist()


def test_characters_come_one_by_one_and_without_gradients():
    model = Recurrent()
    drawn = stream(model, torch.tensor([[1]], dtype=torch.uint8), 3)
    assert not next(drawn).requires_grad
    assert model.calls == [1]  # nothing is computed before it is asked for
    assert torch.is_grad_enabled()


def test_sample_returns_the_prompt_and_what_was_drawn():
    model, prompt = Bigram(VOCAB_SIZE), torch.tensor([[1, 2], [3, 4]])
    text = model.sample(prompt, 4, top_k=3, generator=seeded())
    drawn = collect(stream(model, prompt, 4, top_k=3, generator=seeded()))
    assert torch.equal(text, torch.cat([prompt, drawn], dim=1))
    assert torch.equal(model.sample(prompt, 0), prompt)


class Frequencies(AutoregressiveModel):
    """The frequencies of characters, whatever precedes them: a model without parameters."""

    context_length = None
    vocab_size = 3

    def __init__(self):
        super().__init__()
        self.register_buffer("counts", torch.tensor([1.0, 0.0, 0.0]))

    def forward(self, tokens):
        return self.counts.log().expand(*tokens.shape, -1)


def test_a_model_that_defines_forward_alone_needs_no_parameters():
    assert collect(stream(Frequencies(), torch.tensor([[1, 2]]), 3)).tolist() == [[0, 0, 0]]


def test_a_diverged_model_is_named_as_such():
    model = Bigram(VOCAB_SIZE)
    nn.init.constant_(model.table.weight, torch.nan)
    with pytest.raises(UserError, match="diverged"):
        next(stream(model, torch.tensor([[1]]), 3))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_model_that_predicts_nothing_later_on_is_named_at_that_character(wrong):
    model = Bigram(3)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor([[-99.0, 0.0, -99.0], [-99.0, -99.0, 0.0], [0.0, wrong, 0.0]]))
    drawn = stream(model, torch.tensor([[0]]), 9, generator=seeded())
    assert [next(drawn).item(), next(drawn).item()] == [1, 2]
    with pytest.raises(UserError, match="diverged"):
        next(drawn)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompt": torch.empty(1, 0, dtype=torch.long)}, "prompt"),
        ({"length": -1}, "length=-1"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"overflow": "wrap"}, "overflow=wrap"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(arguments, named):
    with pytest.raises(UserError, match=named):
        stream(Bigram(VOCAB_SIZE), **({"prompt": torch.tensor([[1]]), "length": 3} | arguments))


def test_a_prompt_is_read_once_for_all_samples_and_predicted_from_at_its_end_only():
    model, embedded, read_out = transformer(context_length=40), [], []
    model.embedding.register_forward_hook(lambda _, inputs, __: embedded.append(tuple(inputs[0].shape)))
    model.readout.register_forward_hook(lambda _, inputs, __: read_out.append(tuple(inputs[0].shape[:2])))
    collect(stream(model, torch.zeros(1, 30, dtype=torch.long), 3, num_samples=4, generator=seeded()))
    assert embedded == [(1, 30), (4, 1), (4, 1)]
    assert read_out == [(1, 1), (4, 1), (4, 1)]


def test_a_state_of_unknown_layout_is_computed_for_each_sample():
    torch.manual_seed(0)
    model = Recurrent().eval()  # its initial state is None, so nothing says where the batch is
    prompt = torch.tensor([[1, 2, 3]])
    together = collect(stream(model, prompt, 9, num_samples=3, generator=seeded()))
    assert torch.equal(together, collect(stream(model, prompt.expand(3, -1), 9, generator=seeded())))
