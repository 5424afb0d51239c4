"""Launches on every kind of board: lines as they come, limits, and nothing left behind."""

import asyncio
import time
from typing import Any

import pytest

from benchfarm_agent.ports.interface import BoardUnreachable, Port, Streamed
from tests.agent.ports.conftest import OnBoard, is_gone

LIMITS: dict[str, Any] = {"line_bytes_max": 1000, "silence_s": 10.0, "lines_max": 50}
# leaves a child behind in its group, and says so
TWO = 'sleep 300 >/dev/null & echo $! >"$1/child"; echo $$ >"$1/pid"; echo up; '


async def left_over(port: Port, folder: str) -> list[str]:
    """What of a launch is still on the board: processes, and folders of launches."""
    processes = [name for name in ("pid", "child") if not await is_gone(port, f"{folder}/{name}")]
    parents = ["sh", "-c", 'ls -dA "$1"/.benchfarm-* "${TMPDIR:-/tmp}"/.benchfarm-* 2>/dev/null', "sh", folder]
    return processes + (await port.run(parents, timeout_s=10)).stdout.decode().split()


def launched(port: Port, script: str, folder: str, on_line, **limits: Any):
    return port.stream(["sh", "-c", script, "sh", folder], stdin=b"request", on_line=on_line, **(LIMITS | limits))


def test_lines_come_as_they_are_said(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        lines: list[tuple[bytes, float]] = []
        began_s = time.monotonic()
        streamed = await port.stream(
            ["sh", "-c", "cat; echo; sleep 0.5; echo second; echo err >&2; printf last; exit 4"],
            stdin=b"\0request\xff",
            on_line=lambda line: lines.append((line, time.monotonic() - began_s)),
            **LIMITS,
        )
        assert streamed == Streamed(4, None, "err\n")
        assert streamed.ran_s is not None, "by the board's own clock"
        assert 0.4 < streamed.ran_s <= time.monotonic() - began_s + 0.1
        assert [line for line, _ in lines] == [b"\0request\xff", b"second", b"last"]
        assert lines[1][1] - lines[0][1] > 0.3

    on_board(work)


@pytest.mark.parametrize(
    ("rest", "limits", "cut"),
    [
        ("sleep 60", {"silence_s": 0.5}, "silent"),
        ("while :; do echo x; sleep 0.1; done", {"limit_s": 0.7}, "silent"),
        ("while :; do printf x; sleep 0.1; done", {"silence_s": 0.5}, "silent"),
        ("head -c 5000 /dev/zero; sleep 60", {}, "garbage"),
        ("yes", {}, "garbage"),
        ("yes | head -c 100000; sleep 60", {"lines_max": 3}, "garbage"),
    ],
    ids=["silent", "endless", "no-newline", "long-line", "flood", "many-lines"],
)
def test_a_cut_launch_is_gone_with_its_children(on_board: OnBoard, rest: str, limits: dict, cut: str) -> None:
    async def work(port: Port, folder: str) -> None:
        lines: list[bytes] = []
        began_s = time.monotonic()
        streamed = await launched(port, TWO + rest, folder, lines.append, **limits)
        assert (streamed.returncode, streamed.cut) == (None, cut)
        assert time.monotonic() - began_s < 5
        assert lines[0] == b"up"
        assert len(lines) <= 50
        assert await left_over(port, folder) == []

    on_board(work)


def test_what_a_launch_leaves_in_its_group_goes_with_it(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        lines: list[bytes] = []
        assert await launched(port, TWO + "exit 0", folder, lines.append) == Streamed(0, None, "")
        assert await left_over(port, folder) == []

    on_board(work)


def test_a_cancelled_launch_is_gone_when_the_call_has_returned(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        up = asyncio.Event()
        task = asyncio.ensure_future(launched(port, TWO + "sleep 60", folder, lambda _: up.set()))
        await up.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await is_gone(port, f"{folder}/pid", within_s=0.2)
        assert await left_over(port, folder) == []

    on_board(work)


def test_a_listener_that_fails_ends_the_launch(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        def on_line(_: bytes) -> None:
            raise OSError("no room for the spool")

        with pytest.raises(OSError, match="spool"):
            await launched(port, TWO + "sleep 60", folder, on_line)
        assert await left_over(port, folder) == []

    on_board(work)


def test_a_lost_connection_is_told_and_the_board_ends_the_launch_by_itself(on_board: OnBoard) -> None:
    async def work(port: Port, folder: str) -> None:
        up = asyncio.Event()
        task = asyncio.ensure_future(launched(port, TWO + "sleep 60", folder, lambda _: up.set()))
        await up.wait()
        await port.close()
        with pytest.raises(BoardUnreachable):
            await task
        assert await left_over(port, folder) == []

    on_board(work)


def test_launches_run_side_by_side(on_board: OnBoard) -> None:
    async def work(port: Port, _: str) -> None:
        async def one(number: int) -> list[bytes]:
            lines: list[bytes] = []
            argv = ["sh", "-c", 'for i in 1 2 3; do echo "$1 $i"; sleep 0.1; done', "sh", str(number)]
            assert (await port.stream(argv, stdin=b"x", on_line=lines.append, **LIMITS)).returncode == 0
            return lines

        for number, lines in enumerate(await asyncio.gather(*map(one, range(4)))):
            assert lines == [f"{number} {i}".encode() for i in (1, 2, 3)]

    on_board(work)


def test_a_launch_with_a_long_request_reads_all_of_it(on_board: OnBoard) -> None:
    async def work(port: Port, _: str) -> None:
        lines: list[bytes] = []
        await port.stream(["wc", "-c"], stdin=b"y" * 1_500_000, on_line=lines.append, **LIMITS)
        assert [int(line) for line in lines] == [1_500_000]

    on_board(work)
