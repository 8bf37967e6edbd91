"""Models as small as can be, for the tests of this folder."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from charlab.models.backbone import Backbone
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.models.mixers.attention import Attention
from charlab.models.positions import Learned

VOCAB_SIZE = 7


def transformer(context_length, *, dropout=0.0, **attention):
    """Attention with positions that matter and sharp predictions."""
    torch.manual_seed(1)
    model = Backbone(
        VOCAB_SIZE,
        context_length=context_length,
        embed_dim=8,
        num_layers=2,
        mixer=partial(Attention, num_heads=2, **attention),
        feed_forward=None,
        position=Learned,
        norm=None,
        dropout=dropout,
    )
    with torch.no_grad():
        model.readout.weight *= 5
    return model


class Recurrent(AutoregressiveModel):
    """A GRU, which reads on without end; counts the characters it reads."""

    context_length = None
    vocab_size = VOCAB_SIZE

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(VOCAB_SIZE, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.readout = nn.Linear(8, VOCAB_SIZE)
        self.read = 0

    def forward(self, tokens):
        return self.extend(tokens, None)[0]

    def init_state(self, batch_size):
        return None

    def extend(self, tokens, state):
        self.read += tokens.numel()
        hidden, state = self.gru(self.embedding(tokens), state)
        return self.readout(hidden), state


class Bound(LanguageModel):
    """Every character costs 2 nats, plus noise; `stratified` noise sums to zero over a batch."""

    likelihood = "bound"
    context_length = None
    vocab_size = VOCAB_SIZE

    def __init__(self, deviation, *, stratified=False):
        super().__init__()
        self.deviation, self.stratified = deviation, stratified

    def nll(self, window, *, scored_from=1, generator=None):
        noise = torch.randn(window[:, 1:].shape, generator=generator, dtype=torch.float64)
        if self.stratified:
            noise -= noise.mean()
        return 2 + self.deviation * noise

    def sample(self, prompt, length, **_):
        raise NotImplementedError
