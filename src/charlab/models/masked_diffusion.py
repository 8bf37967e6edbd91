"""Masked diffusion: a text emerges from masks, one character after another, in random order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.backbone import Backbone, Part
from charlab.models.contract import InfillingModel
from charlab.models.decoding import check_choice, check_predictions, choose
from charlab.types import Fraction, PositiveInt, Probability, checked


class MaskedDiffusion(InfillingModel):
    """Absorbing-state discrete diffusion (MDLM, arXiv 2406.07524), without time, as in RADD (arXiv 2406.03736).

    Noise masks one character after another, in random order, until only the given ones are left. A denoiser, a
    transformer that looks both ways, learns p(xᵢ | all characters that are not masked) for every masked i at once.
    This is enough to run the process backwards: given x₀, uncover x₁ … x_T in random order σ. So
    p(x₁ … x_T | x₀) = E_σ Πₖ p(x_σ(k) | x₀, x_σ(1) … x_σ(k−1)), and by Jensen's inequality (RADD, theorem 2)

        −log p(x₁ … x_T | x₀) ≤ E_σ Σₖ −log p(x_σ(k) | x₀, x_σ(1) … x_σ(k−1))
                              = E_n E_M (T/n) Σ_{i∈M} −log p(xᵢ | x₀, characters outside M),

    where n is uniform on 1 … T and M on the sets of n positions. `nll` draws one n and one M for each window.

    The denoiser always reads T+1 positions; a shorter text is padded with masks on the right.

    The bound draws n uniformly, but training gains most from intermediate values: with n = T nothing is known, and with
    n = 1 a single loss is weighted T-fold. `masked_share` clips n in training (arXiv 2503.09573, section 5.2).

    Args:
        vocab_size: number of distinct characters V. The id V stands for a masked one.
        context_length: T; the denoiser reads T+1 characters, so that each is predicted from up to T others.
        num_steps: number of evaluations of the denoiser per blank. Characters uncovered together are sampled
            independently; None uncovers one at a time, which is exact.
        masked_share: smallest and largest share of a window that is masked in training; [0, 1] trains on the bound.
        conv_width: width, an odd number, of a convolution over the embeddings before the first block. Attention alone
            would first have to learn where the neighbors are. None for no convolution.
        embed_dim: this and all further arguments are passed to the denoiser, a `Backbone`.
        num_layers: number of blocks.
        mixer: attention with `causal=False`.
        feed_forward: the blocks' feed-forward layer, or None.
        position: position encoding, or None.
        norm: norm, or None.
        norm_placement: "pre" or "post".
        residual: whether blocks add to their input.
        dropout: dropout probability for the embeddings and for the output of each mixer and feed-forward layer.
        tied_embeddings: whether the readout shares the embedding's weights.
        readout_bias: whether the readout has a bias.
        initialization: sets the initial weights; None keeps torch's.

    Raises:
        UserError: if a mixer looks in one direction only, `masked_share` is not a range of shares, `conv_width` is
            even, or parts do not fit together.
    """

    context_length: int
    likelihood = "bound"

    @checked
    def __init__(
        self,
        vocab_size: int,
        *,
        context_length: PositiveInt,
        num_steps: PositiveInt | None,
        masked_share: tuple[Fraction, Fraction] = (0.0, 1.0),
        conv_width: PositiveInt | None = None,
        embed_dim: PositiveInt,
        num_layers: PositiveInt,
        mixer: Part | Sequence[Part],
        feed_forward: Part | None,
        position: Part | None,
        norm: Part | None,
        norm_placement: Literal["pre", "post"] = "pre",
        residual: bool = True,
        dropout: Probability = 0.0,
        tied_embeddings: bool = False,
        readout_bias: bool = True,
        initialization: Callable[[nn.Module], None] | None = None,
    ) -> None:
        super().__init__()
        check_share(masked_share)
        if conv_width is not None and conv_width % 2 == 0:
            raise UserError(f"conv_width={conv_width} has no middle: give an odd number.")
        self.vocab_size, self.context_length, self.num_steps = vocab_size, context_length, num_steps
        self.mask_id, self.masked_share = vocab_size, masked_share
        self.denoiser = BidirectionalBackbone(
            vocab_size + 1,
            conv_width=conv_width,
            context_length=context_length + 1,
            embed_dim=embed_dim,
            num_layers=num_layers,
            mixer=mixer,
            feed_forward=feed_forward,
            position=position,
            norm=norm,
            norm_placement=norm_placement,
            residual=residual,
            dropout=dropout,
            tied_embeddings=tied_embeddings,
            readout_bias=readout_bias,
            initialization=initialization,
        )
        for block in self.denoiser.blocks:
            if getattr(block.mixer, "causal", True):
                raise UserError(
                    f"mixer={type(block.mixer).__name__} looks to the left only, but masked diffusion fills in "
                    f"from both sides: use model/mixer=bidirectional_attention, or model.mixer.causal=false."
                )

    def forward(self, tokens: Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        """Return the logits of the character at each position, given the unmasked ones.

        Args:
            tokens: (B, S) character ids, S ≤ context_length + 1; `mask_id` is an unknown character.

        Raises:
            UserError: if S exceeds context_length + 1.
        """
        length = tokens.shape[1]
        self.check_length(length - 1)
        tokens = F.pad(tokens, (0, self.context_length + 1 - length), value=self.mask_id)  # (B, T+1)
        return self.denoiser(tokens)[:, :length, : self.vocab_size]  # a mask is never predicted

    def nll(
        self,
        window: Int[Tensor, "B T+1"],
        *,
        scored_from: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T"]:
        """Return T/n · −log p(xᵢ | characters not masked) where a character is masked, 0 elsewhere, in nats.

        With `scored_from`, T is the number of scored characters; earlier ones are given.
        """
        return self._estimate(window, (0.0, 1.0), scored_from, generator)

    def loss(self, window: Int[Tensor, "B T+1"], *, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the mean of `nll`, with the masked share of each window clipped to `masked_share`."""
        return self._estimate(window, self.masked_share, 1, generator).mean()

    def _estimate(
        self,
        window: Int[Tensor, "B T+1"],
        share: tuple[float, float],
        scored_from: int,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "B T"]:
        num_scored = window.shape[1] - scored_from
        scored = torch.arange(window.shape[1], device=window.device) >= scored_from  # (T+1,)
        least, most = clipped_counts(share, num_scored)
        num_masked = stratified_counts(len(window), most - least + 1, window.device, generator) + least - 1  # (B,)
        masked = random_ranks(scored.expand_as(window), generator) < num_masked[:, None]  # (B, T+1)
        logits = self(window.long().masked_fill(masked, self.mask_id))  # (B, T+1, V)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        nll = F.cross_entropy(logits.transpose(1, 2), window.long(), reduction="none")  # (B, T+1)
        weight = num_scored / num_masked.to(nll.dtype)  # (B,)
        return torch.where(masked, weight[:, None] * nll, 0.0)[:, 1:]

    @torch.no_grad()
    def infill(
        self,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Fill in one blank (adjacent masked positions) after another, from left to right.

        In a text longer than the T+1 positions that the denoiser reads, it reads those around the blank's beginning.
        The rest of a long blank is filled in from the next such window, half of which is known.
        """
        check_choice(temperature, top_k, top_p)
        if mask.shape != tokens.shape:
            raise UserError(f"The mask has shape {tuple(mask.shape)}, the text {tuple(tokens.shape)}: give equal ones.")
        draw = partial(choose, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        tokens = tokens.long().masked_fill(mask, self.mask_id)
        length, width = tokens.shape[1], self.context_length + 1
        is_blank = mask.any(dim=0).tolist()
        end = 0
        while True in is_blank[end:]:
            first = is_blank.index(True, end)
            start = max(0, min(first - width // 2, length - width))
            stop = min(start + width, length)  # of the window
            end = is_blank.index(False, first, stop) if False in is_blank[first:stop] else stop
            hidden = mask[:, start:stop].clone()
            hidden[:, : first - start] = False  # already sampled
            hidden[:, end - start :] = False  # filled in later
            tokens[:, start:stop] = self._uncover(tokens[:, start:stop], hidden, draw, generator)
        return tokens

    def _uncover(
        self,
        window: Int[Tensor, "B S"],
        hidden: Bool[Tensor, "B S"],
        draw: Callable[[Float[Tensor, "M V"]], Int[Tensor, " M"]],
        generator: torch.Generator | None,
    ) -> Int[Tensor, "B S"]:
        """Return the window with its hidden characters sampled in random order, about equally many at a time."""
        window = window.clone()
        num_hidden = hidden.sum(dim=1, keepdim=True)  # (B, 1)
        ranks = random_ranks(hidden, generator)  # (B, S)
        most = int(num_hidden.max())
        num_steps = min(self.num_steps or most, most)
        for step in range(num_steps):
            begin, end = (num_hidden * done // num_steps for done in (step, step + 1))
            uncovered = (ranks >= begin) & (ranks < end)  # (B, S)
            logits = self(window)[uncovered]  # (M, V)
            check_predictions(logits)
            window[uncovered] = draw(logits)
        return window


class BidirectionalBackbone(Backbone):
    """A backbone that adds a non-causal convolution over the embeddings, before its first block.

    Args:
        conv_width: width of the convolution, an odd number; None for no convolution.
        vocab_size: number of tokens.
        embed_dim: size D of the embeddings.
        parts: all further arguments of `Backbone`.
    """

    def __init__(self, vocab_size: int, *, conv_width: int | None, embed_dim: int, **parts: Any) -> None:
        super().__init__(vocab_size, embed_dim=embed_dim, **parts)
        self.convolution = (
            nn.Conv1d(embed_dim, embed_dim, conv_width, padding=conv_width // 2, bias=False) if conv_width else None
        )

    def _embed(self, tokens: Int[Tensor, "B n"], read: Int[Tensor, "B K+n"], start: int) -> Float[Tensor, "B n D"]:
        x = super()._embed(tokens, read, start)
        if self.convolution is None:
            return x
        neighbors: Tensor = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return x + neighbors


def check_share(masked_share: Sequence[float]) -> None:
    """Raise `UserError` unless `masked_share` is a range."""
    if masked_share[0] > masked_share[1]:
        raise UserError(f"masked_share={[*masked_share]} is not a range: give the smaller share first.")


def clipped_counts(share: Sequence[float], size: int) -> tuple[int, int]:
    """Return the smallest and the largest number of `size` characters to mask, at least one, for a range of shares."""
    least = min(max(1, round(share[0] * size)), max(1, size))
    return least, max(least, round(share[1] * size))


def stratified_counts(
    batch_size: int, most: int, device: torch.device, generator: torch.Generator | None
) -> Int[Tensor, " B"]:
    """Return a number from 1 to `most` for each row: uniformly distributed, and evenly spread within the batch.

    An even grid with one random shift (as in arXiv 2107.00630), computed exactly in integers.
    """
    shift = torch.randint(batch_size * most, (), device=device, generator=generator)
    grid = most * torch.arange(batch_size, device=device)
    return 1 + (grid + shift) % (batch_size * most) // batch_size


def random_ranks(candidates: Bool[Tensor, "B S"], generator: torch.Generator | None) -> Int[Tensor, "B S"]:
    """Return each position's rank, from 0, in a random order of its row in which the candidates come first."""
    # Not in the default precision: with trainer.precision=bf16-true most keys would tie, in favor of early positions.
    keys = torch.rand(candidates.shape, device=candidates.device, generator=generator, dtype=torch.float32)
    return keys.masked_fill(~candidates, 2.0).argsort(dim=1).argsort(dim=1)
