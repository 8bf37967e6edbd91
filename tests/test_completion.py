"""Shell completion in a real bash."""

import os
import subprocess
import sys
from functools import partial

import pytest

COMPLETED = """
eval "$(charlab -sc install=bash)"
complete -p charlab
COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=($COMP_LINE)
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
[[ "$COMP_LINE" == *" " ]] && COMP_CWORD=$(( COMP_CWORD + 1 ))
hydra_bash_completion
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path, monkeypatch):
    program = f"#!{sys.executable}\nimport sys\nfrom charlab.__main__ import main\nsys.exit(main())\n"
    (tmp_path / "charlab").write_text(program)
    (tmp_path / "charlab").chmod(0o755)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: x.Y\n")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def complete(line):
        command = ["bash", "--norc", "-c", COMPLETED, "bash", line]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        rule, *words = done.stdout.split()[0:1], *done.stdout.splitlines()[1:]
        assert rule == ["complete"]
        return set(words)

    return complete


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("charlab tr", {"train"}),
        ("charlab train model=m", {"model=mamba", "model=masked_diffusion", "model=min_gru", "model=mine"}),
        slow("charlab train model=bigram optimizer.betas", {"optimizer.betas."}),
        slow("charlab evaluate proto", {"protocol="}),
        slow("charlab find-lr optimizer=ad", {"optimizer=adam", "optimizer=adamw"}),
        slow("charlab new p", {"project"}),
    ],
)
def test_bash_completes_commands_groups_options_and_keys(complete, line, expected):
    words = complete(line)
    assert expected <= words
    assert all(word.startswith(line.rpartition(" ")[2]) for word in words)


@pytest.mark.slow
def test_the_key_tab_completes_in_an_interactive_bash(complete):
    pexpect = pytest.importorskip("pexpect")
    environment = {**os.environ, "TERM": "dumb", "PS1": "> ", "INPUTRC": os.devnull}
    bash = pexpect.spawn("bash", ["--norc", "-i"], env=environment, encoding="utf-8", timeout=60, dimensions=(40, 200))
    bash.sendline("""eval "$(charlab -sc install=bash)"; bind 'set bell-style none'; echo rea"d"y""")
    bash.expect_exact("ready\r\n")
    for typed, shown in [
        ("charlab tr\t", "charlab train"),
        (" model=big\t", " model=bigram"),
        ("_\t", "_embedding"),
        (" optimizer.l\t", " optimizer.lr="),
        ("0.1 data=play\x15charlab runs\t", "charlab runs"),
    ]:
        bash.send(typed)
        bash.expect_exact(shown)
    bash.sendline("\x15exit")
    bash.expect(pexpect.EOF)
