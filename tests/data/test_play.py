import math
import re
import subprocess
import sys
from collections import defaultdict
from fractions import Fraction
from itertools import islice
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlab.data.corpora import Corpus
from charlab.data.play import lexicon, loader, stage
from charlab.data.play.choice import DRAW_BITS, Choice, character_costs
from charlab.data.play.loader import Play, generate_with_nll
from charlab.data.play.words import RHYME_OF
from charlab.errors import UserError
from tests.references import play_reading
from tests.references.play_probabilities import all_texts, next_character_probabilities
from tests.references.play_reading import decode, nll_per_character

ALPHABET = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Play(seed=305, length=400_000).load()


def generate(seed: int, length: int) -> str:
    return generate_with_nll(seed, length)[0]


def retell(indices: list[int]) -> tuple[str, list[Choice]]:
    telling = stage.tell()
    choice = next(telling)
    pieces, choices = [], []
    for index in indices:
        pieces.append(choice.texts[index])
        choices.append(choice)
        choice = telling.send(index)
    return "".join(pieces), choices


# The text


def test_text_is_the_same_on_every_machine():
    corpus = Play(seed=305, length=20_000).load()
    assert corpus.sha256 == "70cfe0db3c7df8734e66d7b647e675b713bfb95d5e6ec1fec7a341b69c54c380"


def test_alphabet_equals_tiny_shakespeares(corpus):
    assert "".join(sorted(set(corpus.text))) == ALPHABET
    assert min(corpus.text.count(character) for character in ALPHABET) >= 20


@pytest.mark.parametrize("seed", [0, -3, 2**70])
def test_shorter_text_begins_longer_one(seed):
    assert generate(seed, 3000).startswith(generate(seed, 777))
    assert generate(seed, 3000) != generate(seed + 1, 3000)


def test_loader_gives_corpus_with_floor():
    corpus = Play(seed=4, length=2000).load()
    assert (corpus.name, len(corpus.text)) == ("play", 2000)
    assert corpus.floor_per_character is not None
    assert corpus.floor_per_character.dtype == np.float64
    np.testing.assert_allclose(corpus.floor_per_character, nll_per_character(corpus.text), rtol=0, atol=1e-12)


def test_loader_refuses_empty_play():
    with pytest.raises(UserError, match="length"):
        Play(length=0)


def test_loader_needs_no_torch():
    check = "import sys, charlab.data.play.loader; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# Text and choices correspond one to one


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(1, 4000))
def test_decoding_gives_back_choices_and_choices_give_back_text(seed, length):
    text = generate(seed, length)
    decisions = decode(text)
    assert "".join(decision.text for decision in decisions) == text
    whole = [decision for decision in decisions if decision.index is not None]
    assert len(whole) >= len(decisions) - 1
    retold, choices = retell([decision.index for decision in whole])
    assert text.startswith(retold)
    for decision, choice in zip(whole, choices, strict=True):
        assert decision.probability == Fraction(choice.weights[decision.index], choice.total)
    nats = -sum(math.log(decision.probability) for decision in decisions)
    assert nll_per_character(text).sum() == pytest.approx(nats, abs=1e-8)


def test_generating_and_reading_give_the_same_nll(corpus):
    text = corpus.text[:15_000]
    np.testing.assert_allclose(nll_per_character(text), corpus.floor_per_character[:15_000], rtol=0, atol=1e-12)


def test_probabilities_of_all_texts_of_one_length_sum_to_one():
    probabilities: dict[str, Fraction] = {}
    for text, probability in all_texts(stage.tell, 13):
        probabilities[text] = probabilities.get(text, Fraction(0)) + probability
    assert len(probabilities) > 500
    assert sum(probabilities.values()) == 1
    for text in sorted(probabilities)[::20]:
        assert math.prod(decision.probability for decision in decode(text)) == probabilities[text]
        assert math.exp(-nll_per_character(text).sum()) == pytest.approx(float(probabilities[text]))


def test_probabilities_of_a_small_telling_sum_to_one(monkeypatch):
    def tell() -> stage.Telling:
        while True:
            first = Choice.among(["a", "ba", "bbc"], [1, 2, 4])
            chosen = first.texts[(yield first)]
            yield Choice.among([chosen, " ", "c"], [3, 5, len(chosen)])

    monkeypatch.setattr(loader, "tell", tell)
    monkeypatch.setattr(play_reading, "tell", tell)
    texts = list(all_texts(tell, 7))
    probabilities: dict[str, Fraction] = defaultdict(Fraction)
    for text, probability in texts:
        probabilities[text] += probability
    assert sum(probabilities.values()) == 1
    for text, probability in probabilities.items():
        assert math.prod(decision.probability for decision in decode(text)) == probability
        assert math.exp(-nll_per_character(text).sum()) == pytest.approx(float(probability))
    drawn, nll = generate_with_nll(1, 6000)
    np.testing.assert_allclose(nll, nll_per_character(drawn), atol=1e-12)


