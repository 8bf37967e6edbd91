import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlab.data.windows import window_starts
from charlab.errors import UserError
from charlab.evaluation.online import Online
from charlab.evaluation.protocols import Blocks, Estimate, Score, Sizes, Sliding, evaluate
from charlab.models.bigram import Bigram
from charlab.models.hmm import HiddenMarkovModel
from charlab.models.mixture import Mixture
from tests.evaluation.processes import run_in_processes
from tests.evaluation.small_models import VOCAB_SIZE, Bound, Recurrent, transformer
from tests.references.evaluation import blocks_slowly, one_pass_slowly, sliding_slowly, windows_slowly

T = 6


def text(length, dtype=torch.uint8):
    return torch.randint(VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(length)).to(dtype)


# Shorter than a window, exactly one, whole blocks, and blocks with a rest.
LENGTHS = [2, 5, T + 1, 4 * T + 1, 4 * T + 4]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_blocks_are_scored_as_single_characters_are(length, batch_size):
    model, ids = transformer(T).double(), text(length)
    expected = blocks_slowly(model, ids, T)
    score = evaluate(model, ids, Blocks(), context_length=T, batch_size=batch_size)
    np.testing.assert_allclose(score.per_character, expected, rtol=1e-6)
    assert score.nll == pytest.approx(math.fsum(expected) / len(expected), rel=1e-12)
    assert score.characters == length - 1


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("stride", [1, 2, 4, T])
def test_sliding_is_scored_as_single_characters_are(length, stride):
    model, ids = transformer(T).double(), text(length)
    expected = sliding_slowly(model, ids, T, stride)
    score = evaluate(model, ids, Sliding(stride), context_length=T, batch_size=4)
    np.testing.assert_allclose(score.per_character, expected, rtol=1e-6)
    assert score.nll == pytest.approx(math.fsum(expected) / len(expected), rel=1e-12)
    assert score.characters == length - 1


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("stride", [1, 2, 3, 4, T])
def test_sliding_takes_from_blocks_what_is_known_there(length, stride):
    model, ids = transformer(T).double(), text(length)
    sizes = {"context_length": T, "batch_size": 4}
    blocks = evaluate(model, ids, Blocks(), **sizes)
    score = evaluate(model, ids, Sliding(stride, blocks=blocks), **sizes)
    np.testing.assert_allclose(score.per_character, sliding_slowly(model, ids, T, stride), rtol=1e-6)
    alone = evaluate(model, ids, Sliding(stride), **sizes)
    assert score == dataclasses.replace(alone, nll=pytest.approx(alone.nll, rel=1e-6))


def test_windows_that_are_blocks_are_not_computed_again(monkeypatch):
    model, ids = transformer(T).double(), text(100 * T + 1)
    windows, nll = [], model.nll
    monkeypatch.setattr(model, "nll", lambda window, **rest: windows.append(len(window)) or nll(window, **rest))
    sizes = {"context_length": T, "batch_size": 4}
    blocks = evaluate(model, ids, Blocks(), **sizes)
    assert sum(windows) == 100
    evaluate(model, ids, Sliding(blocks=blocks), **sizes)
    assert sum(windows) == 100 + 99  # the windows that begin in the middle of a block


def test_blocks_of_another_length_are_of_no_use():
    model, ids = transformer(T).double(), text(50)
    blocks = evaluate(model, ids, Blocks(), context_length=T - 1, batch_size=4)
    with pytest.raises(ValueError, match="not a score by blocks"):
        evaluate(model, ids, Sliding(blocks=blocks), context_length=T, batch_size=4)


def test_the_default_stride_is_half_the_context():
    for context_length, stride in [(8, 4), (256, 128), (3, 1)]:
        sizes = Sizes(1000, context_length, 1)
        assert Sliding().settings(sizes) == {"context_length": context_length, "stride": stride}
        for default, explicit in zip(Sliding().windows(sizes), Sliding(stride).windows(sizes), strict=True):
            np.testing.assert_equal(default, explicit)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), length=st.integers(2, 60), context_length=st.integers(1, 20))
def test_each_character_but_the_first_is_scored_once_with_the_context_it_is_owed(data, length, context_length):
    stride = data.draw(st.integers(1, context_length))
    for protocol, least in [(Blocks(), 1), (Sliding(stride), context_length - stride + 1)]:
        scored = []
        for starts, window, scored_from in protocol.windows(Sizes(length, context_length, 1)):
            for start in starts.tolist():
                assert 0 <= start < start + window < length
                assert 1 <= scored_from <= window <= context_length
                for position in range(start + scored_from, start + window + 1):
                    scored.append(position)
                    assert position - start >= min(least, position)
        assert sorted(scored) == list(range(1, length))


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_a_recurrent_model_slides_in_one_pass(batch_size):
    model, ids = Recurrent().double(), text(40)
    expected = one_pass_slowly(model, ids)
    model.read = 0
    score = evaluate(model, ids, Sliding(), context_length=T, batch_size=batch_size)
    assert model.read == 39  # each character once
    np.testing.assert_allclose(score.per_character, expected, rtol=1e-6)
    assert score.nll == pytest.approx(math.fsum(expected) / 39, rel=1e-12)
    assert score.settings == {"context_length": None, "stride": None}


