"""Learning from a text while it is scored: as slowly as can be, from the past alone, and without a trace."""

import copy
import json
import math
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from charlab.errors import UserError
from charlab.evaluation.online import Online
from charlab.evaluation.protocols import Blocks, Sizes, Sliding, evaluate
from charlab.models.bigram import Bigram
from charlab.models.context_mixing import ContextMixing
from charlab.models.hmm import HiddenMarkovModel
from charlab.models.mixture import Mixture
from charlab.models.ngram import NGram
from charlab.models.rnn import LSTM
from charlab.models.smoothing import kneser_ney, witten_bell
from tests.evaluation.processes import run_in_processes
from tests.evaluation.small_models import VOCAB_SIZE, Bound, Recurrent, transformer
from tests.helpers.devices import WithoutFloat64
from tests.references.online import learning_slowly

T = 6
CONF = Path(__file__).parents[2] / "conf"


def text(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(VOCAB_SIZE, VOCAB_SIZE, generator=generator).pow(6)
    ids = [0]
    while len(ids) < length:
        ids.append(int(torch.multinomial(table[ids[-1]], 1, generator=generator)))
    return torch.tensor(ids, dtype=torch.uint8)


def seeded(build):
    torch.manual_seed(3)
    return build().double()


def ngram(smoothing):
    model = NGram(VOCAB_SIZE, order=4, smoothing=smoothing)
    model.fit(text(200, seed=1))
    return model


def context_mixing():
    model = ContextMixing(
        VOCAB_SIZE,
        contexts=["last_0", "last_1", "last_3", "last_6", "word_1"],
        matches=[["last_4", "last_8"]],
        reader=partial(LSTM, embed_dim=8, hidden_dim=8, num_layers=1, dropout=0.1),
        reader_optimizer=lambda reader: torch.optim.Adam(reader.parameters(), lr=0.01),
        reader_passes=2,
        mixing_dim=8,
        mixing_passes=2,
        mixing_learning_rate=0.01,
        online_learning_rate=1e-3,
        online_block=8,
    )
    model.fit(text(200, seed=1))
    return model


lstm = partial(LSTM, VOCAB_SIZE, embed_dim=8, hidden_dim=8, num_layers=2, dropout=0.0)
LEARNING = {
    "transformer": lambda: transformer(T),
    "recurrent": Recurrent,
    "LSTM": lstm,
    "bigram": lambda: Bigram(VOCAB_SIZE),
    "HMM": lambda: HiddenMarkovModel(VOCAB_SIZE, num_states=4, parameterization="logits"),
    "HMM for EM": lambda: HiddenMarkovModel(VOCAB_SIZE, num_states=4, parameterization="log_probabilities"),
}
COUNTING = {"Witten-Bell": lambda: ngram(witten_bell), "Kneser-Ney": lambda: ngram(kneser_ney)}
COUNTING |= {"context mixing": lambda: context_mixing()}
FAMILIES = LEARNING | COUNTING
ALL = pytest.mark.parametrize("family", FAMILIES)
ALIKE = ("bigram", "HMM for EM", "Witten-Bell")  # families that learn as others do
score = partial(evaluate, context_length=T, batch_size=4)


@pytest.mark.parametrize("family", LEARNING)
@pytest.mark.parametrize(("block_length", "length", "steps"), [(1, 12, 1), (4, 31, 2), (T, 3, 1), (T, 2 * T + 1, 1)])
def test_equals_learning_from_single_characters(family, block_length, length, steps):
    model, ids = seeded(LEARNING[family]), text(length)
    expected = learning_slowly(model, ids, T, block_length, 0.01, steps)
    found = score(model, ids, Online(block_length, 0.01, steps))
    np.testing.assert_allclose(found.per_character, expected, rtol=1e-5)
    assert found.nll == pytest.approx(math.fsum(expected) / len(expected), rel=1e-6)
    assert found.characters == length - 1


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in FAMILIES]
)
def test_what_repeats_is_far_cheaper_the_second_time(family):
    model, half = seeded(FAMILIES[family]), text(60, seed=8)
    rate = 0.01 if family == "transformer" else 0.05  # at which rounding decides what its loss, of 10 nats, becomes
    ids = torch.cat([half, half])
    static = score(model, ids, Sliding()).per_character
    online = score(model, ids, Online(learning_rate=rate)).per_character
    assert online[60:].mean() < static[60:].mean() - 0.5
    assert online[60:].mean() < online[:60].mean() - 0.15


