"""Made-up texts of any length: words drawn by Zipf's law, plain like text8 or marked up like enwik8."""

from __future__ import annotations

import string
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

WORDS = 50_000  # in the vocabulary
LETTERS = "etaoinshrdlcumwfgypbvkjxqz"  # as in every alphabet here, the most frequent ones come first
CAPITALIZED, UPPER = 0.14, 0.02  # shares of the words in plain letters


def _between(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


ALPHABETS = {  # of the other words of a text with markup, and their shares; about 1% of its bytes are not ASCII
    string.digits: 0.04,
    LETTERS + _between(0xC0, 0x24F): 0.005,  # accented
    _between(0x3B1, 0x3C9): 0.0005,  # Greek
    _between(0x410, 0x44F): 0.0005,  # Cyrillic
    _between(0x561, 0x587): 0.0005,  # Armenian
    _between(0x5D0, 0x5EA): 0.0005,  # Hebrew
    _between(0x627, 0x64A): 0.0005,  # Arabic
    _between(0x905, 0x939): 0.0005,  # Devanagari
    _between(0x10D0, 0x10F0): 0.0005,  # Georgian
    _between(0x3041, 0x3096): 0.0005,  # Japanese
    _between(0x4E00, 0x9FA5): 0.0005,  # Chinese
    _between(0xAC00, 0xD7A3): 0.0005,  # Korean
}
MARKS = string.punctuation + "–—’€°§£"
AROUND = {  # what is before and after a word, and the share of such words
    **{("", mark): 0.0003 for mark in MARKS},
    ("", ""): 0.74,
    ("", ","): 0.06,
    ("", "."): 0.03,
    ("", ".\n"): 0.03,
    ("[[", "]]"): 0.06,
    ("(", ")"): 0.02,
    ("'''", "'''"): 0.01,
    ("&quot;", "&quot;"): 0.01,
    ("&lt;", "&gt;"): 0.005,
    ("<", ">"): 0.005,
    ("</", ">\n"): 0.005,
    ("{{", "}}"): 0.005,
    ("http://www.", ".org/"): 0.003,
    ("== ", " ==\n"): 0.01,
    ("* ", "\n"): 0.01,
}


@cache
def made_up_text(length: int, *, markup: bool = False) -> Path:
    """Write a text into the folder of temporary files, and return its path.

    Args:
        length: number of characters.
        markup: whether the text is like enwik8, with about 190 distinct bytes, not like text8, with 27 characters.
    """
    generator = np.random.default_rng(0)
    words = np.array(_vocabulary(generator) if markup else _words(generator, WORDS, LETTERS), dtype=object)
    ranks = 1 / (np.arange(WORDS) + 2.7)
    path = Path(tempfile.gettempdir(), f"charlab-made-up-{length}{'-markup' * markup}.txt")
    left = length
    with path.open("w", encoding="utf-8") as file:
        while left:
            text = " ".join(words[generator.choice(WORDS, 1 << 18, p=ranks / ranks.sum())])
            left -= file.write(text.replace("\n ", "\n")[:left])
    return path


def _words(generator: np.random.Generator, number: int, alphabet: str) -> list[str]:
    """Return words of five letters on average."""
    lengths = 1 + generator.poisson(4.0, number)
    shares = 1 / (np.arange(len(alphabet)) + 3.0)  # roughly those of English letters
    letters = generator.choice(list(alphabet), lengths.sum(), p=shares / shares.sum())
    return ["".join(word) for word in np.split(letters, lengths.cumsum()[:-1])]


def _vocabulary(generator: np.random.Generator) -> list[str]:
    """Return words in several scripts and numbers, with capitals, punctuation and markup, in random order."""
    words = [
        word for alphabet, share in ALPHABETS.items() for word in _words(generator, round(share * WORDS), alphabet)
    ]
    plain = _words(generator, WORDS - len(words), LETTERS)
    capitalized, upper = round(CAPITALIZED * len(plain)), round(UPPER * len(plain))
    words += map(str.capitalize, plain[:capitalized])
    words += map(str.upper, plain[capitalized : capitalized + upper])
    words += plain[capitalized + upper :]
    generator.shuffle(words)
    around, shares = list(AROUND), np.array(list(AROUND.values()))
    chosen = generator.choice(len(around), WORDS, p=shares / shares.sum())
    return [around[index][0] + word + around[index][1] for index, word in zip(chosen, words, strict=True)]
