"""A file is either the former one or the new one, whole, whatever happens while it is written."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch

from charlab.configuration.messages import find_user_error
from charlab.errors import UserError
from charlab.files import remove_leftovers, write_atomically


def fill(contents):
    return lambda file: file.write(contents)


def test_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, fill(b"first"))
    write_atomically(path, fill(b"second"))
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["file"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a device or a pipe, which cannot be replaced: name a file"):
        write_atomically(tmp_path / "pipe", fill(b"new"))
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_the_former_file_stays_whole_when_writing_fails(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"former")

    def fail(file):
        file.write(b"half of the n")
        raise error

    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt) as raised:
        write_atomically(path, fail)
    assert path.read_bytes() == b"former"
    assert os.listdir(tmp_path) == ["file"]
    if isinstance(error, OSError):
        assert "No space left on device" in str(raised.value)
        assert "the former one is whole" in str(raised.value)


def test_nothing_is_left_where_a_folder_has_the_name_of_the_file(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(UserError, match="Could not write"):
        write_atomically(tmp_path / "file", fill(b"new"))
    assert os.listdir(tmp_path) == ["file"]


def refuse(*_):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_nothing_is_left_behind_when_a_whole_file_cannot_be_put_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"Operation not permitted.*nothing was left behind"):
        write_atomically(tmp_path / "file", fill(b"new"))
    assert os.listdir(tmp_path) == []


def test_a_file_is_written_where_permissions_cannot_be_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chmod", refuse)
    write_atomically(tmp_path / "file", fill(b"new"))
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_disk_that_is_really_full(tmp_path):
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path]).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        path = tmp_path / "last.ckpt"
        write_atomically(path, fill(b"x" * 20_000))
        with pytest.raises(UserError, match="the former one is whole: free some space"):
            write_atomically(path, fill(b"y" * 60_000))
        assert path.read_bytes() == b"x" * 20_000
        assert os.listdir(tmp_path) == ["last.ckpt"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_file_has_the_permissions_of_an_ordinary_one(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    write_atomically(tmp_path / "atomic", fill(b""))
    assert (tmp_path / "atomic").stat().st_mode == ordinary.stat().st_mode


def test_what_a_killed_process_had_begun_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ".hydra").mkdir()
    kept = [tmp_path / name for name in ("checkpoints/last.ckpt", ".hydra/config.yaml", ".local", ".notes.abcdefgh")]
    for path in kept:
        path.write_bytes(b"former")
    program = """
import os, signal, sys
from pathlib import Path
from charlab.files import write_atomically
write_atomically(Path(sys.argv[1]), lambda file: os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", program, str(kept[0])])
    assert done.returncode == -signal.SIGKILL
    assert len(list(kept[0].parent.iterdir())) == 2
    remove_leftovers(tmp_path, ["record.json", "checkpoints/*.ckpt"])
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "allow access to it"),
        *((number, "check the disk") for number in (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)),
    ],
)
def test_every_error_of_the_surroundings_says_what_to_do(tmp_path, number, words):
    def fail(file):
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError, match=words):
        write_atomically(tmp_path / "file", fail)
    mistake = find_user_error(OSError(number, os.strerror(number), "metrics.csv"))
    assert str(mistake).startswith(f"{os.strerror(number)} (metrics.csv): ")
    assert words in str(mistake)


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
            " for 64 bytes",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), " for 20.00 GiB"),
        (MemoryError("Unable to allocate 7.11 PiB for an array"), " for 7.11 PiB"),
        (MemoryError(), ""),
    ],
)
def test_a_full_memory_is_a_sentence(error, amount):
    more = f"{amount} more" if amount else ""
    assert str(find_user_error(error)).startswith(f"There is not enough memory{more}: use a smaller model,")
    assert find_user_error(RuntimeError("a shape that does not fit")) is None


@pytest.mark.slow
def test_a_batch_that_does_not_fit_into_memory_is_a_sentence(tmp_path):
    command = [sys.executable, "-m", "charlab", "train", "model=bigram", "data=play", "data.batch_size=1000000000000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "There is not enough memory for " in done.stderr