@cache
def unchanged(family):
    return score(seeded(FAMILIES[family]), text(60), Online(4, 0.02)).per_character


@ALL
@pytest.mark.parametrize("cut", [1, 20, 22, 47])
def test_what_comes_later_changes_no_earlier_score(family, cut):
    changed = text(60)
    changed[cut:] = changed[cut:][torch.randperm(60 - cut, generator=torch.Generator().manual_seed(cut))]
    assert not torch.equal(changed, text(60))
    before, after = unchanged(family), score(seeded(FAMILIES[family]), changed, Online(4, 0.02)).per_character
    np.testing.assert_allclose(after[: cut - 1], before[: cut - 1], rtol=1e-6)
    assert not np.allclose(after[cut - 1 :], before[cut - 1 :])


@pytest.mark.parametrize("family", LEARNING)
def test_nothing_is_learned_from_a_block_before_it_is_scored(family):
    model, ids = seeded(LEARNING[family]), text(30)
    first = score(model, ids, Online(T, 0.5)).per_character[:T]
    np.testing.assert_allclose(first, score(model, ids[: T + 1], Blocks()).per_character, rtol=1e-6)


@ALL
def test_an_online_evaluation_leaves_no_trace(family):
    model, ids = seeded(FAMILIES[family]), text(20)
    weights, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = score(model, ids, Online())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert score(model, ids, Online()) == first
    with torch.no_grad():
        assert score(model, ids, Online()) == first


@pytest.mark.parametrize("build", [lambda dropout: transformer(T, dropout=dropout), lambda p: lstm(dropout=p)])
def test_dropout_is_off(build):
    plain = build(0.0)
    dropping = build(0.5)
    dropping.load_state_dict(plain.state_dict())
    assert score(dropping, text(40), Online(3)).nll == score(plain, text(40), Online(3)).nll


def test_recurrent_layers_learn_in_training_mode():
    # cuDNN computes no gradient otherwise, which no CPU would show.
    modes = []

    class Watched(nn.GRU):
        def forward(self, *inputs):
            modes.append(self.training)
            return super().forward(*inputs)

    model = Recurrent().eval()
    model.gru = Watched(8, 8, batch_first=True).eval()
    score(model, text(20), Online())
    assert set(modes) == {True}
    assert not model.gru.training


def test_the_members_of_a_mixture_learn_each_by_itself():
    recurrent, counts, ids = Recurrent(), ngram(kneser_ney), text(60)
    mixture = Mixture(VOCAB_SIZE, {"recurrent": lambda _: recurrent, "counts": lambda _: counts}, [3.0, 7.0])
    protocol = Online(4, 0.01)
    apart = [np.exp(-score(member, ids, protocol).per_character) for member in (recurrent, counts)]
    mixed = score(mixture, ids, protocol)
    np.testing.assert_allclose(mixed.per_character, -np.log(0.3 * apart[0] + 0.7 * apart[1]), rtol=1e-5)
    assert mixed.settings == score(recurrent, ids, protocol).settings
    alone = Mixture(VOCAB_SIZE, {"counts": lambda _: counts}, None)
    assert score(alone, ids, protocol).settings == score(counts, ids, protocol).settings


class InWindows(Bigram):
    context_length = T


class OnMps(InWindows):
    def nll(self, window, **options):
        return super().nll(window, **options).as_subclass(WithoutFloat64)


