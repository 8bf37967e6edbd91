"""Contexts and counters the slow way: slices of strings, and a list of decisions for each context."""

from __future__ import annotations

import math
import re
from collections import defaultdict

import torch

# What each context looks at, as a function of the text so far.
WORD = re.compile(r"[A-Za-z']+")


def fold(text: str) -> str:
    return text.lower().replace("\n", " ")


def words(text: str) -> tuple[str, str, list[str]]:
    """Return the word so far, what separates it from the one before, and the words before, the latest first."""
    current = re.search(r"[A-Za-z']*\Z", text)
    rest = text[: current.start()]
    gap = re.search(r"[^A-Za-z']*\Z", rest)
    before = [*WORD.findall(rest[: gap.start()])[::-1], "", "", ""]
    return fold(current.group()), gap.group(), [fold(word) for word in before]


def speech(text: str) -> str:
    """Return the present paragraph: what follows the last empty line."""
    return text[text.rfind("\n\n") + 2 :] if "\n\n" in text else text


def column(text: str) -> int:
    return len(text) - (text.rfind("\n") + 1)


def back(text: str, age: int) -> str:
    return text[-age] if age <= len(text) else ""


def followers(text: str, length: int) -> tuple[str, ...]:
    """Return the two characters that followed the last occurrences of the last `length` characters."""
    context = text[-length:]
    found = [text[t] for t in range(len(text)) if text[max(0, t - length) : t] == context]
    return tuple(found[::-1][:2])


CONTEXTS = {
    **{f"last_{n}": lambda text, n=n: text[max(0, len(text) - n) :] for n in range(33)},
    **{f"folded_{n}": lambda text, n=n: fold(text[max(0, len(text) - n) :]) for n in range(1, 17)},
    "word": lambda text: words(text)[0],
    "word_gap": lambda text: words(text)[:2],
    "word_1": lambda text: (words(text)[0], words(text)[2][0]),
    "word_2": lambda text: (words(text)[0], words(text)[2][1]),
    "word_1_2": lambda text: (words(text)[0], words(text)[2][:2]),
    "word_1_2_3": lambda text: (words(text)[0], words(text)[2][:3]),
    "word_ending": lambda text: (*words(text)[:2], words(text)[2][0][-2:]),
    "word_column": lambda text: (words(text)[0], min(column(text) // 4, 15)),
    "word_line": lambda text: (words(text)[0], min(speech(text).count("\n"), 3), min(column(text), 3)),
    "word_speaker": lambda text: (words(text)[0], speech(text).split("\n")[0]),
    "last_3_speaker": lambda text: (text[-3:], speech(text).split("\n")[0]),
    "skip_2_3": lambda text: (back(text, 2), back(text, 3)),
    "skip_2_4": lambda text: (back(text, 2), back(text, 3), back(text, 4)),
    "skip_1_3_4": lambda text: (back(text, 1), back(text, 3), back(text, 4)),
    **{f"followers_{n}": lambda text, n=n: (followers(text, n), text[-1:]) for n in (1, 2, 3)},
    **{f"followers_{n}_word": lambda text, n=n: (followers(text, n), words(text)[0]) for n in (1, 2, 3)},
}


def state(decisions: list[int]) -> object:
    """Return what matters of the decisions in a context; None if there are none."""
    if not decisions:
        return None
    number, ones = len(decisions), sum(decisions)
    if number <= 7:
        return tuple(decisions)
    odds = math.log((ones + 0.4) / (number - ones + 0.4))
    return min(int(math.log2(number)), 15), min(max(round((odds + 9) * 1.5), 0), 27), tuple(decisions[-2:])


def counters(text: str, paths: dict[str, list[tuple[int, int]]], contexts: list[str]) -> list[list[float]]:
    """Return for each decision of a text two inputs per context: its own log-odds, and those of its state."""
    own: dict = defaultdict(list)
    by_state: dict = defaultdict(list)
    rows = []
    for t, character in enumerate(text):
        for node, bit in paths[character]:
            row, updated = [], []
            for name in contexts:
                decisions = own[name, CONTEXTS[name](text[:t]), node]
                ones, number = sum(decisions), len(decisions)
                row.append(min(max(math.log((ones + 0.02) / (number - ones + 0.02)), -8), 8))
                found = state(decisions)
                everywhere, here = by_state[name, found], by_state[name, found, node]
                prior = (sum(everywhere) + 0.1) / (len(everywhere) + 0.2)
                odds = (sum(here) + 8 * prior) / (len(here) - sum(here) + 8 * (1 - prior))
                row.append(math.log(odds) if found is not None else 0.0)
                updated += [decisions, everywhere, here]
            for decisions in updated:
                decisions.append(bit)
            rows.append(row)
    return rows


def decision_odds(logits, bits, floor):
    """Return log (Σ p(v) + floor) / (Σ p(u) + floor): a node's 1 leads to the characters v, its 0 to u."""
    rows = []
    for row in logits:
        likelihood = row.exp() / row.exp().sum()
        odds = []
        for node in range(bits.shape[1]):
            one = sum(p for p, bit in zip(likelihood, bits[:, node], strict=True) if bit == 1)
            zero = sum(p for p, bit in zip(likelihood, bits[:, node], strict=True) if bit == 0)
            odds.append(((one + floor) / (zero + floor)).log())
        rows.append(torch.stack(odds))
    return torch.stack(rows)
