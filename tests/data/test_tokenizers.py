import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlab.data import tokenizers
from charlab.data.tokenizers import Bytes, Characters, readable
from charlab.errors import UserError
from tests.helpers.texts import DECODED

CHARACTERS = st.integers(0, 0x10FFFF).map(chr)
TEXTS = st.text(CHARACTERS, min_size=1)


@settings(deadline=None)
@given(TEXTS)
def test_decoding_undoes_encoding(text: str) -> None:
    known = Characters.of(text)

    assert known.decode(known.encode(text)) == text


@settings(deadline=None)
@given(TEXTS)
def test_ids_follow_the_code_points(text: str) -> None:
    known = Characters.of(text)
    ids = {character: index for index, character in enumerate(sorted(set(text), key=ord))}

    assert len(known) == len(ids)
    assert known.encode(text).tolist() == [ids[character] for character in text]


@settings(deadline=None)
@given(TEXTS, CHARACTERS)
def test_no_other_character_has_an_id(text: str, character: str) -> None:
    known = Characters.of(text)
    if character in text:
        assert known.characters[known.encode(character).item()] == character
    else:
        with pytest.raises(UserError, match=f"U\\+{ord(character):04X}"):
            known.encode(character)


def test_newline_and_space_come_first() -> None:
    assert Characters.of("b a\nB").characters == "\n Bab"


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.int16), (2**15, np.int16), (2**15 + 1, np.int32)]
)
def test_ids_are_of_the_smallest_type_that_holds_them(size: int, dtype: type) -> None:
    known = Characters("".join(map(chr, range(size))))

    ids = known.encode(known.characters)

    assert ids.dtype == dtype
    assert ids.tolist() == list(range(size))


def test_unknown_character_is_shown_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_CHUNK", 4)  # so that the place is beyond the first chunk
    with pytest.raises(UserError) as error:
        Characters.of("abc\n").encode("abc\ncab\nbaéaé\nb", source="the prompt")

    assert str(error.value) == (
        "Character 11 of the prompt (line 3, column 3) is 'é' (U+00E9), "
        "which is not in the vocabulary of 4 characters: remove or replace it."
    )


def test_long_texts_are_encoded_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_CHUNK", 4)
    known = Characters.of("abcdefg")

    assert known.encode("gfedcbaabc").tolist() == [6, 5, 4, 3, 2, 1, 0, 0, 1, 2]


def test_what_a_terminal_could_not_decode_is_an_unknown_character_too() -> None:
    with pytest.raises(UserError, match=r"'\\udcff' \(U\+DCFF\)"):
        Characters.of("abc").encode(b"ab\xff".decode(errors="surrogateescape"))


@pytest.mark.parametrize("characters", ["", "ba", "aab"])
def test_a_vocabulary_is_sorted_and_has_no_character_twice(characters: str) -> None:
    with pytest.raises(UserError, match="distinct characters in the order of their code points"):
        Characters(characters)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_id_outside_the_vocabulary_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        Characters.of("abc").decode([0, index])


def test_vocabularies_of_the_same_characters_are_equal() -> None:
    assert Characters.of("banana") == Characters.of("abn")
    assert Characters.of("banana") != Characters.of("bin")


@pytest.mark.parametrize(
    ("text", "start"), [("a\nbbb", "\n"), ("GATTACAA", "A"), ("éaé", "é"), ("x\U0001f600\U0001f600", "\U0001f600")]
)
def test_a_text_begins_after_a_newline_or_else_its_most_frequent_character(
    monkeypatch: pytest.MonkeyPatch, text: str, start: str
) -> None:
    monkeypatch.setattr(tokenizers, "_CHUNK", 2)
    assert Characters.of(text).start == start
    assert Characters.of(text) == Characters("".join(sorted(set(text))))
    assert Characters("ab").start is None
    assert Characters("\nab").start == "\n"


# Bytes


@settings(deadline=None)
@given(DECODED)
def test_bytes_give_back_the_text(text: str) -> None:
    known = Bytes.of(text)
    ids = known.encode(text)

    assert known.decode(ids) == text
    data = text.encode("utf-8", "surrogateescape")
    assert [sorted(set(data))[index] for index in ids] == list(data)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_the_lengths_of_a_text_in_bytes_add_up_to_its_own(text: str) -> None:
    known = Bytes.of(text)

    assert known.lengths[known.encode(text)].sum() == len(text)


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=127), min_size=1))
def test_on_ascii_bytes_are_characters(text: str) -> None:
    characters, known = Characters.of(text), Bytes.of(text)

    np.testing.assert_array_equal(known.encode(text), characters.encode(text))
    assert (len(known), known.dtype, known.start) == (len(characters), characters.dtype, characters.start)
    assert set(known.lengths) == {1}


@settings(deadline=None)
@given(DECODED, st.sampled_from([Characters, Bytes]))
def test_what_is_decoded_token_by_token_is_the_text(text: str, kind: type) -> None:
    known = kind.of(text)
    decode = known.decoder()
    pieces = [decode(index) for index in known.encode(text).tolist()]

    assert text.startswith("".join(pieces))
    assert len(text) - len("".join(pieces)) <= 3  # bytes that might still be the beginning of a character
    if kind is Bytes and text.isprintable():
        assert "".join(pieces) == text


@pytest.mark.parametrize("text", ["a\ud800b", "\udcc3\udca9"])  # the second would decode to é
def test_what_no_bytes_decode_to_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"The prompt has '\\ud[8c]\w\w', a lone surrogate"):
        Bytes.of("abc").encode(text, source="the prompt")


def test_a_character_with_unknown_bytes_is_shown_with_its_place() -> None:
    with pytest.raises(UserError) as error:
        Bytes.of("abcé\n").encode("ab\ncéèa", source="the prompt")

    assert str(error.value) == (
        "Character 6 of the prompt (line 2, column 3) is 'è' (U+00E8), "
        "which is not in the vocabulary of 6 bytes: remove or replace it."
    )


def test_bytes_are_encoded_in_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "aé你𝔘" * 3
    ids = Bytes.of(text).encode(text)
    monkeypatch.setattr(tokenizers, "_CHUNK", 2)

    np.testing.assert_array_equal(Bytes.of(text).encode(text), ids)
    assert len(Bytes.of(text).encode("")) == 0


def test_a_readable_text_has_replacement_characters() -> None:
    assert readable(b"a\xff\xe4\xbd\xa0\xe4".decode("utf-8", "surrogateescape")) == "a\ufffd你\ufffd"
