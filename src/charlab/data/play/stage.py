"""Whole plays: who is on stage, who speaks, and what stays the same from the title to the last couplet."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cache

from charlab.data.play.choice import Choice
from charlab.data.play.grammar import sentence_rules
from charlab.data.play.lexicon import CITIES, EPITHETS, MEN, WOMEN
from charlab.data.play.verse import LINE, Recall, Verse
from charlab.data.play.words import Word, word_classes

Telling = Generator[Choice, int, None]
"""A play in progress: yields choices, and is sent the index of the chosen string."""

FEWEST_SPEECHES = 12
MOST_ON_STAGE = 4
WAGERS = {"$3": "/", "$33": "/x/"}
NAME_METERS = {name: meter for names in (MEN, WOMEN) for meter, row in names.items() for name in row.split()}
ENTRANTS = {
    "enter man": [name for row in MEN.values() for name in row.split()],
    "enter woman": [name for row in WOMEN.values() for name in row.split()],
}
EXEUNT = "Exeunt.\n\n"

_GENRES = {f", A {genre} OF ": genre for genre in ("TRAGEDY", "COMEDY", "HISTORY")}
_CITIES = {f"{city.upper()}\n\n": city for city in CITIES}
_GENRE, _CITY = Choice.among(list(_GENRES)), Choice.among(list(_CITIES))
_EPITHET = Choice.among([epithet + " " for epithet in EPITHETS])
_WAGER = Choice.among([wager + " that " for wager in WAGERS])


@dataclass
class Stage:
    """What the rest of a play depends on.

    Attributes:
        genre: the play's genre, which determines an exclamation.
        city: the setting, the only place that the play names.
        present: the characters on stage, in order of entrance.
        absent: the characters who left; they are more likely to enter than new ones.
        speaker: who is speaking.
        addressee: who spoke before, and is spoken to.
        epithets: the fixed epithet of each character addressed so far.
        wager: the sum of all wagers in this play, once it has been named.
        rhyme: the word to rhyme with, or None if the line is free.
    """

    genre: str
    city: str
    present: list[str]
    speaker: str
    addressee: str
    absent: list[str] = field(default_factory=list)
    epithets: dict[str, str] = field(default_factory=dict)
    wager: str | None = None
    rhyme: Word | None = None


def tell() -> Telling:
    """Yield the choices of endless plays."""
    while True:
        yield from _play()


def _play() -> Telling:
    names = tuple(NAME_METERS)
    choice = _title_name(names, " & ")
    first = choice.texts[(yield choice)].removesuffix(" & ").capitalize()
    choice = _title_name(tuple(name for name in names if name != first), "")
    second = choice.texts[(yield choice)].capitalize()
    genre = _GENRES[_GENRE.texts[(yield _GENRE)]]
    city = _CITIES[_CITY.texts[(yield _CITY)]]
    # The play opens as if the second character had just spoken to the first.
    stage = Stage(genre, city, [first, second], speaker=second, addressee=first)
    arrived = None
    speeches = 0
    while True:
        may_close = speeches >= FEWEST_SPEECHES and stage.rhyme is None
        others = {
            name: 6 if name == arrived else 4 if name == stage.addressee else 2
            for name in stage.present
            if name != stage.speaker and (speeches or name == first)
        }
        choice = _heading(tuple(others.items()), may_close)
        heading = choice.texts[(yield choice)]
        if heading == EXEUNT:
            return
        stage.addressee, stage.speaker = stage.speaker, heading.removesuffix(":\n").capitalize()
        arrived = yield from _speech(stage)
        speeches += 1


@cache
def _title_name(names: tuple[str, ...], ending: str) -> Choice:
    return Choice.among([name.upper() + ending for name in names])


@cache
def _heading(weights: tuple[tuple[str, int], ...], may_close: bool) -> Choice:
    texts = {f"{name.upper()}:\n": weight for name, weight in weights}
    if may_close:
        texts[EXEUNT] = 1
    return Choice.among(list(texts), list(texts.values()))


def _speech(stage: Stage) -> Generator[Choice, int, str | None]:
    """Yield the choices of a speech, and return the character who entered, or None."""
    verse = compiled_verse()
    state, syllable, lines = "sentence", 0, 0
    arrived, leaving = None, False
    events: frozenset[str] = frozenset()
    while True:
        if state == "sentence":
            events = _events(stage, spoken=lines > 0, arrived=arrived is not None, leaving=leaving)
        node = verse.node(state, syllable, stage.rhyme, events)
        arc_index, syllables, word = node.steps[(yield node.choice)]
        arc = node.arcs[arc_index]
        if arc.event == "end":
            break
        leaving = leaving or arc.event == "leave"
        state = arc.target
        if syllable == LINE:
            syllable = 0
            lines += 1
        syllable += syllables
        if syllable == LINE:
            stage.rhyme = word if stage.rhyme is None else None
        elif state in verse.recalls:
            said, meter = yield from _recall(state, stage)
            if state in ENTRANTS:
                arrived = said
                stage.present.append(said)
                if said in stage.absent:
                    stage.absent.remove(said)
            syllable += len(meter)
            state = verse.recalls[state].target
    if leaving:
        stage.present.remove(stage.speaker)
        stage.absent.append(stage.speaker)
    return arrived


def _events(stage: Stage, *, spoken: bool, arrived: bool, leaving: bool) -> frozenset[str]:
    may_enter = len(stage.present) < MOST_ON_STAGE and not arrived
    may_leave = len(stage.present) > 2 and not leaving
    return _event_set(stage.genre, spoken, may_enter, may_leave)


@cache
def _event_set(genre: str, may_end: bool, may_enter: bool, may_leave: bool) -> frozenset[str]:
    events = {genre}
    events |= {"end"} if may_end else set()
    events |= set(ENTRANTS) if may_enter else set()
    events |= {"leave"} if may_leave else set()
    return frozenset(events)


def _recall(state: str, stage: Stage) -> Generator[Choice, int, tuple[str, str]]:
    """Yield the choices that the grammar leaves to the play, and return the words and their meter."""
    if state in ENTRANTS:
        choice = _entrant(state, tuple(stage.present), tuple(stage.absent))
        name = choice.texts[(yield choice)].removesuffix("; ")
        return name, NAME_METERS[name]
    if state == "address":
        epithet = stage.epithets.get(stage.addressee)
        if epithet is None:
            stage.epithets[stage.addressee] = _EPITHET.texts[(yield _EPITHET)]
        else:
            yield _certain(epithet)
        yield _certain(stage.addressee + ", ")
        return stage.addressee, "/x" + NAME_METERS[stage.addressee]
    if state == "wager":
        choice = _WAGER if stage.wager is None else _certain(stage.wager + " that ")
        stage.wager = choice.texts[(yield choice)].removesuffix(" that ")
        return stage.wager, WAGERS[stage.wager] + "x"
    yield _certain(stage.city)
    return stage.city, "/x/"


@cache
def _certain(text: str) -> Choice:
    return Choice([text], [1])


@cache
def _entrant(state: str, present: tuple[str, ...], absent: tuple[str, ...]) -> Choice:
    names = [name for name in ENTRANTS[state] if name not in present]
    return Choice.among([name + "; " for name in names], [20 if name in absent else 1 for name in names])


@cache
def compiled_verse() -> Verse:
    """Return the verse of all plays, compiled once per process."""
    rules = sentence_rules()
    meters = tuple(dict.fromkeys(NAME_METERS.values()))
    recalls = {state: Recall(meters, "address/done") for state in ENTRANTS}
    recalls["address"] = Recall(tuple("/x" + meter for meter in meters), "address/done")
    recalls["wager"] = Recall(tuple(meter + "x" for meter in WAGERS.values()), "clause")
    cities = {arc.target for arcs in rules.values() for arc in arcs if arc.target.endswith("/city")}
    recalls |= {state: Recall(("/x/",), state.replace("/city", "/close")) for state in sorted(cities)}
    return Verse(rules, word_classes(), recalls)
