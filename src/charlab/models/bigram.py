"""The two smallest language models: the next character depends on the current one alone."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel
from charlab.models.linear import Linear
from charlab.types import PositiveInt, checked

LARGEST_TABLE = 2**30


class Bigram(AutoregressiveModel):
    """A table of logits: row = current character, column = next character.

    The table starts from N(0, 1), so the untrained loss is well above ln V. The optimum is the logarithms of the
    training text's bigram frequencies, up to a constant per row.

    Args:
        vocab_size: number of distinct characters V; the model has V² parameters.

    Raises:
        UserError: if V² exceeds 2³⁰.
    """

    context_length = None

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        if vocab_size**2 > LARGEST_TABLE:
            raise UserError(
                f"model=bigram has a table of {vocab_size:,}² = {vocab_size**2:,} numbers, {vocab_size**2 / 2**28:.1f} "
                "GiB and four times that in training: choose model=bigram_embedding, data/tokenizer=bytes, or a text "
                "of fewer different characters."
            )
        self.vocab_size = vocab_size
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        return self.table(tokens)

    def init_state(self, batch_size: int) -> None:
        """Return None: a prediction needs nothing but the current character."""

    def extend(self, tokens: Int[Tensor, "B n"], state: None) -> tuple[Float[Tensor, "B n V"], None]:
        return self(tokens), None

    def read_prompt(self, tokens: Int[Tensor, "B n"], state: None) -> tuple[Float[Tensor, "B V"], None]:
        return self(tokens[:, -1]), None


class BigramEmbedding(AutoregressiveModel):
    """A bigram whose table has rank at most E + 1: embedding V → E, then a linear readout E → V.

    Args:
        vocab_size: number of distinct characters V.
        embed_dim: size E of the embedding; the model has V·E + E·V + V parameters.
    """

    context_length = None

    @checked
    def __init__(self, vocab_size: int, *, embed_dim: PositiveInt) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.readout = Linear(embed_dim, vocab_size)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        return self.readout(self.embedding(tokens))

    def init_state(self, batch_size: int) -> None:
        """Return None: a prediction needs nothing but the current character."""

    def extend(self, tokens: Int[Tensor, "B n"], state: None) -> tuple[Float[Tensor, "B n V"], None]:
        return self(tokens), None

    def read_prompt(self, tokens: Int[Tensor, "B n"], state: None) -> tuple[Float[Tensor, "B V"], None]:
        return self(tokens[:, -1]), None
