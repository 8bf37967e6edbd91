"""Shell completion in a real bash."""

import subprocess
import sys
from functools import partial

import pytest

COMPLETED = """
PATH="$1:$PATH"
cd "$1"
eval "$(charlab -sc install=bash)"
complete -p charlab
COMP_LINE="$2"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=($COMP_LINE)
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
[[ "$COMP_LINE" == *" " ]] && COMP_CWORD=$(( COMP_CWORD + 1 ))
hydra_bash_completion
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path):
    program = f"#!{sys.executable}\nimport sys\nfrom charlab.__main__ import main\nsys.exit(main())\n"
    (tmp_path / "charlab").write_text(program)
    (tmp_path / "charlab").chmod(0o755)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: x.Y\n")

    def complete(line):
        command = ["bash", "--norc", "-c", COMPLETED, "bash", str(tmp_path), line]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        rule, *words = done.stdout.split()[0:1], *done.stdout.splitlines()[1:]
        assert rule == ["complete"]
        return set(words)

    return complete


slow = partial(pytest.param, marks=pytest.mark.slow)


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
