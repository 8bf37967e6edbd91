"""Every command that a run prints works as printed."""

import re
import shlex

import pytest

from charlab.__main__ import main
from charlab.errors import UserError


@pytest.mark.slow
def test_commands_of_a_run_work_as_printed(run_tiny, tmp_path, capsys):
    record = run_tiny(f"output_dir='{tmp_path}/my outputs, 50%'", "trainer.max_steps=2")
    commands = re.findall(r"(charlab .*)\n", capsys.readouterr().out)
    with pytest.raises(UserError) as raised:
        record.metric("online")
    commands += re.findall(r" by (charlab .*)\.$", str(raised.value))
    assert [command.split()[1] for command in commands] == ["runs", "evaluate"]
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert (record.folder / "loss.png").exists()
