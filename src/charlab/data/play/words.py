"""Inflected words with meter and rhyme, grouped into the classes that the grammar names."""

from __future__ import annotations

from dataclasses import dataclass

from charlab.data.play import lexicon

VOWELS = "aeiou"
SILENT_H = ("honor", "honest", "hour", "heir")
HISSES = ("s", "x", "z", "ch", "sh", "ce", "ge", "se")  # after these the ending -s adds a syllable
RHYME_OF = {word: rhyme for rhyme, words in lexicon.RHYMES.items() for word in words.split()}


@dataclass(frozen=True, slots=True)
class Word:
    """A word in one of its forms.

    Attributes:
        text: its spelling.
        meter: its syllables, such as "/x" for "gentle"; see the lexicon.
        rhyme: the name of its rhyme; None for a word that never ends a line.
    """

    text: str
    meter: str
    rhyme: str | None = None


def with_s(word: Word) -> Word:
    """Return the form in -s, a noun's plural or a verb's third person."""
    if word.text.endswith(HISSES):
        text = word.text + ("s" if word.text.endswith("e") else "es")
        return Word(text, word.meter + ("/" if word.meter.endswith("x") else "x"))
    ends_in_y = word.text.endswith("y") and word.text[-2] not in VOWELS
    text = word.text[:-1] + "ies" if ends_in_y else word.text + "s"
    return Word(text, word.meter, word.rhyme and word.rhyme + "s")


def with_st(word: Word) -> Word:
    """Return a verb's form after "thou": "love" gives "lov'st"."""
    return Word(word.text.removesuffix("e") + "'st", word.meter)


def word_classes() -> dict[str, list[Word]]:
    """Return the words of each class that the grammar names."""
    mass_nouns = lexicon.MASS_NOUNS.split()
    nouns, stems = _listed(lexicon.SINGULAR_NOUNS), _listed(lexicon.PLURAL_NOUNS)
    countable = [word for word in nouns if word.text not in mass_nouns] + stems
    adjectives = _listed(lexicon.ADJECTIVES)
    attributes = adjectives + _listed(lexicon.COMPOUND_ADJECTIVES)
    classes = {
        "noun": nouns,
        "nouns": [with_s(word) for word in stems],
        "any noun": nouns + stems,
        "any nouns": [with_s(word) for word in countable],
        "countable noun": countable,
        "noun after a": [word for word in countable if not _starts_with_vowel(word)],
        "noun after an": [word for word in countable if _starts_with_vowel(word)],
        "adjective": attributes,
        "adjective after a": [word for word in attributes if not _starts_with_vowel(word)],
        "adjective after an": [word for word in attributes if _starts_with_vowel(word)],
        "predicate": adjectives + _listed(lexicon.PREDICATES),
        "possessor": _listed(lexicon.POSSESSORS),
        "participle": _listed(lexicon.PARTICIPLES),
        "mass noun": [word for word in nouns if word.text in mass_nouns],
        "pronoun": _listed(lexicon.OBJECT_PRONOUNS),
    }
    for name, listing in (("transitive", lexicon.TRANSITIVE_VERBS), ("intransitive", lexicon.INTRANSITIVE_VERBS)):
        verbs = _listed(listing)
        classes[f"{name} base"] = verbs
        classes[f"{name} sg"] = [with_s(word) for word in verbs]
        classes[f"{name} thou"] = [with_st(word) for word in verbs if not word.text.endswith((*HISSES, "t", "te"))]
    return classes


def _listed(words: dict[str, str]) -> list[Word]:
    return [Word(text, meter, RHYME_OF.get(text)) for meter, row in words.items() for text in row.split()]


def _starts_with_vowel(word: Word) -> bool:
    return word.text[0] in VOWELS or word.text.startswith(SILENT_H)
