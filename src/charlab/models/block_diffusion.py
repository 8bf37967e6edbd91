"""Block diffusion: generate blocks of characters from left to right, and those within a block in random order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.backbone import Backbone, BackboneState, Part
from charlab.models.contract import LanguageModel
from charlab.models.decoding import check_choice, check_not_negative, check_predictions, check_prompt, choose
from charlab.models.masked_diffusion import check_share, clipped_counts, random_ranks, stratified_counts
from charlab.models.mixers.blockwise_attention import BlockwiseAttention, blocks
from charlab.types import Fraction, PositiveInt, Probability, checked


class BlockDiffusion(LanguageModel):
    """Autoregressive over blocks of L characters, masked diffusion within a block (BD3-LM, arXiv 2503.09573).

    With b a block and M the set of its masked characters,

        −log p(b | before) ≤ E_n E_M (L/n) Σ_{i∈M} −log p(xᵢ | all earlier blocks, characters of b outside M)

    where n is uniform on 1 … L and M on the sets of n characters, as in `MaskedDiffusion`. With L = 1 this is the
    −log p of an autoregressive model, and `nll` is exact. One pass scores all blocks of a window: the denoiser reads
    the window and, after it, a copy with masks (`BlockwiseAttention`).

    The bound draws n uniformly, but training gains most from intermediate values: with n = L the loss is noisy, since
    nothing of the block is known, and with n = 1 there is little to learn. `masked_share` clips n in training
    (section 5.2 of the paper).

    Args:
        vocab_size: number of distinct characters V. The id V stands for a masked one.
        context_length: T, the maximum number of characters after the first.
        block_size: L; 1 gives an autoregressive model, T masked diffusion.
        num_steps: number of evaluations of the denoiser per sampled block. Characters uncovered together are sampled
            independently; None uncovers one at a time, which is exact.
        masked_share: smallest and largest share of a block that is masked in training; [0, 1] trains on the bound.
        embed_dim: this and all further arguments are passed to the denoiser, a `Backbone`.
        num_layers: number of blocks of the network.
        mixer: `BlockwiseAttention`.
        feed_forward: the feed-forward layer, or None.
        position: position encoding, or None.
        norm: norm, or None.
        norm_placement: "pre" or "post".
        residual: whether layers add to their input.
        dropout: dropout probability for the embeddings and for the output of each mixer and feed-forward layer.
        tied_embeddings: whether the readout shares the embedding's weights.
        readout_bias: whether the readout has a bias.
        initialization: sets the initial weights; None keeps torch's.

    Raises:
        UserError: if a mixer is not `BlockwiseAttention`, or `masked_share` is not a range of shares.
    """

    context_length: int

    @checked
    def __init__(
        self,
        vocab_size: int,
        *,
        context_length: PositiveInt,
        block_size: PositiveInt,
        num_steps: PositiveInt | None,
        masked_share: tuple[Fraction, Fraction],
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
        self.vocab_size, self.context_length, self.num_steps = vocab_size, context_length, num_steps
        self.block_size, self.masked_share = min(block_size, context_length), masked_share
        self.likelihood = "exact" if self.block_size == 1 else "bound"
        self.mask_id = vocab_size
        self.denoiser = Denoiser(
            vocab_size + 1,
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
            size = getattr(block.mixer, "block_size", None)
            if not isinstance(block.mixer, BlockwiseAttention) or size != block_size:
                given = f"mixer={type(block.mixer).__name__}" + (f" with block_size={size}" if size else "")
                raise UserError(
                    f"{given} does not look at blocks of {block_size}: use model/mixer=blockwise_attention, whose "
                    "block_size is the model's."
                )

    def forward(self, window: Int[Tensor, "B T+1"], noisy: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits of each character but the first, given earlier blocks and its own block's noisy characters.

        Args:
            window: (B, T+1) character ids, T ≤ context_length.
            noisy: (B, T) its characters but the first, with `mask_id` in place of unknown ones.
        """
        length = window.shape[1]
        self.check_length(length - 1)
        padding = (0, self.context_length + 1 - length)
        window, noisy = (F.pad(tokens, padding, value=self.mask_id) for tokens in (window, noisy))
        return self.denoiser.denoise(window, noisy)[:, : length - 1, : self.vocab_size]  # a mask is never predicted

    def nll(
        self,
        window: Int[Tensor, "B T+1"],
        *,
        scored_from: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T"]:
        """Return m/n · −log p(xᵢ | earlier blocks, unmasked characters) for each masked character, else 0, in nats.

        Of the m scored characters in a block, n are masked. Characters before `scored_from` are never masked.
        """
        return self._estimate(window, (0.0, 1.0), scored_from, generator)

    def loss(self, window: Int[Tensor, "B T+1"], *, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the mean of `nll`, with the masked share of each block clipped to `masked_share`."""
        return self._estimate(window, self.masked_share, 1, generator).mean()

    def _estimate(
        self,
        window: Int[Tensor, "B T+1"],
        share: Sequence[float],
        scored_from: int,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "B T"]:
        last, width, first = window.shape[1] - 1, self.block_size, max(scored_from, 1)
        block = blocks(last + 1, width, window.device)[1:]  # (T,)
        scored = torch.arange(1, last + 1, device=window.device) >= first  # (T,)
        ends = range(0, last + width, width)  # the last position of each block
        sizes = [max(0, min(end, last) - max(end - width, first - 1)) for end in ends]  # m of each of the K+1 blocks
        counts = torch.ones(len(window), len(sizes), dtype=torch.long, device=window.device)  # (B, K+1), n of each
        for size in sorted(set(sizes)):
            least, most = clipped_counts(share, size)
            same = [index for index, other in enumerate(sizes) if other == size]
            drawn = stratified_counts(len(window) * len(same), most - least + 1, window.device, generator)
            shuffled = drawn[torch.randperm(len(drawn), device=window.device, generator=generator)]
            counts[:, same] = shuffled.view(len(window), -1) + least - 1
        masked = ranks_in_blocks(block, scored.expand(len(window), -1), generator) < counts[:, block]  # (B, T)
        masked &= scored
        targets = window[:, 1:].long()
        logits = self(window.long(), targets.masked_fill(masked, self.mask_id))  # (B, T, V)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        nll = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")  # (B, T)
        weight = torch.tensor(sizes, device=window.device)[block] / counts[:, block].to(nll.dtype)  # (B, T)
        return torch.where(masked, weight * nll, 0.0)

    @torch.no_grad()
    def sample(
        self,
        prompt: Int[Tensor, "B P"],
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B P+length"]:
        """Return the prompt and `length` more characters, block by block.

        When the context is full, or the prompt exceeds it, sampling continues from its second half.
        """
        check_prompt(prompt)
        check_not_negative(length)
        check_choice(temperature, top_k, top_p)
        draw = partial(choose, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        text, wanted = prompt.long(), prompt.shape[1] + length
        state: BackboneState | None = None
        known = 0  # characters before the next one that the denoiser reads
        while text.shape[1] < wanted:
            if state is None or state.length > self.context_length:
                fits = text.shape[1] <= self.context_length  # a prompt, with room for another character
                known = 0 if fits else text.shape[1] - (self.context_length + 1) // 2
                _, state = self.denoiser.extend(text[:, known : known + 1], self.denoiser.init_state(len(text)))
                known += 1
            room = min(self.block_size, self.context_length + 1 - state.length)
            block = text[:, known : known + room]
            if block.shape[1] < room:
                block = F.pad(block, (0, room - block.shape[1]), value=self.mask_id)
                block = self._uncover(block, state, draw, generator)
                text = torch.cat([text[:, :known], block], dim=1)
            _, state = self.denoiser.extend(block, state)
            known += block.shape[1]
        return torch.cat([prompt, text[:, prompt.shape[1] : wanted].to(prompt.dtype)], dim=1)

    def _uncover(
        self,
        block: Int[Tensor, "B L"],
        state: BackboneState,
        draw: Callable[[Float[Tensor, "M V"]], Int[Tensor, " M"]],
        generator: torch.Generator | None,
    ) -> Int[Tensor, "B L"]:
        """Return the block with its masked characters sampled in random order, about equally many at a time."""
        block = block.clone()
        hidden = block == self.mask_id
        most = int(hidden[0].sum())
        ranks = random_ranks(hidden, generator)
        num_steps = min(self.num_steps or most, most)
        for step in range(num_steps):
            uncovered = (ranks >= most * step // num_steps) & (ranks < most * (step + 1) // num_steps)  # (B, L)
            logits = self.denoiser.extend(block, state)[0][uncovered][:, : self.vocab_size]  # (M, V)
            check_predictions(logits)
            block[uncovered] = draw(logits)
        return block


class Denoiser(Backbone):
    """A backbone that reads a window and a partly masked copy of it."""

    def denoise(self, window: Int[Tensor, "B C"], noisy: Int[Tensor, "B C-1"]) -> Float[Tensor, "B C-1 V"]:
        """Return the logits at each noisy position.

        Args:
            window: (B, C) token ids, C = context_length.
            noisy: (B, C − 1) copies of all but the first, some of them masked.
        """
        x = torch.cat([self._embed(window, window, start=0), self._embed(noisy, noisy, start=1)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x[:, window.shape[1] :]))


def ranks_in_blocks(
    block: Int[Tensor, " T"], candidates: Bool[Tensor, "B T"], generator: torch.Generator | None
) -> Int[Tensor, "B T"]:
    """Return each position's rank, from 0, in a random order of its block in which the candidates come first."""
    precision = torch.float32 if candidates.device.type == "mps" else torch.float64  # mps has no float64
    keys = torch.rand(candidates.shape, device=candidates.device, generator=generator, dtype=precision)
    ranks = keys.masked_fill(~candidates, 1.5).argsort(dim=1).argsort(dim=1)  # (B, T), over all blocks
    order = (ranks + len(block) * block).argsort(dim=1).argsort(dim=1)  # block by block
    first = torch.searchsorted(block, block)  # the first position of each position's block
    return order - first
