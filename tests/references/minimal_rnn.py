"""minGRU and minLSTM step by step, as section 3 of arXiv 2410.01201 writes them: no logarithms."""

import torch

from tests.references.causal_convolution import convolve


def positive(x):
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


def min_gru_step(projected, hidden):
    gate, candidate = projected.chunk(2, dim=-1)
    update = torch.sigmoid(gate)
    return (1 - update) * hidden + update * positive(candidate)


def min_lstm_step(projected, hidden):
    forget, write, candidate = projected.chunk(3, dim=-1)
    forget, write = torch.sigmoid(forget), torch.sigmoid(write)
    return forget / (forget + write) * hidden + write / (forget + write) * positive(candidate)


STEPS = {"MinGRU": min_gru_step, "MinLSTM": min_lstm_step}


def mix(mixer, x):
    step = STEPS[type(mixer).__name__]
    if mixer.convolution is not None:
        x = convolve(mixer.convolution.convolution, x)
    hidden, outputs = x.new_zeros(x.shape[0], mixer.hidden_dim), []
    for t in range(x.shape[1]):
        hidden = step(mixer.gates_and_candidate(x[:, t]), hidden)
        outputs.append(mixer.projection(hidden))
    return torch.stack(outputs, dim=1)
