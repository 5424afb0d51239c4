"""The agent's folder: private where it must be, passable where a runner has to, owned by one agent."""

import os
import stat
from pathlib import Path

import pytest

from benchfarm_agent.files import write_whole
from benchfarm_agent.journal import Journal
from benchfarm_agent.settings import checked_url
from benchfarm_agent.state_dir import StateDir, open_state_dir
from benchfarm_core.errors import Conflict


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_others_can_pass_but_not_look(state: StateDir) -> None:
    assert mode(state.root) == 0o711
    assert mode(state.cache) == mode(state.scratch) == 0o711
    assert mode(state.spool) == mode(state.journal) == 0o700


def test_two_agents_cannot_share_a_folder(state: StateDir) -> None:
    with pytest.raises(Conflict, match="another agent"):
        open_state_dir(state.root)


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"one")
    assert mode(tmp_path / "a") == 0o600
    with pytest.raises(OSError, match="Is a directory"):
        write_whole(tmp_path, b"two")
    write_whole(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


def test_the_journal_keeps_what_was_found_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.remember("local", "governor", "powersave")
    journal.remember("local", "governor", "performance")
    assert Journal(tmp_path).entries("local") == {"governor": "powersave"}
    journal.forget("local", "governor")
    journal.forget("local", "governor")
    assert journal.entries("local") == {}


def test_a_damaged_journal_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "local.json").write_bytes(b"\x00{")
    assert Journal(tmp_path).entries("local") == {}
    (tmp_path / "local.json").write_bytes(b"[1]")
    assert Journal(tmp_path).entries("local") == {}


@pytest.mark.parametrize(
    "url",
    ["https://farm.example", "http://127.0.0.1:8650", "http://localhost:1/", "http://[::1]:80", "http://127.9.9.9"],
)
def test_safe_addresses(url: str) -> None:
    assert checked_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://farm.example",
        "http://10.0.0.1",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "ftp://127.0.0.1",
        "farm.example",
        "http://",
        "",
    ],
)
def test_a_token_never_travels_in_the_clear(url: str) -> None:
    with pytest.raises(ValueError):
        checked_url(url)
