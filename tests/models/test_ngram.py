"""N-gram models against dictionaries of counts, and the published figures on the real text."""

import io
import math
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from charlab.errors import UserError
from charlab.models import ngram
from charlab.models.ngram import NGram, Smoothing
from charlab.models.smoothing import Counts, kneser_ney, witten_bell
from tests.references.ngram import DictionaryKneserNey, DictionaryNGram, DictionaryWittenBell
from tests.references.online import counting_slowly

ALPHABET = "abcder"
SMOOTHINGS = [
    pytest.param(witten_bell, DictionaryWittenBell, id="witten_bell"),
    pytest.param(kneser_ney, DictionaryKneserNey, id="kneser_ney"),
]
EACH_SMOOTHING = pytest.mark.parametrize("smoothing", [witten_bell, kneser_ney])


def encode(text: str) -> Tensor:
    return torch.tensor([ALPHABET.index(a) for a in text], dtype=torch.uint8)


def skewed_text(length: int, seed: int = 0) -> str:
    """A text that never has an "e", rarely a "d", and mostly goes on as it did before."""
    generator = torch.Generator().manual_seed(seed)
    tables = torch.rand(4, 4, 4, generator=generator).pow(4) * torch.tensor([1.0, 1.0, 0.7, 0.1])
    text = [0, 1]
    while len(text) < length:
        text.append(int(torch.multinomial(tables[text[-2], text[-1]], 1, generator=generator)))
    return "".join(ALPHABET[i] for i in text)


def fitted(text: str, order: int, smoothing: Smoothing) -> NGram:
    model = NGram(len(ALPHABET), order=order, smoothing=smoothing).double()
    model.fit(encode(text))
    return model


TRAIN_TEXTS = ["a", "abracadabra", "abcabcabd" * 3, skewed_text(700)]
TEST_TEXT = "dabbaeedcabracadabraaabcb" + skewed_text(60, seed=1)


