"""The backbone against torch's own transformer, against its formulas, and each option against its absence."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from charlab.configuration.build import build
from charlab.configuration.compose import compose
from charlab.errors import UserError
from charlab.models.backbone import Backbone
from charlab.models.feed_forward import FeedForward
from charlab.models.initialization import normal
from charlab.models.mixers.attention import Attention
from charlab.models.mixers.running_average import RunningAverage
from charlab.models.mixers.selective_scan import SelectiveScan
from charlab.models.positions import ALiBi, Learned, Rotary, Sinusoidal

V, B, T, D, H, L = 7, 2, 6, 8, 2, 3
LARGER = {"vocab_size": 65, "context_length": 64, "embed_dim": 32, "num_layers": 2}

attention = partial(Attention, num_heads=H, bias=True)
scan = partial(SelectiveScan, expansion=2, state_dim=4, conv_width=3, step_rank=None, min_step=0.01, max_step=0.5)
gelu = partial(FeedForward, expansion=4, activation="gelu", bias=True)
rms = partial(nn.RMSNorm, eps=1e-6)
sinusoidal, rotary = partial(Sinusoidal, base=100.0), partial(Rotary, base=100.0)
small = partial(normal, std=0.02, scale_residual=False, zero_residual=False)
POSITIONS = pytest.mark.parametrize(
    "position", [None, Learned, sinusoidal, rotary, ALiBi], ids=["none", "learned", "sinusoidal", "rotary", "alibi"]
)


def make(vocab_size=V, **options):
    """A small model with torch's initial weights; `options` are those of `Backbone`."""
    defaults = {
        "context_length": T,
        "embed_dim": D,
        "num_layers": L,
        "mixer": attention,
        "feed_forward": gelu,
        "position": Learned,
        "norm": nn.LayerNorm,
    }
    torch.manual_seed(0)
    return Backbone(vocab_size, **defaults | options).double()


def make_tokens(batch_size=B, length=T, vocab_size=V):
    return torch.randint(vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(1))


def randomize(model):
    """Move all parameters, so that no 0 and no 1 hides that two have been exchanged."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def gradients(logits, parameters):
    """Return the gradients of a fixed random function of the logits."""
    probe = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype)
    return torch.autograd.grad((logits * probe).sum(), list(parameters))


def assert_same_gradients(actual, expected, names):
    for name, a, e in zip(names, actual, expected, strict=True):
        torch.testing.assert_close(a, e, msg=lambda reason, name=name: f"{name}: {reason}")


def read_by(module, run):
    """Return the inputs that `module` gets while `run` runs."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    run()
    handle.remove()
    return seen


def written_by(module, run):
    """Return the outputs that `module` gives while `run` runs."""
    seen = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output.detach()))
    run()
    handle.remove()
    return seen


TORCHS_NAMES = {
    "mixer.query_key_value.weight": "self_attn.in_proj_weight",
    "mixer.query_key_value.bias": "self_attn.in_proj_bias",
    "mixer.projection.weight": "self_attn.out_proj.weight",
    "mixer.projection.bias": "self_attn.out_proj.bias",
    "feed_forward.expand.weight": "linear1.weight",
    "feed_forward.expand.bias": "linear1.bias",
    "feed_forward.contract.weight": "linear2.weight",
    "feed_forward.contract.bias": "linear2.bias",
    "mixer_norm.weight": "norm1.weight",
    "mixer_norm.bias": "norm1.bias",
    "feed_forward_norm.weight": "norm2.weight",
    "feed_forward_norm.bias": "norm2.bias",
}


@pytest.mark.parametrize("norm_placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_equals_torchs_transformer(norm_placement, activation):
    feed_forward = partial(FeedForward, expansion=4, activation=activation, bias=True)
    model, tokens = randomize(make(norm_placement=norm_placement, feed_forward=feed_forward)), make_tokens()
    layers = []
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            D,
            H,
            dim_feedforward=4 * D,
            dropout=0.0,
            activation=activation,
            batch_first=True,
            norm_first=norm_placement == "pre",
            dtype=torch.double,
        )
        layer.load_state_dict({TORCHS_NAMES[name]: value for name, value in block.state_dict().items()})
        layers.append(layer)

    x = model.embedding.weight[tokens] + model.position.table.weight[:T]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    for layer in layers:
        x = layer(x, src_mask=future)
    if norm_placement == "pre":
        x = F.layer_norm(x, (D,), model.norm.weight, model.norm.bias)
    expected = x @ model.readout.weight.T + model.readout.bias

    parameters, torchs = dict(model.named_parameters()), []
    for name, parameter in parameters.items():
        if name.startswith("blocks."):
            _, number, name_within = name.split(".", 2)
            parameter = layers[int(number)].get_parameter(TORCHS_NAMES[name_within])
        torchs.append(parameter)
    actual = model(tokens)
    torch.testing.assert_close(actual, expected)
    assert_same_gradients(gradients(actual, parameters.values()), gradients(expected, torchs), parameters)


