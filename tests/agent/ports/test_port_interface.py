"""What every port promises the agent, on each kind of board. A new kind is one entry in conftest.KINDS."""

import asyncio
import hashlib
import os
import time
from pathlib import Path

import pytest

from benchfarm_agent.ports.interface import (
    OUTPUT_BYTES_MAX,
    BoardUnreachable,
    Port,
    PortTransferFailed,
    PortWriteRefused,
    Ran,
)
from tests.agent.ports.conftest import OnBoard, is_gone

HOSTILE = (
    "plain",
    "",
    " two  words ",
    "it's",
    '"quoted"',
    "$(touch /tmp/owned)",
    "`id`",
    "a;b|c&d>e<f",
    "*?[a]",
    "~",
    "!!",
    "back\\slash\\n",
    "line\nbreak\n",
    "tab\there",
    "-n",
    "--help",
    "#comment",
    "${HOME}",
    "über ☃",
    "A=b",
    "%s",
)
SLEEPER = 'echo $$ >"$1"; exec sleep 300'


def test_a_command_ends_with_its_code_and_both_its_outputs(on_board: OnBoard) -> None:
    async def work(port: Port, _: str) -> None:
        ran = await port.run(["sh", "-c", "cat; echo wrong >&2; exit 3"], stdin=b"\0\xff\nlast", timeout_s=10)
        assert ran == Ran(3, b"\0\xff\nlast", b"wrong\n")
        assert await port.run(["sh", "-c", "cat; echo done"], timeout_s=10) == Ran(0, b"done\n", b"")
        assert (await port.run(["sh", "-c", "kill -9 $$"], timeout_s=10)).returncode == 128 + 9
        missing = await port.run(["no-such-program"], timeout_s=10)
        assert missing.returncode == 127
        assert b"no-such-program" in missing.stderr

    on_board(work)


def test_no_word_is_read_by_a_shell(on_board: OnBoard) -> None:
    async def work(port: Port, _: str) -> None:
        ran = await port.run(["sh", "-c", 'for w; do printf "%s\\0" "$w"; done', "sh", *HOSTILE], timeout_s=10)
        assert ran.stdout.decode().split("\0")[:-1] == list(HOSTILE)

    on_board(work)


