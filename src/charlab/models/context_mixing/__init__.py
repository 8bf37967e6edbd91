"""Context mixing: counts in many contexts, weighted by a recurrent network that learns which to trust when.

The method of the strongest text compressors (PAQ and its successors: Mahoney 2005, "Adaptive weighing of context models
for lossless data compression"; Mattern 2012, "Mixing strategies in data compression"; Knoll and de Freitas 2012, "A
machine learning perspective on predictive coding with PAQ8"). Here, the mixing network is trained in advance, on the
training text, and also reads the characters themselves.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.context_mixing.bit_counts import HuffmanCode
from charlab.models.context_mixing.contexts import CONTEXTS, Alphabet
from charlab.models.context_mixing.counters import Counters, TrainingCounts
from charlab.models.context_mixing.mixing_network import MixingNetwork
from charlab.models.contract import AutoregressiveModel, State, checked_ids
from charlab.types import NonNegativeInt, PositiveFloat, PositiveInt, Probability, checked

WINDOW, ROWS = 128, 16  # characters in a window, and windows in a training step
FIRST = 0.03  # the network is not trained on this first share of the training text, where counts are still small
LONG = 1000  # characters that the recurrent network reads to warm up its state
CHUNK = 256  # positions whose whole distributions are computed at once


class ContextMixing(AutoregressiveModel):
    """p(character) = Π σ(± zₙ) over the binary decisions n of its Huffman code, with zₙ = Σᵢ wᵢₙ xᵢₙ + own logit.

    Each input xᵢ is the log-odds that a counter predicts. Each context has two: one from earlier decisions in the same
    context, and one from what followed equal histories in other contexts. A match finds the longest of its contexts
    that has occurred before and predicts the character that followed, with a confidence learned from how often matches
    of that length were right. The network, an LSTM over the characters and two layers per decision, sees the inputs and
    returns their weights wᵢ (gated mixing: Veness et al. 2017, arXiv 1712.01897) and a prediction of its own.

    `fit` reads the training text once to count. A counter predicts each decision before counting it, so its predictions
    are no better on the training text than on new text, and the network can learn the weights there, in several passes.

    `forward` and `nll` use the counts of `fit` unchanged. `nll_while_counting`, for the protocol `online`, counts every
    character once it is scored, and keeps training the network (dynamic evaluation, Krause et al. 2017, arXiv
    1709.07432).

    Args:
        vocab_size: number of distinct characters V.
        contexts: names in `charlab.models.context_mixing.contexts.CONTEXTS`.
        matches: for each match, the contexts in which to look for it, from the shortest to the longest.
        embed_dim: size of the characters' embeddings.
        hidden_dim: size of the recurrent state.
        mixing_dim: size of the layers that compute the weights.
        dropout: probability of zeroing a component of the recurrent network's output in training.
        passes: number of passes over the training text to learn the weights.
        learning_rate: peak learning rate of Adam in `fit`, which decays to 0.
        online_learning_rate: learning rate of Adam, without momentum, in `nll_while_counting`.
        online_block: number of characters per optimizer step in `nll_while_counting`.

    Raises:
        UserError: if `contexts` or `matches` name an unknown context, or none at all.
    """

    context_length = None

    text: Tensor  # (N,) the training text
    folded: Tensor  # (V,), like the next two: see `Alphabet`
    in_word: Tensor
    ends_line: Tensor

    @checked
    def __init__(
        self,
        vocab_size: int,
        *,
        contexts: list[str],
        matches: list[list[str]],
        embed_dim: PositiveInt,
        hidden_dim: PositiveInt,
        mixing_dim: PositiveInt,
        dropout: Probability,
        passes: NonNegativeInt,
        learning_rate: PositiveFloat,
        online_learning_rate: PositiveFloat,
        online_block: PositiveInt,
    ) -> None:
        super().__init__()
        for name in [*contexts, *(name for names in matches for name in names)]:
            if name not in CONTEXTS:
                raise UserError(f"There is no context {name!r}: choose from {', '.join(CONTEXTS)}.")
        if not (contexts or matches) or not all(matches):
            raise UserError("There is nothing to mix: name a context in `contexts`, or one in each of `matches`.")
        self.vocab_size = vocab_size
        self.contexts, self.matches = list(contexts), [list(names) for names in matches]
        self.passes, self.learning_rate = passes, learning_rate
        self.online_learning_rate, self.online_block = online_learning_rate, online_block
        self.network = MixingNetwork(
            vocab_size, 2 * len(contexts) + len(matches), embed_dim, hidden_dim, mixing_dim, dropout
        ).requires_grad_(False)  # `fit` trains it, not the run's optimizer
        self.register_buffer("text", torch.empty(0, dtype=torch.long))
        self.register_buffer("folded", torch.arange(vocab_size))
        self.register_buffer("in_word", torch.ones(vocab_size, dtype=torch.bool))
        self.register_buffer("ends_line", torch.zeros(vocab_size, dtype=torch.bool))
        self.register_load_state_dict_pre_hook(_resize_text)
        self._training_counts: TrainingCounts | None = None

    def know_tokens(self, pieces: list[bytes]) -> None:
        """Set which tokens are letters, line breaks and capitals, given their bytes."""
        alphabet = Alphabet.of(pieces)
        for name in ("folded", "in_word", "ends_line"):
            setattr(self, name, torch.from_numpy(getattr(alphabet, name)).to(self.folded.device))

    @property
    def alphabet(self) -> Alphabet:
        """The properties of the tokens that contexts depend on."""
        return Alphabet(*(buffer.cpu().numpy() for buffer in (self.folded, self.in_word, self.ends_line)))

    @property
    def counters(self) -> Counters:
        """The counters, with a Huffman code from the frequencies of characters in the training text."""
        code = HuffmanCode(1 + np.bincount(self._ids(), minlength=self.vocab_size))
        return Counters(self.contexts, self.matches, code, self.alphabet)

    def fit(self, train_ids: Int[Tensor, " N"]) -> None:
        """Count a text, and train the network to weight the counters' predictions of it.

        Raises:
            UserError: if the text is empty or has an id outside 0 … V − 1.
        """
        self.text = checked_ids(train_ids, self.vocab_size).long().to(self.text.device)
        self._training_counts = None
        ids = self._ids()
        decisions = self.counters.along(ids)
        length = min(WINDOW, max(1, len(ids) // 2))
        earliest = min(int(FIRST * len(ids)), len(ids) - length)
        steps = math.ceil(self.passes * len(ids) / (ROWS * length))
        generator = torch.Generator().manual_seed(0)
        with torch.enable_grad(), _learning(self.network) as network:
            optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, betas=(0.9, 0.99))
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: min((step + 1) / 50, 1.25 * (1 - step / max(1, steps)), 1.0)
            )
            for _ in range(steps):
                starts = torch.randint(earliest, len(ids) - length + 1, (ROWS,), generator=generator).tolist()
                hidden, _ = network.read(torch.stack([self._before(ids, start, start + length) for start in starts]))
                rows = [decisions.between(start, start + length) for start in starts]
                loss = torch.stack([network.nll(*row).mean() for row in zip(hidden, rows, strict=True)]).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()

    def nll_while_counting(self, text: Int[Tensor, " N"]) -> Float[Tensor, " N-1"]:
        """Return the nll of each character of a text but the first, learning from each once it is scored.

        The text is read as if it continued the training text. Each character is counted before the next is predicted;
        the network learns from `online_block` characters at a time. The model itself does not change. The result, in
        float64, is on the CPU.

        Args:
            text: (N,) character ids, of any integer type, on any device.

        Raises:
            UserError: if the text is empty or has an id outside 0 … V − 1.
        """
        first = len(self.text)
        ids = np.concatenate([self._ids(), checked_ids(text, self.vocab_size).long().numpy()])
        decisions = self.counters.along(ids, first + 1)
        network = copy.deepcopy(self.network)
        network.dropout.p = 0.0
        scored = [torch.empty(0, dtype=torch.float64)]
        with torch.enable_grad(), _learning(network):
            optimizer = torch.optim.Adam(network.parameters(), self.online_learning_rate, betas=(0.0, 0.999))
            with torch.no_grad():
                _, state = network.read(self._before(ids, max(0, first - LONG), first + 1)[None])
            for start in range(first + 1, len(ids), self.online_block):
                stop = min(start + self.online_block, len(ids))
                before = self._before(ids, start, stop)[None]
                hidden, _ = network.read(before, state)
                nll = network.nll(hidden[0], decisions.between(start, stop))
                scored.append(nll.detach().cpu().double())
                optimizer.zero_grad()
                nll.mean().backward()
                optimizer.step()
                with torch.no_grad():  # read again, with the new weights
                    _, state = network.read(before, state)
        return torch.cat(scored)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return log-probabilities."""
        return self.extend(tokens, self.init_state(len(tokens)))[0]

    def nll(
        self,
        window: Int[Tensor, "B T+1"],
        *,
        scored_from: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T"]:
        # Compute only the decisions that lead to the actual characters, not the whole distributions.
        hidden, _ = self.network.read(window[:, :-1].long())  # (B, T, H)
        rows, counts = [], self._counts()
        code = counts.counters.code
        for row, own in zip(window.cpu().numpy(), hidden, strict=True):
            position, node = code.decisions(row[scored_from:])
            decisions = counts.predict(row, position + scored_from, node)._replace(
                position=position, bit=code.bits[row[scored_from:][position], node]
            )
            rows.append(self.network.nll(own[scored_from - 1 :], decisions))
        return F.pad(torch.stack(rows), (scored_from - 1, 0))

    def init_state(self, batch_size: int) -> State:
        """Return the initial state: no characters read, and None for the initial state of the recurrent network."""
        return torch.empty(batch_size, 0, dtype=torch.long, device=self.text.device), None

    def extend(self, tokens: Int[Tensor, "B n"], state: State) -> tuple[Float[Tensor, "B n V"], State]:
        hidden, recurrent = self.network.read(tokens.long(), state[1])  # (B, n, H)
        read = torch.cat([state[0], tokens.long()], dim=1)
        first = state[0].shape[1] + 1
        rows = [
            torch.cat(
                [
                    self._distributions(row, own[start : start + CHUNK], first + start)
                    for start in range(0, len(own), CHUNK)
                ]
            )
            for row, own in zip(read.cpu().numpy(), hidden, strict=True)
        ]
        return torch.stack(rows), (read, recurrent)

    def _distributions(
        self, row: Int[np.ndarray, " N"], hidden: Float[Tensor, "P H"], first: int
    ) -> Float[Tensor, "P V"]:
        """Return the log-probabilities of the characters at the positions `first`, `first` + 1, … of a text."""
        num_nodes = self.vocab_size - 1
        position = np.repeat(np.arange(len(hidden)), num_nodes)
        node = np.tile(np.arange(num_nodes), len(hidden))
        counts = self._counts()
        decisions = counts.predict(row, position + first, node)._replace(position=position)
        odds = self.network(hidden, decisions).view(len(hidden), num_nodes)
        bits = torch.from_numpy(counts.counters.code.bits.T).to(odds)  # (V − 1, V)
        return F.logsigmoid(odds) @ (bits == 1).to(odds) + F.logsigmoid(-odds) @ (bits == 0).to(odds)

    def _counts(self) -> TrainingCounts:
        if self._training_counts is None:
            self._training_counts = TrainingCounts(self.counters, self._ids())
        return self._training_counts

    def _ids(self) -> Int[np.ndarray, " N"]:
        return self.text.cpu().numpy()

    def _before(self, ids: Int[np.ndarray, " N"], start: int, stop: int) -> Int[Tensor, " n"]:
        """Return the character before each position in start … stop − 1."""
        before = np.append(self.vocab_size, ids)[start:stop]
        return torch.from_numpy(before).to(self.text.device)


@contextmanager
def _learning(network: MixingNetwork) -> Iterator[MixingNetwork]:
    """Make a network trainable while the block runs."""
    was_training = network.training
    network.requires_grad_(True).train()
    try:
        yield network
    finally:
        network.requires_grad_(False).train(was_training)
        network.zero_grad(set_to_none=True)


def _resize_text(model: ContextMixing, state_dict: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Resize the text to that of the saved state, and discard the counts of the former text."""
    if prefix + "text" in state_dict:
        model.text = model.text.new_zeros(len(state_dict[prefix + "text"]))
        model._training_counts = None
