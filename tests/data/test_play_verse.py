from collections.abc import Iterator
from typing import NamedTuple

import pytest

from charlab.data.play import stage
from charlab.data.play.grammar import Rules, arc
from charlab.data.play.verse import LINE, RHYME_MATTERS_FROM, Verse, fits
from charlab.data.play.words import Word, with_s, with_st
from tests.references.play_probabilities import all_texts

RULES: Rules = {
    "sentence": [arc(2, "the ", "noun"), arc(1, "so ", "sentence"), arc(1, "\n", "sentence", event="end")],
    "noun": [arc(1, "<noun>", "verb"), arc(1, "never ", "noun"), arc(1, "fair ", "noun")],
    "verb": [arc(1, "_<verb>", "end"), arc(1, "_of ", "noun")],
    "end": [arc(3, "._", "sentence", at_line_end=1), arc(1, ",_and ", "sentence")],
}
CLASSES = {
    "noun": [
        Word("day", "/", "ay"),
        Word("way", "/", "ay"),
        Word("king", "/", "ing"),
        Word("spring", "/", "ing"),
        Word("melody", "/x/", "ing"),
    ],
    "verb": [Word("sing", "/", "ing"), Word("obey", "x/", "ay"), Word("pray", "/", "ay"), Word("slay", "/", "ay")],
}
CHOOSES = None  # the rhyme of a line that may choose


class Line(NamedTuple):
    text: str
    last: Word
    early: tuple[tuple[str, int], ...]  # the places that its steps from before `RHYME_MATTERS_FROM` led to


def metrical_lines(
    rhyme: str | None, state: str = "sentence", text: str = "", meter: str = "", early: tuple = ()
) -> Iterator[Line]:
    """Every line that the tiny grammar allows, by trying every word and keeping what the meter and the rhyme allow."""
    for each in RULES[state]:
        words = CLASSES[each.word_class] if each.word_class else [Word(each.words, each.meter)]
        for word in [] if each.event else words:
            longer = meter + word.meter
            if not fits(longer, 0):
                continue
            line = text + each.mark + (" " if each.gap else "") + word.text + each.tail
            places = (*early, (each.target, len(longer))) if len(meter) < RHYME_MATTERS_FROM else early
            answers = [other for other in words if other.rhyme == rhyme and len(other.meter) == 1]
            if len(longer) < LINE:
                yield from metrical_lines(rhyme, each.target, line, longer, places)
            elif word.rhyme and (rhyme is CHOOSES or (word in answers and len(answers) > 1)):
                yield Line(line.lower(), word, places)


@pytest.fixture(scope="module")
def open_lines() -> dict[str | None, list[Line]]:
    """By rhyme, the metrical lines whose early places leave every rhyme open."""
    lines = {rhyme: list(metrical_lines(rhyme)) for rhyme in (CHOOSES, "ay", "ing")}
    while True:
        places = set.intersection(*({place for line in each for place in line.early} for each in lines.values()))
        kept = {r: [line for line in each if places.issuperset(line.early)] for r, each in lines.items()}
        if kept == lines:
            return lines
        lines = kept


def lines_of(verse: Verse, rhyme: Word | None) -> Iterator[tuple[str, Word]]:
    def go_on(state: str, syllable: int, text: str) -> Iterator[tuple[str, Word]]:
        node = verse.node(state, syllable, rhyme, frozenset())
        for string, (index, syllables, word) in zip(node.choice.texts, node.steps, strict=True):
            end = syllable + syllables
            if end == LINE:
                yield (text + string).lower(), word
            else:
                yield from go_on(node.arcs[index].target, end, text + string)

    return go_on("sentence", 0, "")


@pytest.mark.parametrize("answered", [None, *CLASSES["noun"], *CLASSES["verb"]])
def test_verse_has_exactly_the_lines_with_the_meter_and_the_rhyme(open_lines, answered):
    found = [line for line, _ in lines_of(Verse(RULES, CLASSES, {}), answered)]
    expected = [line.text for line in open_lines[answered and answered.rhyme] if line.last != answered]
    assert len(expected) > 1000
    assert sorted(found) == sorted(expected)
    assert len(set(found)) == len(found)


def test_probabilities_of_all_couplets_sum_to_one():
    verse = Verse(RULES, CLASSES, {})

    def tell() -> stage.Telling:
        state, syllable, rhyme, lines = "sentence", 0, None, 0
        while True:
            node = verse.node(state, syllable, rhyme, frozenset({"end"}) if lines else frozenset())
            index, syllables, word = node.steps[(yield node.choice)]
            state = node.arcs[index].target
            if syllable == LINE:
                syllable, lines = 0, lines + 1
            syllable += syllables
            if syllable == LINE:
                rhyme = word if rhyme is None else None

    texts = list(all_texts(tell, 26))
    assert sum(probability for _, probability in texts) == 1
    assert len(texts) > 300


def test_after_any_last_word_another_line_can_begin_with_any_rhyme_open():
    verse = stage.compiled_verse()
    every_rhyme = (2 << len({w.rhyme for ws in stage.word_classes().values() for w in ws if w.rhyme})) - 1
    last_states = {
        each.target for arcs in verse.rules.values() for each in arcs if each.word_class is not None and not each.tail
    }
    assert len(last_states) > 20
    for state in last_states:
        assert verse.reachable(state, LINE) == every_rhyme, state
    assert verse.reachable("sentence", 0) == every_rhyme


@pytest.mark.parametrize(
    ("word", "plural"), [("rose", "roses"), ("cry", "cries"), ("day", "days"), ("kiss", "kisses"), ("grief", "griefs")]
)
def test_form_in_s(word, plural):
    assert with_s(Word(word, "/")).text == plural
    assert len(with_s(Word(word, "/")).meter) == (2 if plural.endswith("ses") else 1)


def test_form_after_thou():
    assert [with_st(Word(word, "/")).text for word in ("love", "know")] == ["lov'st", "know'st"]