def test_a_command_beyond_its_time_is_ended_on_the_board(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        pid_file = f"{folder}/pid"
        began_s = time.monotonic()
        with pytest.raises(BoardUnreachable, match=r"did not answer within 0\.7 s"):
            await port.run(["sh", "-c", SLEEPER, "sh", pid_file], timeout_s=0.7)
        assert time.monotonic() - began_s < 3
        assert await is_gone(port, pid_file)

    on_board(work)


def test_a_cancelled_command_is_ended_on_the_board(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        pid_file = f"{folder}/pid"
        task = asyncio.ensure_future(port.run(["sh", "-c", SLEEPER, "sh", pid_file], stdin=b"x", timeout_s=60))
        await _when_there(port, pid_file)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await is_gone(port, pid_file)

    on_board(work)


def test_many_files_are_read_at_once(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        contents = {
            f"{folder}/plain": b"1800000\n",
            f"{folder}/lines": b"600000 12\n1000000 34\n\n",
            f"{folder}/empty": b"",
            f"{folder}/no newline": b"x",
            f"{folder}/it's $(a) name": "für\n".encode(),
            f"{folder}/strings": b"brcm,bcm2711\0brcm,bcm2712\0",
            f"{folder}/garbage": bytes(range(256)),
            f"{folder}/control": b"\x1b[2J",
            f"{folder}/half": "ü".encode()[:1],
            f"{folder}/large": b"x" * 70_000,
        }
        for path, content in contents.items():
            assert (await port.run(["sh", "-c", 'cat >"$1"', "sh", path], stdin=content, timeout_s=10)).returncode == 0
        await port.run(["mkfifo", f"{folder}/fifo"], timeout_s=10)
        absent = [f"{folder}/absent", folder, "/proc/self/mem", f"{folder}/fifo", f"{folder}/plain/below"]
        texts = await port.read([absent[0], *contents, *absent[1:]])
        assert texts == dict.fromkeys(absent) | {
            f"{folder}/plain": "1800000",
            f"{folder}/lines": "600000 12\n1000000 34",
            f"{folder}/empty": "",
            f"{folder}/no newline": "x",
            f"{folder}/it's $(a) name": "für",
            f"{folder}/strings": "brcm,bcm2711\nbrcm,bcm2712",
            f"{folder}/garbage": None,
            f"{folder}/control": None,
            f"{folder}/half": None,
            f"{folder}/large": None,
        }
        assert await port.read([]) == {}

    on_board(work)


def test_sysfs_is_read_as_cat_reads_it(on_board: OnBoard) -> None:
    async def work(port: Port, _: str) -> None:
        find = "find /sys/devices/system/cpu/ /sys/class/thermal/ -maxdepth 3 -type f | head -n 60"
        paths = (await port.run(["sh", "-c", find], timeout_s=10)).stdout.decode().split("\n")[:-1]
        expected = {path: await port.run(["cat", path], timeout_s=10) for path in paths[::4]}
        texts = await port.read([*paths, "/sys/absent", "/sys/devices"], timeout_s=20)
        assert len(paths) > 5
        assert {path: texts[path] for path in expected} == {
            path: ran.stdout.decode().strip() if ran.returncode == 0 else None for path, ran in expected.items()
        }
        assert (texts["/sys/absent"], texts["/sys/devices"]) == (None, None)

    on_board(work)


def test_more_paths_than_one_command_takes_are_read_too(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        long = "n" * 200
        await port.run(["sh", "-c", 'echo 7 >"$1"', "sh", f"{folder}/{long}"], timeout_s=10)
        paths = [*(f"{folder}/{number}{long}" for number in range(300)), f"{folder}/{long}"]
        texts = await port.read(paths, timeout_s=20)
        assert list(texts) == paths
        assert [path for path, text in texts.items() if text is not None] == paths[-1:]

    on_board(work)


def test_a_value_is_written_as_it_is_or_refused_in_the_boards_words(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        path = f"{folder}/governor"
        await port.run(["sh", "-c", 'echo conservative >"$1"', "sh", path], timeout_s=10)
        await port.write(path, "userspace")
        assert (await port.run(["cat", path], timeout_s=10)).stdout == b"userspace"
        await port.write(path, "-n %s\\n")
        assert (await port.run(["cat", path], timeout_s=10)).stdout == b"-n %s\\n"
        if (await port.run(["ls", "/dev/full"], timeout_s=10)).returncode == 0:
            with pytest.raises(PortWriteRefused, match="No space left"):
                await port.write("/dev/full", "1800000")
        with pytest.raises(PortWriteRefused, match=f"(?i)'1' for {folder}.*directory"):
            await port.write(folder, "1")
        with pytest.raises(PortWriteRefused, match="no such file"):
            await port.write(f"{folder}/absent", "1")
        assert (await port.read([f"{folder}/absent"]))[f"{folder}/absent"] is None

    on_board(work)


def test_a_file_goes_to_the_board_and_comes_back(on_board: OnBoard, tmp_path: Path) -> None:
    async def work(port: Port, folder: str) -> None:
        content = os.urandom(3_000_001)
        (tmp_path / "there").write_bytes(content)
        remote = f"{folder}/a new/folder's/file"
        await port.push(tmp_path / "there", remote, mode=0o750, timeout_s=20)
        told = await port.run(["sh", "-c", 'sha256sum <"$1"; ls -l "$1"', "sh", remote], timeout_s=10)
        assert told.stdout.decode().split()[0] == hashlib.sha256(content).hexdigest()
        assert "rwxr-x---" in told.stdout.decode()
        await port.pull(remote, tmp_path / "back", timeout_s=20)
        assert (tmp_path / "back").read_bytes() == content
        (tmp_path / "there").write_bytes(b"")
        await port.push(tmp_path / "there", remote, timeout_s=20)
        await port.pull(remote, tmp_path / "back", timeout_s=20)
        assert (tmp_path / "back").read_bytes() == b""
        assert (await port.run(["ls", "-A", f"{folder}/a new/folder's"], timeout_s=10)).stdout == b"file\n"

    on_board(work)


def test_what_cannot_be_transferred_leaves_nothing(on_board: OnBoard, tmp_path: Path) -> None:
    async def work(port: Port, folder: str) -> None:
        (tmp_path / "there").write_bytes(os.urandom(2_000_000))
        await port.run(["sh", "-c", 'echo >"$1"', "sh", f"{folder}/plain"], timeout_s=10)
        with pytest.raises(PortTransferFailed, match=r"(?i)could not take .*(directory|exists)"):
            await port.push(tmp_path / "there", f"{folder}/plain/below", timeout_s=20)
        with pytest.raises(PortTransferFailed, match="no such file"):
            await port.pull(f"{folder}/absent", tmp_path / "back", timeout_s=20)
        assert not [name for name in os.listdir(tmp_path) if "back" in name]
        with pytest.raises(FileNotFoundError):
            await port.push(tmp_path / "absent", f"{folder}/absent", timeout_s=20)
        assert (await port.run(["ls", "-A", folder], timeout_s=10)).stdout == b"plain\n"

    on_board(work)


def test_a_command_that_babbles_is_no_answer(on_board: OnBoard) -> None:
    async def work(port: Port, _: str) -> None:
        with pytest.raises(BoardUnreachable, match="more than"):
            await port.run(["head", "-c", str(OUTPUT_BYTES_MAX + 1), "/dev/zero"], timeout_s=20)

    on_board(work)


def test_many_calls_at_once_all_get_their_own_answer(on_board: OnBoard) -> None:
    async def work(port: Port, _: str) -> None:
        calls = [port.run(["sh", "-c", 'cat; echo "$1"', "sh", str(n)], stdin=b"x", timeout_s=20) for n in range(20)]
        assert [ran.stdout for ran in await asyncio.gather(*calls)] == [f"x{n}\n".encode() for n in range(20)]

    on_board(work)


def test_a_closed_port_ends_what_runs_and_can_be_used_again(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        pid_file = f"{folder}/pid"
        task = asyncio.ensure_future(port.run(["sh", "-c", SLEEPER, "sh", pid_file], timeout_s=60))
        await _when_there(port, pid_file)
        await port.close()
        with pytest.raises(BoardUnreachable):
            await task
        assert await is_gone(port, pid_file)

    on_board(work)


async def _when_there(port: Port, path: str) -> None:
    for _ in range(100):
        if (await port.read([path]))[path]:
            return
        await asyncio.sleep(0.02)
