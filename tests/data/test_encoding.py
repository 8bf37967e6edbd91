import os
import subprocess
import sys

import numpy as np
import pytest

from charlab.data import corpora, encoding
from charlab.data.corpora import Corpus, TextFile
from charlab.data.encoding import encode_part
from charlab.data.tokenizers import Bytes, Characters
from charlab.errors import UserError

TEXT = "aé你𝔘 b\n" * 40


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CHARLAB_DATA", str(tmp_path))
    monkeypatch.setattr(encoding, "LONG", 10)
    monkeypatch.setattr(corpora, "LONG", 10)
    return tmp_path / "ids"


@pytest.mark.parametrize("kind", [Characters, Bytes])
def test_the_ids_of_a_long_text_are_kept_in_a_file(folder, kind):
    corpus, vocabulary = Corpus.of("text", TEXT), kind.of(TEXT)
    for part in (slice(0, 200), slice(3, 270)):
        ids = encode_part(corpus, part, vocabulary)

        assert isinstance(ids, np.memmap)
        np.testing.assert_array_equal(ids, vocabulary.encode(TEXT[part]))
        assert ids.dtype == vocabulary.dtype
    assert len(list(folder.iterdir())) == 2


def test_kept_ids_are_used_again_only_if_they_are_whole(folder, monkeypatch):
    corpus, vocabulary = Corpus.of("text", TEXT), Characters.of(TEXT)
    whole = encode_part(corpus, slice(0, 200), vocabulary).copy()
    (path,) = folder.iterdir()
    kept = path.read_bytes()
    written = path.stat().st_mtime_ns

    np.testing.assert_array_equal(encode_part(corpus, slice(0, 200), vocabulary), whole)
    assert path.stat().st_mtime_ns == written
    for damaged in (kept[:-1], kept[:-1] + b"\xff", b""):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(encode_part(corpus, slice(0, 200), vocabulary), whole)
        assert path.read_bytes() == kept


@pytest.mark.parametrize("changed", [TEXT[::-1], TEXT[:-1]], ids=["as long", "shorter"])
def test_the_ids_of_a_text_that_has_changed_are_not_kept(folder, tmp_path, changed):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    corpus, vocabulary = TextFile(path=str(path)).load(), Characters.of(TEXT)
    path.write_text(changed)

    with pytest.raises(UserError, match="The files of text changed while they were read: run again"):
        encode_part(corpus, slice(0, 200), vocabulary)
    assert not list(folder.glob("*"))
    path.write_text(TEXT + "more")  # it is still being written
    np.testing.assert_array_equal(encode_part(corpus, slice(0, 200), vocabulary), vocabulary.encode(TEXT[:200]))


class Own(Characters):
    """A user's own vocabulary."""


def test_the_ids_of_a_users_own_vocabulary_are_not_kept(folder):
    ids = encode_part(Corpus.of("text", TEXT), slice(0, 200), Own.of(TEXT))
    np.testing.assert_array_equal(ids, Own.of(TEXT).encode(TEXT[:200]))
    assert not list(folder.glob("*"))


def test_another_text_or_vocabulary_has_a_file_of_its_own(folder):
    other = TEXT[:-1] + "x"
    for text, known in ((TEXT, Characters.of(TEXT)), (other, Characters.of(other)), (TEXT, Characters.of(TEXT + "y"))):
        np.testing.assert_array_equal(
            encode_part(Corpus.of("text", text), slice(0, 200), known), known.encode(text[:200])
        )
    assert len(list(folder.iterdir())) == 3


def test_where_nothing_can_be_kept_the_ids_stay_in_memory(folder):
    folder.touch()  # no folder can be made there
    ids = encode_part(Corpus.of("text", TEXT), slice(0, 200), Characters.of(TEXT))

    assert not isinstance(ids, np.memmap)
    np.testing.assert_array_equal(ids, Characters.of(TEXT).encode(TEXT[:200]))


@pytest.mark.slow
@pytest.mark.skipif("CHARLAB_LARGE" not in os.environ, reason="takes many minutes: CHARLAB_LARGE=1 make test-slow")
@pytest.mark.parametrize("tokenizer", ["characters", "bytes"])
def test_a_hundred_million_characters_take_little_memory(tmp_path, tokenizer):
    """Beyond what a run of the same model on a short text takes, at its peak."""
    program = (
        "import sys, resource, charlab\n"
        "charlab.run('data=textfile', f'data.path={sys.argv[1]}', f'output_dir={sys.argv[2]}', 'model=gru',\n"
        "    f'data/tokenizer={sys.argv[3]}', 'trainer.max_steps=3', 'trainer.accelerator=cpu', 'data.batch_size=4',\n"
        "    'data.validation_fraction=0.002', 'estimate_batches=1')\n"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    peaks = []
    for size in (10**6, 10**8):
        path = tmp_path / f"{size}.txt"
        generator = np.random.Generator(np.random.PCG64(0))
        with open(path, "wb") as file:
            for _ in range(size // 10**6):
                file.write(generator.choice(np.frombuffer(b" etaoinshr\n", np.uint8), 10**6).tobytes())
        command = [sys.executable, "-c", program, str(path), str(tmp_path / "outputs"), tokenizer]
        environment = {"CHARLAB_DATA": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "QSLOT": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout.rpartition("peak ")[2]))
    assert peaks[1] - peaks[0] < 300, peaks
    assert isinstance(TextFile(path=str(path)).load(), Corpus)