@pytest.mark.parametrize(("smoothing", "reference"), SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("text", TRAIN_TEXTS, ids=["one", "short", "repetitive", "long"])
def test_equals_dictionaries(smoothing: Smoothing, reference: type[DictionaryNGram], order: int, text: str) -> None:
    expected = reference(text, ALPHABET, order)
    model = fitted(text, order, smoothing)
    window = encode(TEST_TEXT)[None]
    table = torch.tensor(
        [[expected.probability(a, TEST_TEXT[: t + 1]) for a in ALPHABET] for t in range(len(TEST_TEXT) - 1)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(model(window[:, :-1])[0].exp(), table, rtol=1e-12, atol=1e-15)
    nll = -table.log().gather(1, window[0, 1:, None].long())[:, 0]
    torch.testing.assert_close(model.nll(window)[0], nll, rtol=1e-12, atol=1e-15)


@EACH_SMOOTHING
@pytest.mark.parametrize("piece", [1, 7, 100, 699])
def test_counting_in_pieces_gives_the_same_tables(
    smoothing: Smoothing, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(TRAIN_TEXTS[-1], 5, smoothing)
    monkeypatch.setattr(ngram, "PIECE", piece)
    for (name, table), (_, expected) in zip(
        fitted(TRAIN_TEXTS[-1], 5, smoothing).named_buffers(), whole.named_buffers(), strict=True
    ):
        assert torch.equal(table, expected), name


def test_the_long_text_has_estimated_discounts() -> None:
    # Otherwise the comparison above would see nothing but the fallback of Kneser–Ney smoothing.
    discounts = DictionaryKneserNey(TRAIN_TEXTS[-1], ALPHABET, 5).discounts
    assert discounts[5] != [0.0, 0.5, 1.0, 1.5]
    assert discounts[1] == [0.0, 0.5, 1.0, 1.5]


def test_kneser_ney_counts_predecessors_below_the_top() -> None:
    # "c" is frequent, but after "a" only, so that it is no likelier than "d" after what was never seen.
    model = fitted("ac" * 20 + "ad" + "ac" * 20, 2, kneser_ney)
    after_unseen = model(encode("e")[None])[0, 0].exp()
    kept = {"a": 2 - 1.0, "c": 1 - 0.5, "d": 1 - 0.5}  # the predecessors of "a" are "c" and "d"; fallback discounts
    expected = [(kept.get(a, 0.0) + 2.0 / len(ALPHABET)) / 4 for a in ALPHABET]
    torch.testing.assert_close(after_unseen, torch.tensor(expected, dtype=torch.float64))


@EACH_SMOOTHING
@pytest.mark.parametrize("order", [1, 3, 6])
def test_sums_to_one_over_all_sequences(smoothing: Smoothing, order: int) -> None:
    model = fitted("abracadabra", order, smoothing)
    for first in range(len(ALPHABET)):
        grid = torch.cartesian_prod(torch.tensor([first]), *[torch.arange(len(ALPHABET))] * 4)  # (V⁴, 5)
        assert model.nll(grid).sum(1).neg().exp().sum().item() == pytest.approx(1.0, abs=1e-12)


@EACH_SMOOTHING
def test_unfitted_is_uniform(smoothing: Smoothing) -> None:
    model = NGram(7, order=4, smoothing=smoothing)
    tokens = torch.randint(7, (2, 9))
    torch.testing.assert_close(model(tokens), torch.full((2, 9, 7), -math.log(7)))
    torch.testing.assert_close(model.nll(tokens), torch.full((2, 8), math.log(7)))


@EACH_SMOOTHING
@pytest.mark.parametrize("order", [1, 2, 5])
def test_extend_in_pieces_equals_forward(smoothing: Smoothing, order: int) -> None:
    text = skewed_text(300)
    model = fitted(text, order, smoothing)
    tokens = encode(text[100:140]).view(2, 20)
    state, pieces = model.init_state(2), []
    for piece in tokens.split([1, 1, 3, 1, 9, 5], dim=1):
        logits, state = model.extend(piece, state)
        pieces.append(logits)
        assert state.shape[1] <= max(0, order - 2)
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=0, atol=1e-12)


@EACH_SMOOTHING
def test_looks_back_order_minus_one_characters_and_never_ahead(smoothing: Smoothing) -> None:
    text = skewed_text(700)
    model = fitted(text, 4, smoothing)
    tokens = encode(text[200:212])[None]
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 3
    differs = (model(tokens) != model(changed)).any(dim=-1)[0]
    assert differs[5:8].all()
    assert not differs[:5].any()
    assert not differs[8:].any()


@EACH_SMOOTHING
def test_rows_of_a_batch_are_independent(smoothing: Smoothing) -> None:
    model = fitted(skewed_text(300), 4, smoothing)
    window = encode(TEST_TEXT[:60]).view(4, 15)
    apart = torch.cat([model.nll(row[None], scored_from=3) for row in window])
    torch.testing.assert_close(model.nll(window, scored_from=3), apart, rtol=0, atol=0)
    assert (apart[:, :2] == 0).all()
    torch.testing.assert_close(apart[:, 2:], model.nll(window)[:, 2:], rtol=0, atol=0)
    transposed = model(window.t().contiguous().t())  # a memory layout that a slice of a data set may have
    torch.testing.assert_close(transposed, model(window), rtol=0, atol=0)


@EACH_SMOOTHING
def test_state_dict_fills_a_new_model(smoothing: Smoothing) -> None:
    model = NGram(len(ALPHABET), order=4, smoothing=smoothing)
    model.fit(encode(skewed_text(300)))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    copy = NGram(len(ALPHABET), order=4, smoothing=smoothing)
    copy.load_state_dict(torch.load(file, weights_only=True))
    window = encode(TEST_TEXT)[None]
    assert torch.equal(copy.nll(window), model.nll(window))
    assert torch.equal(copy.nll_while_counting(window[0]), model.nll_while_counting(window[0]))


def test_fit_replaces_earlier_counts() -> None:
    model = fitted("abracadabra", 3, witten_bell)
    model.fit(encode("cbcbcbcaab"))
    window = encode(TEST_TEXT)[None]
    assert torch.equal(model.nll(window), fitted("cbcbcbcaab", 3, witten_bell).nll(window))


@pytest.mark.parametrize(("smoothing", "reference"), SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("train", TRAIN_TEXTS, ids=["one", "short", "repetitive", "long"])
def test_counting_on_equals_refitting(
    smoothing: Smoothing, reference: type[DictionaryNGram], order: int, train: str
) -> None:
    model = fitted(train, order, smoothing)
    text = TEST_TEXT[:40] if len(train) > 100 else TEST_TEXT
    expected = counting_slowly(reference, train, ALPHABET, order, text)
    np.testing.assert_allclose(model.nll_while_counting(encode(text)), expected, rtol=1e-12)
    unfitted = NGram(len(ALPHABET), order=order, smoothing=smoothing)
    expected = counting_slowly(reference, "", ALPHABET, order, text)
    np.testing.assert_allclose(unfitted.nll_while_counting(encode(text)), expected, rtol=1e-12)


@EACH_SMOOTHING
def test_counting_on_teaches_the_model_nothing(smoothing: Smoothing) -> None:
    model = fitted(skewed_text(300), 4, smoothing)
    window = encode(TEST_TEXT)
    before = model.nll(window[None])
    first = model.nll_while_counting(window)
    assert torch.equal(model.nll(window[None]), before)
    assert torch.equal(model.nll_while_counting(window), first)


def test_counting_on_needs_to_know_the_smoothing() -> None:
    def mine(counts: Counts) -> tuple[Tensor, Tensor]:
        return witten_bell(counts)

    with pytest.raises(UserError, match=r"model\.smoothing=tests\.models\.test_ngram\.mine"):
        fitted("abracadabra", 3, mine).nll_while_counting(encode("ab"))
    assert fitted("abracadabra", 3, partial(witten_bell)).nll_while_counting(encode("ab")).shape == (1,)


def test_codes_of_a_large_vocabulary_and_order_do_not_overflow() -> None:
    # V^order is about 10^120 here; the text has no 30-gram twice, so a model that mixed them up would show it.
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(10_000, (500,), generator=generator)
    model = NGram(10_000, order=30, smoothing=witten_bell).double()
    model.fit(text)
    nll = model.nll(text[None])
    # Each of the k contexts of an unrepeated text was followed once, by one character: each halves what is missing.
    assert nll[0, 200:].exp().sub(1).log2().mean().item() == pytest.approx(-29, abs=0.2)


def test_samples_what_it_was_fitted_to() -> None:
    model = fitted("abcde" * 200, 3, kneser_ney)
    drawn = model.sample(encode("ab")[None].long(), 10, temperature=0.0)
    assert torch.equal(drawn[0], encode("abcdeabcdeab").long())


@pytest.mark.parametrize("text", [torch.tensor([], dtype=torch.uint8), torch.tensor([0, 5]), torch.tensor([-1, 0])])
def test_fit_refuses_what_is_no_text(text: Tensor) -> None:
    with pytest.raises(UserError, match="count n-grams"):
        NGram(5, order=2, smoothing=witten_bell).fit(text)
    with pytest.raises(UserError, match="count n-grams"):
        NGram(5, order=2, smoothing=witten_bell).nll_while_counting(text)


def test_refuses_an_order_below_one() -> None:
    with pytest.raises(UserError, match=r"order of NGram must be an integer ≥ 1, not 0"):
        NGram(5, order=0, smoothing=witten_bell)


@pytest.fixture(scope="module")
def shakespeare() -> tuple[Tensor, Tensor]:
    text = Path(os.environ["CHARLAB_DATA"], "tinyshakespeare", "input.txt").read_text(encoding="utf-8")
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(a) for a in text], dtype=torch.uint8)
    return ids[:1_003_854], ids[1_003_854:]


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("smoothing", "order", "published", "tolerance"),
    [
        pytest.param(witten_bell, 4, 1.774, 0.005, marks=pytest.mark.thorough),
        (witten_bell, 5, 1.669, 0.005),
        pytest.param(witten_bell, 6, 1.698, 0.005, marks=pytest.mark.thorough),
        pytest.param(kneser_ney, 5, 1.561, 0.01, marks=pytest.mark.thorough),
        pytest.param(kneser_ney, 6, 1.523, 0.01, marks=pytest.mark.thorough),
        (kneser_ney, 7, 1.516, 0.01),
        pytest.param(kneser_ney, 8, 1.519, 0.01, marks=pytest.mark.thorough),
    ],
)
def test_published_figures(
    shakespeare: tuple[Tensor, Tensor], smoothing: Smoothing, order: int, published: float, tolerance: float
) -> None:
    train, validation = shakespeare
    model = NGram(65, order=order, smoothing=smoothing)
    model.fit(train)
    assert model.nll(validation[None]).mean().item() == pytest.approx(published, abs=tolerance)


@pytest.mark.corpus
def test_counting_on_pays(shakespeare: tuple[Tensor, Tensor]) -> None:
    train, validation = shakespeare
    model = NGram(65, order=7, smoothing=kneser_ney)
    model.fit(train)
    assert model.nll_while_counting(validation).mean().item() == pytest.approx(1.4072, abs=1e-4)
