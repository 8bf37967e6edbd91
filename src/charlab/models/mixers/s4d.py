"""S4D: a bank of damped oscillators per channel, trained as a convolution and run as a recurrence."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.initialization import undecayed
from charlab.models.linear import StackedLinear
from charlab.models.mixers.contract import Mixer
from charlab.models.precision import full_precision, promoted
from charlab.types import PositiveFloat, PositiveInt, checked

# Positions that `extend` reads at once; each takes D × state_dim numbers of intermediate results.
_PIECE_LENGTH = 256


class S4D(Mixer):
    """A diagonal state-space layer (Gu et al., arXiv 2206.11893), followed by GELU and a gated linear map.

    Each channel u(t) drives N/2 complex states, x′ = A·x + u with A = −exp(log_decay) + i·frequency, and is read out
    as y = 2·Re(C·x) + D·u. Held constant over steps of length Δ (zero-order hold), this becomes
    x_t = Ā·x_{t−1} + B̄·u_t with Ā = exp(Δ·A) and B̄ = (Ā − 1) / A. The matrix B is absorbed into C, and each
    state also stands for its complex conjugate (section 3).

    As a whole, y is the convolution of u with the kernel K_t = 2·Re(Σ C·B̄·Ā^t), which is the same for all windows:
    computed once and applied by FFT.

    Args:
        embed_dim: size D of the embeddings: the number of channels.
        context_length: maximum length of a sequence (unused: the recurrent state has no limit).
        state_dim: number N of states of a channel, even.
        frequencies: initial values: "lin" is A_n = −1/2 + iπn, "inv" is A_n = −1/2 + i(N/π)(N/(2n+1) − 1)
            (S4D-Lin and S4D-Inv, section 4).
        min_step: the smallest initial Δ; the channels' initial Δ are log-uniform in [`min_step`, `max_step`].
        max_step: the largest initial Δ. A channel initially remembers about 2/Δ positions.
    """

    is_recurrent = True

    @checked
    def __init__(
        self,
        embed_dim: PositiveInt,
        context_length: PositiveInt,
        *,
        state_dim: PositiveInt,
        frequencies: Literal["lin", "inv"],
        min_step: PositiveFloat,
        max_step: PositiveFloat,
    ) -> None:
        super().__init__()
        if state_dim % 2:
            raise UserError(f"state_dim={state_dim} is odd, but S4D's states come in conjugate pairs: make it even.")
        if min_step > max_step:
            raise UserError(f"min_step={min_step} is above max_step={max_step}: swap them.")
        pairs = torch.arange(state_dim // 2)
        lin, inv = math.pi * pairs, state_dim / math.pi * (state_dim / (2 * pairs + 1) - 1)
        initial = lin if frequencies == "lin" else inv
        steps = torch.rand(embed_dim) * math.log(max_step / min_step) + math.log(min_step)
        self.log_step = undecayed(steps)  # (D,)
        self.log_decay = undecayed(torch.full((embed_dim, len(pairs)), math.log(0.5)))  # (D, N/2)
        self.frequency = undecayed(initial.float().repeat(embed_dim, 1))  # (D, N/2)
        self.readout = undecayed(torch.randn(embed_dim, len(pairs), 2) / math.sqrt(2))  # C: real, imaginary part
        self.skip = undecayed(torch.randn(embed_dim))  # D
        self.projection = StackedLinear(embed_dim, [embed_dim, embed_dim])

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self._mix_channels(x, self._convolve(x))

    def init_state(self, batch_size: int) -> Complex[Tensor, "B D N/2"]:
        return torch.view_as_complex(promoted(self.readout).new_zeros(batch_size, *self.readout.shape))

    def extend(
        self, x: Float[Tensor, "B n D"], state: Complex[Tensor, "B D N/2"]
    ) -> tuple[Float[Tensor, "B n D"], Complex[Tensor, "B D N/2"]]:
        outputs = []
        for piece in x.split(_PIECE_LENGTH, dim=1):
            output, state = (self._step if piece.shape[1] == 1 else self._extend_piece)(piece, state)
            outputs.append(output)
        return self._mix_channels(x, torch.cat(outputs, dim=1)), state

    def output_projection(self) -> nn.Linear:
        """Return the linear map that writes to the residual stream."""
        return self.projection

    def _mix_channels(self, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return F.glu(self.projection(F.gelu(y + self.skip * x).to(x.dtype)), dim=-1)

    @full_precision
    def _convolve(self, x: Tensor) -> Float[Tensor, "B T D"]:
        length = x.shape[1]
        spectrum = torch.fft.rfft(x.transpose(1, 2), n=2 * length)  # padded, or the convolution would wrap around
        kernel_spectrum = torch.fft.rfft(self._kernel(length), n=2 * length)
        return torch.fft.irfft(spectrum * kernel_spectrum, n=2 * length)[..., :length].transpose(1, 2)

    def _kernel(self, length: int) -> Float[Tensor, "D T"]:
        """Return K_t = 2·Re(Σ C·B̄·Ā^t) for t < T.

        With t = r·i + j, Ā^t = Ā^(r·i) · Ā^j: for r ≈ √T, 2√T powers and a matrix product give all T powers.
        """
        log_transition, input_factor = self._discretize()
        root = math.isqrt(length - 1) + 1
        counts = torch.arange(root, device=self.log_step.device)
        small_powers = torch.exp(log_transition[..., None] * counts)  # (D, N/2, r)
        large_powers = torch.exp(log_transition[..., None] * (root * counts))  # (D, N/2, r)
        large_powers = large_powers * (2 * self._complex_readout() * input_factor)[..., None]
        left = torch.cat([large_powers.real, -large_powers.imag], dim=1)  # (D, N, r)
        right = torch.cat([small_powers.real, small_powers.imag], dim=1)  # (D, N, r)
        return (left.transpose(1, 2) @ right).flatten(1)[:, :length]

    @full_precision
    def _step(self, x: Float[Tensor, "B 1 D"], state: Tensor) -> tuple[Float[Tensor, "B 1 D"], Tensor]:
        log_transition, input_factor = self._discretize()
        state = log_transition.exp() * state + input_factor * x[:, 0, :, None]
        return 2 * (self._complex_readout() * state).sum(-1).real[:, None], state

    @full_precision
    def _extend_piece(self, x: Float[Tensor, "B n D"], state: Tensor) -> tuple[Float[Tensor, "B n D"], Tensor]:
        """Return the piece's own convolution plus the response to the state before it, and the new state."""
        length = x.shape[1]
        log_transition, input_factor = self._discretize()
        exponents = torch.arange(length + 1, device=x.device)
        powers = torch.exp(log_transition[..., None] * exponents)  # (D, N/2, n+1)
        echo = 2 * torch.einsum("bdp,dpn->bnd", self._complex_readout() * state, powers[..., 1:]).real
        gain = input_factor[..., None] * powers[..., :-1].flip(-1)  # the share of each input that is left at the end
        state = powers[..., -1] * state + torch.einsum("bnd,dpn->bdp", x.to(gain.dtype), gain)
        return self._convolve(x) + echo, state

    def _discretize(self) -> tuple[Complex[Tensor, "D N/2"], Complex[Tensor, "D N/2"]]:
        """Return log Ā = Δ·A, and B̄ = (Ā − 1) / A."""
        rates = torch.complex(-promoted(self.log_decay).exp(), promoted(self.frequency))
        log_transition = rates * promoted(self.log_step).exp()[:, None]
        return log_transition, (log_transition.exp() - 1) / rates

    def _complex_readout(self) -> Complex[Tensor, "D N/2"]:
        return torch.view_as_complex(promoted(self.readout))
