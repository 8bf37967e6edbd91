"""Naming what a user may have meant."""

import difflib
from collections.abc import Iterable

_MOST_NAMED = 12


def similar(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the end of a sentence: the known words most like `word`, if any is like it.

    Each word is shown with `prefix` before it.
    """
    lowered = {name.lower(): name for name in sorted(set(known), reverse=True)}
    close = [prefix + lowered[match] for match in difflib.get_close_matches(word.lower(), lowered, n=3, cutoff=0.6)]
    return f"; did you mean {listed(close, 'or')}?" if close else "."


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the end of a sentence: the known words most like `word`, or all of them if none is.

    Each word is shown with `prefix` before it.
    """
    names = sorted(set(known))
    names = [name for name in names if name.startswith(f"{word}/")] or names  # the folder of an option
    hint = similar(word, names, prefix)
    if hint != "." or not names:
        return hint
    shown = [prefix + name for name in names]
    if len(shown) > _MOST_NAMED:
        return f"; known are {', '.join(shown[:_MOST_NAMED])} and {len(shown) - _MOST_NAMED} more."
    return f"; known {'is' if len(shown) == 1 else 'are'} {listed(shown, 'and')}."


def listed(words: Iterable[str], conjunction: str) -> str:
    """Returns the words as an enumeration: "a, b or c"."""
    *head, last = words
    return f"{', '.join(head)} {conjunction} {last}" if head else last
