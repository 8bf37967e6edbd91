import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="the extra charlab[bpe] is not installed")

from charlab.data import bpe as module
from charlab.data import corpora, tokenizers
from charlab.data.bpe import BytePairs
from charlab.data.corpora import Corpus, TextFile
from charlab.data.encoding import encode_part
from charlab.data.tokenizers import Bytes, to_config
from charlab.errors import UserError
from charlab.evaluation.protocols import Blocks, evaluate
from charlab.models.bigram import Bigram
from charlab.runs.checkpoint import vocabulary_of
from tests.helpers.texts import DECODED

TEXT = "the cat sat on the mat, and the rat that the cat saw sat there; naïve 你好你好\n" * 3
ALL = slice(0, None)


def bpe(text: str, train: slice, *, vocab_size: int) -> BytePairs:
    return module.bpe(Corpus.of("text", text), train, vocab_size=vocab_size)


@pytest.fixture(scope="module")
def pairs():
    return bpe(TEXT, ALL, vocab_size=60)


@settings(deadline=None)
@given(DECODED)
def test_merged_tokens_give_back_the_text(text: str) -> None:
    known = BytePairs(Bytes.of(text).known, None, (("t", "h"), (" ", "t"), (" t", "h"), ("\xe4", "\xbd")))
    known = BytePairs("".join(map(chr, range(256))), None, known.merges)

    assert known.decode(known.encode(text)) == text
    decode = known.decoder()
    assert text.startswith("".join(decode(index) for index in known.encode(text).tolist()))


@settings(deadline=None)
@given(st.text(st.one_of(st.sampled_from("the cat 你好\0\r\n\u0301"), st.characters(codec="utf-8")), min_size=1))
def test_the_lengths_of_merged_tokens_add_up_to_the_text(text: str) -> None:
    merges = (("t", "h"), ("th", "e"), ("\xe4", "\xbd"), ("\xbd", "\xa0"), ("\xe4\xbd", "\xa0"), (" ", "c"))
    known = BytePairs("".join(map(chr, range(256))), None, merges)

    assert known.lengths[known.encode(text)].sum() == len(text)


def test_frequent_pairs_are_merged_within_words(pairs):
    assert len(pairs) == 60
    assert pairs.pieces[: len(Bytes.of(TEXT))] == Bytes.of(TEXT).pieces
    assert {b"th", b" the"} <= set(pairs.pieces)
    assert not any(b" " in piece[1:] for piece in pairs.pieces)
    assert len(pairs.encode(TEXT)) < 0.6 * len(TEXT)


@pytest.mark.slow
def test_the_same_text_makes_the_same_tokens_in_another_process(pairs, tmp_path):
    program = (
        "import sys; from tests.data.test_bpe import TEXT, ALL, bpe\n"
        "sys.stdout.buffer.write(repr(bpe(TEXT, ALL, vocab_size=60).merges).encode())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)

    assert done.stdout.decode() == repr(pairs.merges)


@pytest.fixture
def learned(tmp_path, monkeypatch):
    """A folder to keep merges in, also those of a short text, and the vocabulary sizes that were learned."""
    learn, sizes = module._learn, []

    def counting(text, train, vocab_size):
        sizes.append(vocab_size)
        return learn(text, train, vocab_size)

    monkeypatch.setenv("CHARLAB_DATA", str(tmp_path))
    monkeypatch.setattr(module, "WORTH_KEEPING", 20)
    monkeypatch.setattr(module, "_learn", counting)
    return tmp_path / "merges", sizes


def test_merges_are_learned_once_for_each_text_part_and_size(learned, pairs):
    folder, sizes = learned
    for _ in range(2):
        again = bpe(TEXT, ALL, vocab_size=60)
        assert to_config(again) == to_config(pairs)
        assert again.start == pairs.start
    assert sizes == [60]
    for text, part, size in ((TEXT, ALL, 55), (TEXT, slice(0, 150), 50), (TEXT + "!", ALL, 60)):
        for _ in range(2):
            bpe(text, part, vocab_size=size)
    assert sizes == [60, 55, 50, 60]
    assert len(list(folder.iterdir())) == 4
    bpe(TEXT[:19], ALL, vocab_size=len(Bytes.of(TEXT[:19])) + 1)  # too short to be kept
    assert len(list(folder.iterdir())) == 4


def test_damaged_merges_are_learned_again(learned, pairs):
    folder, sizes = learned
    bpe(TEXT, ALL, vocab_size=60)
    (path,) = folder.iterdir()
    kept = path.read_bytes()
    for damaged in (kept[:-1], kept.replace(b'["t", "h"]', b'["t", "e"]'), b"", b"{}"):
        path.write_bytes(damaged)
        assert to_config(bpe(TEXT, ALL, vocab_size=60)) == to_config(pairs)
        assert path.read_bytes() == kept
    assert len(sizes) == 5


def test_where_nothing_can_be_kept_merges_are_learned_each_time(learned, pairs):
    folder, sizes = learned
    folder.touch()  # no folder can be made there
    for _ in range(2):
        assert to_config(bpe(TEXT, ALL, vocab_size=60)) == to_config(pairs)
    assert len(sizes) == 2


def test_only_the_train_text_decides_what_is_merged():
    text = "abababab xyxyxyxyxyxy"
    merges = bpe(text, slice(0, 8), vocab_size=len(set(text)) + 1).merges

    assert merges == (("a", "b"),)


def test_the_tokens_of_a_text_do_not_depend_on_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "PART", 64)
    monkeypatch.setattr(tokenizers, "_CHUNK", 50)
    contents = {"whole": TEXT, "marked": "\ufeff" + TEXT, "first": TEXT[:38], "second": TEXT[38:]}
    paths = {name: str(tmp_path / f"{name}.txt") for name in contents}
    for name, text in contents.items():
        (tmp_path / f"{name}.txt").write_bytes(text.encode())
    files = (paths["whole"], paths["marked"], [paths["first"], paths["second"]])
    texts = [Corpus.of("text", TEXT), *(TextFile(path=path).load() for path in files)]
    known = [module.bpe(text, slice(0, 150), vocab_size=40) for text in texts]
    ids = [encode_part(text, slice(20, 200), vocabulary) for text, vocabulary in zip(texts, known, strict=True)]

    assert len({text.sha256 for text in texts}) == 1
    assert known[1:] == known[:-1]
    for others in ids[1:]:
        np.testing.assert_array_equal(others, ids[0])


