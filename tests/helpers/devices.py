"""Tensors that behave as on devices that are not there when tests run."""

from torch import Tensor


class WithoutFloat64(Tensor):
    """A tensor as on mps, which has no float64: only a copy on the CPU can be converted."""

    def cpu(self):
        return self.as_subclass(Tensor)

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