FORMULAS = {
    ("pre", True): lambda x, f, norm: x + f(norm(x)),
    ("pre", False): lambda x, f, norm: f(norm(x)),
    ("post", True): lambda x, f, norm: norm(x + f(x)),
    ("post", False): lambda x, f, norm: norm(f(x)),
}


@pytest.mark.parametrize(("norm_placement", "residual"), FORMULAS, ids=str)
@pytest.mark.parametrize("norm", [None, nn.LayerNorm, rms], ids=["no norm", "layer", "rms"])
@pytest.mark.parametrize("feed_forward", [None, gelu], ids=["no feed-forward", "feed-forward"])
def test_blocks_compute_their_formula(norm_placement, residual, norm, feed_forward):
    options = {"norm_placement": norm_placement, "residual": residual, "norm": norm, "feed_forward": feed_forward}
    model, tokens = randomize(make(**options)), make_tokens()
    formula = FORMULAS[norm_placement, residual]
    x = model.embedding.weight[tokens] + model.position.table.weight[:T]
    for block in model.blocks:
        x = formula(x, block.mixer, block.mixer_norm)
        if feed_forward is not None:
            x = formula(x, block.feed_forward, block.feed_forward_norm)
    expected = model.readout(model.norm(x) if norm_placement == "pre" else x)
    actual = model(tokens)
    torch.testing.assert_close(actual, expected)
    names, parameters = zip(*model.named_parameters(), strict=True)
    assert_same_gradients(gradients(actual, parameters), gradients(expected, parameters), names)


def within_blocks(*names):
    return {f"blocks.{layer}.{name}" for layer in range(L) for name in names}


OPTIONS = """
    tied_embeddings readout_bias residual norm_placement layer_norm rms_norm dropout learned sinusoidal rotary alibi
    feed_forward
""".split()
LAYER_NORMS = within_blocks(*(name for name in TORCHS_NAMES if "norm" in name)) | {"norm.weight", "norm.bias"}
FEED_FORWARDS = within_blocks(*(name for name in TORCHS_NAMES if "feed_forward" in name))


@pytest.mark.parametrize(
    ("off", "on", "lost", "gained", "draws"),
    [
        ({"tied_embeddings": False}, {"tied_embeddings": True}, {"readout.weight"}, set(), False),
        ({"readout_bias": False}, {"readout_bias": True}, set(), {"readout.bias"}, False),
        ({"residual": False}, {"residual": True}, set(), set(), False),
        ({"norm_placement": "pre"}, {"norm_placement": "post"}, {"norm.weight", "norm.bias"}, set(), False),
        ({"norm": None}, {"norm": nn.LayerNorm}, set(), LAYER_NORMS, False),
        ({"norm": None}, {"norm": rms}, set(), {name for name in LAYER_NORMS if name.endswith("weight")}, False),
        ({"dropout": 0.0}, {"dropout": 0.5}, set(), set(), False),
        ({"position": None}, {"position": Learned}, set(), {"position.table.weight"}, True),
        ({"position": None}, {"position": sinusoidal}, set(), set(), False),
        ({"position": None}, {"position": rotary}, set(), set(), False),
        ({"position": None}, {"position": ALiBi}, set(), set(), False),
        ({"feed_forward": None}, {"feed_forward": gelu}, set(), FEED_FORWARDS, True),
    ],
    ids=OPTIONS,
)
def test_an_option_changes_the_output_and_no_other_parameter(off, on, lost, gained, draws):
    """`draws` is whether what is built for the option takes random numbers that other parts would have had."""
    without, model = make(**off), make(**on)
    before, after = dict(without.named_parameters()), dict(model.named_parameters())
    assert before.keys() - after.keys() == lost
    assert after.keys() - before.keys() == gained
    shared = before.keys() & after.keys()
    for name in shared:
        assert after[name].shape == before[name].shape, name
        if not draws:
            assert torch.equal(after[name], before[name]), name
    with torch.no_grad():
        for name in shared:
            after[name].copy_(before[name])
    tokens = make_tokens()
    assert (model(tokens) - without(tokens)).abs().max() > 1e-3


def test_tied_embeddings_are_one_matrix_that_learns_from_both_its_uses():
    tied, untied, tokens = make(tied_embeddings=True), make(tied_embeddings=False), make_tokens()
    with torch.no_grad():
        untied.readout.weight.copy_(untied.embedding.weight)
    assert tied.readout.weight is tied.embedding.weight
    torch.testing.assert_close(tied(tokens), untied(tokens))
    names, parameters = zip(*tied.named_parameters(), strict=True)
    untied_parameters = dict(untied.named_parameters())
    expected = dict(zip(untied_parameters, gradients(untied(tokens), untied_parameters.values()), strict=True))
    expected["embedding.weight"] = expected["embedding.weight"] + expected.pop("readout.weight")
    assert_same_gradients(gradients(tied(tokens), parameters), [expected[name] for name in names], names)


