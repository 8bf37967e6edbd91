"""Slow and obvious: the probability of a text of the embedded corpus, by looking at every string that was possible."""

from collections.abc import Callable, Iterator
from fractions import Fraction

from charlab.data.play.choice import Choice
from charlab.data.play.stage import Telling


def next_character_probabilities(choice: Choice, prefix: str) -> dict[str, Fraction]:
    """Return p(c | prefix) for every character c that may follow the first characters of the chosen string."""
    strings = zip(choice.texts, choice.weights, strict=True)
    possible = [(text, weight) for text, weight in strings if text.startswith(prefix)]
    total = sum(weight for _, weight in possible)
    probabilities: dict[str, Fraction] = {}
    for text, weight in possible:
        character = text[len(prefix)]
        probabilities[character] = probabilities.get(character, Fraction(0)) + Fraction(weight, total)
    return probabilities


def all_texts(tell: Callable[[], Telling], length: int) -> Iterator[tuple[str, Fraction]]:
    """Yield every text of `length` characters, cut off there, once for every sequence of choices that gives it."""
    unfinished: list[tuple[list[int], str, Fraction]] = [([], "", Fraction(1))]
    while unfinished:
        indices, text, probability = unfinished.pop()
        if len(text) >= length:
            yield text[:length], probability
            continue
        telling = tell()
        choice = next(telling)
        for index in indices:  # a telling cannot be copied, so it is told again
            choice = telling.send(index)
        for index, string in enumerate(choice.texts):
            share = Fraction(choice.weights[index], choice.total)
            unfinished.append(([*indices, index], text + string, probability * share))
