"""Embeddings of n-grams against one position at a time."""

import pytest
import torch

from charlab.errors import UserError
from charlab.models.ngram_embedding import NGramEmbedding
from tests.references.ngram_embedding import embed_slowly


def make(vocab_size=7, **settings):
    torch.manual_seed(1)
    defaults = {"orders": [2, 4], "num_rows": 11, "table_dim": 3, "dropout": 0.0}
    return NGramEmbedding(vocab_size, 5, **defaults | settings).double()


@pytest.mark.parametrize("settings", [{}, {"orders": [1]}, {"orders": [3, 2], "num_rows": 1}, {"vocab_size": 70_000}])
def test_outputs_and_gradients_are_those_of_one_position_at_a_time(settings):
    model = make(**settings)
    tokens = torch.randint(settings.get("vocab_size", 7), (2, 9))
    weights = list(model.parameters())
    seen, expected = model(tokens), embed_slowly(model, tokens)
    torch.testing.assert_close(seen, expected)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad((seen * direction).sum(), weights)
    for gradient, slow in zip(gradients, torch.autograd.grad((expected * direction).sum(), weights), strict=True):
        torch.testing.assert_close(gradient, slow)


def test_a_position_knows_as_many_characters_as_its_longest_ngram():
    model, tokens = make(num_rows=10_000), torch.randint(7, (1, 9))
    for back in range(6):
        changed = tokens.clone()
        changed[0, 8 - back] = (changed[0, 8 - back] + 1) % 7
        assert torch.equal(model(tokens)[0, 8], model(changed)[0, 8]) == (back > model.reach)


def test_rows_are_shared_evenly():
    """All 4-grams of 7 characters in 256 rows: about as many in each as if they had been drawn."""
    model = make(orders=[4], num_rows=256)
    fours = torch.cartesian_prod(*[torch.arange(7)] * 4)
    counts = model.rows(fours)[:, -1, 0].bincount(minlength=256)
    assert counts.sum() == 7**4
    assert counts.min() > 0
    assert counts.max() < 4 * counts.float().mean()


def test_dropout_leaves_out_whole_ngrams_in_training_only():
    model = make(orders=[3], dropout=0.25)
    tokens = torch.randint(7, (40, 50))
    expected = model.eval()(tokens)
    trained = model.train()(tokens)
    left_out = (trained == 0).all(dim=-1)
    assert 0.2 < left_out.double().mean() < 0.3
    torch.testing.assert_close(trained[~left_out], expected[~left_out] / 0.75)


@pytest.mark.parametrize("orders", [[], [2, 3, 2]])
def test_each_order_is_named_once(orders):
    with pytest.raises(UserError, match="each length once"):
        make(orders=orders)
