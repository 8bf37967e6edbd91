"""Context mixing: contexts and counts as obvious code has them, and probabilities that sum to one as it learns."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from charlab.errors import UserError
from charlab.models import context_mixing
from charlab.models.bigram import Bigram
from charlab.models.context_mixing import ContextMixing
from charlab.models.context_mixing.bit_counts import RECENT, HistoryTable, HuffmanCode, history_before
from charlab.models.context_mixing.contexts import CONTEXTS, Alphabet, FeaturedText
from charlab.models.context_mixing.counters import TrainingCounts
from charlab.models.context_mixing.decision_mixer import TINY, Decisions, decision_odds
from charlab.models.rnn import LSTM
from tests.references import context_mixing as slow

PLAY = """FIRST LORD:
Good my lord, good night; the night's too long.
The lord is good.

SECOND LORD:
Is't night? The night is long, my lord, and good
my lord is long in the night.

FIRST LORD:
Good night, my lord. Good, good night.
"""
CHARACTERS = sorted(set(PLAY))
V = len(CHARACTERS)
IDS = np.array([CHARACTERS.index(character) for character in PLAY])
ALPHABET = Alphabet.of([character.encode() for character in CHARACTERS])
READER = partial(LSTM, embed_dim=8, hidden_dim=8, num_layers=2, dropout=0.1)
SMALL = {
    "reader": READER,
    "reader_optimizer": lambda reader: torch.optim.Adam(reader.parameters(), lr=0.02),
    "reader_passes": 20,
    "mixing_dim": 8,
    "mixing_passes": 8,
    "mixing_learning_rate": 0.01,
}
ONLINE = {"online_learning_rate": 1e-3, "online_block": 4}
NAMES = ["last_0", "last_1", "last_2", "last_4", "word", "word_1", "word_line", "followers_2"]


def model(vocab_size=V, contexts=NAMES, **changed):
    torch.manual_seed(0)
    arguments = {"contexts": contexts, "matches": [["last_2", "last_3", "last_4"], ["word_1"]], **SMALL, **ONLINE}
    built = ContextMixing(vocab_size, **(arguments | changed)).double().eval()
    if vocab_size == V:
        built.know_tokens([character.encode() for character in CHARACTERS])
    return built


def text(length, vocab_size, seed=0):
    return torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", autouse=True)
def short_windows():
    """So that a short text is enough for several steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_mixing, "READING", (16, 4))
        patch.setattr(context_mixing, "MIXING", (16, 4))
        yield


@pytest.fixture(scope="module")
def fitted(short_windows):
    built = model()
    built.fit(torch.from_numpy(IDS[:130]))
    return built


# Counting


@pytest.mark.parametrize("number_of_keys", [1, 3, 40])
def test_what_was_seen_before_is_what_a_list_holds(number_of_keys):
    random = np.random.default_rng(0)
    keys, bits = random.integers(0, number_of_keys, 200).astype(np.uint64), random.integers(0, 2, 200)
    lists, found = {}, history_before(keys, bits)
    for t, (key, bit) in enumerate(zip(keys.tolist(), bits.tolist(), strict=True)):
        before = lists.setdefault(key, [])
        assert (found.number[t], found.ones[t]) == (len(before), sum(before))
        assert f"{found.recent[t]:b}" == "1" + "".join(map(str, before[-RECENT:]))
        before.append(bit)
    after = HistoryTable(keys, bits)(np.arange(number_of_keys + 1).astype(np.uint64))
    for key in range(number_of_keys + 1):
        before = lists.get(key, [])
        assert (after.number[key], after.ones[key]) == (len(before), sum(before))
        assert f"{after.recent[key]:b}" == "1" + "".join(map(str, before[-RECENT:]))


def test_states_tell_apart_what_the_reference_does():
    random = np.random.default_rng(0)
    histories = [random.integers(0, 2, random.integers(0, 40)) * random.integers(0, 2) for _ in range(500)]
    keys = np.repeat(np.arange(500), [len(history) for history in histories]).astype(np.uint64)
    states = HistoryTable(keys, np.concatenate(histories))(np.arange(500).astype(np.uint64)).state()
    pairs = {(found, slow.state(history.tolist())) for found, history in zip(states.tolist(), histories, strict=True)}
    assert len(pairs) == len({found for found, _ in pairs}) == len({expected for _, expected in pairs})


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_a_code_leads_to_every_character_by_its_own_decisions(size):
    code = HuffmanCode(np.arange(size) ** 3 + 1)
    paths = {tuple((node, code.bits[v, node]) for node in code.nodes[v] if node >= 0) for v in range(size)}
    assert len(paths) == size
    assert sum(2.0 ** -len(path) for path in paths) == 1
    lengths = (code.nodes >= 0).sum(1)
    assert (np.diff(lengths) <= 0).all()  # the frequent ones are shorter
    assert ((code.bits >= 0).sum(1) == lengths).all()


