import bz2
import codecs
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from charlab.data import corpora, tokenizers
from charlab.data.corpora import PublishedText, TextFile
from charlab.errors import UserError

CONF = Path(__file__).parents[2] / "conf" / "data"
TEXT = "To be, or not to be:\r\nthat is\rthe question.\n"
NOWHERE = "http://127.0.0.1:9/play.txt"  # the port of the discard protocol: nobody listens


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "texts"
    monkeypatch.setenv("CHARLAB_DATA", str(folder))
    return folder


@contextmanager
def serve(*answers: bytes | int, together: int = 1) -> Iterator[str]:
    """Serve the answers one by one and repeat the last; hold each until `together` requests have arrived."""
    barrier = threading.Barrier(together)
    remaining = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            barrier.wait(timeout=30)
            answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            self.send_response(answer if isinstance(answer, int) else 200)
            self.end_headers()
            if isinstance(answer, bytes):
                self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/download"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def published(text: str = TEXT, *, url: str = NOWHERE, path: str | None = None) -> PublishedText:
    return PublishedText(
        name="play",
        file="play.txt",
        url=url,
        sha256=sha256(text.encode()),
        archive_sha256=None,
        encoding="utf-8",
        path=path,
    )


def zipped(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def configured(name: str) -> DictConfig:
    return OmegaConf.create({"data": OmegaConf.load(CONF / f"{name}.yaml")}).data.corpus


# Texts of one's own


def test_a_text_file_is_taken_as_it_is(tmp_path: Path) -> None:
    corpus = TextFile(path=str(write(tmp_path / "mine.txt", "Naïve\r\n\x85 \u2028\r\ufeff".encode()))).load()

    assert corpus.name == "mine"
    assert corpus.text == "Naïve\r\n\x85 \u2028\r\ufeff"
    assert corpus.sha256 == sha256((tmp_path / "mine.txt").read_bytes())
    assert corpus.notes == ()


def test_a_byte_order_mark_is_left_out_and_said(tmp_path: Path) -> None:
    corpus = TextFile(path=str(write(tmp_path / "windows.txt", "abc".encode("utf-8-sig")))).load()

    assert corpus.text == "abc"
    assert corpus.sha256 == sha256(b"abc")
    (note,) = corpus.notes
    assert "windows.txt begins with a byte-order mark" in note
    with pytest.raises(UserError, match="is empty"):
        TextFile(path=str(write(tmp_path / "mark.txt", "\ufeff".encode()))).load()


@pytest.mark.parametrize(
    ("pack", "kind"),
    [(partial(zipped, "play.txt"), "zip"), (gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")],
)
def test_a_packed_file_is_to_be_unpacked(tmp_path: Path, pack: Callable[[bytes], bytes], kind: str) -> None:
    path = write(tmp_path / "play.txt", pack(TEXT.encode()))
    with pytest.raises(UserError, match=rf"play\.txt is a {kind} archive: unpack it"):
        TextFile(path=str(path)).load()
    if kind != "zip":
        with pytest.raises(UserError, match=rf"play\.txt is a {kind} archive: unpack it"):
            published(path=str(path)).load()


@pytest.mark.parametrize("name", ["PLAY.ZIP", "play", "play.zip"])
def test_an_archive_of_a_published_text_is_known_by_what_it_holds(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, zipped("play.txt", TEXT.encode()))
    assert published(path=str(path)).load().text == TEXT


def test_a_file_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "wb") as file:
        file.write(b"abc")
    with pytest.raises(UserError, match=r"caf\\udce9\.txt is not UTF-8.*rename"):
        TextFile(path=os.fsdecode(path)).load()


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine.txt", b"abc")

    assert TextFile(path="~/mine.txt").load().text == "abc"


def test_a_tilde_before_no_user_is_a_sign_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "~nobody-of-this-name", b"abc")

    assert TextFile(path="~nobody-of-this-name").load().text == "abc"


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"empty\.txt is empty"):
        TextFile(path=str(write(tmp_path / "empty.txt", b""))).load()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*mine\.txt"):
        TextFile(path=str(tmp_path / "mine.txt")).load()


def test_a_pipe_is_not_read_since_its_beginning_would_be_missing_the_second_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for load in (TextFile(path=str(tmp_path / "pipe")).load, published(path=str(tmp_path / "pipe")).load):
        with pytest.raises(UserError, match="pipe is a pipe or a device, which can be read only once: name a file"):
            load()


def test_an_empty_list_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.path is an empty list: name a file"):
        TextFile(path=[]).load()


def test_a_folder_is_all_its_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name, text in {"b.txt": "two\n", "a/z.txt": "one\n", "c": "drei \u00fc", ".hidden": "no"}.items():
        write(tmp_path / "texts" / name, text.encode())

    corpus = TextFile(path=str(tmp_path / "texts")).load()

    assert (corpus.name, corpus.text) == ("texts", "one\ntwo\ndrei ü")
    assert corpus.sha256 == sha256(corpus.text.encode())
    assert TextFile(path=str(tmp_path / "texts" / "*.txt")).load().text == "two\n"
    assert TextFile(path=str(tmp_path / "texts" / "**" / "*.txt")).load().text == "one\ntwo\n"


