import copy
import json
import math
from functools import partial

import pytest
import torch
from torch import nn

from charlab.errors import UserError
from charlab.evaluation.causality import PROBE_LENGTH, check_causality, stepwise_nll
from charlab.models.backbone import Backbone
from charlab.models.bigram import Bigram
from charlab.models.contract import AutoregressiveModel
from charlab.models.hmm import HiddenMarkovModel
from charlab.models.mixers.attention import Attention
from charlab.models.ngram import NGram
from charlab.models.positions import Learned
from charlab.models.smoothing import kneser_ney
from tests.evaluation.small_models import VOCAB_SIZE, Bound, Recurrent, transformer
from tests.references.evaluation import one_pass_slowly

T = 40  # longer than the probe
IDS = torch.randint(VOCAB_SIZE, (500,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


class Sandwich(AutoregressiveModel):
    """Embedding, `mix`, readout: the tests' models differ in how they mix positions."""

    context_length = T
    vocab_size = VOCAB_SIZE

    def __init__(self, embed_dim=8):
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(VOCAB_SIZE, embed_dim)
        self.readout = nn.Linear(embed_dim, VOCAB_SIZE)

    def forward(self, tokens):
        return self.readout(self.mix(self.embedding(tokens)))

    def mix(self, x):
        return x


class FourierConvolution(Sandwich):
    """A causal convolution as long as the window, by FFT: exact only up to rounding errors."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(T, 8))

    def mix(self, x):
        length = x.shape[1]
        spectrum = torch.fft.rfft(x, 2 * length, dim=1) * torch.fft.rfft(self.kernel[:length], 2 * length, dim=0)
        return torch.fft.irfft(spectrum, 2 * length, dim=1)[:, :length]


class CircularConvolution(FourierConvolution):
    """The same without padding, so that the end of the window wraps around to its beginning."""

    def mix(self, x):
        length = x.shape[1]
        spectrum = torch.fft.rfft(x, length, dim=1) * torch.fft.rfft(self.kernel[:length], length, dim=0)
        return torch.fft.irfft(spectrum, length, dim=1)


class NormOverTime(Sandwich):
    def mix(self, x):
        return x - x.mean(1, keepdim=True)


class NeverTheFirstCharacter(NormOverTime):
    def forward(self, tokens):
        return super().forward(tokens).index_fill(-1, torch.tensor(0), -torch.inf)


class MixedRows(Sandwich):
    def mix(self, x):
        return x + 0.1 * x.mean(0, keepdim=True)


class IgnoredPast(Sandwich):
    """Its logits are a bias, whatever precedes."""

    def mix(self, x):
        return torch.ones_like(x)


class ImpossibleFuture(AutoregressiveModel):
    """Honestly finds character 0 impossible; `nll` says that it costs nothing."""

    context_length = None
    vocab_size = VOCAB_SIZE

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(VOCAB_SIZE))

    def forward(self, tokens):
        logits = self.weight.expand(*tokens.shape, -1).clone()
        logits[..., 0] = -torch.inf
        return logits

    def nll(self, window, *, scored_from=1, generator=None):
        return super().nll(window, scored_from=scored_from).clamp(max=1.0)


def norm_of_one_number():
    """Each position is normalized to the same, so that only the readout's bias is left."""
    mixer = partial(Attention, num_heads=1)
    sizes = {"context_length": T, "embed_dim": 1, "num_layers": 1}
    return Backbone(VOCAB_SIZE, mixer=mixer, feed_forward=None, position=Learned, norm=nn.LayerNorm, **sizes)


def impossible_hmm():
    """As EM without smoothing leaves it: a state has no probability for characters that its text lacked."""
    torch.manual_seed(0)
    model = HiddenMarkovModel(VOCAB_SIZE, num_states=4, parameterization="log_probabilities")
    model.emission.data[:, 3] = -torch.inf
    model.emission.data = model.emission.data.log_softmax(dim=-1)
    return model


class LengthSeen(Sandwich):
    """Every prediction depends on how much is yet to come, though not on what."""

    def mix(self, x):
        return x * x.shape[1]


class LastLeak(Sandwich):
    """Only the next to last position of a whole window sees the one after it."""

    def mix(self, x):
        if x.shape[1] < T:
            return x
        return torch.cat([x[:, :-2], x[:, -2:-1] + x[:, -1:], x[:, -1:]], dim=1)


class FarLeak(Sandwich):
    """Each position sees the one that is farther ahead than the probe is long."""

    def mix(self, x):
        return x + nn.functional.pad(x[:, PROBE_LENGTH + 1 :], (0, 0, 0, min(PROBE_LENGTH + 1, x.shape[1])))


class GivenAway(Sandwich):
    """`forward` is honest, `nll` is not."""

    def nll(self, window, *, scored_from=1, generator=None):
        return super().nll(window, scored_from=scored_from) / 2


class KeptLabels(Sandwich):
    """`nll` leaves what is to be predicted where `forward` finds it, in a batch of the same size."""

    labels = None

    def nll(self, window, *, scored_from=1, generator=None):
        self.labels = window[:, 1:]
        return super().nll(window, scored_from=scored_from)

    def forward(self, tokens):
        logits = super().forward(tokens)
        if self.labels is None or len(tokens) == 1 or len(tokens) != len(self.labels):
            return logits
        return logits + 9 * nn.functional.one_hot(self.labels[:, : tokens.shape[1]], VOCAB_SIZE)


class Remembering(Sandwich):
    """`nll` is honest about a text that it has not scored before."""

    def __init__(self):
        super().__init__()
        self.scored = []

    def nll(self, window, *, scored_from=1, generator=None):
        nll = super().nll(window, scored_from=scored_from)
        if any(torch.equal(window, former) for former in self.scored):
            return nll / 2
        self.scored.append(window)
        return nll


class LeakInExtend(Sandwich):
    """Only `extend`, by which `sliding` reads a text, sees what comes next."""

    context_length = None

    def extend(self, tokens, state):
        logits, state = super().extend(tokens, state)
        ahead = nn.functional.one_hot(tokens[:, 1:], VOCAB_SIZE)
        return logits + nn.functional.pad(9 * ahead, (0, 0, 0, 1)), state


class LeakAfterContext(Sandwich):
    """Only the end of a window, which is what `sliding` scores, is given away."""

    def nll(self, window, *, scored_from=1, generator=None):
        return super().nll(window, scored_from=scored_from) / (1 if scored_from == 1 else 2)


class Peeker(AutoregressiveModel):
    """All but sure of each character that it can already see; has nothing to say on the last one."""

    context_length = None
    vocab_size = VOCAB_SIZE

    def __init__(self):
        super().__init__()
        self.certainty = nn.Parameter(torch.tensor(10.0))

    def forward(self, tokens):
        ahead = nn.functional.one_hot(tokens[:, 1:], VOCAB_SIZE)
        return nn.functional.pad(ahead * self.certainty, (0, 0, 0, 1))


class SinglePrecision(Sandwich):
    """Has a constant that no conversion to float64 reaches."""

    def __init__(self):
        super().__init__()
        self.constant = [torch.eye(8)]

    def mix(self, x):
        return x @ self.constant[0]


class SinglePrecisionState(Recurrent):
    """Begins to read with a state in single precision, which `forward` does not use."""

    def init_state(self, batch_size):
        return torch.zeros(1, batch_size, 8)


class Careless(SinglePrecision):
    def mix(self, x):
        torch.rand(3)
        return super().mix(x)


class SinglePrecisionLeak(SinglePrecision):
    def mix(self, x):
        return super().mix(x) + 0.01 * x.roll(-1, dims=1)


attention = partial(transformer, T)


def with_zero_readout(model):
    nn.init.zeros_(model.readout.weight)
    nn.init.zeros_(model.readout.bias)
    return model


def with_equal_outputs(model):
    nn.init.constant_(model.readout.weight, 0.1)
    nn.init.zeros_(model.readout.bias)
    return model


def fitted_ngram(order):
    model = NGram(VOCAB_SIZE, order=order, smoothing=kneser_ney)
    model.fit(IDS)
    return model


HONEST = {
    "attention": attention,
    "local attention": lambda: attention(attention_window=4),
    "bigram": lambda: Bigram(VOCAB_SIZE),
    "GRU": Recurrent,
    "convolution by FFT": FourierConvolution,
    "zero readout": lambda: with_zero_readout(attention()),
    "uniform but for rounding": lambda: with_equal_outputs(FourierConvolution()),
    "n-gram": lambda: fitted_ngram(3),
    "unigram": lambda: fitted_ngram(1),
    "n-gram before it counts": lambda: NGram(VOCAB_SIZE, order=3, smoothing=kneser_ney),
    "single precision": SinglePrecision,
    "state in single precision": SinglePrecisionState,
    "context of one character": lambda: transformer(1),
    "past ignored": IgnoredPast,
    "HMM of one state": lambda: HiddenMarkovModel(VOCAB_SIZE, num_states=1, parameterization="logits"),
    "norm of one number": norm_of_one_number,
}
LEAKING = {
    "softmax over the wrong axis": (lambda: attention(softmax_axis="queries"), "prediction after"),
    "bidirectional attention": (lambda: attention(causal=False), "prediction after"),
    "norm over time": (NormOverTime, "prediction after"),
    "impossible characters": (NeverTheFirstCharacter, "prediction after"),
    "circular convolution": (CircularConvolution, "prediction after"),
    "peeker": (Peeker, "prediction after"),
    "single precision": (SinglePrecisionLeak, "prediction after"),
    "rows mixed": (MixedRows, "other rows"),
    "impossible or not": (ImpossibleFuture, "from the window's beginning alone"),
    "length seen": (LengthSeen, "from the window's beginning alone"),
    "leak at the last position": (LastLeak, "from the window's beginning alone"),
    "leak from afar": (FarLeak, "from the window's beginning alone"),
    "nll that is not that of forward": (GivenAway, "from the window's beginning alone"),
    "labels kept": (KeptLabels, "from the window's beginning alone"),
    "text remembered": (Remembering, "once it has scored that text"),
    "leak in extend": (LeakInExtend, "read in parts"),
    "leak after the context": (LeakAfterContext, "read in parts"),
}


@pytest.mark.parametrize("name", HONEST)
def test_a_model_that_sees_the_past_alone_passes(name):
    model = HONEST[name]()
    causality = check_causality(model, ids=IDS, context_length=model.context_length or T)
    assert not causality.leaks, causality.reason
    assert causality.reason == ""
    assert causality.honest_nll == pytest.approx(causality.claimed_nll, rel=1e-4)
    assert causality.characters > 0


@pytest.mark.parametrize("name", LEAKING)
def test_a_model_that_sees_anything_else_is_caught(name):
    build, reason = LEAKING[name]
    causality = check_causality(build(), ids=IDS, context_length=T)
    assert causality.leaks
    assert reason in causality.reason
    assert causality.reason.startswith("Its")


def test_labels_kept_on_a_model_do_not_reach_its_honest_figure():
    causality = check_causality(KeptLabels(), ids=IDS)
    assert causality.claimed_nll < 0.1
    assert causality.honest_nll > math.log(VOCAB_SIZE) / 2


@pytest.mark.parametrize("name", ["softmax over the wrong axis", "bidirectional attention"])
def test_a_readout_that_starts_at_zero_hides_nothing(name):
    causality = check_causality(with_zero_readout(LEAKING[name][0]()), ids=IDS)
    assert causality.leaks
    assert causality.reason.startswith("With random weights, its prediction after")


@pytest.mark.parametrize("build", [FarLeak, LastLeak])
def test_nor_does_it_hide_a_leak_beyond_the_probe(build):
    assert check_causality(with_zero_readout(build()), ids=IDS).leaks


def test_the_two_figures_of_a_model_that_sees_the_next_character():
    causality = check_causality(Peeker(), ids=IDS, context_length=T)
    whole_windows = T / (T + 1)  # the last position of a window has nothing to peek at
    assert causality.honest_nll == pytest.approx(math.log(VOCAB_SIZE), rel=1e-6)
    assert causality.claimed_nll < math.log(VOCAB_SIZE) * (1 - whole_windows) + 0.5
    assert json.loads(json.dumps(causality.as_dict())) == {
        "leaks": True,
        "reason": causality.reason,
        "claimed_nll": causality.claimed_nll,
        "honest_nll": causality.honest_nll,
        "honest_error": causality.honest_error,
        "characters": causality.characters,
    }


def test_what_is_claimed_is_what_nll_says():
    model = attention(softmax_axis="queries").eval()
    causality = check_causality(model, ids=IDS[: T + 1])  # a text of one window
    claimed = model.nll(IDS[None, : T + 1].long())[0]
    assert claimed.min() <= causality.claimed_nll <= claimed.max()
    honest = one_pass_slowly(model, IDS[: T + 1])
    assert min(honest) <= causality.honest_nll <= max(honest)
    assert 0 < causality.honest_error < max(honest) - min(honest)


@pytest.mark.parametrize("options", [{}, {"softmax_axis": "queries"}])
def test_stepwise_nll_equals_scoring_single_characters(options):
    model = attention(**options).double().eval()
    windows = IDS[: 3 * (T + 1)].view(3, T + 1).long()
    expected = torch.tensor([one_pass_slowly(model, window) for window in windows], dtype=torch.float64)
    torch.testing.assert_close(stepwise_nll(model, windows), expected)
    torch.testing.assert_close(stepwise_nll(model, windows, [2, T]), expected[:, [1, T - 1]])
    equal = torch.allclose(model.nll(windows), expected)
    assert equal == (not options)


def test_a_check_leaves_no_trace():
    model = attention()
    model.dropout.p = 0.5  # active in training mode, which the model is in and stays in
    weights = copy.deepcopy(model.state_dict())
    first = check_causality(model, ids=IDS)
    assert not first.leaks, first.reason
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.dtype == torch.float32 and parameter.grad is None for parameter in model.parameters())
    assert check_causality(model, ids=IDS) == first
    assert check_causality(model, ids=IDS, seed=1) != first


def test_a_check_is_immune_to_the_surroundings():
    """A model that draws random numbers, in float32, under autocast."""
    model = Careless()
    state = torch.get_rng_state()
    alone = check_causality(model, ids=IDS)
    with torch.autocast("cpu", torch.bfloat16):
        assert check_causality(model, ids=IDS) == alone
    assert torch.equal(torch.get_rng_state(), state)


def test_a_diverged_model_is_not_accused():
    model = transformer(T)
    nn.init.constant_(model.readout.weight, torch.nan)
    causality = check_causality(model, ids=IDS)
    assert not causality.leaks
    assert causality.as_dict()["honest_nll"] is None


def test_a_text_that_a_model_finds_impossible_is_no_leak():
    causality = check_causality(impossible_hmm(), ids=IDS)
    assert not causality.leaks, causality.reason
    assert causality.claimed_nll == causality.honest_nll == math.inf
    assert causality.as_dict()["claimed_nll"] is None


def test_other_models_are_not_checked():
    causality = check_causality(Bound(1.0), ids=IDS)
    assert not causality.leaks
    assert causality.reason.startswith("Not checked")
    assert causality.honest_nll is None


def test_a_text_shorter_than_the_context_will_do():
    assert check_causality(attention(softmax_axis="queries"), ids=IDS[:5]).leaks
    assert not check_causality(attention(), ids=IDS[:2]).leaks


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="two characters"):
        check_causality(attention(), ids=IDS[:1])
    with pytest.raises(UserError, match=f"context_length={T + 1}"):
        check_causality(attention(), ids=IDS, context_length=T + 1)
