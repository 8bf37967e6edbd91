"""N-gram models: counts of what followed the last n − 1, n − 2, … 0 characters in the training text, interpolated."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel, checked_ids
from charlab.models.ngram_running_counts import CONTINUED
from charlab.models.smoothing import Counts
from charlab.types import PositiveInt, checked

UNSEEN = -1  # any n-gram that does not occur in the training text
ROOT = 0  # the empty n-gram
PIECE = 1 << 22  # characters counted at a time

Smoothing = Callable[[Counts], tuple[Float[Tensor, " M"], Float[Tensor, " C"]]]


class NGram(AutoregressiveModel):
    """An interpolated n-gram model; with order n, a prediction looks at n − 1 characters.

    With c a context and c⁻ the same context without its oldest character,

        p(w | c) = mass(cw) + backoff(c) · p(w | c⁻),    p(w | empty⁻) = 1 / V,

    where an n-gram missing from the training text has mass 0 and, as a context, backoff 1. So the first characters of a
    sequence are predicted from the few before them, and a model that was never fitted is the uniform distribution.
    `fit` counts; the smoothing turns counts into masses and backoffs.

    The n-grams of all lengths are the nodes of a tree; a node's children are its continuations by one character. Nodes
    are numbered breadth-first, in the order of (parent, character), so that the codes parent · V + character are
    sorted and fit int64 at any order, and one binary search leads from an n-gram to its continuation. All positions
    of all sequences are looked up together, one length at a time. With a = 0, b = 1 and V = 2, the text "abab" and
    order 2 give

        node    0 (the empty one)   1 "a"       2 "b"       3 "ab"      4 "ba"
        code    −1                  0·2+0 = 0   0·2+1 = 1   1·2+1 = 3   2·2+0 = 4

    Args:
        vocab_size: number of distinct characters V.
        order: length n of the longest n-grams.
        smoothing: a function such as `charlab.models.smoothing.kneser_ney`.
    """

    context_length = None  # one pass is exact, at the same cost for each character

    codes: Tensor  # (M,) parent · V + last character of each node; −1 for the root
    occurrences: Tensor  # (M,) how often each n-gram occurs in the training text; 0 for the root
    mass: Tensor  # (M,)
    backoff: Tensor  # (M,)

    @checked
    def __init__(self, vocab_size: int, *, order: PositiveInt, smoothing: Smoothing) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.order = order
        self.smoothing = smoothing
        self.register_buffer("codes", torch.tensor([-1]))
        self.register_buffer("occurrences", torch.tensor([0]))
        self.register_buffer("mass", torch.zeros(1))
        self.register_buffer("backoff", torch.ones(1))
        self.register_load_state_dict_pre_hook(_resize_tables)

    def fit(self, train_ids: Int[Tensor, " N"]) -> None:
        """Count the n-grams of a text, discarding earlier counts. Computes in float64 on the CPU.

        Args:
            train_ids: (N,) character ids, of any integer type, on any device.

        Raises:
            UserError: if the text is empty or has an id outside 0 … V − 1.
        """
        ids = checked_ids(train_ids, self.vocab_size)
        tables, occurrences = [torch.tensor([-1])], [torch.tensor([0])]
        mass, backoff = [torch.zeros(1, dtype=torch.float64)], []
        for codes, counts in _count(ids, self.order, self.vocab_size):
            masses, backoffs = self.smoothing(counts)
            tables.append(codes)
            occurrences.append(counts.occurrences)
            mass.append(masses)
            backoff.append(backoffs)  # of the nodes one level up
        backoff.append(torch.ones(len(tables[-1]), dtype=torch.float64))  # the longest n-grams are not contexts
        self.codes = torch.cat(tables).to(self.codes)
        self.occurrences = torch.cat(occurrences).to(self.occurrences)
        self.mass = torch.cat(mass).to(self.mass)
        self.backoff = torch.cat(backoff).to(self.backoff)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return log-probabilities."""
        return self._distribution(self._contexts(tokens)).log()

    def predict_next(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        return self._distribution([context[:, -1:] for context in self._contexts(tokens)])[:, 0].log()

    def nll(
        self,
        window: Int[Tensor, "B T+1"],
        *,
        scored_from: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T"]:
        # The same recursion for the actual character alone, without a distribution over V.
        probability = torch.full_like(window, 1 / self.vocab_size, dtype=self.mass.dtype)  # (B, T+1)
        for context, node in self._walk(window.long(), self.order):
            probability = self._backoff_of(context) * probability + self._mass_of(node)
        return F.pad(-probability[:, scored_from:].log(), (scored_from - 1, 0))

    def nll_while_counting(self, text: Int[Tensor, " N"]) -> Float[Tensor, " N-1"]:
        """Return the nll of each character of a text but the first, counting each once it is scored.

        A character's probability is that of a model fitted to the training text and to all earlier characters of this
        one; n-grams across the boundary are not counted. The model itself does not change. Computes in float64 on the
        CPU, about 50,000 characters per second, and returns the result there.

        Args:
            text: (N,) character ids, of any integer type, on any device.

        Raises:
            UserError: if the text is empty or has an id outside 0 … V − 1, or the smoothing is not one of charlab's.
        """
        smoothing = getattr(self.smoothing, "func", self.smoothing)  # a configuration passes a partial
        if smoothing not in CONTINUED:
            known = " and ".join(f"{known.__module__}.{known.__name__}" for known in CONTINUED)
            raise UserError(
                f"protocol=online cannot count on with model.smoothing={smoothing.__module__}.{smoothing.__name__}: it "
                f"supports {known}."
            )
        codes, occurrences = self.codes[1:].tolist(), self.occurrences[1:].tolist()
        counts = CONTINUED[smoothing](codes, occurrences, order=self.order, vocab_size=self.vocab_size)
        first, *rest = checked_ids(text, self.vocab_size).tolist()
        counts.read(first)
        probabilities = []
        for character in rest:
            probabilities.append(counts.probability(character))
            counts.read(character)
        return -torch.tensor(probabilities, dtype=torch.float64).log()

    def init_state(self, batch_size: int) -> Int[Tensor, "B 0"]:
        """Return the initial state, without characters; later states are the last n − 2 that were read."""
        return torch.empty(batch_size, 0, dtype=torch.long, device=self.codes.device)

    def extend(
        self, tokens: Int[Tensor, "B n"], state: Int[Tensor, "B m"]
    ) -> tuple[Float[Tensor, "B n V"], Int[Tensor, "B m"]]:
        read = torch.cat([state, tokens.long()], dim=1)
        return self(read)[:, state.shape[1] :], self._recent(read)

    def read_prompt(
        self, tokens: Int[Tensor, "B n"], state: Int[Tensor, "B m"]
    ) -> tuple[Float[Tensor, "B V"], Int[Tensor, "B m"]]:
        read = torch.cat([state, tokens.long()], dim=1)
        return self.predict_next(read[:, -max(1, self.order - 1) :]), self._recent(read)

    def _recent(self, read: Int[Tensor, "B n"]) -> Int[Tensor, "B m"]:
        return read[:, max(0, read.shape[1] - self.order + 2) :]  # the next character completes the context

    def _contexts(self, tokens: Int[Tensor, "B T"]) -> list[Int[Tensor, "B T"]]:
        """Return the nodes of the n-grams of 0 … order − 1 characters that end at each position."""
        root = torch.full_like(tokens, ROOT, dtype=torch.long)
        return [root, *(node for _, node in self._walk(tokens.long(), self.order - 1))]

    def _walk(self, tokens: Int[Tensor, "B T"], longest: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the contexts and nodes, both (B, T), of the n-grams of lengths 1 … `longest` that end at each position.

        A context is the node of the n-gram without its last character, which ends one position earlier.
        """
        context = torch.full_like(tokens, ROOT)
        for _ in range(longest):
            code = (context * self.vocab_size + tokens).contiguous()  # (B, T)
            place = torch.searchsorted(self.codes, code).clamp(max=len(self.codes) - 1)
            node = torch.where((self.codes[place] == code) & (context != UNSEEN), place, UNSEEN)
            yield context, node
            context = F.pad(node[:, :-1], (1, 0), value=UNSEEN)

    def _mass_of(self, node: Tensor) -> Tensor:
        return torch.where(node == UNSEEN, 0.0, self.mass[node])

    def _backoff_of(self, node: Tensor) -> Tensor:
        return torch.where(node == UNSEEN, 1.0, self.backoff[node])

    def _distribution(self, contexts: list[Int[Tensor, "B T"]]) -> Float[Tensor, "B T V"]:
        """Return the interpolated distribution, from each position's contexts, shortest first."""
        shape, vocab_size = contexts[0].shape, self.vocab_size
        probabilities = self.mass.new_full((contexts[0].numel(), vocab_size), 1 / vocab_size)  # (B·T, V)
        for nodes in contexts:
            context = nodes.flatten()  # (B·T,)
            probabilities *= self._backoff_of(context)[:, None]
            first = torch.searchsorted(self.codes, context * vocab_size)  # a context's continuations are adjacent
            number = torch.searchsorted(self.codes, (context + 1) * vocab_size) - first
            number = torch.where(context == UNSEEN, 0, number)  # (B·T,)
            row = torch.repeat_interleave(number)  # (total number of continuations,)
            skipped = (number.cumsum(0) - number)[row]
            node = first[row] + torch.arange(len(row), device=row.device) - skipped
            character = self.codes[node] - context[row] * vocab_size
            probabilities.view(-1).index_add_(0, row * vocab_size + character, self.mass[node])
        return probabilities.view(*shape, vocab_size)


def _resize_tables(model: NGram, state_dict: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Resize a model's tables to the saved ones, since a fitted model's are larger than a new one's."""
    for name, buffer in model.named_buffers(recurse=False):
        if prefix + name in state_dict:
            setattr(model, name, buffer.new_zeros(state_dict[prefix + name].shape))


def _count(ids: Int[Tensor, " N"], order: int, vocab_size: int) -> list[tuple[Int[Tensor, " M"], Counts]]:
    """Return the sorted codes, parent · V + last character, and the counts of the n-grams of lengths 1 … `order`.

    The text is counted in pieces. Only `context` grows with N, by 4 bytes per character, and is in a temporary file if
    the text is long; everything else grows with the number of distinct n-grams.
    """
    levels: list[tuple[Tensor, Counts]] = []
    context = _integers(len(ids))  # for each position: the n-gram before it, as an index among those of its length
    suffix = torch.empty(0, dtype=torch.long)  # for each of those n-grams: the node without its oldest character
    first_context, num_contexts = ROOT, 1
    for length in range(1, order + 1):
        pieces = [slice(start, start + PIECE) for start in range(length - 1, len(ids), PIECE)]
        codes = occurrences = torch.empty(0, dtype=torch.long)
        found: list[Tensor] = []
        for piece in pieces:
            code = (context[piece].long() + first_context) * vocab_size + ids[piece]
            distinct, index, number = torch.unique(code, return_inverse=True, return_counts=True)
            context[piece] = index.to(context.dtype)
            codes, occurrences = _added(codes, occurrences, distinct, number)
            found.append(distinct)
        # The n-gram that ends at a position is the next position's context, so a piece writes one beyond its end. The
        # last piece comes first, so that no context is overwritten before it is read.
        for piece, distinct in zip(reversed(pieces), reversed(found), strict=True):
            ending = torch.searchsorted(codes, distinct)[context[piece].long()].to(context.dtype)
            context[piece.start + 1 : piece.stop + 1] = ending[: len(ids) - piece.start - 1]
        parent = codes.div(vocab_size, rounding_mode="floor") - first_context
        if levels:  # each distinct n-gram adds a predecessor to the one without its oldest character
            shorter_codes, shorter = levels[-1]
            place = torch.searchsorted(shorter_codes, suffix[parent] * vocab_size + codes % vocab_size)
            predecessors = torch.bincount(place, minlength=len(shorter_codes))
            levels[-1] = shorter_codes, shorter._replace(predecessors=predecessors)
            suffix = place + first_context
        else:
            suffix = torch.full_like(codes, ROOT)
        levels.append((codes, Counts(occurrences, None, parent, num_contexts)))
        first_context, num_contexts = first_context + num_contexts, len(codes)
    return levels


def _added(codes: Tensor, occurrences: Tensor, more: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Return sorted codes and how often each occurs, after adding `number` occurrences of the codes `more`."""
    if not len(codes):
        return more, number
    codes, place = torch.unique(torch.cat([codes, more]), return_inverse=True)
    return codes, torch.zeros_like(codes).index_add_(0, place, torch.cat([occurrences, number]))


def _integers(length: int) -> Int[Tensor, " N"]:
    """Return int32 zeros: in memory or, if there are many, in a temporary file."""
    if length <= PIECE:
        return torch.zeros(length, dtype=torch.int32)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.int32, mode="w+", shape=length))