# Contexts


@pytest.mark.parametrize("name", CONTEXTS)
def test_contexts_are_equal_where_what_they_look_at_is(name):
    keys = CONTEXTS[name](FeaturedText(IDS, ALPHABET)).tolist()
    expected = [repr(slow.CONTEXTS[name](PLAY[:t])) for t in range(len(PLAY) + 1)]
    pairs = set(zip(keys, expected, strict=True))
    assert len(pairs) == len(set(keys)) == len(set(expected))


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_does_not_look_ahead(name):
    cut = 150
    changed = IDS.copy()
    changed[cut:] = np.random.default_rng(0).integers(0, V, len(IDS) - cut)
    before, after = (CONTEXTS[name](FeaturedText(ids, ALPHABET)) for ids in (IDS, changed))
    assert (before[: cut + 1] == after[: cut + 1]).all()


def test_tokens_may_be_parts_of_a_character():
    """Bytes, as with data/tokenizer=bytes, and merged ones."""
    alphabet = Alphabet.of([b"\n", b" ", b"A", b"a", b"\xa9", b"\xc3", b"\xc3\xa9", b"th"])
    assert alphabet.folded.tolist() == [1, 1, 3, 3, 4, 5, 6, 7]
    assert alphabet.in_word.tolist() == [False, False, True, True, False, False, True, True]
    assert alphabet.ends_line.tolist() == [True] + [False] * 7


def test_followers_are_looked_up_in_an_earlier_text():
    training = FeaturedText(IDS, ALPHABET)
    latest, earlier = FeaturedText(IDS[:40], ALPHABET, training).followers("last_4", 2)
    for t in range(41):
        context = PLAY[max(0, t - 4) : t]
        found = [PLAY[s] for s in range(len(PLAY)) if PLAY[max(0, s - 4) : s] == context][::-1]
        assert [CHARACTERS[i] for i in (latest[t], earlier[t]) if i >= 0] == found[:2]


# The model


def test_inputs_are_those_of_counters_kept_one_by_one(fitted):
    code, contexts = fitted.counters.code, fitted.contexts
    paths = {
        character: [(node, code.bits[v, node]) for node in code.nodes[v] if node >= 0]
        for v, character in enumerate(CHARACTERS)
    }
    expected = np.array(slow.counters(PLAY, paths, contexts))
    found = fitted.counters.along(IDS).inputs[:, : 2 * len(contexts)]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)  # held in half precision


def test_counting_the_train_text_gives_its_decisions_as_well(fitted):
    _, found = TrainingCounts.of(fitted.counters, IDS)
    for values, expected in zip(found, fitted.counters.along(IDS), strict=True):
        np.testing.assert_array_equal(values, expected)


def test_a_match_predicts_what_followed_the_longest_context(fitted):
    position, node = fitted.counters.code.decisions(IDS)
    names = ["last_2", "last_3", "last_4"]
    found = fitted.counters.match(FeaturedText(IDS, ALPHABET), names, position, node)
    for t, n, state in zip(position, node, found, strict=True):
        lengths = [length for length in (2, 3, 4) if PLAY[max(0, t - length) : t] in
                   [PLAY[max(0, s - length) : s] for s in range(t)]]  # fmt: skip
        if not lengths:
            assert state == 0
            continue
        context = PLAY[max(0, t - lengths[-1]) : t]
        place = max(s for s in range(t) if PLAY[max(0, s - lengths[-1]) : s] == context)
        bit = fitted.counters.code.bits[IDS[place], n]
        assert state == (1 + 2 * (lengths[-1] - 2) + bit if bit >= 0 else 0)


def test_the_counts_stay_while_a_window_is_scored(fitted):
    window = torch.from_numpy(IDS[None, 130:170])
    table = HistoryTable(*_last_character(IDS[:130], fitted.counters.code))
    first = (
        fitted._counts().predict(IDS[130:170], *fitted.counters.code.decisions(IDS[130:170])).inputs[:, 2]
    )  # of last_1
    position, node = fitted.counters.code.decisions(IDS[130:170])
    known = position > 0
    keys = _keys(np.append(V, IDS[130:170])[position], node)
    np.testing.assert_allclose(first[known], table(keys).log_odds()[known], atol=1e-2)
    assert torch.equal(fitted.nll(window), fitted.nll(window))


def _keys(before, node):
    return (before * 1000 + node).astype(np.uint64)


def _last_character(ids, code):
    position, node = code.decisions(ids)
    return _keys(np.append(V, ids)[position], node), code.bits[ids[position], node]


