"""Texts to train on: from the user's own files, or published ones, which are verified and downloaded if missing."""

from __future__ import annotations

import codecs
import glob
import hashlib
import itertools
import os
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np

from charlab.data.tokenizers import chunks, in_chunks
from charlab.errors import UserError

BYTE_ORDER_MARK = "\ufeff"
LONG = 1 << 24  # characters: a longer text is read from its file whenever it is needed
PART = 1 << 20  # bytes read at a time
ZIP = b"PK\x03\x04"
PACKED = {
    ZIP: "zip",
    b"\x1f\x8b": "gzip",
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
"""The first bytes of compressed files and archives."""


class Corpus:
    """A text to train on. Two corpora are the same text if and only if their `sha256` is the same.

    Not a dataclass, since Hydra's `instantiate` would take it for a configuration.

    Args:
        name: a short name for tables, file names and messages.
        parts: function that yields the text in parts of any size, from the start at each call; a long text is never in
            memory as a whole.
        length: number of characters.
        sha256: hexadecimal SHA-256 of the text's UTF-8 bytes.
        floor_per_character: (length,) float64, −log p in nats of each character given all that precede it under the
            process that generated the text; None if that process is not known.
        notes: sentences on how the text was changed, printed when a run begins.
    """

    def __init__(
        self,
        name: str,
        parts: Callable[[], Iterable[str]],
        length: int,
        sha256: str,
        floor_per_character: np.ndarray | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.parts = lambda: in_chunks(parts())
        self.length = length
        self.sha256 = sha256
        self.floor_per_character = floor_per_character
        self.notes = tuple(notes)

    @classmethod
    def of(cls, name: str, text: str, floor_per_character: np.ndarray | None = None, notes: Sequence[str] = ()) -> Self:
        """Return the corpus of `text` with its checksum."""
        return cls.read(name, lambda: chunks(text), floor_per_character, notes)

    @classmethod
    def read(
        cls,
        name: str,
        parts: Callable[[], Iterable[str]],
        floor_per_character: np.ndarray | None = None,
        notes: Sequence[str] = (),
    ) -> Self:
        """Return the corpus of all parts, which stays in memory unless it is long."""
        digest, length, kept = hashlib.sha256(), 0, list[str]()
        for part in parts():
            digest.update(part.encode())
            length += len(part)
            if length <= LONG:
                kept.append(part)
        known = parts if length > LONG else lambda: kept
        return cls(name, known, length, digest.hexdigest(), floor_per_character, notes)

    def between(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """Yield the characters from `start` to `stop`, part by part."""
        place, stop = 0, self.length if stop is None else stop
        for part in self.parts():
            piece = part[max(0, start - place) : max(0, stop - place)]
            place += len(part)
            if piece:
                yield piece
            if place >= stop:
                return

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.parts())

    def load(self) -> Self:
        """Return itself, so that a loaded corpus can be used as a loader."""
        return self


class CorpusLoader(Protocol):
    """What a configuration's `data.corpus` names: any object with a `load` method."""

    def load(self) -> Corpus:
        """Return the corpus.

        Raises:
            UserError: if the text cannot be found or is not the expected one.
        """


def home_expanded(path: str) -> Path:
    """Return a path with a leading ~ replaced by the home folder; `~x` is a file of that name unless x is a user."""
    return Path(os.path.expanduser(path))  # pathlib's raises for an unknown user


def data_folder() -> Path:
    """Return the data folder: the environment variable CHARLAB_DATA, or else `data`."""
    return home_expanded(os.environ.get("CHARLAB_DATA") or "data")


class TextFile:
    """Any text in UTF-8. Its characters are kept exactly, including line endings, except byte-order marks.

    Args:
        path: a file; a folder, for all files in it and in its folders; a pattern such as `texts/*.txt`; or a list of
            these. Several files are joined with nothing in between, those of a folder or pattern in the order of their
            paths.
    """

    def __init__(self, *, path: str | list[str]) -> None:
        self.path = path

    def load(self) -> Corpus:
        """Return the text, named after the file or folder.

        Raises:
            UserError: if a file is missing, unreadable, packed or not UTF-8, or there is no text.
        """
        files = files_of(self.path)
        notes = []
        for file in files:
            beginning = next(_read(file), b"")
            _refuse_packed(beginning, file)
            if beginning.startswith(codecs.BOM_UTF8):
                notes.append(f"{file} begins with a byte-order mark, which was removed.")
        first = files[0] if isinstance(self.path, list) else home_expanded(self.path)
        name = first.stem + (f" and {len(files) - 1} more" if isinstance(self.path, list) and len(files) > 1 else "")
        corpus = Corpus.read(name, lambda: itertools.chain.from_iterable(map(_text_of, files)), notes=notes)
        if not corpus.length:
            raise UserError(f"{files[0]} is empty: name a file with text.")
        return corpus


def files_of(path: str | list[str]) -> list[Path]:
    """Return the files that a path, folder, pattern or list of these names.

    Raises:
        UserError: if a folder, pattern or list names none; a path need not exist.
    """
    if isinstance(path, list):
        if not path:
            raise UserError("data.path is an empty list: name a file.")
        return [file for each in path for file in files_of(each)]
    named = home_expanded(path)
    if os.path.isdir(named):  # unlike pathlib's, not an error where access is denied
        found = _files_in(named)
    elif not os.path.lexists(named) and glob.has_magic(str(named)):
        found = sorted(Path(file) for file in glob.glob(str(named), recursive=True) if os.path.isfile(file))
    else:
        return [named]
    if not found:
        raise UserError(f"There is no file in {named}: name one with data.path=FILE.")
    return found


def _files_in(folder: Path) -> list[Path]:
    """Return the files in a folder and in its folders, sorted, except hidden ones, such as those in .git.

    Links to folders are followed; a folder that several of them lead to is read once.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): make it readable.") from error

    found, read = list[Path](), set[str]()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(place)) in read:
            folders.clear()
            continue
        read.add(real)
        try:
            found += [Path(place, name) for name in files if not name.startswith(".") and Path(place, name).is_file()]
        except OSError as error:  # a folder whose names may be read, but not its files
            refuse(error)
    return sorted(found)


class PublishedText:
    """A published text, identical for everyone, so that figures can be compared.

    The file is looked up in this order: `path`; the data folder, as `<folder>/<name>/<file>` or as the archive next to
    it; a download into the data folder. The data folder is the environment variable CHARLAB_DATA, or else `data`.
    Wherever the text comes from, its checksum is verified.

    Args:
        name: the corpus's name, and that of its folder in the data folder.
        file: the text's file name.
        url: where to download the file, or a zip archive (`….zip`) with it.
        sha256: SHA-256 of the text's file, in hexadecimal.
        archive_sha256: SHA-256 of the archive; None if `url` is the text itself.
        encoding: of the file. With "latin-1" each byte is one character, as is usual for enwik8, whose published
            figures are bits per byte.
        path: the text's file or archive, if the user names one.
    """

    def __init__(
        self,
        *,
        name: str,
        file: str,
        url: str,
        sha256: str,
        archive_sha256: str | None,
        encoding: Literal["utf-8", "latin-1"],
        path: str | None,
    ) -> None:
        self.name = name
        self.file = file
        self.url = url
        self.sha256 = sha256
        self.archive_sha256 = archive_sha256
        self.encoding = encoding
        self.path = None if path is None else home_expanded(path)

    def load(self) -> Corpus:
        """Return the text.

        Raises:
            UserError: if the file is not found in any of the three ways, cannot be read, or has the wrong checksum.
        """
        path = self.path or self._find() or self._download()
        beginning = next(_read(path), b"")
        packed = beginning.startswith(ZIP) or path.suffix.lower() == ".zip"
        if not packed:
            _refuse_packed(beginning, path)
        member = self.file if packed else None
        digest = hashlib.sha256()
        for data in _read(path, member):
            digest.update(data)
        sha256 = digest.hexdigest()
        if sha256 != self.sha256:
            raise UserError(
                f"{path} is not the published {self.name}: its SHA-256 is {sha256} instead of {self.sha256}; "
                f"remove or replace it, or use data=textfile data.path=FILE to train on a text of your own."
            )
        return Corpus.read(self.name, lambda: _decoded(_read(path, member), self.encoding, path))

    @property
    def _folder(self) -> Path:
        return data_folder() / self.name

    @property
    def _downloaded_file(self) -> Path:
        return self._folder / (self.url.rpartition("/")[2] if self.archive_sha256 else self.file)

    def _find(self) -> Path | None:
        candidates = (self._folder / self.file, self._downloaded_file)
        return next((candidate for candidate in candidates if candidate.exists()), None)

    def _download(self) -> Path:
        """Download to a temporary file, verify it and move it into place, so that no other process sees part of it."""
        import pooch  # not needed once the file is there

        target = self._downloaded_file
        registry = pooch.create(
            path=target.parent,
            base_url="",
            registry={target.name: f"sha256:{self.archive_sha256 or self.sha256}"},
            urls={target.name: self.url},
            retry_if_failed=2,
        )
        downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 16)
        try:
            registry.fetch(target.name, downloader=downloader)
        except ValueError as error:  # pooch found another checksum; its first sentence names both
            raise self._not_found(str(error).partition(". ")[0]) from error
        except OSError as error:  # of the network or of the disk
            raise self._not_found(error.strerror or type(error).__name__) from error
        return target

    def _not_found(self, reason: str) -> UserError:
        return UserError(
            f"The corpus {self.name} was not found, and downloading it from {self.url} failed ({reason}): name its "
            f"file with data.path=FILE, or put it at {self._folder / self.file} (the environment variable CHARLAB_DATA "
            "sets another data folder); data=play needs neither file nor network."
        )


def _read(path: Path, member: str | None = None) -> Iterator[bytes]:
    """Yield the bytes of a file, or of a member of a zip archive, part by part.

    An archive's own checksum matters for downloads only: the text's is always verified.
    """
    try:
        str(path).encode()
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # what was read once would be missing the next time
            raise UserError(f"{path} is a pipe or a device, which can be read only once: name a file.")
        with open(path, "rb") as file:
            if member is None:
                yield from iter(lambda: file.read(PART), b"")
                return
            with zipfile.ZipFile(file) as archive, archive.open(member) as unpacked:
                yield from iter(lambda: unpacked.read(PART), b"")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise UserError(
            f"{path} is not a whole zip archive that holds the file {member}: remove or replace it."
        ) from error
    except RuntimeError as error:  # encrypted, or compressed in a way that Python does not know
        raise UserError(f"{path} cannot be unpacked ({error}): replace it.") from error
    except UnicodeEncodeError as error:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise UserError(f"The file name {shown} is not UTF-8, so it cannot be recorded: rename the file.") from error
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}: name one that exists with data.path=FILE.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: name a file in it with data.path=FILE.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable, or name another file.") from error


def _refuse_packed(data: bytes, path: Path) -> None:
    for magic, kind in PACKED.items():
        if data.startswith(magic):
            raise UserError(f"{path} is a {kind} archive: unpack it, and name the text that was in it.")


def _text_of(file: Path) -> Iterator[str]:
    """Yield the text of a file in UTF-8, without a byte-order mark."""
    is_first = True
    for text in _decoded(_read(file), "utf-8", file):
        yield text.removeprefix(BYTE_ORDER_MARK) if is_first else text
        is_first = False


def _decoded(parts: Iterable[bytes], encoding: str, path: Path) -> Iterator[str]:
    """Yield the text of bytes read from `path`, with line endings unchanged."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    for data in itertools.chain(parts, [b""]):
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            place = offset - (len(error.object) - len(data)) + error.start
            raise UserError(
                f"{path} is not {encoding.upper()} text: the byte 0x{error.object[error.start]:02X} at offset {place} "
                f"is invalid; convert the file to {encoding.upper()}."
            ) from error
        offset += len(data)
        if text:
            yield text
