"""The backbone: embedding, N blocks of a mixer and a feed-forward layer, norm, readout.

Every part is exchangeable: a configuration names a constructor, which the backbone calls with its own sizes. With
attention as the mixer, this is a transformer; with a state-space layer, a state-space model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel
from charlab.models.linear import Linear
from charlab.models.mixers.contract import Mixer
from charlab.models.ngram_embedding import NGramEmbedding
from charlab.models.positions import EmbeddingPosition, ScorePosition
from charlab.types import PositiveInt, Probability, checked

Part = Callable[..., nn.Module]


@runtime_checkable
class WritesToResidual(Protocol):
    """A mixer or feed-forward layer that names the linear map that writes to the residual stream."""

    def output_projection(self) -> nn.Linear: ...


class BackboneState(NamedTuple):
    """The number of characters read, each layer's state, and the last characters if n-grams need them."""

    length: int
    layers: list[Any]
    recent: Int[Tensor, "B K"]


class Block(nn.Module):
    """One layer: a mixer, then a feed-forward layer, each with its norm and its residual connection.

    Args:
        mixer: lets positions exchange information.
        feed_forward: acts on each position separately; None leaves it out.
        norms: one for the mixer and one for the feed-forward layer; `nn.Identity` for no norm.
        norm_placement: "pre" is x + f(norm(x)) (Radford et al. 2019), "post" is norm(x + f(x)) (Vaswani et al. 2017,
            section 3.1).
        residual: whether to add x.
        dropout: probability of zeroing a component of the output of the mixer or feed-forward layer in training.
    """

    def __init__(
        self,
        mixer: Mixer,
        feed_forward: nn.Module | None,
        norms: tuple[nn.Module, nn.Module],
        norm_placement: Literal["pre", "post"],
        residual: bool,
        dropout: Probability,
    ) -> None:
        super().__init__()
        self.mixer, self.feed_forward = mixer, feed_forward
        self.mixer_norm = norms[0]
        self.feed_forward_norm = norms[1] if feed_forward is not None else nn.Identity()
        self.norm_placement, self.residual = norm_placement, residual
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        x = self._write(x, self.mixer(self._read(x, self.mixer_norm)), self.mixer_norm)
        return self._feed_forward(x)

    def last_position(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B 1 D"]:
        """Return the last position of `forward`, skipping the feed-forward layer at the others."""
        mixed = self.mixer(self._read(x, self.mixer_norm))[:, -1:]
        return self._feed_forward(self._write(x[:, -1:], mixed, self.mixer_norm))

    def extend(self, x: Float[Tensor, "B n D"], state: Any) -> tuple[Float[Tensor, "B n D"], Any]:
        """Read n more positions."""
        mixed, state = self.mixer.extend(self._read(x, self.mixer_norm), state)
        return self._feed_forward(self._write(x, mixed, self.mixer_norm)), state

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.feed_forward is None:
            return x
        return self._write(x, self.feed_forward(self._read(x, self.feed_forward_norm)), self.feed_forward_norm)

    def _read(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x) if self.norm_placement == "pre" else x

    def _write(self, x: Tensor, written: Tensor, norm: nn.Module) -> Tensor:
        if self.training:  # otherwise a no-op, which generation would call twice per layer and character
            written = self.dropout(written)
        total = x + written if self.residual else written
        return norm(total) if self.norm_placement == "post" else total


class Backbone(AutoregressiveModel):
    """Embedding, `num_layers` blocks, final norm, readout.

    Args:
        vocab_size: number of distinct characters V.
        context_length: maximum number T of characters a prediction looks at. Recurrent mixers without a position
            encoding have no such limit: for them it is only the length of training windows.
        embed_dim: size D of the embeddings.
        num_layers: number of blocks.
        mixer: `mixer(embed_dim, context_length[, position])`, or a list of mixers that the layers cycle through. A
            position encoding that acts on scores is passed to mixers that have scores.
        feed_forward: `feed_forward(embed_dim)`, or None for blocks without one.
        position: `position(embed_dim, context_length)`, or None.
        ngrams: `ngrams(vocab_size, embed_dim)`, embeddings of the last few characters to add; None for none.
        norm: `norm(embed_dim)`, or None for no norm anywhere.
        norm_placement: "pre" (with a norm before the readout) or "post".
        residual: whether blocks add to their input.
        dropout: dropout probability for the embeddings and for the output of each mixer and feed-forward layer.
        tied_embeddings: whether the readout shares the embedding's weights (Press and Wolf, arXiv 1608.05859).
        readout_bias: whether the readout has a bias.
        initialization: `initialization(model)` sets the initial weights; None keeps torch's.
    """

    @checked
    def __init__(
        self,
        vocab_size: int,
        *,
        context_length: PositiveInt,
        embed_dim: PositiveInt,
        num_layers: PositiveInt,
        mixer: Part | Sequence[Part],
        feed_forward: Part | None,
        position: Part | None,
        norm: Part | None,
        ngrams: Part | None = None,
        norm_placement: Literal["pre", "post"] = "pre",
        residual: bool = True,
        dropout: Probability = 0.0,
        tied_embeddings: bool = False,
        readout_bias: bool = True,
        initialization: Callable[[nn.Module], None] | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.ngrams = cast("NGramEmbedding", ngrams(vocab_size, embed_dim)) if ngrams is not None else None
        encoding = position(embed_dim, context_length) if position is not None else None
        self.position = encoding if isinstance(encoding, EmbeddingPosition) else None
        score_position = encoding if isinstance(encoding, ScorePosition) else None
        self.dropout = nn.Dropout(dropout)

        def build_norm() -> nn.Module:
            return norm(embed_dim) if norm is not None else nn.Identity()

        mixers = list(mixer) if isinstance(mixer, Sequence) else [mixer]  # OmegaConf's list is a Sequence, not a list
        if not mixers:
            raise UserError("mixer is an empty list: name at least one mixer.")
        used = mixers[:num_layers]
        if score_position is not None and not any(map(_has_scores, used)):
            names = " and ".join(dict.fromkeys(_constructor(part).__name__ for part in used))
            raise UserError(
                f"position={type(score_position).__name__} acts on attention scores, but mixer={names} "
                "has none: choose another of either, model/position=none for instance."
            )
        blocks = [
            Block(
                _build_mixer(mixers[layer % len(mixers)], embed_dim, context_length, score_position),
                feed_forward(embed_dim) if feed_forward is not None else None,
                (build_norm(), build_norm()),
                norm_placement,
                residual,
                dropout,
            )
            for layer in range(num_layers)
        ]
        self.blocks = cast("list[Block]", nn.ModuleList(blocks))
        endless = encoding is None and all(block.mixer.is_recurrent for block in blocks)
        self.context_length = None if endless else context_length
        self.norm = build_norm() if norm_placement == "pre" else nn.Identity()
        self.readout = Linear(embed_dim, vocab_size, bias=readout_bias)
        if initialization is not None:
            initialization(self)
        if tied_embeddings:
            self.readout.weight = self.embedding.weight

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        x = self._embed(tokens, tokens, start=0)  # (B, T, D)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))

    def predict_next(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        x = self._embed(tokens, tokens, start=0)  # (B, T, D)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.readout(self.norm(last.last_position(x)))[:, -1]

    def init_state(self, batch_size: int) -> BackboneState:
        layers = [block.mixer.init_state(batch_size) for block in self.blocks]
        nothing = self.embedding.weight.new_empty((batch_size, 0), dtype=torch.long)
        return BackboneState(0, layers, nothing)

    def extend(self, tokens: Int[Tensor, "B n"], state: BackboneState) -> tuple[Float[Tensor, "B n V"], BackboneState]:
        x, state = self._extend_blocks(tokens, state)
        return self.readout(self.norm(x)), state

    def read_prompt(
        self, tokens: Int[Tensor, "B n"], state: BackboneState
    ) -> tuple[Float[Tensor, "B V"], BackboneState]:
        x, state = self._extend_blocks(tokens, state)
        return self.readout(self.norm(x[:, -1:]))[:, -1], state

    def output_projections(self) -> list[nn.Linear]:
        """Return the linear maps that write to the residual stream."""
        parts: list[Any] = [part for block in self.blocks for part in (block.mixer, block.feed_forward)]
        return [part.output_projection() for part in parts if isinstance(part, WritesToResidual)]

    def _extend_blocks(
        self, tokens: Int[Tensor, "B n"], state: BackboneState
    ) -> tuple[Float[Tensor, "B n D"], BackboneState]:
        read = torch.cat((state.recent, tokens), dim=1)
        x = self._embed(tokens, read, start=state.length)  # (B, n, D)
        layers = []
        for block, layer_state in zip(self.blocks, state.layers, strict=True):
            x, layer_state = block.extend(x, layer_state)
            layers.append(layer_state)
        reach = self.ngrams.reach if self.ngrams is not None else 0
        recent = read[:, max(0, read.shape[1] - reach) :]
        return x, BackboneState(state.length + tokens.shape[1], layers, recent)

    def _embed(self, tokens: Int[Tensor, "B n"], read: Int[Tensor, "B K+n"], start: int) -> Float[Tensor, "B n D"]:
        """Embed the last n of the characters read; the K before them matter for n-grams only."""
        self.check_length(start + tokens.shape[1])
        x = self.embedding(tokens)
        if self.ngrams is not None:
            x = x + self.ngrams(read)[:, -tokens.shape[1] :]
        return self.dropout(x if self.position is None else self.position(x, start))


def _build_mixer(mixer: Part, embed_dim: int, context_length: int, position: ScorePosition | None) -> Mixer:
    if position is not None and _has_scores(mixer):
        return cast(Mixer, mixer(embed_dim, context_length, position))
    return cast(Mixer, mixer(embed_dim, context_length))


def _has_scores(mixer: Part) -> bool:
    """Return whether a mixer that is not built yet has scores for a position encoding to act on."""
    return bool(getattr(_constructor(mixer), "has_scores", False))


def _constructor(part: Part) -> Any:
    """Return the class or function behind a configuration's partial."""
    return getattr(part, "func", part)