def test_a_recurrent_model_starts_afresh_in_each_block():
    model, ids = Recurrent().double(), text(40)
    score = evaluate(model, ids, Blocks(), context_length=T, batch_size=4)
    np.testing.assert_allclose(score.per_character, blocks_slowly(model, ids, T), rtol=1e-6)


def test_an_estimate_is_the_mean_over_the_windows_of_its_seed():
    model, ids = transformer(T).double(), text(300)
    protocol = Estimate(num_batches=4, batch_size=3, seed=0)
    ((starts, length, scored_from),) = protocol.windows(Sizes(300, T, 99))
    assert (len(starts), length, scored_from) == (12, T, 1)
    score = evaluate(model, ids, protocol, context_length=T, batch_size=5)
    assert score.nll == pytest.approx(windows_slowly(model, ids, starts.tolist(), T), rel=1e-12)
    assert score.characters == 12 * T
    assert score.per_character is None
    assert evaluate(model, ids, protocol, context_length=T, batch_size=5) == score
    other_seed = Estimate(num_batches=4, batch_size=3, seed=1)
    assert evaluate(model, ids, other_seed, context_length=T, batch_size=5).nll != score.nll


def test_an_estimate_takes_the_batch_size_of_the_evaluation_unless_it_has_its_own():
    score = evaluate(transformer(T), text(300), Estimate(num_batches=4), context_length=T, batch_size=5)
    assert score.characters == 4 * 5 * T
    assert score.settings == {"context_length": T, "num_batches": 4, "batch_size": 5, "seed": 305}


def test_an_estimate_draws_its_starts_from_the_whole_text():
    ((starts, _, _),) = Estimate(num_batches=50, batch_size=20).windows(Sizes(T + 5, T, 1))
    assert set(starts.tolist()) == set(range(5))  # the last of which ends with the text's last character


def test_an_estimate_does_not_look_at_the_windows_of_the_training():
    ((starts, _, _),) = Estimate(num_batches=1, batch_size=20, seed=305).windows(Sizes(10_000, T, 1))
    assert set(starts).isdisjoint(window_starts(305, 0, batch_size=20, num_starts=10_000 - T))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("protocol", [Blocks(), Sliding(), Estimate(num_batches=2)])
def test_ids_may_be_of_any_integer_type(dtype, protocol):
    for model in (transformer(T), Recurrent()):
        score = evaluate(model, text(50, dtype), protocol, context_length=T, batch_size=4)
        assert score == evaluate(model, text(50), protocol, context_length=T, batch_size=4)


def _score_share(rank, world_size, protocol, model):
    return evaluate(model, text(200), protocol, context_length=T, batch_size=4, rank=rank, world_size=world_size)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("protocol", "model"),
    [
        (Blocks(), transformer(T)),
        (Estimate(num_batches=3), transformer(T)),
        (Sliding(), Recurrent()),
        (Blocks(), Bound(1.0)),
    ],
    ids=["blocks", "estimate", "one pass", "bound"],
)
def test_two_processes_get_the_score_of_one(protocol, model):
    alone = evaluate(model, text(200), protocol, context_length=T, batch_size=4)
    for score in run_in_processes(_score_share, 2, protocol, model):
        assert score.nll == pytest.approx(alone.nll, rel=1e-12)
        assert score.standard_error == (alone.standard_error and pytest.approx(alone.standard_error, rel=1e-12))
        assert score.characters == alone.characters
        np.testing.assert_array_equal(score.per_character, alone.per_character)


