"""Does what README.md says: its commands, its study and its lines of Python, with runs of a few steps."""

import re
import shlex
from pathlib import Path

import pytest

import charlab
from charlab.__main__ import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WRITTEN = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]  # or generated
PAGES = ["README.md", "CONTRIBUTING.md", *(path for path in WRITTEN if "/configuration/" not in path)]
COMMANDS = [line.strip() for line in re.findall(r"^charlab [^#\n]*", README, flags=re.M)]
BRIEF = (
    "data.context_length=64",
    "data.batch_size=2",
    "trainer.accelerator=cpu",
    "estimate_batches=1",
    "callbacks.samples.length=20",
    "callbacks.attention_maps=null",
    "logger.tensorboard=null",
)
PLAY = ("data=play", "data.corpus.length=20000")
GPT = ("model.embed_dim=16", "model.num_layers=1", "model.mixer.num_heads=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text and the README's study."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "my.txt").write_text("to be or not to be that is the question\n" * 60)
    (study,) = re.findall(r"```yaml\n# conf/study/mine\.yaml\n(.*?)```", README, flags=re.S)
    (folder / "conf" / "study").mkdir(parents=True)
    (folder / "conf" / "study" / "mine.yaml").write_text(study, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """The finished run that replaces `RUN`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return charlab.run(
            *PLAY, "model=bigram", *BRIEF, "trainer.max_steps=2", f"output_dir={folder / 'outputs'}"
        ).folder


def shortened(arguments: list[str], run: Path) -> list[str]:
    """Return a command's arguments with those that make its run brief."""
    arguments = [re.sub(r"^(run=)?RUN$", rf"\g<1>{run}", argument) for argument in arguments]
    if arguments[0] != "train" or "--cfg" in arguments:
        return arguments
    text = () if "data=textfile" in arguments else PLAY
    sizes = GPT if "model=gpt" in arguments else ()
    return [*arguments, *BRIEF, *text, *sizes, "trainer.max_steps=2"]


def test_there_are_commands_of_every_kind():
    named = {"train", "evaluate", "generate", "report", "runs", "verify", "export"}
    assert {line.split()[1] for line in COMMANDS} == named


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if "study=" not in line])
def test_a_command_works_as_written(line, folder, run, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    assert main(shortened(shlex.split(line)[1:], run)) == 0, capfd.readouterr().err


@pytest.mark.slow
def test_the_study_is_planned_as_written(folder, monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(folder)
    (line,) = (line for line in COMMANDS if "dry_run" in line)
    assert main([*shlex.split(line)[1:], *PLAY, "--config-dir", str(folder / "conf")]) == 0
    assert "24 cells: 3 arms × 8 seeds" in capfd.readouterr().out


@pytest.mark.slow
def test_the_lines_of_python_work_as_written(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    (lines,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(lines, {})
    assert "'protocol': 'blocks'" in capfd.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        path = ((ROOT / page).parent / target).resolve()
        if path.is_relative_to(ROOT / "docs" / "reference" / "configuration"):  # written by `make docs`, by group
            path = ROOT / "conf" / path.stem
        assert path.exists(), target
