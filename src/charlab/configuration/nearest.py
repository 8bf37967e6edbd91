"""Naming what a user may have meant."""

import difflib
from collections.abc import Iterable

_MOST_NAMED = 12


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the end of a sentence: the known words most like `word`, or all of them if none is.

    Nothing is said if nothing is known. Each word is shown with `prefix` before it.
    """
    names = sorted(set(known))
    lowered = {name.lower(): name for name in reversed(names)}
    close = [lowered[match] for match in difflib.get_close_matches(word.lower(), lowered, n=3, cutoff=0.6)]
    if close:
        return f"; did you mean {listed([prefix + name for name in close], 'or')}?"
    if not names:
        return "."
    names = [prefix + name for name in names]
    if len(names) > _MOST_NAMED:
        return f"; known are {', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more."
    return f"; known {'is' if len(names) == 1 else 'are'} {listed(names, 'and')}."


def listed(words: Iterable[str], conjunction: str) -> str:
    """Returns the words as an enumeration: "a, b or c"."""
    *head, last = words
    return f"{', '.join(head)} {conjunction} {last}" if head else last
