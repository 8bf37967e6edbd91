"""Naming what a user may have meant."""

import difflib
from collections.abc import Iterable

_MOST_NAMED = 12


def similar(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the end of a sentence: the known words most like `word`, if any is like it.

    A word in a folder may be meant without that. Each word is shown with `prefix` before it.
    """
    names = sorted(set(known), reverse=True)
    spellings = {name.rpartition("/")[2].lower(): name for name in names} | {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower(), spellings, n=3, cutoff=0.6)
    close = dict.fromkeys(prefix + spellings[match] for match in matches)
    return f"; did you mean {listed(close, 'or')}?" if close else "."


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns the end of a sentence: the known words most like `word`, or all of them if none is.

    Each word is shown with `prefix` before it.
    """
    names = sorted(set(known))
    inside = [name for name in names if name.startswith(f"{word}/")]  # the word is a folder of options
    hint = "." if inside else similar(word, names, prefix)
    if hint != "." or not names:
        return hint
    shown = [prefix + name for name in inside or names]
    if len(shown) > _MOST_NAMED:
        return f"; known are {', '.join(shown[:_MOST_NAMED])} and {len(shown) - _MOST_NAMED} more."
    return f"; known {'is' if len(shown) == 1 else 'are'} {listed(shown, 'and')}."


def listed(words: Iterable[str], conjunction: str) -> str:
    """Returns the words as an enumeration: "a, b or c"."""
    *head, last = words
    return f"{', '.join(head)} {conjunction} {last}" if head else last
