"""Hidden Markov models by enumeration of all paths of hidden states."""

from itertools import product

import torch
from torch import Tensor


def joint_probabilities(
    initial: Tensor, transition: Tensor, emission: Tensor, text: list[int]
) -> dict[tuple[int, ...], Tensor]:
    """Return p(path, text) for each path of hidden states; arguments are probabilities."""
    joint = {}
    for path in product(range(len(initial)), repeat=len(text)):
        probability = initial[path[0]] * emission[path[0], text[0]]
        for t in range(1, len(text)):
            probability = probability * transition[path[t - 1], path[t]] * emission[path[t], text[t]]
        joint[path] = probability
    return joint


def text_probability(initial: Tensor, transition: Tensor, emission: Tensor, text: list[int]) -> Tensor:
    """Return p(text)."""
    return torch.stack(list(joint_probabilities(initial, transition, emission, text).values())).sum()
