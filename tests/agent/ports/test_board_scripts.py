"""The shell text that runs on boards, in every shell of this host that is like one of theirs."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.ports.board_scripts import (
    COMMAND_BYTES_MAX,
    in_commands,
    new_name,
    quoted,
    reading,
    supervised,
    texts_of,
    timed,
)
from benchfarm_agent.ports.interface import BoardUnreachable, Ran, Streamed
from benchfarm_core.errors import InvalidRequest
from tests.agent.ports.conftest import is_gone
from tests.agent.ports.local_shell import shells

MARK = new_name()
STREAM: dict[str, Any] = {"line_bytes_max": 1000, "silence_s": 10.0, "lines_max": 5}


@pytest.mark.parametrize("name", ["bash", "mksh", "toybox"])
def test_other_shells_understand_the_scripts(running, tmp_path: Path, name: str) -> None:
    async def work() -> None:
        found = shells(tmp_path)
        if name not in found:
            pytest.skip(f"no {name} on this host")
        port = found[name]
        ran = await port.run(["sh", "-c", "cat; echo e >&2; exit 3"], stdin=b"\0in", timeout_s=10)
        assert ran == Ran(3, b"\0in", b"e\n")
        streamed = await port.stream(["sh", "-c", "echo e >&2; sleep 0.5"], stdin=b"in", on_line=print, **STREAM)
        assert streamed == Streamed(0, None, "e\n")
        assert 0.4 < (streamed.ran_s or 0) < 5
        path = tmp_path / "value"
        path.write_text("1\n")
        await port.write(str(path), "2")
        assert await port.read([str(path), "/absent"]) == {str(path): "2", "/absent": None}
        sysfs = [f"/sys/devices/system/cpu/{one}" for one in ("possible", "online", "absent", "uevent", "isolated")]
        assert list((await port.read(sysfs)).values()) == [text_of(one) for one in sysfs]
        await port.push(path, str(tmp_path / "folder" / "copy"), mode=0o755, timeout_s=10)
        assert os.access(tmp_path / "folder" / "copy", os.X_OK)
        with pytest.raises(BoardUnreachable):
            await port.run(["sh", "-c", 'echo $$ >"$1"; sleep 300', "sh", str(tmp_path / "pid")], timeout_s=0.5)
        assert await is_gone(port, str(tmp_path / "pid"))
        await port.close()

    running(work())


@pytest.mark.parametrize("name", ["dash", "busybox", "bash", "mksh", "toybox"])
def test_a_board_that_is_cut_off_ends_the_command_when_its_time_is_up(running, tmp_path: Path, name: str) -> None:
    """The connection stays open, as it does for a board whose cable is out and whose network has not noticed."""

    async def work() -> None:
        found = shells(tmp_path)
        if name not in found:
            pytest.skip(f"no {name} on this host")
        script = 'echo $$ >"$1"; sleep 300'
        command = supervised(["sh", "-c", script, "sh", str(tmp_path / "pid")], limit_s=0.5)
        began_s = time.monotonic()
        channel = await found[name]._open(command)
        while not isinstance(said := await channel.hear(), int):
            pass
        assert said == 128 + 9
        assert 0.5 < time.monotonic() - began_s < 5
        assert await is_gone(found[name], str(tmp_path / "pid"))
        channel.close()
        await found[name].close()

    running(work())


def test_a_board_without_room_says_so(running, tmp_path: Path) -> None:
    async def work() -> None:
        port = shells(tmp_path)["dash"]
        port._env = {**port._env, "TMPDIR": str(tmp_path / "absent"), "HOME": ""}
        ran = await port.run(["cat"], stdin=b"x" * 3_000_000, timeout_s=5)
        assert ran.returncode == 125
        assert b"finds no folder on this board" in ran.stderr
        lines: list[bytes] = []
        limits: dict[str, Any] = {"line_bytes_max": 10, "silence_s": 5, "lines_max": 5}
        streamed = await port.stream(["cat"], stdin=b"x" * 3_000_000, on_line=lines.append, **limits)
        assert (streamed.returncode, streamed.cut, lines) == (125, None, [])
        assert "finds no folder on this board" in streamed.stderr_tail
        await port.close()

    if not shells(tmp_path).get("dash"):
        pytest.skip("no dash on this host")
    running(asyncio.wait_for(work(), 20))


@pytest.mark.parametrize(
    ("head", "texts"),
    [
        ('case $3 in *b) sleep 60;; esac; exec /usr/bin/head "$@"', ["text", None, None]),
        ('sleep 0.6; exec /usr/bin/head "$@"', None),
    ],
    ids=["hangs", "slow"],
)
def test_a_file_that_hangs_spoils_no_other_and_a_slow_board_is_no_board_without_files(
    running, tmp_path: Path, head: str, texts: list[str | None] | None
) -> None:
    async def work() -> None:
        port = shells(tmp_path)["dash"]
        port._env = {**port._env, "PATH": f"{tmp_path / 'bin'}:{port._env['PATH']}"}
        reading = port.read([str(tmp_path / name) for name in "abc"], timeout_s=1.5)
        if texts is None:
            with pytest.raises(BoardUnreachable, match="within"):
                await reading
        else:
            assert list((await reading).values()) == texts
        await port.close()

    if not shells(tmp_path / "looked").get("dash"):
        pytest.skip("no dash on this host")
    for name in "abc":
        (tmp_path / name).write_text("text\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "head").write_text(f"#!/bin/sh\n{head}\n")
    (tmp_path / "bin" / "head").chmod(0o755)
    running(work())


def text_of(path: str) -> str | None:
    return Path(path).read_text().strip() if Path(path).exists() else None


def test_words_stay_words_and_a_nul_is_refused() -> None:
    assert quoted(["a b", "c'd", ""]) == "'a b' 'c'\"'\"'d' ''"
    with pytest.raises(InvalidRequest, match="NUL"):
        quoted(["a\0b"])


@pytest.mark.parametrize("path", ["relative", "", "-x", "~/file"])
def test_paths_are_absolute(path: str) -> None:
    with pytest.raises(InvalidRequest, match="absolute"):
        reading([path], MARK)


def test_paths_are_spread_over_commands_and_keep_their_order() -> None:
    paths = [f"/sys/it's/{'n' * 150}/{number}" for number in range(1000)]
    portions = in_commands(paths)
    assert [path for portion in portions for path in portion] == paths
    assert 3 < len(portions) < 12
    for portion in portions:
        assert len(supervised(reading(portion, MARK), limit_s=5)) < COMMAND_BYTES_MAX + 10_000


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        (b"", None),
        (b"sh: not found\n", None),
        (b"M\n", {"/a": None, "/b": None}),
        (b"M\n1\n\nM0\n", {"/a": "1", "/b": None}),
        (b"M\n1\n\nM0\nhalf of it", {"/a": "1", "/b": None}),
        (b"M\n1\nM0x\n\nM0\n2\nM1\n", {"/a": "1\nM0x", "/b": None}),
        (b"M\n\nM1\n2\nM0\n", {"/a": None, "/b": "2"}),
    ],
)
def test_what_was_read_is_told_apart_from_what_was_not(said: bytes, texts: dict[str, str | None] | None) -> None:
    assert texts_of(said, ["/a", "/b"], "M") == texts


def test_only_what_the_supervision_says_last_is_a_time() -> None:
    said = f"words {MARK}:ran 10.50 12.75\n".encode()
    assert timed(MARK, said) == (b"words ", 2.25)
    assert timed(MARK, f"{MARK}:ran 12.00 11.00\n".encode()) == (b"", 0.0)
    for other in (said + b"more", said.replace(b"10.50", b"x"), f"{new_name()}:ran 10.50 12.75\n".encode(), b""):
        assert timed(MARK, other) == (other, None)