def test_next_character_is_a_distribution(corpus):
    text = corpus.text[:3000]
    for end in [*range(0, 60, 9), *range(100, 1500, 287)]:
        total = 0.0
        for character in ALPHABET:
            try:
                total += math.exp(-nll_per_character(text[:end] + character)[-1])
            except ValueError:
                continue
        assert total == pytest.approx(1, abs=1e-9)


def test_character_costs_against_reference(corpus):
    whole = [decision.index for decision in decode(corpus.text[:6000]) if decision.index is not None]
    chosen = list(dict.fromkeys(retell(whole)[1]))[::40]
    costs, lengths = character_costs(chosen)
    texts = [(choice, text) for choice in chosen for text in choice.texts]
    assert len(texts) == len(costs)
    for row in range(0, len(texts), 23):
        choice, text = texts[row]
        assert lengths[row] == len(text)
        for i, character in enumerate(text):
            probability = next_character_probabilities(choice, text[:i])[character]
            assert costs[row, i] == pytest.approx(-math.log(probability), abs=1e-12)


def test_choices_are_drawn_with_their_probabilities(corpus):
    whole = [decision.index for decision in decode(corpus.text[:150_000]) if decision.index is not None]
    _, choices = retell(whole)
    moments: dict[Choice, tuple[float, float]] = {}
    surplus = variance = 0.0
    for choice, index in zip(choices, whole, strict=True):
        if choice not in moments:
            p = np.array(choice.weights) / choice.total
            entropy = -(p * np.log(p)).sum()
            moments[choice] = entropy, (p * np.log(p) ** 2).sum() - entropy**2
        surplus += -math.log(choice.weights[index] / choice.total) - moments[choice][0]
        variance += moments[choice][1]
    assert abs(surplus) < 4 * math.sqrt(variance)


def test_every_weight_has_its_share_of_the_draws():
    choice = Choice.among(["zz", "x", "y"], [6, 3, 1])
    assert choice.draw_limit % choice.total == 0
    assert (1 << DRAW_BITS) - choice.draw_limit < choice.total
    picks = [choice.pick(draw) for draw in range(choice.total * 2)]
    assert {choice.texts[index]: picks.count(index) for index in range(3)} == {"x": 6, "y": 2, "zz": 12}


def test_draws_that_would_favor_some_strings_are_thrown_away(monkeypatch):
    drawn = [1, 2, 3] * 100
    monkeypatch.setattr(loader, "_draws", lambda seed: iter(drawn))
    text = generate(0, 200)
    monkeypatch.setattr(loader, "_draws", lambda seed: iter([(1 << DRAW_BITS) - 1, *drawn]))
    assert generate(0, 200) == text


def test_draws_are_uniform_and_do_not_repeat():
    draws = np.array(list(islice(loader._draws(3), 3 * loader.DRAWS_PER_BLOCK))).reshape(3, -1)
    assert len(np.unique(draws, axis=0)) == 3
    assert draws.min() >= 0
    assert draws.max() < 1 << DRAW_BITS
    counts = np.bincount(draws.ravel() >> (DRAW_BITS - 6), minlength=64)
    assert abs(counts - counts.mean()).max() < 5 * math.sqrt(counts.mean())


@pytest.mark.parametrize("texts", [["the", "then"], ["a", "a"], []])
def test_choice_refuses_strings_that_the_text_could_not_tell_apart(texts):
    with pytest.raises(ValueError, match=r"begins|needs"):
        Choice.among(texts)


def test_text_that_is_no_play_is_refused_where_it_goes_wrong(corpus):
    text = corpus.text[:500]
    place = text.index(":\n")
    with pytest.raises(ValueError, match=f"'x' .* character {place}, line 3"):
        nll_per_character(text[:place] + "x" + text[place:])
    with pytest.raises(ValueError, match="'r'"):
        decode("romeo")


# What the text depends on, read off the text alone


def plays(corpus: Corpus) -> list[str]:
    return corpus.text.split("Exeunt.\n\n")[:-1]


