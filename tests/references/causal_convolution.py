"""A depthwise causal convolution, written as the sum that it is."""

import torch


def convolve(convolution, x):
    """Apply the weights (channels, 1, width) and bias of a `Conv1d` to (B, T, channels), zeros before the start."""
    width, outputs = convolution.weight.shape[-1], []
    for t in range(x.shape[1]):
        total = convolution.bias
        for back in range(min(width, t + 1)):
            total = total + convolution.weight[:, 0, width - 1 - back] * x[:, t - back]
        outputs.append(total.expand(x.shape[0], -1))
    return torch.stack(outputs, dim=1)