class Careless(Bigram):
    """Draw random numbers unasked, and note the circumstances."""

    def forward(self, tokens):
        torch.rand(3)
        self.circumstances = (self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        return super().forward(tokens)


def test_an_evaluation_leaves_no_trace():
    model = Careless(VOCAB_SIZE)
    model.frozen = torch.nn.Dropout().eval()
    for protocol in (Blocks(), Sliding(), Estimate(num_batches=2)):
        state = torch.get_rng_state()
        evaluate(model, text(50), protocol, context_length=T, batch_size=4)
        assert torch.equal(torch.get_rng_state(), state)
        assert model.circumstances == (False, False, False)
        assert model.training
        assert not model.frozen.training
        assert torch.is_grad_enabled()


def test_dropout_is_off():
    ids = text(50)
    with_dropout = evaluate(transformer(T, dropout=0.5), ids, Blocks(), context_length=T, batch_size=4)
    assert with_dropout.nll == evaluate(transformer(T), ids, Blocks(), context_length=T, batch_size=4).nll


def test_a_bound_comes_with_the_standard_error_of_its_draws():
    ids = text(2001)
    scores = {
        draws: evaluate(Bound(3.0), ids, Blocks(), context_length=T, batch_size=4, num_draws=draws) for draws in (2, 8)
    }
    for draws, score in scores.items():
        expected = 3 / math.sqrt(2000 * draws)
        assert score.standard_error == pytest.approx(expected, rel=0.25)
        assert abs(score.nll - 2) < 4 * expected
        assert score.settings["num_draws"] == draws
        assert str(score).startswith("nll ≤ ")
    again = evaluate(Bound(3.0), ids, Blocks(), context_length=T, batch_size=4, num_draws=8)
    assert again == scores[8]  # the draws are fixed
    assert evaluate(Bound(3.0), ids, Blocks(), context_length=T, batch_size=4, num_draws=1).standard_error is None


def test_draws_that_are_stratified_over_a_batch_have_their_smaller_error():
    score = evaluate(Bound(3.0, stratified=True), text(2001), Blocks(), context_length=T, batch_size=4)
    assert score.nll == pytest.approx(2, abs=1e-9)
    assert score.standard_error < 1e-9


def test_exact_models_are_scored_once_and_have_no_standard_error():
    model = Recurrent()
    score = evaluate(model, text(4 * T + 1), Blocks(), context_length=T, batch_size=4)
    assert model.read == 4 * T
    assert score.standard_error is None
    assert "num_draws" not in score.settings


def test_the_figures_of_a_score():
    score = Score("blocks", nll=math.log(2), characters=10, settings={"context_length": 4})
    assert score.bpc == pytest.approx(1)
    assert score.perplexity == pytest.approx(2)
    assert str(score) == "nll = 0.6931, bpc = 1.0000, perplexity = 2.0000 (blocks, context_length=4, 10 characters)"
    assert json.loads(json.dumps(score.as_dict())) == {
        "protocol": "blocks",
        "nll": score.nll,
        "bpc": score.bpc,
        "perplexity": score.perplexity,
        "standard_error": None,
        "characters": 10,
        "likelihood": "exact",
        "context_length": 4,
    }


@pytest.mark.parametrize("protocol", [Estimate(num_batches=3), Blocks(), Sliding(), Online()], ids=lambda p: p.name)
def test_a_text_that_a_model_finds_impossible_costs_infinity(protocol):
    model = HiddenMarkovModel(VOCAB_SIZE, num_states=3, parameterization="logits")
    with torch.no_grad():
        model.emission[:, 2] = -torch.inf
    ids = torch.tensor([0, 1, 3, 4] * 9 + [2] + [0, 5, 1, 6] * 3)
    for scored in (model, Mixture(VOCAB_SIZE, {"only": lambda _: model}, None)):
        score = evaluate(scored, ids, protocol, context_length=8, batch_size=4)
        assert score.nll == math.inf
        assert score.as_dict()["nll"] is None
        assert "impossible" in score.as_dict()["reason"]
        assert "finds this text impossible" in str(score)
        assert "optimizer.smoothing" in str(score)
        if score.per_character is not None:
            assert np.isfinite(score.per_character[:35]).all()
            assert not np.isnan(score.per_character).any()


@pytest.mark.parametrize("nll", [math.nan, math.inf, 1000.0])
def test_figures_that_are_not_finite_are_valid_json(nll):
    figures = json.loads(json.dumps(Score("blocks", nll, 10).as_dict(), allow_nan=False))
    assert figures["perplexity"] is None
    assert figures["nll"] == (nll if math.isfinite(nll) else None)


@pytest.mark.parametrize(
    ("protocol", "arguments", "named"),
    [
        (Blocks(), {"context_length": T + 1}, f"context_length={T + 1}"),
        (Blocks(), {"context_length": 0}, "context_length=0"),
        (Blocks(), {"batch_size": 0}, "batch_size=0"),
        (Blocks(), {"num_draws": 0}, "num_draws=0"),
        (Blocks(), {"ids": text(1)}, "1 character"),
        (Sliding(), {"ids": text(1)}, "1 character"),
        (Sliding(T + 1), {}, f"stride={T + 1}"),
        (Estimate(), {"ids": text(T)}, f"text of {T} characters"),
    ],
)
def test_what_does_not_fit_is_refused(protocol, arguments, named):
    with pytest.raises(UserError, match=named):
        evaluate(
            transformer(T), protocol=protocol, **({"ids": text(50), "context_length": T, "batch_size": 2} | arguments)
        )


@pytest.mark.parametrize(
    "protocol", [lambda: Sliding(0), lambda: Estimate(num_batches=0), lambda: Estimate(batch_size=-1)]
)
def test_protocols_have_positive_sizes(protocol):
    with pytest.raises(UserError, match="give an integer ≥ 1"):
        protocol()
