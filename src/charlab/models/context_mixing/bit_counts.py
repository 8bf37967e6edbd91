"""Counts of binary decisions: how characters become decisions, and what each context has seen before.

A counter depends on the text before it, not on how its prediction is used. So the counters of a whole text need no loop
over its characters: a stable sort brings the decisions of each context together, in the order of the text, and running
sums within these groups give what each decision's context had seen before it.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt

RECENT = 7  # number of a context's last decisions that are remembered in order

Keys = UInt[np.ndarray, "*shape"]  # 64-bit hashes, which two contexts are unlikely to share


class HuffmanCode:
    """A Huffman code: a character is a path of binary decisions from the root of a tree to a leaf.

    Frequent characters need few decisions (tiny Shakespeare's average is 4.8), and one decision rules out many
    characters at once. A tree of V leaves has V − 1 inner nodes, numbered from the root.

    Args:
        frequencies: (V,), how often each character occurs.

    Attributes:
        nodes: (V, D), the inner nodes on the path to each character; −1 after its end.
        bits: (V, V − 1), the decision taken at each inner node on that path, 0 or 1; −1 off the path.
    """

    nodes: Int[np.ndarray, "V D"]
    bits: Int[np.ndarray, "V V-1"]

    def __init__(self, frequencies: Int[np.ndarray, " V"]) -> None:
        size = len(frequencies)
        heap = [(int(frequency), leaf) for leaf, frequency in enumerate(frequencies)]
        heapq.heapify(heap)
        children: dict[int, tuple[int, int]] = {}
        while len(heap) > 1:
            (first, left), (second, right) = heapq.heappop(heap), heapq.heappop(heap)
            joined = size + len(children)
            children[joined] = left, right
            heapq.heappush(heap, (first + second, joined))
        paths: list[list[tuple[int, int]]] = [[] for _ in range(size)]
        below = [(heap[0][1], list[tuple[int, int]]())]
        inner = 0
        while below:
            node, path = below.pop()
            if node < size:
                paths[node] = path
                continue
            below += [(child, [*path, (inner, bit)]) for bit, child in enumerate(children[node])]
            inner += 1
        self.nodes = np.full((size, max(map(len, paths))), -1)
        self.bits = np.full((size, size - 1), -1)
        for character, path in enumerate(paths):
            for depth, (node, bit) in enumerate(path):
                self.nodes[character, depth], self.bits[character, node] = node, bit

    def decisions(self, characters: Int[np.ndarray, " N"]) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " R"]]:
        """Return the positions and inner nodes of the decisions that lead to a text's characters."""
        nodes = self.nodes[characters]
        position, depth = np.nonzero(nodes >= 0)
        return position, nodes[position, depth]


class History(NamedTuple):
    """The decisions that contexts have seen.

    Attributes:
        number: number of decisions.
        ones: how many of them were 1.
        recent: the last `RECENT` of them as binary digits after a leading 1, the latest last.
    """

    number: Int[np.ndarray, "*shape"]
    ones: Int[np.ndarray, "*shape"]
    recent: Int[np.ndarray, "*shape"]

    def log_odds(self) -> Float[np.ndarray, "*shape"]:
        """Return the log-odds of 1 from the counts alone; 0 if nothing has been seen."""
        return np.clip(np.log((self.ones + 0.02) / (self.number - self.ones + 0.02)), -8, 8)

    def state(self) -> Int[np.ndarray, "*shape"]:
        """Return a small number that summarizes the history; 0 if nothing has been seen.

        Up to `RECENT` decisions are encoded exactly, in order; of more, only their approximate number and proportion,
        and the last two. There are few states, so what follows each can itself be counted: *indirect* modeling, as with
        the bit histories of PAQ (Mahoney 2005, "Adaptive weighing of context models for lossless data compression").
        """
        size = np.minimum(np.log2(np.maximum(self.number, 1)).astype(np.int64), 15)
        odds = np.log((self.ones + 0.4) / (self.number - self.ones + 0.4))
        proportion = np.clip(np.round((odds + 9) * 1.5), 0, 27).astype(np.int64)
        many = 2 ** (RECENT + 1) + (size * 28 + proportion) * 4 + self.recent % 4
        return np.where(self.number == 0, 0, np.where(self.number <= RECENT, self.recent, many))


class HistoryTable:
    """What each context has seen in a text.

    Args:
        keys: (R,), the context of each decision.
        bits: (R,), the decisions, 0 or 1.
    """

    def __init__(self, keys: Keys, bits: Int[np.ndarray, " R"]) -> None:
        order, first = _groups(keys)
        sorted_bits = bits[order].astype(np.int32)
        is_last = np.append(first[1:] != first[:-1], True)[: len(keys)]
        before = _accumulated(sorted_bits, first)
        number, ones, recent = (values[is_last] for values in before)
        self.keys, bit = keys[order][is_last], sorted_bits[is_last]
        kept = np.where(number >= RECENT, 2 ** (RECENT - 1) + recent % 2 ** (RECENT - 1), recent)
        self.history = History(number + 1, ones + bit, 2 * kept + bit)

    def __call__(self, keys: Keys) -> History:
        """Return what the contexts `keys`, of any shape, have seen."""
        if not len(self.keys):
            zeros = np.zeros(keys.shape, np.int32)
            return History(zeros, zeros, zeros + 1)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = self.keys[place] == keys
        number, ones, recent = (values[place] for values in self.history)
        return History(np.where(known, number, 0), np.where(known, ones, 0), np.where(known, recent, 1))


def history_before(keys: Keys, bits: Int[np.ndarray, " R"]) -> History:
    """Return what each decision's context had seen before it.

    Args:
        keys: (R,), the context of each decision.
        bits: (R,), the decisions, 0 or 1.
    """
    order, first = _groups(keys)
    found = History(*(np.empty(len(keys), np.int32) for _ in range(3)))
    for values, sorted_values in zip(found, _accumulated(bits[order].astype(np.int32), first), strict=True):
        values[order] = sorted_values
    return found


def log_odds_with_prior(specific: History, general: History) -> Float[np.ndarray, "*shape"]:
    """Return the log-odds of 1 from a context's counts, with a more general context as a prior worth 8 decisions."""
    prior = (general.ones + 0.1) / (general.number + 0.2)
    return np.log((specific.ones + 8 * prior) / (specific.number - specific.ones + 8 * (1 - prior)))


def previous_occurrence(keys: Keys) -> Int[np.ndarray, " N"]:
    """Return the position of each key's previous occurrence; −1 where the key is new."""
    order = np.argsort(keys, kind="stable")
    is_same = keys[order[1:]] == keys[order[:-1]]
    found = np.full(len(keys), -1)
    found[order[1:][is_same]] = order[:-1][is_same]
    return found


def _groups(keys: Keys) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " R"]]:
    """Return the order that sorts the keys, and for each place in it the first place with the same key."""
    order = _sorting(keys)
    sorted_keys = keys[order]
    is_first = np.append(True, sorted_keys[1:] != sorted_keys[:-1])[: len(keys)]
    return order, np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))


def _sorting(keys: Keys) -> Int[np.ndarray, " R"]:
    """Return the order of a stable sort of the keys."""
    if not len(keys) or keys.max() >= 2**32:
        return np.argsort(keys, kind="stable")
    order = np.argsort(keys.astype(np.uint16), kind="stable")  # numpy sorts 16 bits by radix, three times as fast
    return order[np.argsort((keys[order] >> np.uint64(16)).astype(np.uint16), kind="stable")]


def _accumulated(bits: Int[np.ndarray, " R"], first: Int[np.ndarray, " R"]) -> History:
    """Return what had been seen before each of the sorted decisions."""
    number = (np.arange(len(bits)) - first).astype(np.int32)
    before = np.cumsum(bits) - bits
    recent = np.ones(len(bits), np.int32)
    for age in range(RECENT, 0, -1):
        recent[age:] = np.where(number[age:] >= age, 2 * recent[age:] + bits[:-age], recent[age:])
    return History(number, (before - before[first]).astype(np.int32), recent)
