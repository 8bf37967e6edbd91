"""A difference is split into parts that are what they are called and add up to it."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from charlab.evaluation.breakdown import differences, groupings, passages
from tests.references.breakdown import describe, exact_sum, widest

LETTERS = st.text("aAbé'’ \n\t.7,", max_size=60)


@settings(max_examples=60)
@given(LETTERS.filter(lambda text: len(text) > 1), LETTERS, st.lists(LETTERS, max_size=4), st.integers(1, 9))
def test_every_character_is_in_the_parts_that_a_slow_reading_gives(text, before, train, context_length):
    before = before[-3:]
    positions = np.arange(len(text) - 1) % context_length + 1
    ways = groupings(text, before, train, positions)
    for index in range(1, len(text)):
        (*expected,) = describe(text, index, positions[index - 1], "".join(train), before)
        found = [way.labels[way.part[index - 1]] for way in ways]
        assert [int(found[0].partition("–")[0]), *found[1:]] == expected
    assert all(way.count().sum() == len(text) - 1 for way in ways)


def test_positions_are_labeled_with_what_they_hold():
    [by_position, *_] = groupings("a" * 12, "", [], np.arange(1, 12))
    assert by_position.labels == ("1", "2–3", "4–7", "8–11")
    assert by_position.count().tolist() == [1, 2, 4, 4]


def test_contexts_are_counted_across_the_parts_of_a_long_text():
    text = "xabcd"
    for train in (["abc" * 40], ["ab", "c" + "abc" * 39], list("abc" * 40)):
        seen = groupings(text, "", train, np.arange(1, 5))[3]
        assert [seen.labels[part] for part in seen.part] == ["never", "never", "never", "10 to 99 times"]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3000), st.sampled_from([1e-4, 1.0, 40.0]))
def test_parts_add_up_to_the_whole_exactly(seed, size, scale):
    random = np.random.default_rng(seed)
    first, second = (scale * random.exponential(size=size)).astype(np.float32), random.random(size).astype(np.float32)
    nats = differences(first, second)
    assert np.allclose(nats, first.astype(np.float64) - second, rtol=0, atol=2.0**-29)
    text = "".join(random.choice(list("ab B.\n3"), size + 1))
    whole = exact_sum(nats)
    for way in groupings(text, "", ["ab " * 50], np.arange(size) % 17 + 1):
        for block in (None, 100):
            assert sum(way.add_up(nats, block).ravel().tolist()) == whole
        for part, total in enumerate(way.add_up(nats)[:, 0]):
            assert total == exact_sum(nats[way.part == part])
    assert nats.sum() == whole


@settings(max_examples=40)
@given(st.lists(st.integers(-40, 40), min_size=1, max_size=200), st.integers(1, 12))
def test_passages_are_those_that_differ_most(values, length):
    nats = np.array(values, dtype=np.float64) / 8
    found = passages(nats, most=5, length=length)
    length = min(length, len(nats))
    if not found:
        assert exact_sum(nats[widest(nats, length) :][:length]) == 0
        return
    best = widest(nats, length)
    assert abs(found[0].nats) == abs(exact_sum(nats[best : best + length]))
    assert all(passage.nats == exact_sum(nats[passage.start : passage.stop]) for passage in found)
    assert [abs(p.nats) for p in found] == sorted((abs(p.nats) for p in found), reverse=True)
    starts = sorted(passage.start for passage in found)
    assert all(later - earlier >= length for earlier, later in itertools.pairwise(starts))
