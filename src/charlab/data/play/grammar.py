"""The grammar of the plays' sentences: a machine of states and arcs.

A state is a place in a sentence; its arcs are what may follow. The machine remembers what agreement needs: the number
of a subject until its verb, across a phrase of another number ("the crown of all these kings betrays"), and the mood
of a sentence until its end, so that a question ends with "?".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

POLYSYLLABLES = {
    **dict.fromkeys(("beneath", "within", "against", "before", "upon", "farewell", "alas"), "x/"),
    **dict.fromkeys(("never", "every"), "/x"),
}
UNSTRESSED = frozenset("the a an my thy his her our your".split())  # other monosyllables may be stressed or not


@dataclass(frozen=True)
class Arc:
    """A continuation of a state: a mark, a gap and words, each of them optional.

    Attributes:
        mark: punctuation.
        gap: whether a space follows, or a line break if the line is full.
        words: function words, followed by a space.
        word_class: the class of the next word, instead of `words`.
        tail: what follows the word of `word_class`: a space or nothing.
        target: the state that follows.
        weight: how often the arc is chosen, relative to the state's others. The words of a class share it.
        weight_at_line_end: the same if the line is full.
        event: what the stage must allow, at the beginning of a line, for the arc to be open: "end" (of the speech),
            "enter man", "enter woman", "leave", or the play's genre.
    """

    mark: str
    gap: bool
    words: str
    word_class: str | None
    tail: str
    target: str
    weight: int
    weight_at_line_end: int
    event: str | None = None

    @cached_property
    def meter(self) -> str:
        """The meter of the function words."""
        words = re.findall(r"[a-z']+", self.words.lower())
        return "".join(POLYSYLLABLES.get(word, "x" if word in UNSTRESSED else "*") for word in words)


Rules = dict[str, list[Arc]]
"""The arcs of each state."""

_NOTATION = re.compile(r"(?P<mark>[.,;:!?]?)(?P<gap>_?)(?:<(?P<word_class>.+)>(?P<tail> ?)|(?P<words>.*))", re.DOTALL)


def arc(weight: int, notation: str, target: str, *, at_line_end: int | None = None, event: str | None = None) -> Arc:
    """Return the arc for a notation such as ",_and ", "_<any noun>" or "<adjective> ", where "_" is the gap."""
    parts = _NOTATION.fullmatch(notation)
    if parts is None:
        raise ValueError(f"{notation!r} is not an arc")
    return Arc(
        mark=parts["mark"],
        gap=bool(parts["gap"]),
        words=parts["words"] or "",
        word_class=parts["word_class"],
        tail=parts["tail"] or "",
        target=target,
        weight=weight,
        weight_at_line_end=weight if at_line_end is None else at_line_end,
        event=event,
    )


def after_gap(arcs: Iterable[Arc]) -> list[Arc]:
    """Return the same arcs after a gap."""
    return [replace(each, gap=True) for each in arcs]


VERB_FORMS = {"sg": "sg", "pl": "base", "thou": "thou", "I": "base"}  # by subject
BE = {"sg": "is ", "pl": "are ", "thou": "art ", "I": "am "}
DO = {"sg": "doth ", "pl": "do ", "thou": "dost ", "I": "do "}
HAVE = {"sg": "hath ", "pl": "have ", "thou": "hast ", "I": "have "}
MODALS = "will shall must may can would".split()
MODALS_AFTER_THOU = "wilt shalt must mayst canst wouldst".split()
DETERMINERS = {"the": 9, "my": 6, "thy": 6, "his": 5, "her": 5, "our": 5, "your": 5}
PREPOSITIONS = "in with from upon beneath for to against before within o'er by at through".split()
CONJUNCTIONS = "and but for while till though yet as or since so when where".split()


def _noun_phrase(rules: Rules, name: str, singular: str, plural: str, *, number: str = "any") -> list[Arc]:
    """Add the states of a noun phrase, and return the arcs that start it.

    Args:
        rules: receives the states.
        name: prefix of the states' names.
        singular: the state after a singular noun.
        plural: the state after a plural noun.
        number: "sg" or "pl" if only that number is allowed, else "any".
    """
    one, many, either, a, an, bare = (f"{name}/{part}" for part in ("one", "many", "either", "a", "an", "bare"))
    open_number = {"sg": one, "pl": many, "any": either}[number]
    arcs = [arc(weight, f"{word} ", open_number) for word, weight in DETERMINERS.items()]
    arcs.append(arc(40, "<adjective> ", bare))
    rules[bare] = []
    if number != "pl":
        arcs += [arc(3, "this ", one), arc(3, "that ", one), arc(2, "no ", one), arc(1, "every ", one)]
        arcs += [arc(6, "a ", a), arc(3, "an ", an), arc(12, "<mass noun>", singular)]
        rules[bare].append(arc(2, "<mass noun>", singular))
        rules[one] = [
            arc(12, "<adjective> ", f"{one}/noun"),
            arc(6, "<any noun>", singular),
            arc(1, "<possessor> ", f"{one}/noun"),
        ]
        rules[f"{one}/noun"] = [arc(1, "<any noun>", singular)]
        rules[a] = [arc(12, "<adjective after a> ", f"{a}/noun"), arc(6, "<noun after a>", singular)]
        rules[an] = [arc(12, "<adjective after an> ", f"{a}/noun"), arc(6, "<noun after an>", singular)]
        rules[f"{a}/noun"] = [arc(1, "<countable noun>", singular)]
    if number != "sg":
        arcs += [arc(2, "these ", many), arc(2, "those ", many), arc(2, "all ", many)]
        arcs.append(arc(24, "<any nouns>", plural))
        rules[bare].append(arc(4, "<any nouns>", plural))
        rules[many] = [arc(12, "<adjective> ", f"{many}/noun"), arc(6, "<any nouns>", plural)]
        rules[f"{many}/noun"] = [arc(1, "<any nouns>", plural)]
    if number == "any":
        rules[either] = [
            arc(20, "<adjective> ", f"{either}/noun"),
            arc(7, "<noun>", singular),
            arc(4, "<nouns>", plural),
            arc(1, "<possessor> ", f"{either}/noun"),
        ]
        rules[f"{either}/noun"] = [arc(5, "<noun>", singular), arc(3, "<nouns>", plural)]
    return arcs


def _predicate(rules: Rules, mood: str, finish: list[Arc]) -> None:
    """Add what may follow the auxiliary of a clause.

    Args:
        rules: receives the states.
        mood: prefix of the states' names.
        finish: the arcs that end or continue the clause.
    """
    do, base, be, end, thing, close = (f"{mood}/{part}" for part in ("do", "base", "be", "end", "thing", "close"))
    rules[f"{do}/verb"] = [
        arc(40, "<transitive base>", f"{mood}/object"),
        arc(16, "<intransitive base>", f"{base}/end"),
    ]
    rules[f"{base}/verb"] = [*rules[f"{do}/verb"], arc(8, "be ", be)]
    for verbs in (do, base):
        rules[verbs] = [*rules[f"{verbs}/verb"], *(arc(6, word, f"{verbs}/verb") for word in ("not ", "never "))]
    rules[be] = [
        arc(16, "<predicate>", end),
        arc(2, "so ", f"{be}/so"),
        arc(1, "too ", f"{be}/so"),
        arc(2, "as ", f"{be}/as"),
        arc(2, "more ", f"{be}/more"),
    ]
    rules[f"{be}/so"] = [arc(1, "<predicate>", end)]
    for word, comparison in (("as", "_as "), ("more", "_than ")):
        rules[f"{be}/{word}"] = [arc(1, "<predicate>", f"{be}/{word}/compared")]
        rules[f"{be}/{word}/compared"] = [arc(1, comparison, f"{mood}/place")]
    rules[f"{mood}/object"] = after_gap(_noun_phrase(rules, f"{mood}/object", thing, thing))
    rules[f"{mood}/object"].append(arc(12, "_<pronoun>", end))
    rules[f"{mood}/place"] = _noun_phrase(rules, f"{mood}/place", close, close)
    rules[close] = finish
    rules[end] = [
        *finish,
        *(arc(2, f"_{preposition} ", f"{mood}/place") for preposition in PREPOSITIONS),
        arc(2, "_here in ", f"{mood}/city"),
    ]
    rules[thing] = [*rules[end], arc(6, "_of ", f"{mood}/place")]
    rules[f"{base}/end"] = [*rules[end], arc(8, "_and ", f"{do}/verb")]


def _statements(rules: Rules) -> None:
    """Add statements, which begin in "clause"."""
    finish = [arc(10, "._", "sentence", at_line_end=80), arc(2, "!_", "sentence", at_line_end=8)]
    finish += [arc(3, ";_", "clause", at_line_end=8), arc(1, ":_", "clause", at_line_end=5)]
    finish += [arc(1, f",_{word} ", "clause", at_line_end=2) for word in CONJUNCTIONS]
    _predicate(rules, "say", finish)
    rules["say/have/verb"] = [arc(10, "<participle>", "say/object")]
    rules["say/have"] = [*rules["say/have/verb"], arc(2, "been ", "say/be"), arc(2, "not ", "say/have/verb")]
    for subject, form in VERB_FORMS.items():
        modals = MODALS_AFTER_THOU if subject == "thou" else MODALS
        rules[f"{subject}/verb"] = [
            arc(80, f"<transitive {form}>", "say/object"),
            arc(30, f"<intransitive {form}>", f"{subject}/end"),
            arc(14, BE[subject], "say/be"),
            arc(8, DO[subject], "say/do"),
            arc(8, HAVE[subject], "say/have"),
            *(arc(3, f"{modal} ", "say/base") for modal in modals),
        ]
        rules[f"{subject}/end"] = [*rules["say/end"], arc(8, "_and ", f"{subject}/verb")]
    for number in ("sg", "pl"):
        rules[f"{number}/owned"] = after_gap(rules[f"{number}/verb"])
        rules[f"{number}/subject"] = [*rules[f"{number}/owned"], arc(20, "_of ", f"{number}/of")]
        rules[f"{number}/of"] = _noun_phrase(rules, f"{number}/of", f"{number}/owned", f"{number}/owned")
    rules["clause"] = [
        *_noun_phrase(rules, "clause", "sg/subject", "pl/subject"),
        arc(8, "I ", "I/verb"),
        arc(8, "thou ", "thou/verb"),
        *(arc(3, word, "sg/verb") for word in ("he ", "she ")),
        *(arc(3, word, "pl/verb") for word in ("we ", "they ")),
    ]


def _questions(rules: Rules) -> list[Arc]:
    """Add questions, and return the arcs that start them."""
    _predicate(rules, "ask", [arc(14, "?_", "sentence", at_line_end=60), arc(2, ",_or ", "ask/do/verb")])
    for verbs, number in (("do", "sg"), ("do", "pl"), ("base", "any")):
        subject = f"ask/{verbs}/subject"
        rules[subject] = after_gap(rules[f"ask/{verbs}/verb"])
        rules[f"ask/{number}"] = _noun_phrase(rules, f"ask/{number}", subject, subject, number=number)
    rules["why"] = [
        arc(2, "doth ", "ask/sg"),
        arc(2, "do ", "ask/pl"),
        arc(2, "dost thou ", "ask/do/verb"),
        *(arc(1, word, "ask/any") for word in ("shall ", "must ", "will ")),
    ]
    rules["who"] = [
        arc(20, "<transitive sg>", "ask/object"),
        arc(8, "<intransitive sg>", "ask/end"),
        *(arc(3, f"{modal} ", "ask/base") for modal in MODALS),
    ]
    return [*rules["why"], arc(4, "why ", "why"), arc(4, "who ", "who")]


def _exclamations(rules: Rules) -> list[Arc]:
    """Add "how sweet is the night!", and return the arc that starts it."""
    rules["how"] = [arc(1, "<predicate>", "how/be")]
    rules["how/be"] = [arc(2, "_is ", "how/sg"), arc(1, "_are ", "how/pl")]
    for number in ("sg", "pl"):
        rules[f"how/{number}"] = _noun_phrase(rules, f"how/{number}", "how/end", "how/end", number=number)
    rules["how/end"] = [arc(4, "!_", "sentence", at_line_end=20), arc(1, ",_and how ", "how")]
    return [arc(4, "how ", "how")]


def _wishes(rules: Rules) -> list[Arc]:
    """Add conditions and imperatives, and return the arcs that start them."""
    _predicate(rules, "if", [arc(1, ",_", "clause")])
    rules["if/subject"] = after_gap(rules["if/base/verb"])
    rules["if"] = _noun_phrase(rules, "if", "if/subject", "if/subject")
    rules["if"] += [arc(12, word, "if/base/verb") for word in ("I ", "thou ")]
    rules["let/subject"] = after_gap(rules["say/base/verb"])
    rules["let"] = _noun_phrase(rules, "let", "let/subject", "let/subject")
    rules["let"] += [arc(6, word, "say/base/verb") for word in ("me ", "us ", "him ", "them ")]
    imperatives = [arc(2, word, "say/base/verb") for word in ("come, ", "go, ", "now ", "then ")]
    return [arc(6, "if ", "if"), arc(6, "let ", "let"), *imperatives]


def sentence_rules() -> Rules:
    """Return the states of sentences with their arcs.

    A sentence begins in "sentence", or after an address in "address/done". The states "address", "enter man",
    "enter woman", "wager" and those that end in "/city" have no arcs: the play supplies their words.
    """
    rules: Rules = {}
    _statements(rules)
    rules["address/done"] = [*rules["clause"], *_questions(rules), *_exclamations(rules), *_wishes(rules)]
    rules["sentence"] = [
        *rules["address/done"],
        arc(8, "O ", "address"),
        arc(8, "I'll lay thee ", "wager"),
        arc(400, "\n", "sentence", event="end"),
        arc(3, "here comes good ", "enter man", event="enter man"),
        arc(3, "here comes fair ", "enter woman", event="enter woman"),
        arc(6, "farewell, ", "address/done", event="leave"),
        arc(6, "alas, ", "address/done", event="TRAGEDY"),
        arc(6, "in faith, ", "address/done", event="COMEDY"),
        arc(6, "to arms! ", "address/done", event="HISTORY"),
    ]
    return rules
