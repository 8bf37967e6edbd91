"""Sentences in rhymed pentameter: grammar, meter and rhyme compiled into choices.

A line has ten syllables, alternately unstressed and stressed, and every second line rhymes with the previous one. What
may come next depends on the state of the grammar, the syllable and, later in the line, the rhyme that is due. Strings
after which the line could not be completed are excluded. To find them, `Verse` computes, backwards from the line's end,
which rhymes each place can still reach.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import itemgetter
from typing import NamedTuple

from charlab.data.play.choice import Choice
from charlab.data.play.grammar import Arc, Rules
from charlab.data.play.words import Word

LINE = 10  # syllables
RHYME_MATTERS_FROM = 6  # before this syllable every rhyme must stay reachable, and no choice depends on the rhyme
SHARE = 1000  # the weight of an arc, times this, is divided among the words of its class

Step = tuple[int, int, Word | None]
"""Index of a string's arc in its state; the string's syllables; its word, if the arc has a word class."""


class Recall(NamedTuple):
    """A state whose words the play supplies, not the grammar.

    Attributes:
        meters: the possible meters.
        target: the next state.
    """

    meters: tuple[str, ...]
    target: str


class Way(NamedTuple):
    """The strings of one meter on one arc in one place.

    Attributes:
        arc: index of the arc in its state.
        meter: the strings' meter.
        rhymes: the rhymes with which the line can still be completed, as a set of bits.
        ends: whether the strings complete the line.
    """

    arc: int
    meter: str
    rhymes: int
    ends: bool


@dataclass(frozen=True, slots=True)
class Node:
    """A place in a verse: the choice, the step for each string, and the state's arcs."""

    choice: Choice
    steps: list[Step]
    arcs: list[Arc]


def fits(meter: str, syllable: int) -> bool:
    """Return whether a string of this meter fits at this syllable of a line."""
    if syllable + len(meter) > LINE:
        return False
    return all(foot == "*" or (foot == "/") == ((syllable + i) % 2 == 1) for i, foot in enumerate(meter))


