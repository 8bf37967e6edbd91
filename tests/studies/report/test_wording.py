import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlab.studies.report import wording


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('File "/home/ann/lab/src/charlab/runs/train.py", line 5', 'File "…/runs/train.py", line 5'),
        ("data.path=/home/ann/words.txt", "data.path=…/words.txt"),
        ("/tmp/words.txt is gone", "…/words.txt is gone"),
        (r"C:\Users\ann\words.txt", "…/words.txt"),
        ("~/lab/words.txt", "…/words.txt"),
        ("outputs/runs/a/b and https://example.org/a/b and 3/4", None),
    ],
)
def test_paths_do_not_tell_whose_machine_it_was(text, shown):
    assert wording.without_paths(text) == (text if shown is None else shown)


@given(st.lists(st.text("ab_", min_size=1, max_size=60), unique=True, max_size=12))
def test_labels_are_short_and_different(names):
    found = wording.labels(names)
    assert list(found) == names
    assert all(len(label) <= 24 for label in found.values())
    assert len(set(found.values())) == len(names)
    assert all(found[name] == name for name in names if len(name) <= 18)


def test_differences_have_a_sign():
    assert wording.signed(-0.00125, 3) == "−0.001"
    assert wording.signed(0.02) == "+0.0200"
    assert wording.signed(-math.inf) == "−∞"
    assert wording.interval((-0.1, 0.25), 2) == "[−0.10, +0.25]"


def test_numbers_have_as_many_digits_as_they_need():
    assert [wording.probability(p) for p in (1e-7, 0.00123, 0.0123, 0.123, math.nan)] == [
        "< 0.0001",
        "0.0012",
        "0.012",
        "0.12",
        "–",
    ]
    assert [wording.amount(n) for n in (0, 4225, 1_115_394, 2.5e7, 4.23e12)] == [
        "0",
        "4,225",
        "1,115,394",
        "25 M",
        "4.23 T",
    ]
    assert [wording.memory(n) for n in (512, 685_338_624, 3 * 2**30)] == ["512 B", "654 MiB", "3 GiB"]
    assert [wording.duration(s) for s in (0.73, 40.2, 600, 7200 * 3)] == ["0.7 s", "40 s", "10 min", "6.0 h"]


def test_what_cannot_be_shown_is_replaced():
    assert wording.printable("a\tb\x00\x1b[31m\u202e\nc") == "a   b\ufffd\ufffd[31m\ufffd\nc"
