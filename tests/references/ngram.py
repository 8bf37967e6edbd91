"""N-gram models as dictionaries of strings: one character at a time, in Python's own floats."""

from collections import Counter, defaultdict


class DictionaryNGram:
    """An interpolated n-gram model of one text, or of two; `probability(character, context)` is all it does."""

    def __init__(self, text: str, alphabet: str, order: int, second_text: str = "") -> None:
        self.alphabet, self.order = alphabet, order
        self.occurrences: Counter[str] = Counter()
        self.predecessors: defaultdict[str, set[str]] = defaultdict(set)
        for counted in (text, second_text):
            for length in range(1, order + 1):
                for end in range(length, len(counted) + 1):
                    self.occurrences[counted[end - length : end]] += 1
                    if end > length:
                        self.predecessors[counted[end - length : end]].add(counted[end - length - 1])

    def probability(self, character: str, context: str) -> float:
        """p(character | the last order − 1 characters of context)."""
        return self._interpolated(character, context[max(0, len(context) - self.order + 1) :])

    def _interpolated(self, character: str, context: str) -> float:
        lower = self._interpolated(character, context[1:]) if context else 1 / len(self.alphabet)
        counts = {a: self.count(context + a) for a in self.alphabet}
        if sum(counts.values()) == 0:
            return lower
        return self.smoothed(context + character, counts, lower)

    def count(self, ngram: str) -> int:
        raise NotImplementedError

    def smoothed(self, ngram: str, counts: dict[str, int], lower: float) -> float:
        raise NotImplementedError


class DictionaryWittenBell(DictionaryNGram):
    def count(self, ngram: str) -> int:
        return self.occurrences[ngram]

    def smoothed(self, ngram: str, counts: dict[str, int], lower: float) -> float:
        followers = sum(1 for count in counts.values() if count > 0)
        return (counts[ngram[-1]] + followers * lower) / (sum(counts.values()) + followers)


class DictionaryKneserNey(DictionaryNGram):
    def __init__(self, text: str, alphabet: str, order: int, second_text: str = "") -> None:
        super().__init__(text, alphabet, order, second_text)
        self.discounts = {length: self.discounts_of(length) for length in range(1, order + 1)}

    def count(self, ngram: str) -> int:
        return self.occurrences[ngram] if len(ngram) == self.order else len(self.predecessors.get(ngram, ()))

    def smoothed(self, ngram: str, counts: dict[str, int], lower: float) -> float:
        discounts = self.discounts[len(ngram)]
        total = sum(counts.values())
        given_up = sum(discounts[min(count, 3)] for count in counts.values())
        count = counts[ngram[-1]]
        return (count - discounts[min(count, 3)]) / total + given_up / total * lower

    def discounts_of(self, length: int) -> list[float]:
        number = Counter(self.count(ngram) for ngram in list(self.occurrences) if len(ngram) == length)
        try:
            y = number[1] / (number[1] + 2 * number[2])
            discounts = [0.0, *(r - (r + 1) * y * number[r + 1] / number[r] for r in (1, 2, 3))]
        except ZeroDivisionError:
            discounts = [0.0, 0.0, 0.0, 0.0]
        usable = all(0 < discounts[r] <= r for r in (1, 2, 3))
        return discounts if usable else [0.0, 0.5, 1.0, 1.5]
