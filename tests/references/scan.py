"""First-order recurrences, one step after the other."""

import torch


def recurrence(coefficients, inputs, initial):
    """h_t = a_t · h_{t−1} + b_t: all of (B, T, …)."""
    states, state = [], initial
    for t in range(inputs.shape[1]):
        state = coefficients[:, t] * state + inputs[:, t]
        states.append(state)
    return torch.stack(states, dim=1)
