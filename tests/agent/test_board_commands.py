"""`benchfarm agent boards`: what a lab sees, for people."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchfarm_agent import board_commands
from benchfarm_agent.commands import app
from benchfarm_agent.standings import Standing, write_standings
from benchfarm_agent.state_dir import StateDir

LAB = """\
local = false
[[ssh]]
name = "pi5"
host = "127.0.0.1"
port = 1
user = "farm"
key_file = "key"
"""


@pytest.fixture
def command(state: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `agent boards ...` with a lab of one host that nobody answers for, in a folder where no agent runs."""
    monkeypatch.setattr(board_commands, "APPEAR_S", 0.1)
    (tmp_path / "key").write_text("no key")
    (tmp_path / "boards.toml").write_text(LAB)
    monkeypatch.setenv("BENCHFARM_AGENT_STATE_DIR", str(state.root.with_name("lab")))
    monkeypatch.setenv("BENCHFARM_AGENT_BOARDS", str(tmp_path / "boards.toml"))
    return lambda *words: CliRunner().invoke(app, ["boards", *words])


def test_a_board_that_is_away_is_listed_with_the_reason(command: Callable[..., Any]) -> None:
    listed = command("list", "--wait-s", "5")
    assert listed.exit_code == 0, listed.output
    (line,) = listed.output.splitlines()
    assert line.split()[:2] == ["pi5", "away"]


def test_a_running_agent_is_asked(
    command: Callable[..., Any], state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHFARM_AGENT_STATE_DIR", str(state.root))  # whose lock this test holds

    class Seen:
        def standings(self) -> list[Standing]:
            return [Standing(label="R58M", state="unauthorized", detail="no", advice="unlock it")]

    write_standings(state.standings, Seen())
    assert command("list").output.split() == ["R58M", "unauthorized", "no", "unlock", "it"]


def test_what_is_wrong_in_the_file_is_said(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "boards.toml").write_text(LAB + "wifi = 1\n")
    listed = command("list")
    assert listed.exit_code == 2
    assert "line 8: ssh.1.wifi: there is no such entry" in listed.output


def test_a_host_that_the_file_does_not_name_cannot_be_trusted(command: Callable[..., Any]) -> None:
    trusted = command("trust", "pi4")
    assert trusted.exit_code == 2
    assert "it has pi5" in trusted.output