def test_a_folder_is_read_through_links_and_once(tmp_path: Path) -> None:
    write(tmp_path / "texts" / "a.txt", b"one\n")
    write(tmp_path / "elsewhere" / "part.txt", b"two\n")
    (tmp_path / "texts" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts" / "z.txt").symlink_to(tmp_path / "elsewhere" / "part.txt")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "texts")

    assert TextFile(path=str(tmp_path / "texts")).load().text == "one\ntwo\ntwo\n"


@pytest.mark.parametrize(("mode", "named"), [(0, "secret"), (0o444, "part.txt")])
def test_a_folder_in_a_folder_that_may_not_be_read_is_an_error(mode: int, named: str) -> None:
    with tempfile.TemporaryDirectory() as place:  # below no folder of root's alone
        os.chmod(place, 0o755)
        for name in ("open.txt", "secret/part.txt"):
            write(Path(place, name), b"abc")
        os.chmod(Path(place, "secret"), mode)
        user = os.geteuid()
        if user == 0:  # who may read everything
            os.seteuid(65534)
        try:
            with pytest.raises(UserError, match=rf"{named} cannot be read \(Permission denied\): make it readable"):
                TextFile(path=place).load()
        finally:
            os.seteuid(user)
            os.chmod(Path(place, "secret"), 0o755)


def test_a_list_is_its_files_in_that_order(tmp_path: Path) -> None:
    files = [str(write(tmp_path / name, codecs.BOM_UTF8 + name.encode())) for name in ("b.txt", "a.txt")]

    corpus = TextFile(path=files).load()

    assert (corpus.name, corpus.text, corpus.length) == ("b and 1 more", "b.txta.txt", 10)
    assert len(corpus.notes) == 2


@pytest.mark.parametrize("path", ["empty", "*.md"])
def test_a_folder_or_pattern_without_files_is_an_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"There is no file in .*: name one with data.path=FILE"):
        TextFile(path=str(tmp_path / path)).load()


def test_a_long_text_is_read_from_its_file_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "LONG", 10)
    monkeypatch.setattr(corpora, "PART", 7)
    monkeypatch.setattr(tokenizers, "_CHUNK", 7)
    text = "aé你𝔘 b\n" * 9
    path = write(tmp_path / "long.txt", text.encode())

    corpus = TextFile(path=str(path)).load()

    assert (corpus.length, corpus.sha256, corpus.text) == (len(text), sha256(text.encode()), text)
    assert max(map(len, corpus.parts())) <= 7
    for start in range(0, len(text), 5):
        for stop in range(start, len(text), 3):
            assert "".join(corpus.between(start, stop)) == text[start:stop]
    path.write_bytes(text.encode()[:-1] + b"\xff")
    with pytest.raises(UserError, match=f"the byte 0xFF at offset {len(text.encode()) - 1} is invalid"):
        TextFile(path=str(path)).load()


def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "secret.txt", b"abc")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"secret.txt cannot be read \(Permission denied\)"):
            TextFile(path=str(path)).load()
    finally:
        os.seteuid(user)


def test_a_file_that_is_not_utf8_is_an_error_that_names_the_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "old.txt", "aé".encode() + "na\u00efve".encode("latin-1"))

    with pytest.raises(UserError, match=r"old.txt is not UTF-8 text: the byte 0xEF at offset 5"):
        TextFile(path=str(path)).load()


# Published texts


def test_a_named_file_comes_before_the_data_folder(folder: Path, tmp_path: Path) -> None:
    write(folder / "play" / "play.txt", b"something else")

    corpus = published(path=str(write(tmp_path / "elsewhere.txt", TEXT.encode()))).load()

    assert (corpus.name, corpus.text, corpus.sha256) == ("play", TEXT, sha256(TEXT.encode()))


def test_a_named_file_that_is_missing_is_an_error_even_where_another_way_would_work(folder: Path) -> None:
    write(folder / "play" / "play.txt", TEXT.encode())

    with pytest.raises(UserError, match=r"no file nowhere\.txt"):
        published(path="nowhere.txt").load()


def test_the_data_folder_comes_before_the_download(folder: Path) -> None:
    write(folder / "play" / "play.txt", TEXT.encode())

    assert published().load().text == TEXT


def test_the_data_folder_is_named_data_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHARLAB_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data" / "play" / "play.txt", TEXT.encode())

    assert published().load().text == TEXT


def test_a_download_is_kept(folder: Path) -> None:
    with serve(TEXT.encode()) as url:
        assert published(url=url).load().text == TEXT

    assert os.listdir(folder / "play") == ["play.txt"]
    assert published().load().text == TEXT  # without the server


def test_a_download_that_fails_is_tried_again(folder: Path) -> None:
    with serve(503, TEXT.encode()[:10], TEXT.encode()) as url:
        assert published(url=url).load().text == TEXT


