"""Counters that predict binary decisions between characters, from counts along a text or from an earlier one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from charlab.models.context_mixing.bit_counts import (
    History,
    HistoryTable,
    HuffmanCode,
    Keys,
    history_before,
    log_odds_with_prior,
)
from charlab.models.context_mixing.contexts import CONTEXTS, Alphabet, FeaturedText, combined_hash
from charlab.models.context_mixing.decision_mixer import Decisions

ALL = slice(None)

HistoryLookup = Callable[[str, Keys], History]  # looks up keys in the named table


@dataclass(frozen=True)
class Counters:
    """Compute the inputs of context mixing: two for each context, and one for each match.

    A context's inputs are the log-odds from its own counts, and from what followed equal histories in other contexts.

    Attributes:
        contexts: names in `charlab.models.context_mixing.contexts.CONTEXTS`.
        matches: for each match, the contexts in which to look for it, from the shortest to the longest.
        code: how characters become decisions.
        alphabet: the properties of the characters.
    """

    contexts: list[str]
    matches: list[list[str]]
    code: HuffmanCode
    alphabet: Alphabet

    def along(self, ids: Int[np.ndarray, " N"], first: int = 0) -> Decisions:
        """Return the decisions that lead to the characters from `first` on, with inputs from all that precedes each."""
        position, node = self.code.decisions(ids)
        bit = self.code.bits[ids[position], node]
        inputs = self.inputs(
            FeaturedText(ids, self.alphabet),
            position,
            node,
            lambda _, keys: history_before(keys, bit),
            kept=position >= first,
        )
        kept = position >= first
        return Decisions(position[kept], node[kept], inputs, bit[kept])

    def inputs(
        self,
        text: FeaturedText,
        position: Int[np.ndarray, " R"],
        node: Int[np.ndarray, " R"],
        look_up: HistoryLookup,
        kept: Bool[np.ndarray, " R"] | slice = ALL,
    ) -> Float[np.ndarray, "R n"]:
        """Return the log-odds that each counter predicts for decisions.

        Args:
            text: the text that the decisions are about.
            position: (R,) the position in the text of each decision.
            node: (R,) the inner node of the code at which it is taken.
            look_up: looks up keys in the named table.
            kept: the decisions to return.
        """
        columns = []

        def add(name: str, state: Int[np.ndarray, " R"]) -> None:
            """Append the log-odds from what followed a state at the same node, with all nodes as the prior."""
            everywhere, here = state.astype(np.uint64), (state * len(self.code.bits) + node).astype(np.uint64)
            odds = log_odds_with_prior(look_up(f"{name}, at a node", here), look_up(f"{name}, at all", everywhere))
            columns.append(np.where(state > 0, odds, 0)[kept].astype(np.float16))

        for name in self.contexts:
            history = look_up(name, combined_hash(CONTEXTS[name](text)[position], node))
            columns.append(history.log_odds()[kept].astype(np.float16))
            add(name, history.state())
        for names in self.matches:
            add(f"match from {names[0]}", self.match(text, names, position, node))
        return np.stack(columns, axis=1)

    def match(
        self, text: FeaturedText, names: list[str], position: Int[np.ndarray, " R"], node: Int[np.ndarray, " R"]
    ) -> Int[np.ndarray, " R"]:
        """Return a number that encodes the longest context that has occurred before, and the decision it predicts.

        It is 0 where none has occurred, or where an earlier decision has ruled out the character that followed.
        """
        level, predicted = np.zeros((2, len(text.positions)), np.int64)
        for number, name in enumerate(names):
            (follower,) = text.followers(name, 1)
            level = np.where(follower >= 0, number, level)
            predicted = np.where(follower >= 0, follower + 1, predicted)
        bits = np.concatenate([np.full((1, self.code.bits.shape[1]), -1), self.code.bits])  # row 0: no match
        bit = bits[predicted[position], node]
        return np.where(bit >= 0, 1 + 2 * level[position] + bit, 0)


class TrainingCounts:
    """What the counters have counted in a training text. It never changes, so copies of a model share it.

    Attributes:
        counters: the counters.
        text: the training text.
    """

    def __init__(self, counters: Counters, text: FeaturedText, tables: dict[str, HistoryTable]) -> None:
        self.counters, self.text, self._tables = counters, text, tables

    @classmethod
    def of(cls, counters: Counters, ids: Int[np.ndarray, " N"]) -> tuple[TrainingCounts, Decisions]:
        """Count a text, and return also the decisions that lead to its characters, as `Counters.along` does."""
        text, tables = FeaturedText(ids, counters.alphabet), dict[str, HistoryTable]()
        position, node = counters.code.decisions(ids)
        bit = counters.code.bits[ids[position], node]

        def count(name: str, keys: Keys) -> History:
            tables[name] = HistoryTable(keys, bit)
            return history_before(keys, bit)

        inputs = counters.inputs(text, position, node, count)
        return cls(counters, text, tables), Decisions(position, node, inputs, bit)

    def predict(
        self, row: Int[np.ndarray, " N"], position: Int[np.ndarray, " R"], node: Int[np.ndarray, " R"]
    ) -> Decisions:
        """Return decisions in a new text, with the log-odds that the counters predict for them."""
        text = FeaturedText(row, self.counters.alphabet, self.text)
        inputs = self.counters.inputs(text, position, node, lambda name, keys: self._tables[name](keys))
        return Decisions(position, node, inputs)

    def __deepcopy__(self, _: dict[int, Any]) -> TrainingCounts:
        return self
