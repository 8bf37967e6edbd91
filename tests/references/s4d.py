"""S4D as a recurrence over all N states, the conjugates of each pair among them."""

import torch
from torch.nn import functional as F


def mix(mixer, x):
    rates = torch.complex(-mixer.log_decay.exp(), mixer.frequency)
    readout = torch.complex(mixer.readout[..., 0], mixer.readout[..., 1])
    rates, readout = torch.cat([rates, rates.conj()], dim=1), torch.cat([readout, readout.conj()], dim=1)  # (D, N)
    transition = torch.exp(mixer.log_step.exp()[:, None] * rates)
    write = (transition - 1) / rates
    state, outputs = torch.zeros(x.shape[0], *rates.shape, dtype=rates.dtype), []
    for t in range(x.shape[1]):
        state = transition * state + write * x[:, t, :, None]
        y = (readout * state).sum(-1)
        assert y.imag.abs().max() < 1e-4 * (1 + y.real.abs().max())
        value, gate = mixer.projection(F.gelu(y.real + mixer.skip * x[:, t])).chunk(2, dim=-1)
        outputs.append(value * torch.sigmoid(gate))
    return torch.stack(outputs, dim=1)