def test_two_processes_may_download_at_once(folder: Path) -> None:
    program = (
        "import sys; from charlab.data.corpora import PublishedText; "
        "print(PublishedText(name='play', file='play.txt', url=sys.argv[1], sha256=sys.argv[2], archive_sha256=None, "
        "encoding='utf-8', path=None).load().sha256)"
    )
    text = TEXT.encode() * 10_000
    with serve(text, together=2) as url:
        command = [sys.executable, "-c", program, url, sha256(text)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        outputs = [process.communicate(timeout=30) for process in processes]

    assert [out.decode().strip() for out, _ in outputs] == [sha256(text)] * 2, outputs
    assert os.listdir(folder / "play") == ["play.txt"]


def test_what_cannot_be_found_names_all_ways(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        published().load()

    message = str(error.value)
    for way in ("data.path=FILE", str(folder / "play" / "play.txt"), "CHARLAB_DATA", NOWHERE, "data=play"):
        assert way in message
    assert "ConnectionError" in message
    assert message.count(". ") == 0  # one sentence


def test_a_folder_that_cannot_be_written_to_says_so(folder: Path) -> None:
    write(folder, b"a file where the folder should be")

    with pytest.raises(UserError, match="Not a directory"), serve(TEXT.encode()) as url:
        published(url=url).load()


def test_a_file_of_another_checksum_is_an_error_that_names_both(folder: Path) -> None:
    path = write(folder / "play" / "play.txt", b"Something else")

    with pytest.raises(UserError) as error:
        published().load()

    for part in (str(path), sha256(b"Something else"), sha256(TEXT.encode())):
        assert part in str(error.value)
    assert path.read_bytes() == b"Something else"


def test_a_download_of_another_checksum_is_an_error_and_not_kept(folder: Path) -> None:
    with pytest.raises(UserError) as error, serve(b"Something else") as url:
        published(url=url).load()

    assert sha256(b"Something else") in str(error.value)
    assert sha256(TEXT.encode()) in str(error.value)
    assert os.listdir(folder / "play") == []


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("text8", b" anarchism originated", " anarchism originated"),
        ("enwik8", "é\xa0[[a]]\n".encode(), "Ã©Â\xa0[[a]]\n"),
    ],
)
@pytest.mark.parametrize("how", ["named", "named archive", "found", "found archive", "downloaded"])
def test_text8_and_enwik8_come_as_archives_too(
    name: str, data: bytes, text: str, how: str, folder: Path, tmp_path: Path
) -> None:
    archive = zipped(name, data)
    places = {
        "named": tmp_path / "some.txt",
        "named archive": tmp_path / "some.zip",
        "found": folder / name / name,
        "found archive": folder / name / f"{name}.zip",
    }
    if how in places:
        write(places[how], archive if "archive" in how else data)
    with serve(archive) as server:
        corpus = instantiate(
            configured(name),
            path=str(places[how]) if "named" in how else None,
            url=f"{server}/{name}.zip" if how == "downloaded" else f"{NOWHERE}/{name}.zip",
            sha256=sha256(data),
            archive_sha256=sha256(archive),
        ).load()

    assert (corpus.name, corpus.text) == (name, text)
    assert corpus.sha256 == sha256(text.encode())
    if how == "downloaded":
        assert os.listdir(folder / name) == [f"{name}.zip"]


def test_a_byte_of_enwik8_is_a_character(folder: Path) -> None:
    data = bytes(range(256))
    write(folder / "enwik8" / "enwik8", data)

    corpus = instantiate(configured("enwik8"), sha256=sha256(data)).load()

    assert [ord(character) for character in corpus.text] == list(range(256))


@pytest.mark.parametrize(
    "damage",
    [
        lambda archive: archive[: len(archive) // 2],
        lambda archive: archive.replace(b"text8", b"text9"),
        lambda archive: archive[:45] + bytes([archive[45] ^ 0xFF]) + archive[46:],
    ],
    ids=["truncated", "without the file", "damaged"],
)
def test_a_broken_archive_is_an_error(damage, folder: Path) -> None:
    write(folder / "text8" / "text8.zip", damage(zipped("text8", b"a b c " * 100)))

    with pytest.raises(UserError, match=r"text8\.zip is not a whole zip archive that holds the file text8"):
        instantiate(configured("text8")).load()


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99)], ids=["encrypted", "unknown compression"])
def test_an_archive_that_cannot_be_unpacked_is_an_error(offset, value, folder: Path) -> None:
    archive = bytearray(zipped("text8", b"a b c " * 100))
    archive[archive.index(b"PK\x01\x02") + offset] = value  # the member's flags, and its method of compression
    write(folder / "text8" / "text8.zip", bytes(archive))

    with pytest.raises(UserError, match=r"text8\.zip cannot be unpacked \(.*\): replace it"):
        instantiate(configured("text8")).load()


@pytest.mark.corpus
def test_tiny_shakespeare_is_the_published_text() -> None:
    corpus = instantiate(configured("tinyshakespeare")).load()

    assert corpus.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert len(corpus.text) == 1_115_394
    assert len(set(corpus.text)) == 65


def test_reading_a_corpus_imports_neither_torch_nor_lightning() -> None:
    program = (
        "import sys, charlab.data.corpora, charlab.data.tokenizers, charlab.data.windows; "
        "sys.exit(bool({'torch', 'lightning', 'pooch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
