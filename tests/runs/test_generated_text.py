"""Text as it leaves the program: every character as it is, where no terminal would act on it."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import charlab
from charlab.configuration.compose import compose
from charlab.runs.generate import generate_from_run
from tests.helpers.warm import warm

ROOT = Path(__file__).parents[2]
SOURCE = 'int\tf(void)\r\n{\n\fputs("\\a");\x07\x1b[31m é≤\v\u2028}\n'
RUN = (
    "data=textfile",
    "data.context_length=8",
    "model=bigram",
    "optimizer.lr=0.3",
    "trainer.accelerator=cpu",
    "trainer.max_steps=60",
    "logger=csv",
    "~callbacks.samples",
)


def run(folder, text):
    (folder / "text.c").write_bytes(text.encode())
    return charlab.run(*RUN, f"data.path={folder / 'text.c'}", f"output_dir={folder / 'outputs'}").folder


@pytest.fixture(scope="module")
def source_run(tmp_path_factory):
    return run(tmp_path_factory.mktemp("source"), SOURCE * 40)


@pytest.fixture(scope="module")
def dna_run(tmp_path_factory):
    return run(tmp_path_factory.mktemp("dna"), "GATTACAA" * 200)


def generated(folder, *overrides, **console):
    file = io.StringIO(newline="")
    printer = Console(file=file, **console)
    return generate_from_run(compose([f"run={folder}", "device=cpu", *overrides], "generate"), printer), file.getvalue()


def test_a_file_gets_every_character_of_prompt_and_text(source_run):
    (text,), written = generated(source_run, f"prompt={SOURCE}", "length=300")
    assert text.startswith(SOURCE)
    assert len(text) == len(SOURCE) + 300
    assert set("\t\r\f\x07\x1b\v") <= set(text[len(SOURCE) :])
    assert written == text + "\n"
    texts, written = generated(source_run, f"prompt={SOURCE}", "length=30", "num_samples=2")
    assert all(f"{text}\n" in written for text in texts)


def test_a_reader_that_stops_reading_ends_the_program(source_run):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    class Reported(Console):
        def on_broken_pipe(self):
            raise SystemExit(1)  # as rich does, after it has turned standard output off

    with pytest.raises(SystemExit):
        generate_from_run(compose([f"run={source_run}", "device=cpu"], "generate"), Reported(file=Closed()))


def test_a_terminal_gets_nothing_that_would_control_it(source_run):
    (text,), written = generated(source_run, f"prompt={SOURCE}", "length=300", force_terminal=True)
    assert all(character.isprintable() or character == "\n" for character in written)
    assert written.count("\n") == text.count("\n") + 1
    assert written.startswith('int\\tf(void)\\r\n{\n\\x0cputs("\\a");\\x07\\x1b[31m é≤\\x0b\\u2028}\n')


def test_a_temperature_that_float32_cannot_tell_from_0_is_greedy(source_run):
    greedy, _ = generated(source_run, "length=50", "greedy=true")
    assert generated(source_run, "length=50", "temperature=1e-46")[0] == greedy


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(encoding, marks=pytest.mark.slow) for encoding in ("cp1252", "utf-8"))]
)
def test_what_an_encoding_lacks_is_replaced(source_run, encoding):
    command = [sys.executable, ROOT / "scripts" / "generate.py", f"run={source_run}", "prompt=é≤", "length=0"]
    environment = {"PYTHONIOENCODING": encoding, "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(warm(command), capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == "é≤".encode(encoding, errors="replace") + b"\n"


@pytest.mark.slow
def test_without_a_prompt_and_newlines_the_most_frequent_character_begins_and_is_said(dna_run, capsys):
    (text,), written = generated(dna_run, "length=20", "greedy=true")
    assert text.startswith("A")
    assert written == text + "\n"
    assert "most frequent character, 'A'" in capsys.readouterr().err
    assert (dna_run / "record.json").exists()


def test_without_a_prompt_a_newline_begins_and_nothing_is_said(source_run, capsys):
    (text,), _ = generated(source_run, "length=20")
    assert text.startswith("\n")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_byte_order_mark_is_said_when_the_run_begins(tmp_path, capsys):
    folder = run(tmp_path, "\ufeff" + "abc\n" * 300)
    assert capsys.readouterr().out.count("byte-order mark") == 1
    assert "\ufeff" not in charlab.load(folder)[1].characters
