"""Made-up texts have the bytes of the texts that they stand for, in about their shares."""

import string
import tempfile

import pytest

from benchmarks.made_up import made_up_text

pytestmark = pytest.mark.slow


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Write a text into the test's folder and return its bytes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda length, **settings: made_up_text.__wrapped__(length, **settings).read_bytes()


def test_a_plain_text_has_the_27_characters_of_text8(write):
    text = write(300_000)
    assert set(text) == set(string.ascii_lowercase.encode() + b" ")
    assert len(text) == 300_000


def test_a_text_with_markup_has_bytes_like_enwik8(write):
    text = write(1_000_000, markup=True)
    assert len(text.decode()) == 1_000_000
    assert len(set(text)) > 170
    assert {*string.printable.encode()} - {*b"\t\r\x0b\x0c"} <= {*text}
    for characters, least, most in (
        (string.ascii_lowercase, 0.5, 0.8),
        (" ", 0.1, 0.2),
        (string.ascii_uppercase, 0.01, 0.1),
        (string.digits, 0.005, 0.08),
        ("\n", 0.002, 0.03),
        ("[", 0.005, 0.05),
    ):
        share = sum(map(text.count, characters.encode())) / len(text)
        assert least < share < most, characters
    assert 0.002 < sum(byte >= 128 for byte in text) / len(text) < 0.05
    assert b"\n " not in text


def test_a_text_is_the_same_each_time(write):
    assert write(10_000, markup=True) == write(10_000, markup=True) != write(10_000)