def test_readout_bias_is_added_to_the_logits():
    model, tokens = make(readout_bias=True), make_tokens()
    torch.testing.assert_close(model(tokens), make(readout_bias=False)(tokens) + model.readout.bias)


@pytest.mark.parametrize("norm_placement", ["pre", "post"])
@pytest.mark.parametrize(("norm", "centers"), [(nn.LayerNorm, True), (rms, False)], ids=["layer", "rms"])
def test_what_is_read_is_normalized(norm, centers, norm_placement):
    """Before each part and the readout; with "post" everywhere but at the bottom."""
    model, tokens = make(norm=norm, norm_placement=norm_placement), make_tokens()
    readers = [part for block in model.blocks for part in (block.mixer, block.feed_forward)] + [model.readout]
    for number, reader in enumerate(readers):
        (x,) = read_by(reader, lambda: model(tokens))
        ones = torch.ones(B, T, dtype=torch.double)
        is_normalized = torch.allclose(x.square().mean(dim=-1), ones, rtol=0, atol=1e-3)
        assert is_normalized == (norm_placement == "pre" or number > 0)
        if is_normalized:
            assert torch.allclose(x.mean(dim=-1), 0 * ones, rtol=0, atol=1e-9) == centers


class TestDropout:
    P = 0.3

    def assert_dropped(self, before, after):
        """About P of the components are zeroed, and the others scaled so that the mean stays."""
        dropped = after == 0
        assert dropped.double().mean().item() == pytest.approx(self.P, abs=0.02)
        torch.testing.assert_close(after[~dropped], before[~dropped] / (1 - self.P))

    @pytest.mark.parametrize("part", ["mixer", "feed_forward"])
    def test_zeroes_its_share_of_what_a_part_writes(self, part):
        feed_forward = gelu if part == "feed_forward" else None
        model = make(dropout=self.P, num_layers=1, residual=False, norm=None, feed_forward=feed_forward)
        tokens, written = make_tokens(batch_size=200), []
        # Without residual and norm the readout reads just what the last part has written.
        (read,) = read_by(
            model.readout, lambda: written.extend(written_by(getattr(model.blocks[0], part), lambda: model(tokens)))
        )
        self.assert_dropped(written[0], read)

    @pytest.mark.parametrize("position", [None, Learned])
    def test_zeroes_its_share_of_the_embeddings(self, position):
        model, tokens = make(dropout=self.P, norm=None, position=position), make_tokens(batch_size=200)
        embedded = model.embedding.weight[tokens]
        if position is not None:
            embedded = embedded + model.position.table.weight
        (read,) = read_by(model.blocks[0].mixer, lambda: model(tokens))
        self.assert_dropped(embedded, read)

    def test_acts_in_training_only(self):
        model, tokens = make(dropout=self.P), make_tokens()
        assert not torch.equal(model(tokens), model(tokens))
        model.eval()
        torch.testing.assert_close(model(tokens), make()(tokens))


class TestInitialization:
    STD = 0.02

    @pytest.mark.parametrize(
        ("scale_residual", "zero_residual"), [(False, False), (True, False), (False, True), (True, True)]
    )
    @pytest.mark.parametrize(
        ("mixer", "feed_forward", "num_writes"),
        [(attention, gelu, 4), (attention, None, 2), (RunningAverage, gelu, 2), ([attention, RunningAverage], gelu, 3)],
        ids=["attention and feed-forward", "attention", "feed-forward", "attention in every other layer"],
    )
    def test_normal_weights(self, mixer, feed_forward, num_writes, scale_residual, zero_residual):
        initialization = partial(normal, std=self.STD, scale_residual=scale_residual, zero_residual=zero_residual)
        model = make(**LARGER, mixer=mixer, feed_forward=feed_forward, initialization=initialization)
        names = {"read": [], "written": []}
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0).all(), name
            elif "norm" in name:
                assert (parameter == 1).all(), name
            else:
                is_write = name.endswith(("mixer.projection.weight", "feed_forward.contract.weight"))
                expected = self.STD
                if is_write and zero_residual:
                    expected = 0.0
                elif is_write and scale_residual:
                    expected = self.STD / math.sqrt(num_writes)
                assert parameter.std().item() == pytest.approx(expected, rel=0.1), name
                assert abs(parameter.mean().item()) <= 0.2 * expected, name
                names["written" if is_write else "read"].append(name)
        assert len(names["written"]) == num_writes
        assert {"embedding.weight", "position.table.weight", "readout.weight"} <= set(names["read"])

    @pytest.mark.parametrize("mixer", [attention, scan], ids=["attention", "scan"])
    @pytest.mark.parametrize("zero_residual", [True, False])
    def test_zeroed_writes_make_every_block_the_identity(self, mixer, zero_residual):
        model = make(mixer=mixer, initialization=partial(small, zero_residual=zero_residual))
        x = torch.randn(B, T, D, dtype=torch.double)
        for block in model.blocks:
            assert torch.equal(block(x), x) == zero_residual
        tokens = make_tokens()
        untouched = model.readout(model.norm(model.embedding.weight[tokens] + model.position.table.weight))
        assert torch.equal(model(tokens), untouched) == zero_residual

    def test_none_keeps_torchs(self):
        model = make(**LARGER)
        torch.manual_seed(0)
        assert torch.equal(model.embedding.weight, nn.Embedding(65, 32).weight.double())
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                assert 0.99 * bound < module.weight.abs().max() <= bound, name
                assert 0 < module.bias.abs().max() <= bound, name