def test_probabilities_sum_to_one_in_every_state_while_it_learns():
    size = 4
    built = model(size)
    built.fit(text(60, size, seed=1))
    ids = text(14, size)
    for t in range(1, len(ids)):
        continued = [torch.cat([ids[:t], torch.tensor([v])]) for v in range(size)]
        nll = torch.stack([built.nll_while_counting(each)[-1] for each in continued])
        assert nll.neg().exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_it_learns_from_the_train_text_and_from_what_it_has_scored(fitted):
    rest = torch.from_numpy(IDS[130:])
    untaught = model(reader_passes=0, mixing_passes=0)
    untaught.fit(torch.from_numpy(IDS[:130]))
    window = rest[None]
    assert fitted.nll(window).mean() < untaught.nll(window).mean()
    repeated = torch.cat([rest, rest])
    online = fitted.nll_while_counting(repeated)
    assert online[len(rest) :].mean() < 0.5 * online[: len(rest)].mean()


@pytest.mark.parametrize(("part", "passes"), [("reader", "reader_passes"), ("mixer", "mixing_passes")])
def test_both_parts_learn_from_the_train_text(part, passes, fitted):
    untaught = model(**{passes: 0})
    untaught.fit(torch.from_numpy(IDS[:130]))
    before, after = (dict(getattr(each, part).named_parameters()) for each in (model(), untaught))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    window = torch.from_numpy(IDS[None, :130])
    taught, not_taught = (each.reader if part == "reader" else each for each in (fitted, untaught))
    assert taught.nll(window).mean() < not_taught.nll(window).mean()