def test_members_are_mixed_in_float64_also_on_a_device_without_it():
    found = []
    for part in (InWindows, OnMps):
        torch.manual_seed(3)
        members = {"windows": part, "counts": lambda _: ngram(kneser_ney)}
        found.append(score(Mixture(VOCAB_SIZE, members, [3.0, 7.0]), text(60), Online(4, 0.01)).per_character)
    np.testing.assert_array_equal(*found)


def test_frozen_parameters_stay():
    model = Recurrent()
    ids, protocol = text(60), Online(learning_rate=0.01)
    learning = score(model, ids, protocol)
    model.gru.requires_grad_(False)
    frozen = score(model, ids, protocol)
    assert frozen.nll != learning.nll
    assert not any(parameter.requires_grad for parameter in model.gru.parameters())


def test_blocks_cover_the_text_with_as_much_context_as_there_is():
    for length, block_length in [(2, 1), (30, 4), (31, T), (32, 1)]:
        scored = []
        for (start,), size, scored_from in Online(block_length).windows(Sizes(length, T, 1)):
            scored += range(start + scored_from, start + size + 1)
            assert size == min(T, start + size)
        assert scored == list(range(1, length))


def test_the_settings_say_what_decides_the_figure():
    learned = {"optimizer": "Adam without momentum", "learning_rate": 0.01, "steps_per_block": 2}
    protocol = Online(learning_rate=0.01, steps_per_block=2)
    found = score(transformer(T), text(30), protocol)
    assert found.settings == {"context_length": T, "block_length": 1, **learned}
    assert (found.protocol, found.likelihood, found.standard_error) == ("online", "exact", None)
    assert json.loads(json.dumps(found.as_dict()))["learning_rate"] == 0.01
    assert score(Recurrent(), text(30), protocol).settings == {"context_length": None, "block_length": 1, **learned}
    counted = score(ngram(kneser_ney), text(30), Online(4)).settings
    assert {name: value for name, value in counted.items() if value is not None} == {"block_length": 1}
    assert str(found).endswith("(online, context_length=6, block_length=1, optimizer=Adam without momentum, "
                               "learning_rate=0.01, steps_per_block=2, 29 characters)")  # fmt: skip


def _score_share(rank, world_size, model):
    return score(model, text(60), Online(), rank=rank, world_size=world_size)


@pytest.mark.timeout(60)
def test_two_processes_get_the_score_of_one():
    model = Recurrent()
    alone = score(model, text(60), Online())
    for found in run_in_processes(_score_share, 2, model):
        assert found.nll == pytest.approx(alone.nll, rel=1e-12)
        np.testing.assert_array_equal(found.per_character, alone.per_character)


def test_a_block_is_a_quarter_of_the_context_unless_set_as_the_configuration_says():
    protocol = Online()
    assert protocol.settings(Sizes(100, 33, 1))["block_length"] == 8
    (said,) = (line for line in (CONF / "evaluate.yaml").read_text().splitlines() if line.startswith("block_length"))
    assert said.endswith("null: a quarter of the context")


class Fixed(Bigram):
    """A table that is a constant."""

    def __init__(self):
        super().__init__(VOCAB_SIZE)
        self.requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "protocol", "named"),
    [
        (lambda: Bound(1.0), lambda: Online(), "exact likelihoods"),
        (Fixed, lambda: Online(), "nothing to teach Fixed"),
        (Recurrent, lambda: Online(T + 1), f"block_length={T + 1}"),
        (Recurrent, lambda: Online(0), "block_length=0"),
        (Recurrent, lambda: Online(steps_per_block=0), "steps_per_block=0"),
        (Recurrent, lambda: Online(learning_rate=0.0), "learning_rate=0.0"),
        (Recurrent, lambda: Online(learning_rate=math.nan), "learning_rate=nan"),
        (lambda: transformer(T), lambda: Online(learning_rate=1e30), "lower learning_rate=1e\\+30"),
    ],
)
def test_what_does_not_fit_is_refused(model, protocol, named):
    with pytest.raises(UserError, match=named):
        score(model(), text(50), protocol())
