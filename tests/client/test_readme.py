"""The first steps of the README are commands that exist and can end well."""

import re
import shlex
from pathlib import Path

import pytest

from benchfarm.commands.main import run

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS = re.findall(r"^benchfarm (.+)$", README, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_understood(command: str) -> None:
    assert run([*shlex.split(command), "--help"]) == 0


def test_the_first_job_asks_for_nothing_that_the_gate_refuses() -> None:
    """MobileNetV2 in bf16 differs from its reference by more than the gate allows."""
    (submit,) = (command for command in COMMANDS if command.startswith("jobs submit"))
    assert "--precision fp32" in submit
