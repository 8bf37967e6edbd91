"""Figures are per character of the text, whatever its tokens are."""

import math

import numpy as np
import pytest
import torch

from charlab.data.tokenizers import Bytes, Characters
from charlab.errors import UserError
from charlab.evaluation.causality import check_causality
from charlab.evaluation.metric import per_character_nll
from charlab.evaluation.online import Online
from charlab.evaluation.protocols import Blocks, Estimate, Sliding, evaluate
from charlab.models.bigram import Bigram
from tests.references.evaluation import blocks_slowly, one_pass_slowly, windows_slowly

T = 5
SIZES = {"context_length": T, "batch_size": 3}
TEXT = "aé你𝔘 b\n" * 9 + "é"


def ids_and_model(vocabulary, text=TEXT):
    torch.manual_seed(0)
    return torch.from_numpy(vocabulary.encode(text)), Bigram(len(vocabulary)).double()


@pytest.mark.parametrize("protocol", [Blocks(), Sliding(), Online(learning_rate=1e-30)])
def test_a_text_in_bytes_is_divided_by_its_characters(protocol):
    vocabulary = Bytes.of(TEXT)
    ids, model = ids_and_model(vocabulary)
    slowly = blocks_slowly if isinstance(protocol, Blocks) else lambda *_: one_pass_slowly(model, ids)
    per_token = slowly(model, ids, T)

    score = evaluate(model, ids, protocol, vocabulary=vocabulary, **SIZES)

    assert score.characters == len(TEXT) - 1  # the first byte is given, and begins the first character
    assert score.nll == pytest.approx(math.fsum(per_token) / (len(TEXT) - 1), rel=1e-9)
    assert score.likelihood == "exact"
    np.testing.assert_allclose(score.per_token, per_token, rtol=1e-6)
    sums, place = [], 1
    for character in TEXT[1:]:
        width = len(character.encode())
        sums.append(math.fsum(per_token[place - 1 : place - 1 + width]))
        place += width
    np.testing.assert_allclose(score.per_character, sums, rtol=1e-6)


@pytest.mark.parametrize("protocol", [Blocks(), Sliding(), Estimate(1), Online()])
def test_a_text_of_one_character_in_several_bytes_has_no_figure(protocol):
    vocabulary = Bytes.of("é")
    ids, model = ids_and_model(vocabulary, "é")
    with pytest.raises(UserError, match="No character begins in the bytes that were scored"):
        evaluate(model, ids, protocol, vocabulary=vocabulary, context_length=1, batch_size=2)


def test_an_estimate_counts_the_characters_in_its_windows():
    vocabulary = Bytes.of(TEXT)
    ids, model = ids_and_model(vocabulary)
    protocol = Estimate(num_batches=4, seed=3)
    (windows,) = protocol.windows(type("Sizes", (), {"num_characters": len(ids), **SIZES}))
    per_token = windows_slowly(model, ids, windows.starts.tolist(), T)
    data = bytes(ord(vocabulary.known[index]) for index in ids)
    begun = sum(byte & 0xC0 != 0x80 for start in windows.starts for byte in data[start + 1 : start + T + 1])

    score = evaluate(model, ids, protocol, vocabulary=vocabulary, **SIZES)

    assert score.characters == begun
    assert score.nll == pytest.approx(per_token * len(windows.starts) * T / begun, rel=1e-9)


@pytest.mark.parametrize("protocol", [Blocks(), Sliding(2), Estimate(3), Online()])
def test_on_ascii_the_figures_of_bytes_are_those_of_characters(protocol):
    text = "To be, or not to be\n" * 4
    scores = []
    for kind in (Characters, Bytes):
        ids, model = ids_and_model(kind.of(text), text)
        scores.append(evaluate(model, ids, protocol, vocabulary=kind.of(text), **SIZES))

    assert scores[0] == scores[1]


def test_the_figures_of_the_causality_check_are_per_character_too():
    vocabulary = Bytes.of(TEXT)
    ids, model = ids_and_model(vocabulary)
    each, whole = (check_causality(model, ids=ids, vocabulary=known, context_length=T) for known in (None, vocabulary))

    assert not whole.leaks
    assert each.characters > whole.characters
    assert whole.honest_nll * whole.characters == pytest.approx(each.honest_nll * each.characters)
    assert whole.honest_error * whole.characters == pytest.approx(each.honest_error * each.characters)


@pytest.mark.parametrize("parts", [[[0, 3, 0, 1]], [[0], [3], [0], [1]], [[0, 3], [0, 1]]])
def test_a_token_of_several_characters_is_shared_by_them(parts):
    shared = per_character_nll(np.array([9.0, 6.0, 1.0, 2.0]), map(np.array, parts), 4)

    assert shared.tolist() == [11.0, 2.0, 3.0, 2.0]


@pytest.mark.parametrize("protocol", [Blocks(), Sliding(2), Estimate(3)])
def test_characters_are_counted_in_parts(protocol, monkeypatch):
    vocabulary = Bytes.of(TEXT)
    ids, model = ids_and_model(vocabulary)
    whole = evaluate(model, ids, protocol, vocabulary=vocabulary, **SIZES)
    monkeypatch.setattr("charlab.evaluation.protocols.PART", 3)
    parts = evaluate(model, ids, protocol, vocabulary=vocabulary, **SIZES)

    assert (parts.characters, parts.nll) == (whole.characters, whole.nll)
    assert np.array_equal(parts.per_character, whole.per_character)