class Verse:
    """All places in the verses of a grammar, each compiled on first use.

    Args:
        rules: the grammar.
        classes: the words of each class that the grammar names.
        recalls: the states whose words the play supplies.
    """

    def __init__(self, rules: Rules, classes: dict[str, list[Word]], recalls: dict[str, Recall]) -> None:
        self.rules = rules
        self.recalls = recalls
        self._words: dict[str, dict[str, list[Word]]] = {}  # class, meter
        for name, words in classes.items():
            by_meter = self._words.setdefault(name, {})
            for word in words:
                by_meter.setdefault(word.meter, []).append(word)
        self._word_weights = {name: SHARE // len(words) for name, words in classes.items()}
        self._meters = {name: list(by_meter) for name, by_meter in self._words.items()}

        # A set of rhymes is an integer: bit 0 for a line that may choose its rhyme, another bit for each rhyme.
        rhymes = sorted({word.rhyme for words in classes.values() for word in words if word.rhyme is not None})
        self._bits = {rhyme: 2 << index for index, rhyme in enumerate(rhymes)}
        self._every_rhyme = (2 << len(rhymes)) - 1
        self._endings = {
            (name, meter): self._rhymes_that_end(meter, words)
            for name, by_meter in self._words.items()
            for meter, words in by_meter.items()
        }
        # States whose arcs differ only in their targets share their choices.
        arcs = {state: tuple(replace(arc, target="") for arc in arcs) for state, arcs in rules.items()}
        self._has_events = {state: any(arc.event for arc in arcs) for state, arcs in rules.items()}
        numbers: dict[tuple, int] = {}
        self._contents = {state: numbers.setdefault(content, len(numbers)) for state, content in arcs.items()}
        self._reachable: dict[tuple[str, int], int] = {}
        self._ways: dict[tuple[str, int], list[Way]] = {}
        self._nodes: dict[tuple, Node] = {}
        self._compiled: dict[tuple, tuple[Choice, list[Step]]] = {}

    def _rhymes_that_end(self, meter: str, words: list[Word]) -> int:
        """Return the rhymes of lines that may end with one of the words.

        A rhyme needs a monosyllable, and two of them, since a word does not rhyme with itself.
        """
        once = twice = 0
        for word in words:
            bit = self._bits[word.rhyme] if word.rhyme else 0
            twice |= once & bit
            once |= bit
        return (1 if once else 0) | (twice if len(meter) == 1 else 0)

    def node(self, state: str, syllable: int, answered: Word | None, events: frozenset[str]) -> Node:
        """Return a place.

        Args:
            state: the state of the grammar.
            syllable: syllables in the line so far, 0 … 10.
            answered: the word to rhyme with, or None; irrelevant if the line is full.
            events: the events that the stage allows.
        """
        if not RHYME_MATTERS_FROM <= syllable < LINE:
            answered = None
        rhyme = answered if syllable == LINE - 1 else answered and answered.rhyme
        place = (state, syllable, rhyme, events) if self._has_events[state] else (state, syllable, rhyme)
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes[place] = self._compile(state, syllable, answered, events)
        return node

    def reachable(self, state: str, syllable: int) -> int:
        """Return the rhymes with which a line can be completed from here, whatever the stage allows.

        There is no need to look past the line's end: after any word that may end a line, another line can begin, with
        every rhyme open (a test checks all of them).
        """
        place = (state, syllable)
        if place not in self._reachable:
            self._reachable[place] = self._work_out_reachable(state, syllable)
        return self._reachable[place]

    def _work_out_reachable(self, state: str, syllable: int) -> int:
        found = 0
        if state in self.recalls:
            meters, target = self.recalls[state]
            found = self._every_rhyme
            for meter in meters:
                end = syllable + len(meter)
                found &= self.reachable(target, end) if fits(meter, syllable) and end < LINE else 0
        else:
            for arc in self.rules[state]:
                if arc.event is None:
                    for meter in self._meters_of(arc):
                        found |= self._rhymes_after(arc, meter, syllable)
        return found

    def _meters_of(self, arc: Arc) -> list[str]:
        return [arc.meter] if arc.word_class is None else self._meters[arc.word_class]

    def _rhymes_after(self, arc: Arc, meter: str, syllable: int) -> int:
        """Return the rhymes reachable after a string of this meter; 0 if the string does not fit here."""
        if syllable == LINE:
            if not arc.gap:
                return 0
            syllable = 0
        if not fits(meter, syllable):
            return 0
        end = syllable + len(meter)
        if end < LINE:
            rhymes = self.reachable(arc.target, end)
        else:
            rhymes = 0 if arc.word_class is None or arc.tail else self._endings[arc.word_class, meter]
        if syllable < RHYME_MATTERS_FROM and rhymes != self._every_rhyme:
            return 0
        return rhymes

    def _ways_from(self, state: str, syllable: int) -> list[Way]:
        place = (state, syllable)
        if place not in self._ways:
            ways = []
            for index, arc in enumerate(self.rules[state]):
                if arc.event is not None and syllable != 0:
                    continue
                for meter in self._meters_of(arc):
                    rhymes = self._rhymes_after(arc, meter, syllable)
                    if rhymes:
                        ways.append(Way(index, meter, rhymes, syllable < LINE == syllable + len(meter)))
            self._ways[place] = ways
        return self._ways[place]

    def _compile(self, state: str, syllable: int, answered: Word | None, events: frozenset[str]) -> Node:
        arcs = self.rules[state]
        due = self._bits[answered.rhyme] if answered and answered.rhyme else 1
        open_ways = tuple(
            (way.arc, way.meter, way.ends and (answered or True))
            for way in self._ways_from(state, syllable)
            if way.rhymes & due and (arcs[way.arc].event is None or arcs[way.arc].event in events)
        )
        capital = state == "sentence" or syllable in (0, LINE)
        key = (self._contents[state], syllable == LINE, capital, open_ways)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = self._strings(arcs, syllable == LINE, capital, open_ways)
        return Node(*compiled, arcs)

    def _strings(
        self, arcs: list[Arc], line_is_full: bool, capital: bool, open_ways: tuple[tuple[int, str, Word | bool], ...]
    ) -> tuple[Choice, list[Step]]:
        """Return the choice among the strings of the ways, and each string's step.

        The last item of a way is the word to rhyme with at the line's end, True for any word with a rhyme, or False if
        the way does not end the line.
        """
        rows: list[tuple[str, int, Step]] = []
        for index, meter, ending in open_ways:
            arc = arcs[index]
            start = arc.mark + (("\n" if line_is_full else " ") if arc.gap else "")
            weight = arc.weight_at_line_end if line_is_full else arc.weight
            if arc.word_class is None:
                text = _capitalized(arc.words) if capital else arc.words
                rows.append((start + text, weight * SHARE, (index, len(meter), None)))
                continue
            weight *= self._word_weights[arc.word_class]
            for word in self._words[arc.word_class][meter]:
                if ending is True and word.rhyme is None:
                    continue
                if isinstance(ending, Word) and (word.rhyme != ending.rhyme or word.text == ending.text):
                    continue
                text = _capitalized(word.text) if capital else word.text
                rows.append((start + text + arc.tail, weight, (index, len(meter), word)))
        rows.sort(key=itemgetter(0))
        return Choice([row[0] for row in rows], [row[1] for row in rows]), [row[2] for row in rows]


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
