from functools import partial

import pytest
import torch
from torch import nn

from charlab.errors import UserError
from charlab.evaluation.causality import check_initial
from charlab.models.backbone import Backbone
from charlab.models.bigram import Bigram
from charlab.models.hmm import HiddenMarkovModel
from charlab.models.initialization import normal
from charlab.models.mixers.attention import Attention
from charlab.models.mixers.linear_attention import LinearAttention
from charlab.models.positions import Learned
from tests.helpers.devices import WithoutFloat64

V, T = 7, 12
IDS = torch.randint(V, (200,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
check = partial(check_initial, ids=IDS, context_length=T)


def backbone(embed_dim=64, **settings):
    torch.manual_seed(0)
    defaults = {"mixer": partial(Attention, num_heads=2), "position": Learned, "num_layers": 2}
    return Backbone(
        V, context_length=T, embed_dim=embed_dim, feed_forward=None, norm=nn.LayerNorm, **defaults | settings
    )


def test_ordinary_models_start_without_a_word():
    for model in (backbone(), Bigram(V), HiddenMarkovModel(V, num_states=3, parameterization="log_probabilities")):
        assert check(model) is None


def test_tied_embeddings_that_torch_initializes_are_named():
    warning = check(backbone(embed_dim=256, tied_embeddings=True))
    assert "above ln 7" in warning
    assert "shares the weights of its embedding" in warning
    small = partial(normal, std=0.02, scale_residual=False, zero_residual=False)
    assert check(backbone(embed_dim=256, tied_embeddings=True, initialization=small)) is None


def test_a_loss_far_above_guessing_is_named_without_a_cause():
    model = backbone()
    nn.init.normal_(model.readout.weight, std=30.0)
    assert check(model).endswith("which guessing costs.")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_no_number_is_named_with_its_layer(value):
    model = backbone(mixer=partial(LinearAttention, num_heads=2, decay="gated"), position=None)
    with torch.no_grad():
        model.blocks[1].mixer.decay_gate.bias[0] = value
    with pytest.raises(UserError, match=r"blocks\.1\.mixer\.decay_gate\.bias.*DecayGate.*not the learning rate"):
        check(model)


def test_a_loss_that_is_no_number_is_named():
    class Undefined(Bigram):
        def forward(self, tokens):
            return super().forward(tokens) * torch.nan

    with pytest.raises(UserError, match="loss of Undefined is nan before the first step"):
        check(Undefined(V))


def test_logarithms_of_0_are_allowed_and_a_check_leaves_no_trace():
    model = HiddenMarkovModel(V, num_states=3, parameterization="log_probabilities")
    model.emission.data[0, 0] = -torch.inf
    state = torch.get_rng_state()
    assert check(model.train()) is None
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_text_shorter_than_a_window_will_do():
    assert check_initial(Bigram(V), ids=IDS[:5], context_length=T) is None


def test_a_device_without_float64_will_do():
    class OnMps(Bigram):
        def nll(self, window, **options):
            return super().nll(window, **options).as_subclass(WithoutFloat64)

    assert check(OnMps(V)) is None
