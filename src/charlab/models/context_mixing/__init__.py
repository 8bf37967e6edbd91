"""Context mixing: counts in many contexts and a recurrent model, weighted by a network that learns which to trust when.

The method of the strongest text compressors (PAQ and its successors: Mahoney 2005, "Adaptive weighing of context models
for lossless data compression"; Mattern 2012, "Mixing strategies in data compression"; Knoll and de Freitas 2012, "A
machine learning perspective on predictive coding with PAQ8"). Here, the mixing network is trained in advance, on the
training text, and a recurrent language model is mixed with the counters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
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
from charlab.models.context_mixing.decision_mixer import DecisionMixer, Decisions
from charlab.models.contract import AutoregressiveModel, State, checked_ids
from charlab.models.precision import full_precision
from charlab.models.rnn import RecurrentModel
from charlab.types import NonNegativeFloat, PositiveFloat, PositiveInt, checked

READING = (256, 64)  # characters in a window, and windows in a step, to train the recurrent model
MIXING = (128, 16)  # the same, to train the mixer
FIRST = 0.03  # the mixer is not trained on this first share of the training text, where counts are still small
LONG = 4000  # characters that the recurrent model reads to warm up its state
CHUNK = 256  # positions whose whole distributions are computed at once


class ContextMixing(AutoregressiveModel):
    """p(character) = Π σ(± zₙ) over the binary decisions n of its Huffman code, with zₙ = Σᵢ wᵢₙ xᵢₙ.

    Each input xᵢ is the log-odds under a counter or under the recurrent model. Each context has two counters: one of
    earlier decisions in the same context, and one of what followed equal histories in other contexts. A match finds the
    longest of its contexts that has occurred before and predicts the character that followed, with a confidence learned
    from how often matches of that length were right. The mixer, two layers per decision, sees the inputs and returns
    their weights wᵢ.

    `fit` trains the recurrent model on the training text, and reads it once to count. A counter predicts each decision
    before counting it, so its predictions are no better on the training text than on new text, and the mixer can learn
    the weights there. The recurrent model has seen that text, so it keeps its dropout while the mixer learns, and the
    mixer does not trust it too much.

    `forward` and `nll` use the counts of `fit` unchanged. `nll_while_counting`, for the protocol `online`, counts every
    character once it is scored, and keeps training the recurrent model and the mixer (dynamic evaluation, Krause et al.
    2017, arXiv 1709.07432).

    Args:
        vocab_size: number of distinct characters V.
        contexts: names in `charlab.models.context_mixing.contexts.CONTEXTS`.
        matches: for each match, the contexts in which to look for it, from the shortest to the longest.
        reader: builds the recurrent model, called with the vocabulary's size.
        reader_optimizer: function from a model to an optimizer, to train the recurrent model.
        reader_passes: number of passes over the training text to train it.
        mixing_dim: size of the layers that compute the weights.
        mixing_passes: number of passes over the training text to train the mixer.
        mixing_learning_rate: peak learning rate of the mixer, trained by AdamW.
        online_learning_rate: learning rate of Adam, without momentum, in `nll_while_counting`.
        online_block: number of characters per optimizer step in `nll_while_counting`.

    Raises:
        UserError: if `contexts` or `matches` name an unknown context, or none at all, or the reader is not recurrent.
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
        reader: Callable[[int], RecurrentModel],
        reader_optimizer: Callable[[RecurrentModel], torch.optim.Optimizer],
        reader_passes: NonNegativeFloat,
        mixing_dim: PositiveInt,
        mixing_passes: NonNegativeFloat,
        mixing_learning_rate: PositiveFloat,
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
        self.reader_optimizer, self.reader_passes = reader_optimizer, reader_passes
        self.mixing_passes, self.mixing_learning_rate = mixing_passes, mixing_learning_rate
        self.online_learning_rate, self.online_block = online_learning_rate, online_block
        self.reader = reader(vocab_size)
        if not isinstance(self.reader, RecurrentModel):
            raise UserError(
                f"Context mixing reads with a recurrent model, which {type(self.reader).__name__} is not: "
                "choose model@model.reader=lstm, gru or rnn."
            )
        self.mixer = DecisionMixer(vocab_size, 2 * len(contexts) + len(matches), mixing_dim)
        self.requires_grad_(False)  # `fit` trains it, not the run's optimizer
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
        """Train the recurrent model on a text, count it, and train the mixer to weight their predictions of it.

        Raises:
            UserError: if the text is empty or has an id outside 0 … V − 1.
        """
        self.text = checked_ids(train_ids, self.vocab_size).long().to(self.text.device)
        self._training_counts = None
        with torch.enable_grad():
            self._train_reader()
            self._train_mixer()

    def _train_reader(self) -> None:
        length, rows = min(READING[0], len(self.text) - 1), READING[1]

        def loss(generator: torch.Generator) -> Float[Tensor, ""]:
            starts = torch.randint(len(self.text) - length, (rows,), generator=generator).tolist()
            return self.reader.loss(torch.stack([self.text[start : start + length + 1] for start in starts]))

        with _learning(self.reader):
            steps = math.ceil(self.reader_passes * len(self.text) / (rows * length)) if length else 0
            _minimize(loss, self.reader_optimizer(self.reader), steps, warmup=0.0, decay=0.6)

    def _train_mixer(self) -> None:
        self._training_counts, decisions = TrainingCounts.of(self.counters, self._ids())
        bits = self.counters.code.bits
        length, rows = min(MIXING[0], len(self.text) // 2), MIXING[1]
        earliest = max(1, min(int(FIRST * len(self.text)), len(self.text) - length))

        def loss(generator: torch.Generator) -> Float[Tensor, ""]:
            starts = torch.randint(earliest, len(self.text) - length + 1, (rows,), generator=generator).tolist()
            with torch.no_grad():
                logits = self.reader(torch.stack([self.text[start - 1 : start + length - 1] for start in starts]))
            joined = Decisions.joined([decisions.between(start, start + length) for start in starts], length)
            return self.mixer.nll(logits.flatten(0, 1), joined, bits).mean()

        with _learning(self.reader), _learning(self.mixer):  # the reader, too, for its dropout
            optimizer = torch.optim.AdamW(self.mixer.parameters(), self.mixing_learning_rate, betas=(0.9, 0.99))
            steps = math.ceil(self.mixing_passes * len(self.text) / (rows * length)) if length else 0
            _minimize(loss, optimizer, steps, warmup=0.07, decay=0.8)

    def nll_while_counting(self, text: Int[Tensor, " N"]) -> Float[Tensor, " N-1"]:
        """Return the nll of each character of a text but the first, learning from each once it is scored.

        The text is read as if it continued the training text. Each character is counted before the next is predicted;
        the recurrent model and the mixer learn from `online_block` characters at a time. The model itself does not
        change. The result, in float64, is on the CPU.

        Args:
            text: (N,) character ids, of any integer type, on any device.

        Raises:
            UserError: if the text is empty or has an id outside 0 … V − 1.
        """
        first, ids = len(self.text), torch.cat([self.text, checked_ids(text, self.vocab_size).to(self.text)])
        decisions, bits = self.counters.along(ids.cpu().numpy(), first + 1), self.counters.code.bits
        reader, mixer = copy.deepcopy(self.reader), copy.deepcopy(self.mixer)
        reader.dropout.p = reader.recurrence.dropout = 0.0
        scored = [torch.empty(0, dtype=torch.float64)]
        with torch.enable_grad(), _learning(reader), _learning(mixer):
            parameters = [*reader.parameters(), *mixer.parameters()]
            optimizer = torch.optim.Adam(parameters, self.online_learning_rate, betas=(0.0, 0.999))
            state = reader.init_state(1)
            with torch.no_grad():
                if first:
                    _, state = reader.extend(ids[None, max(0, first - LONG) : first], state)
            for start in range(first + 1, len(ids), self.online_block):
                stop = min(start + self.online_block, len(ids))
                before = ids[None, start - 1 : stop - 1]
                logits, _ = reader.extend(before, state)
                nll = mixer.nll(logits[0], decisions.between(start, stop), bits)
                scored.append(nll.detach().cpu().double())
                optimizer.zero_grad()
                nll.mean().backward()
                optimizer.step()
                with torch.no_grad():  # read again, with the new weights
                    _, state = reader.extend(before, state)
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
        logits = self.reader(window[:, :-1].long())  # (B, T, V)
        rows, counts = [], self._counts()
        code = counts.counters.code
        for row, own in zip(window.cpu().numpy(), logits, strict=True):
            position, node = code.decisions(row[scored_from:])
            decisions = counts.predict(row, position + scored_from, node)._replace(
                position=position, bit=code.bits[row[scored_from:][position], node]
            )
            rows.append(self.mixer.nll(own[scored_from - 1 :], decisions, code.bits))
        return F.pad(torch.stack(rows), (scored_from - 1, 0))

    def init_state(self, batch_size: int) -> State:
        """Return the initial state: no characters read, and the recurrent model's initial state."""
        read = torch.empty(batch_size, 0, dtype=torch.long, device=self.text.device)
        return read, self.reader.init_state(batch_size)

    def extend(self, tokens: Int[Tensor, "B n"], state: State) -> tuple[Float[Tensor, "B n V"], State]:
        logits, recurrent = self.reader.extend(tokens.long(), state[1])  # (B, n, V)
        read = torch.cat([state[0], tokens.long()], dim=1)
        first = state[0].shape[1] + 1
        rows = [
            torch.cat(
                [
                    self._distributions(row, own[start : start + CHUNK], first + start)
                    for start in range(0, len(own), CHUNK)
                ]
            )
            for row, own in zip(read.cpu().numpy(), logits, strict=True)
        ]
        return torch.stack(rows), (read, recurrent)

    def _distributions(
        self, row: Int[np.ndarray, " N"], logits: Float[Tensor, "P V"], first: int
    ) -> Float[Tensor, "P V"]:
        """Return the log-probabilities of the characters at the positions `first`, `first` + 1, … of a text."""
        num_nodes = self.vocab_size - 1
        position = np.repeat(np.arange(len(logits)), num_nodes)
        node = np.tile(np.arange(num_nodes), len(logits))
        counts = self._counts()
        decisions = counts.predict(row, position + first, node)._replace(position=position)
        bits = counts.counters.code.bits
        odds = self.mixer(logits, decisions, bits).view(len(logits), num_nodes)
        return _log_probabilities(odds, bits)

    def _counts(self) -> TrainingCounts:
        if self._training_counts is None:
            self._training_counts, _ = TrainingCounts.of(self.counters, self._ids())
        return self._training_counts

    def _ids(self) -> Int[np.ndarray, " N"]:
        return self.text.cpu().numpy()


@contextmanager
def _learning(network: nn.Module) -> Iterator[None]:
    """Make a network trainable while the block runs."""
    was_training = network.training
    network.requires_grad_(True).train()
    try:
        yield
    finally:
        network.requires_grad_(False).train(was_training)
        network.zero_grad(set_to_none=True)


def _minimize(
    loss: Callable[[torch.Generator], Float[Tensor, ""]],
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    warmup: float,
    decay: float,
) -> None:
    """Take `steps` optimizer steps.

    The learning rate grows in the first part of the steps, `warmup`, and falls to 0 in the last part, `decay`.
    """
    generator = torch.Generator().manual_seed(0)
    first, last = max(1.0, warmup * steps), max(1.0, decay * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / first, (steps - step) / last, 1.0)
    )
    for _ in range(steps):
        optimizer.zero_grad()
        loss(generator).backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        schedule.step()


@full_precision
def _log_probabilities(odds: Float[Tensor, "P V-1"], bits: Int[np.ndarray, "V V-1"]) -> Float[Tensor, "P V"]:
    """Return the log-probabilities of the characters that a code's decisions lead to, from the log-odds of each."""
    one, zero = (torch.from_numpy(value == bits.T).to(odds) for value in (1, 0))  # (V − 1, V)
    return F.logsigmoid(odds) @ one + F.logsigmoid(-odds) @ zero


def _resize_text(model: ContextMixing, state_dict: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Resize the text to that of the saved state, and discard the counts of the former text."""
    if prefix + "text" in state_dict:
        model.text = model.text.new_zeros(len(state_dict[prefix + "text"]))
        model._training_counts = None
