"""N-gram counts that are updated while a text is read: each character is predicted, then counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from charlab.models.smoothing import discounts, kneser_ney, witten_bell

ROOT = 0  # the empty n-gram


class RunningCounts(ABC):
    """The n-grams of a fitted model and of a text that is read character by character.

    After each character the probabilities equal those of a model fitted to the training text and, as a second text, to
    everything read so far. A character changes only the counts of n-grams that end in it. N-grams are the nodes of a
    tree, as in `NGram`, but stored in dictionaries and lists, which can grow.

    The smoothing decides what is counted. The `followers` of a context are the characters seen after it, grouped by
    whether their count is 1, 2, or at least 3.

    Args:
        codes: parent · V + last character of each node but the root, parents first.
        occurrences: how often each node but the root occurs in the training text.
        order: length of the longest n-grams.
        vocab_size: number of distinct characters V.
    """

    lower_counts_predecessors: bool  # whether shorter n-grams count distinct preceding characters

    def __init__(self, codes: Sequence[int], occurrences: Iterable[int], *, order: int, vocab_size: int) -> None:
        self.order, self.vocab_size = order, vocab_size
        self.node = {code: node for node, code in enumerate(codes, start=1)}
        self.counts = [0] * (len(codes) + 1)
        # For each context with followers: the sum of their counts, and how many have count 1, 2, and ≥ 3.
        self.totals: defaultdict[int, int] = defaultdict(int)
        self.followers: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        self.frequencies = [[0] * 6 for _ in range(order + 1)]  # for each length: how many n-grams have count r ≤ 5
        self.contexts = [ROOT]  # the last 0, 1, … order − 1 characters read
        self._take_over(codes, occurrences)

    def _take_over(self, codes: Sequence[int], occurrences: Iterable[int]) -> None:
        length, shorter = [0], [ROOT]  # for each node: its length, and the node without its oldest character
        for node, (code, number) in enumerate(zip(codes, occurrences, strict=True), start=1):
            parent, character = divmod(code, self.vocab_size)
            length.append(length[parent] + 1)
            shorter.append(self.node[shorter[parent] * self.vocab_size + character] if parent != ROOT else ROOT)
            if not self.lower_counts_predecessors or length[node] == self.order:
                self._add(parent, node, length[node], number)
            if self.lower_counts_predecessors and length[node] > 1:
                self._add(shorter[parent], shorter[node], length[node] - 1, 1)

    def probability(self, character: int) -> float:
        """Return the probability of the next character."""
        probability = 1 / self.vocab_size
        for length, context in enumerate(self.contexts, start=1):
            if context in self.totals:
                node = self.node.get(context * self.vocab_size + character)
                mass, backoff = self.smoothed(context, self.counts[node] if node is not None else 0, length)
                probability = mass + backoff * probability
        return probability

    @abstractmethod
    def smoothed(self, context: int, count: int, length: int) -> tuple[float, float]:
        """Return the mass of an n-gram and the backoff of its context, as in `charlab.models.smoothing`.

        Args:
            context: a node with at least one follower.
            count: of the n-gram.
            length: of the n-gram.
        """

    def read(self, character: int) -> None:
        """Count the next character."""
        nodes = [ROOT]
        is_new = []  # for each length: whether the n-gram that ends here is new
        for context in self.contexts:
            code = context * self.vocab_size + character
            is_new.append(code not in self.node)
            if is_new[-1]:
                self.node[code] = len(self.counts)
                self.counts.append(0)
            nodes.append(self.node[code])
        for length, context in enumerate(self.contexts, start=1):
            # A new n-gram one character longer adds a predecessor.
            is_longest = length == self.order
            if is_longest or not self.lower_counts_predecessors or (length < len(is_new) and is_new[length]):
                self._add(context, nodes[length], length, 1)
        self.contexts = nodes[: self.order]

    def _add(self, context: int, node: int, length: int, number: int) -> None:
        former = self.counts[node]
        self.counts[node] = count = former + number
        self.totals[context] += number
        self.frequencies[length][min(former, 5)] -= 1
        self.frequencies[length][min(count, 5)] += 1
        followers = self.followers[context]
        if former > 0:
            followers[min(former, 3) - 1] -= 1
        followers[min(count, 3) - 1] += 1


class RunningWittenBell(RunningCounts):
    """The counts of `charlab.models.smoothing.witten_bell`."""

    lower_counts_predecessors = False

    def smoothed(self, context: int, count: int, length: int) -> tuple[float, float]:
        followers = sum(self.followers[context])
        total = self.totals[context] + followers
        return count / total, followers / total


class RunningKneserNey(RunningCounts):
    """The counts of `charlab.models.smoothing.kneser_ney`; the discounts are re-estimated at each character."""

    lower_counts_predecessors = True

    def smoothed(self, context: int, count: int, length: int) -> tuple[float, float]:
        discount = discounts(self.frequencies[length])
        total = self.totals[context]
        given_up = sum(d * number for d, number in zip(discount[1:], self.followers[context], strict=True))
        return (count - discount[min(count, 3)]) / total, given_up / total


CONTINUED: dict[Callable[..., Any], type[RunningCounts]] = {
    witten_bell: RunningWittenBell,
    kneser_ney: RunningKneserNey,
}
"""The running counts for each smoothing."""