@POSITIONS
def test_the_order_of_what_came_before_is_known_by_position_alone(position):
    """One layer of attention without positions takes the past as a set."""
    model = make(position=position, num_layers=1)
    tokens = torch.tensor([[0, 1, 2, 3, 4, 5]])
    exchanged = torch.tensor([[1, 0, 2, 3, 4, 5]])
    same = torch.allclose(model(tokens)[:, -1], model(exchanged)[:, -1], rtol=1e-9, atol=1e-9)
    assert same == (position is None)


@POSITIONS
@pytest.mark.parametrize("mixer", [attention, [scan, attention]], ids=["attention", "scan and attention"])
@pytest.mark.parametrize("pieces", [[1] * T, [2, 1, 3]], ids=str)
def test_extend_equals_forward(position, mixer, pieces):
    assert_extends(randomize(make(position=position, mixer=mixer)), make_tokens(), pieces)


def assert_extends(model, tokens, pieces):
    """Reading in pieces gives what reading at once gives."""
    state, outputs = model.init_state(len(tokens)), []
    for piece in tokens.split(pieces, dim=1):
        logits, state = model.extend(piece, state)
        outputs.append(logits)
    torch.testing.assert_close(torch.cat(outputs, dim=1), model(tokens), rtol=1e-9, atol=1e-9)


class TestSeveralMixers:
    @pytest.mark.parametrize("sequence", [list, tuple])
    @pytest.mark.parametrize(
        ("mixers", "expected"),
        [
            ([scan, attention], [SelectiveScan, Attention, SelectiveScan, Attention, SelectiveScan]),
            ([attention, attention, scan], [Attention, Attention, SelectiveScan, Attention, Attention]),
            ([RunningAverage], [RunningAverage] * 5),
        ],
    )
    def test_layers_cycle_through_them(self, mixers, expected, sequence):
        model = make(num_layers=5, mixer=sequence(mixers))
        assert [type(block.mixer) for block in model.blocks] == expected

    def test_a_configuration_gives_a_list(self):
        torch.manual_seed(0)
        model = build(compose(["model=hybrid"]).model, 65).double().eval()
        assert [type(block.mixer) for block in model.blocks] == [SelectiveScan, Attention] * 2
        assert all(isinstance(block.mixer.position, Rotary) for block in model.blocks[1::2])
        assert_extends(model, make_tokens(length=9, vocab_size=65), [4, 1, 4])

    def test_only_those_with_scores_get_an_encoding_of_scores(self):
        model, without = (make(mixer=[scan, attention], num_layers=4, position=part) for part in (rotary, None))
        assert model.position is None  # nothing is added to the embeddings
        for layer, block in enumerate(model.blocks):
            encodings = [type(part) for part in block.modules() if isinstance(part, Rotary)]
            assert encodings == ([Rotary] if layer % 2 else [])
        tokens = make_tokens()
        assert (model(tokens) - without(tokens)).abs().max() > 1e-3

    @pytest.mark.parametrize("position", [rotary, ALiBi], ids=["Rotary", "ALiBi"])
    @pytest.mark.parametrize("mixer", [scan, [scan], [scan, RunningAverage]], ids=["one", "a list of one", "two"])
    def test_an_encoding_of_scores_needs_scores(self, mixer, position):
        name = getattr(position, "func", position).__name__
        with pytest.raises(UserError, match=rf"position={name} .*mixer=SelectiveScan"):
            make(mixer=mixer, position=position)

    @pytest.mark.parametrize(
        ("mixer", "position", "expected"),
        [
            (scan, None, None),
            ([scan, RunningAverage], None, None),
            ([scan, attention], None, T),
            (scan, Learned, T),
        ],
    )
    def test_the_context_is_endless_if_all_are_recurrent_and_nothing_counts_positions(self, mixer, position, expected):
        assert make(mixer=mixer, position=position).context_length == expected