def test_who_is_on_stage(corpus):
    entrances = departures = addresses = 0
    for play in plays(corpus):
        title, *speeches = play.removesuffix("\n\n").split("\n\n")
        names, genre, city = re.fullmatch(r"(\w+ & \w+), A (\w+) OF (\w+)", title).groups()
        present = names.split(" & ")
        previous = present[1]
        epithets: dict[str, str] = {}
        wagers = set()
        assert len(speeches) >= stage.FEWEST_SPEECHES
        for speech in speeches:
            speaker, lines = re.fullmatch(r"([A-Z]+):\n(.+)", speech, re.DOTALL).groups()
            assert speaker in present
            assert speaker != previous
            for epithet, name in re.findall(r"\bO (\w+) ([A-Z]\w+),", lines):
                assert name.upper() == previous
                assert epithets.setdefault(name, epithet) == epithet
                addresses += 1
            for name in re.findall(r"Here comes (?:good|fair) (\w+);", lines):
                assert name.upper() not in present
                present.append(name.upper())
                entrances += 1
            if "\nFarewell, " in f"\n{lines}":
                present.remove(speaker)
                departures += 1
            assert 2 <= len(present) <= stage.MOST_ON_STAGE
            assert {place.upper() for place in re.findall(r"here in (\w+)", lines, re.IGNORECASE)} <= {city}
            wagers.update(re.findall(r"\$3+", lines))
            exclamations = {"TRAGEDY": "Alas, ", "COMEDY": "In faith, ", "HISTORY": "To arms! "}
            assert not any(cry in lines for other, cry in exclamations.items() if other != genre)
            previous = speaker
        assert len(wagers) <= 1
    assert min(entrances, departures, addresses) > 20


def test_every_second_line_rhymes_with_the_one_before_and_not_with_itself(corpus):
    couplets = 0
    for play in plays(corpus):
        lines = [line for line in play.split("\n")[2:] if line and not re.fullmatch(r"[A-Z]+:", line)]
        last_words = [re.search(r"([A-Za-z'-]+)\W*$", line).group(1).lower() for line in lines]
        assert len(lines) % 2 == 0
        for one, other in zip(last_words[::2], last_words[1::2], strict=True):
            assert one != other
            assert rhyme(one) == rhyme(other)
            couplets += 1
    assert couplets > 3000


def rhyme(word: str) -> str:
    if word in RHYME_OF:
        return RHYME_OF[word]
    base = word.removesuffix("ies") + "y" if word.endswith("ies") else word.removesuffix("s")
    base = word.removesuffix("s") if word.removesuffix("s") in RHYME_OF else base
    return RHYME_OF[base] + "s"


def test_grammar_agrees(corpus):
    text = corpus.text.replace("\n", " ")
    assert not re.search(r"\b[Aa] [aeio]", text)
    assert not re.search(r"\b[Aa]n (?!h?[aeiou])", text)
    by_subject = {
        "[Hh]e|[Ss]he": ({"is", "hath", "doth"}, {"are", "have", "do", "art", "hast", "dost", "am"}),
        "[Ww]e|[Tt]hey|(?:These|Those) [\\w-]+s": (
            {"are", "have", "do"},
            {"is", "hath", "doth", "art", "hast", "dost", "am"},
        ),
        "I": ({"am", "have", "do"}, {"is", "hath", "doth", "art", "hast", "dost", "are"}),
        "[Tt]hou": ({"art", "hast", "dost"}, {"is", "hath", "doth", "are", "have", "do", "am"}),
    }
    for subject, (right, wrong) in by_subject.items():
        verbs = set(re.findall(rf"(?<![\w'])(?:{subject}) ([\w']+)", text))
        assert right <= verbs
        assert not wrong & verbs
    assert not re.search(r"\b[Ww]hy[^.;:!?]*[.;:!]", text)


def test_no_word_has_two_rhymes():
    words = " ".join(lexicon.RHYMES.values()).split()
    assert len(words) == len(set(words))


def test_a_long_text_is_kept_and_used_again_only_if_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("CHARLAB_DATA", str(tmp_path))
    monkeypatch.setattr(loader, "WORTH_KEEPING", 1000)
    monkeypatch.setattr(loader, "generate_with_nll", calls := Mock(side_effect=generate_with_nll))
    first, again = Play(length=1000).load(), Play(length=1000).load()
    assert calls.call_count == 1
    assert (again.text, again.sha256) == (first.text, first.sha256) == (generate(305, 1000), first.sha256)
    np.testing.assert_array_equal(again.floor_per_character, first.floor_per_character)

    (path,) = tmp_path.glob("play/*")
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")  # in the archive's directory: flags in byte 8, how it is packed in byte 10
    flipped = [whole[: entry + at] + bytes([bit]) + whole[entry + at + 1 :] for at, bit in ((8, 1), (10, 8), (10, 64))]
    for damaged in (whole[:-100], whole.replace(first.text[:20].encode(), b"x" * 20), b"", *flipped):
        path.write_bytes(damaged)
        assert Play(length=1000).load().text == first.text
        assert path.read_bytes() == whole
    assert calls.call_count == 7
    Play(length=1001).load()
    assert len(list(tmp_path.glob("play/*"))) == 2
    Play(length=999).load()
    assert len(list(tmp_path.glob("play/*"))) == 2


def test_where_nothing_can_be_kept_the_text_is_generated(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHARLAB_DATA", str(tmp_path / "file"))
    monkeypatch.setattr(loader, "WORTH_KEEPING", 1000)
    assert Play(length=1000).load().text == generate(305, 1000)
