import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlab.data import vocabulary
from charlab.data.vocabulary import Vocabulary
from charlab.errors import UserError

CHARACTERS = st.integers(0, 0x10FFFF).map(chr)
TEXTS = st.text(CHARACTERS, min_size=1)


@settings(deadline=None)
@given(TEXTS)
def test_decoding_undoes_encoding(text: str) -> None:
    known = Vocabulary.of(text)

    assert known.decode(known.encode(text)) == text


@settings(deadline=None)
@given(TEXTS)
def test_ids_follow_the_code_points(text: str) -> None:
    known = Vocabulary.of(text)
    ids = {character: index for index, character in enumerate(sorted(set(text), key=ord))}

    assert len(known) == len(ids)
    assert known.encode(text).tolist() == [ids[character] for character in text]


@settings(deadline=None)
@given(TEXTS, CHARACTERS)
def test_no_other_character_has_an_id(text: str, character: str) -> None:
    known = Vocabulary.of(text)
    if character in text:
        assert known.characters[known.encode(character).item()] == character
    else:
        with pytest.raises(UserError, match=f"U\\+{ord(character):04X}"):
            known.encode(character)


def test_newline_and_space_come_first() -> None:
    assert Vocabulary.of("b a\nB").characters == "\n Bab"


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.int16), (2**15, np.int16), (2**15 + 1, np.int32)]
)
def test_ids_are_of_the_smallest_type_that_holds_them(size: int, dtype: type) -> None:
    known = Vocabulary("".join(map(chr, range(size))))

    ids = known.encode(known.characters)

    assert ids.dtype == dtype
    assert ids.tolist() == list(range(size))


def test_unknown_character_is_shown_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_CHUNK", 4)  # so that the place lies beyond the first chunk
    with pytest.raises(UserError) as error:
        Vocabulary.of("abc\n").encode("abc\ncab\nbaéaé\nb", source="the prompt")

    assert str(error.value) == (
        "Character 11 of the prompt (line 3, column 3) is 'é' (U+00E9), "
        "which is not in the vocabulary of 4 characters: remove or replace it."
    )


def test_long_texts_are_encoded_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_CHUNK", 4)
    known = Vocabulary.of("abcdefg")

    assert known.encode("gfedcbaabc").tolist() == [6, 5, 4, 3, 2, 1, 0, 0, 1, 2]


def test_what_a_terminal_could_not_decode_is_an_unknown_character_too() -> None:
    with pytest.raises(UserError, match=r"'\\udcff' \(U\+DCFF\)"):
        Vocabulary.of("abc").encode(b"ab\xff".decode(errors="surrogateescape"))


@pytest.mark.parametrize("characters", ["", "ba", "aab"])
def test_a_vocabulary_is_sorted_and_has_no_character_twice(characters: str) -> None:
    with pytest.raises(UserError, match="distinct characters in the order of their code points"):
        Vocabulary(characters)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_id_outside_the_vocabulary_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        Vocabulary.of("abc").decode([0, index])


def test_vocabularies_of_the_same_characters_are_equal() -> None:
    assert Vocabulary.of("banana") == Vocabulary.of("abn")
    assert Vocabulary.of("banana") != Vocabulary.of("bin")


@pytest.mark.parametrize(
    ("text", "start"), [("a\nbbb", "\n"), ("GATTACAA", "A"), ("éaé", "é"), ("x\U0001f600\U0001f600", "\U0001f600")]
)
def test_a_text_begins_after_a_newline_or_else_its_most_frequent_character(
    monkeypatch: pytest.MonkeyPatch, text: str, start: str
) -> None:
    monkeypatch.setattr(vocabulary, "_CHUNK", 2)
    assert Vocabulary.of(text).start == start
    assert Vocabulary.of(text) == Vocabulary("".join(sorted(set(text))))
    assert Vocabulary("ab").start is None
    assert Vocabulary("\nab").start == "\n"