def test_a_checkpoint_keeps_the_tokens(pairs):
    again = vocabulary_of({"vocabulary": to_config(pairs)}, "here")

    assert again == pairs
    assert again != Bytes.of(TEXT)
    np.testing.assert_array_equal(again.encode(TEXT), pairs.encode(TEXT))


def test_words_are_forgotten_without_harm(pairs, monkeypatch):
    monkeypatch.setattr(module, "MOST_REMEMBERED", 2)

    np.testing.assert_array_equal(BytePairs(**pairs.state()).encode(TEXT), pairs.encode(TEXT))


def test_an_unknown_character_is_shown_with_its_place(pairs):
    with pytest.raises(UserError, match=r"Character 5 of the prompt .* 'ß' .* not in the vocabulary of 60 tokens"):
        pairs.encode("the ß", source="the prompt")


@pytest.mark.parametrize(("size", "sentence"), [(10, "leaves no token to merge"), (5000, "is too large for this text")])
def test_a_size_that_does_not_fit_the_text_is_refused(size, sentence):
    with pytest.raises(UserError, match=f"data.tokenizer.vocab_size={size} {sentence}"):
        bpe(TEXT, ALL, vocab_size=size)


def test_without_the_library_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'data/tokenizer=bpe needs an extra: pip install "charlab\[bpe\]"'):
        bpe(TEXT, ALL, vocab_size=60)


def test_the_figure_is_above_that_of_all_segmentations_together():
    """−log Σ p(tokens) over all sequences of tokens that spell the text is below the cost of the one that is scored."""
    text = "that the cat sat"
    vocabulary = bpe(text * 4, ALL, vocab_size=16)
    ids = torch.from_numpy(vocabulary.encode(text))
    torch.manual_seed(0)
    model = Bigram(len(vocabulary)).double()

    score = evaluate(model, ids, Blocks(), vocabulary=vocabulary, context_length=100, batch_size=1)
    first, log_p = vocabulary.pieces[ids[0]], model.table.weight.detach().log_softmax(1)
    rest = text.encode()[len(first) :]
    # Sum over all segmentations by the place reached and the last token, and once more by writing them all out.
    ways = {(0, int(ids[0])): 0.0}
    for place in range(len(rest)):
        for (_, last), cost in [item for item in ways.items() if item[0][0] == place]:
            for token, piece in enumerate(vocabulary.pieces):
                if rest.startswith(piece, place):
                    key = (place + len(piece), token)
                    total = cost + log_p[last, token].item()
                    ways[key] = np.logaddexp(ways.get(key, -math.inf), total)
    true = -np.logaddexp.reduce([cost for (place, _), cost in ways.items() if place == len(rest)])
    written = _segmentations(rest, vocabulary.pieces)
    chains = (sum(log_p[a, b].item() for a, b in itertools.pairwise([int(ids[0]), *tokens])) for tokens in written)

    assert len(written) > 10
    assert true == pytest.approx(-np.logaddexp.reduce(list(chains)))
    characters = len(text) - len(first)
    assert score.characters == characters
    assert score.likelihood == "bound"
    assert score.standard_error is None
    assert str(score).startswith("nll ≤")
    assert true / characters < score.nll


def _segmentations(rest: bytes, pieces: list[bytes]) -> list[list[int]]:
    if not rest:
        return [[]]
    return [
        [token, *more]
        for token, piece in enumerate(pieces)
        if rest.startswith(piece)
        for more in _segmentations(rest[len(piece) :], pieces)
    ]
