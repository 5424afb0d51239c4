"""Nothing is left of a peer, however its session ends."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.agent.agent_process import children_of, is_alive
from tests.peers.namespaces import Namespaces
from tests.peers.need import require_root, skipped_where_missing
from tests.peers.phone_root import phone_root
from tests.peers.scratch import PREFIX, scratch_dir
from tests.peers.waiting import wait_until

ROOT = Path(__file__).parents[2]
SOON_S = 5.0

pytestmark = pytest.mark.root


def started() -> "subprocess.Popen[str]":
    """A session of its own with two phones."""
    argv = [sys.executable, "-m", "tests.peers.phones", "--count", "2"]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


def tree_below(pid: int) -> set[int]:
    found = children_of(pid)
    return found.union(*(tree_below(child) for child in found))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_phones_end_with_their_session(number):
    with skipped_where_missing("phones"):
        require_root()
        phone_root()
    session = started()
    try:
        assert session.stdout is not None
        addresses = [session.stdout.readline().split()[0] for _ in range(2)]
        below = tree_below(session.pid)
        assert len(addresses) == 2
        assert len(below) >= 6  # of each phone unshare, its process 1 and adbd
        session.send_signal(number)
        session.wait(SOON_S)
        wait_until(lambda: not any(map(is_alive, below)), lambda: f"left: {below}", SOON_S)
    finally:
        session.kill()
        session.communicate()


def test_namespaces_leave_no_process_and_no_mount(tmp_path):
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    script = 'mount -t tmpfs inside "$1"; touch "$1/file"; sleep 1000 & sleep 1000'
    with skipped_where_missing("namespaces"):
        inside = Namespaces(script, str(mounted), stdin=b"", log_file=tmp_path / "log")
    seen = inside.root / str(mounted).lstrip("/") / "file"
    wait_until(lambda: seen.exists() and len(inside.processes()) == 2, inside.said, SOON_S)
    below = {inside.init_pid, *inside.processes()}
    assert list(mounted.iterdir()) == []
    inside.end()
    inside.end()
    assert not any(map(is_alive, below))
    assert str(mounted) not in Path("/proc/mounts").read_text()


def test_killing_all_but_process_one_and_what_is_kept(tmp_path):
    script = "sleep 1001 & sleep 1002 & while :; do sleep 1003; done"
    with skipped_where_missing("namespaces"):
        inside = Namespaces(script, stdin=b"", log_file=tmp_path / "log")
    try:
        wait_until(lambda: len(inside.children_of_init("sleep")) == 3, inside.said, SOON_S)
        assert inside.children_of_init("sleep") == frozenset(inside.processes())
        kept = min(inside.processes())
        inside.kill(keep=frozenset({kept}))
        wait_until(lambda: len(inside.processes()) == 2 and kept in inside.processes(), inside.said, SOON_S)
        assert os.path.exists(f"/proc/{inside.init_pid}")
    finally:
        inside.end()


def test_a_folder_of_an_ended_session_goes_and_one_of_a_running_session_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = [tmp_path / f"{PREFIX}{pid}-x" for pid in (ended.pid, os.getppid())]
    for folder in left:
        folder.mkdir()
    made = scratch_dir()
    assert set(tmp_path.iterdir()) == {left[1], made}