def test_odds_of_a_decision_are_those_of_the_characters_on_either_side():
    logits = torch.randn(3, V, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    bits = HuffmanCode(np.arange(V) + 1).bits
    found, expected = decision_odds(logits, bits), slow.decision_odds(logits, bits, TINY)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((odds * weights).sum(), logits)[0] for odds in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.fixture
def reader_alone(fitted):
    """A mixture in which only the recurrent model has a weight."""
    alone = copy.deepcopy(fitted)
    nn.init.zeros_(alone.mixer.weights.weight)
    nn.init.zeros_(alone.mixer.weights.bias)
    nn.init.ones_(alone.mixer.weights.bias[-1:])
    return alone


def test_with_the_recurrent_model_alone_the_mixture_is_that_model(reader_alone):
    tokens = torch.from_numpy(IDS[None, :20])
    expected = reader_alone.reader(tokens).log_softmax(-1)
    torch.testing.assert_close(reader_alone(tokens), expected, rtol=1e-4, atol=1e-4)
    window = torch.from_numpy(IDS[None, 130:170])
    torch.testing.assert_close(reader_alone.nll(window), reader_alone.reader.nll(window), rtol=1e-4, atol=1e-4)


def test_online_the_recurrent_model_reads_on_after_the_train_text(reader_alone):
    rest = torch.from_numpy(IDS[130:])
    reader_alone.online_learning_rate = 1e-30
    expected = reader_alone.reader.nll(torch.cat([reader_alone.text, rest])[None])[0, len(reader_alone.text) :]
    torch.testing.assert_close(reader_alone.nll_while_counting(rest), expected.double(), rtol=1e-4, atol=1e-4)


def test_the_mixer_learns_from_what_the_recurrent_model_predicts_with_dropout(monkeypatch):
    """It reads the character before each, and knows none that it helps to predict."""
    built, read, mixed = model(reader_passes=0, contexts=["last_1"], matches=[]), [], []
    built.reader.register_forward_hook(lambda reader, arguments, _: read.append((reader.training, *arguments)))
    built.mixer.register_forward_pre_hook(lambda _, arguments: mixed.append(arguments[1]))
    built.fit(torch.from_numpy(IDS[:130]))
    assert len(read) == len(mixed) > 1
    code = built.counters.code
    for (training, tokens), decisions in zip(read, mixed, strict=True):
        assert training
        for row, before in enumerate(tokens):
            (start,) = [s for s in range(1, 116) if (IDS[s - 1 : s + 15] == before.numpy()).all()]
            position, node = code.decisions(IDS[start : start + 16])
            mine = (decisions.position // 16) == row
            assert (decisions.node[mine] == node).all()
            assert (decisions.bit[mine] == code.bits[IDS[start : start + 16][position], node]).all()


def test_rates_grow_at_first_and_fall_to_nothing():
    weight, rates = nn.Parameter(torch.tensor([3.0, -2.0])), []
    optimizer = torch.optim.SGD([weight], lr=0.5)

    def loss(_):
        rates.append(optimizer.param_groups[0]["lr"])
        return weight.square().sum() / 2

    context_mixing._minimize(loss, optimizer, 10, warmup=0.2, decay=0.5)
    assert rates == pytest.approx([0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert weight.norm() < 0.5
    context_mixing._minimize(loss, optimizer, 0, warmup=0.2, decay=0.5)
    assert len(rates) == 10


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2])
def test_short_texts_and_small_vocabularies_will_do(length, size):
    built = model(size, contexts=["last_0", "last_2"], matches=[])
    built.fit(text(length, size))
    ids = text(6, size, seed=1)
    for nll in (built.nll(ids[None])[0], built.nll_while_counting(ids)):
        assert nll.shape == (5,)
        assert nll.isfinite().all()
    torch.testing.assert_close(built(ids[None]).exp().sum(-1), torch.ones(1, 6, dtype=torch.float64))


def test_decisions_of_joined_rows_lead_to_the_same_characters(fitted):
    decisions, length, bits = fitted.counters.along(IDS), 20, fitted.counters.code.bits
    rows = [decisions.between(start, start + length) for start in (3, 40, 41)]
    logits = torch.randn(len(rows), length, V, dtype=torch.float64)
    one_by_one = torch.cat([fitted.mixer.nll(*row, bits) for row in zip(logits, rows, strict=True)])
    joined = fitted.mixer.nll(logits.flatten(0, 1), Decisions.joined(rows, length), bits)
    torch.testing.assert_close(joined, one_by_one)
    assert one_by_one.unique().numel() > 2 * length  # rows differ


def test_nothing_is_dropped_while_it_learns_from_what_it_has_scored(fitted):
    rest = torch.from_numpy(IDS[130:])
    assert torch.equal(fitted.nll_while_counting(rest), fitted.nll_while_counting(rest))
    assert fitted.reader.recurrence.dropout == fitted.reader.dropout.p == 0.1


def test_the_same_seed_teaches_the_same_weights(fitted):
    again = model()
    again.fit(torch.from_numpy(IDS[:130]))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in fitted.state_dict().items())


def test_what_it_knows_of_the_tokens_is_saved(fitted):
    loaded = ContextMixing(V, contexts=NAMES, matches=fitted.matches, **SMALL, **ONLINE).double().eval()
    loaded.load_state_dict(copy.deepcopy(fitted.state_dict()))
    ids = torch.from_numpy(IDS[130:])
    assert torch.equal(loaded.nll_while_counting(ids), fitted.nll_while_counting(ids))
    assert torch.equal(loaded.nll(ids[None]), fitted.nll(ids[None]))


def test_another_text_replaces_the_first(fitted):
    both = copy.deepcopy(fitted)
    both.nll(torch.from_numpy(IDS[None, :20]))  # remembers
    both.load_state_dict(fresh := _fitted_to(IDS[60:]).state_dict())
    assert torch.equal(both.text, fresh["text"])
    other = _fitted_to(IDS[60:])
    window = torch.from_numpy(IDS[None, :20])
    torch.testing.assert_close(both.nll(window), other.nll(window))


def _fitted_to(ids):
    built = model()
    built.fit(torch.from_numpy(ids))
    return built


def test_its_networks_are_not_for_the_optimizer_of_the_program(fitted):
    assert not any(parameter.requires_grad for parameter in fitted.parameters())
    assert list(fitted.parameters())


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda: model(contexts=["last_99"]), "no context 'last_99'"),
        (lambda: model(matches=[["lost"]]), "no context 'lost'"),
        (lambda: model(contexts=[], matches=[]), "nothing to mix"),
        (lambda: model(matches=[[]]), "nothing to mix"),
        (lambda: model().fit(torch.tensor([], dtype=torch.long)), "empty"),
        (lambda: model().fit(torch.tensor([V])), f"{V} to {V}"),
        (lambda: model(online_block=0), "online_block"),
        (lambda: model(reader=Bigram), "Bigram is not: choose model@model.reader=lstm"),
    ],
)
def test_what_does_not_fit_is_refused(act, named):
    with pytest.raises(UserError, match=named):
        act()


def test_a_model_that_has_read_nothing_knows_nothing():
    untaught, window = model(contexts=["last_1", "word", "followers_2"]), torch.from_numpy(IDS[None, :20])
    assert (untaught._counts().predict(IDS[:20], *untaught.counters.code.decisions(IDS[:20])).inputs == 0).all()
    torch.testing.assert_close(untaught(window).exp().sum(-1), torch.ones(1, 20, dtype=torch.float64))


def test_the_recurrent_network_reads_on_from_block_to_block(fitted):
    ids, found = torch.from_numpy(IDS[130:]), []
    for block in (4, 1000):
        other = copy.deepcopy(fitted)
        other.online_learning_rate, other.online_block = 1e-30, block
        found.append(other.nll_while_counting(ids))
    torch.testing.assert_close(found[0], found[1])
