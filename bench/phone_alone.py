"""One phone beside `local`: the same native runner, the same files, launches in turn; what the way to a board adds."""

import asyncio
import json
import os
import platform
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.launching import CORES, Files, Ready, Target, request_of, run_of
from bench.native_runner import Row, Times, agreement, ready_kernels
from benchfarm_agent.boards.board_folder import BoardFolder
from benchfarm_agent.boards.interface import Board, LaunchOrder
from benchfarm_agent.boards.linux_facts import read_board_facts
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.boards.remote import Place, RemoteBoard
from benchfarm_agent.boards.remote_runner import NativeKit
from benchfarm_agent.boards.sensors import GateLimits
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.adb_port import AdbPort
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir, open_state_dir
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import launch_median_ns
from benchfarm_engines.native_build import BuiltRunner, find_runner
from tests.peers.phone_files import one_cluster
from tests.peers.phones import Phone, running_phones
from tests.peers.private_adb import PrivateAdb

CACHE: Final = Path(__file__).resolve().parents[1] / ".benchfarm" / "native"
ROOT: Final = "/data/local/tmp/benchfarm"
LEASE: Final = "l_" + "0a" * 16
SILENCE_S: Final = 90.0
DRAWN_PER_KERNEL: Final = 1.5
"""ncnn cannot express every kernel that is drawn."""


def compare_one_phone(folder: Path, kernels: int, launches: int) -> list[Row]:
    """Rows of the agreement, for all kernels and for the longer ones."""
    native = find_runner(CACHE, platform.machine())
    if native is None:
        raise SystemExit("there is no native runner of the present version: BENCHFARM_NATIVE=1 builds it in the tests")
    folder.chmod(0o711)
    state, lock = open_state_dir(folder / "agent")
    (folder / "files").mkdir()
    adb = PrivateAdb()
    try:
        with running_phones([one_cluster("Bench One", "BF100")], folder) as [phone]:
            files = Files(folder / "files")
            batch = ready_kernels(files, Target("ncnn"), int(kernels * DRAWN_PER_KERNEL))[:kernels]
            watch_children_without_threads()
            phone_ns, local_ns = asyncio.run(_in_turn(files, batch, state, phone, adb, native, launches))
    finally:
        adb.end()
        os.close(lock)
    rows, each = agreement(batch, local_ns, phone_ns)
    for ratio, label, local_ms in each:
        print(f"{ratio:6.3f}  {local_ms:9.4f} ms  {label}")
    return rows


async def _in_turn(
    files: Files,
    batch: Sequence[Ready],
    state: StateDir,
    phone: Phone,
    adb: PrivateAdb,
    native: BuiltRunner,
    launches: int,
) -> tuple[Times, Times]:
    """Launch medians in ns by position in the batch: the phone's and the host's."""
    boards = {"phone": await _phone_board(state, phone, adb, native), "local": _local_board(state, native)}
    found: dict[str, Times] = {name: {} for name in boards}
    for board in boards.values():
        await board.restore()
        await board.prepare(LEASE)
    for launch_no in range(launches):
        visits = list(range(len(batch)))
        random.Random(launch_no).shuffle(visits)
        order = sorted(boards, reverse=launch_no % 2 == 0)
        for name in order:
            await _launch(boards[name], files, batch, visits, launch_no, found[name])
    for board in boards.values():
        await board.restore()
    return found["phone"], found["local"]


async def _phone_board(state: StateDir, phone: Phone, adb: PrivateAdb, native: BuiltRunner) -> Board:
    adb.connect(phone.address)
    port: Any = AdbPort(adb, phone.address)  # type: ignore[arg-type]
    facts = await read_board_facts(port)
    kit = NativeKit(native.path, native.sha256)
    folder = BoardFolder(port, ROOT, owner="bench", is_shared=facts.is_root)
    limits = GateLimits(foreign_threads=1000)
    return RemoteBoard(Place("adb", "phone"), port, facts, folder, kit, Journal(state.journal), limits)


def _local_board(state: StateDir, native: BuiltRunner) -> Board:
    settings = Settings(url="http://127.0.0.1:1", state_dir=state.root, runner_argv=(str(native.path),))
    return LocalBoard(state, Journal(state.journal), settings)


async def _launch(
    board: Board, files: Files, batch: Sequence[Ready], visits: Sequence[int], launch_no: int, found: Times
) -> None:
    target = Target("ncnn")
    request = request_of(files, batch, target, PROTOCOLS["kernel"], order=visits) | {"cores": CORES[-1:]}
    readable = tuple(Path(path) for path in sorted(_paths(request, str(files.folder))))
    lines: list[bytes] = []
    order = LaunchOrder(request, readable, silence_s=SILENCE_S, lines_max=2 * len(visits) + 2)
    ended = await board.launch(order, lines.append)
    if ended.returncode != 0:
        raise SystemExit(f"a launch ended with {ended.returncode}: {lines[-1:]} {ended.stderr_tail[-300:]}")
    for number, samples in run_of(
        [json.loads(line) for line in lines], ended.wall_ms / 1000, launch_no
    ).samples.items():
        middle_ns = launch_median_ns(samples)
        if middle_ns is not None:
            found.setdefault(number, []).append(middle_ns)


def _paths(document: object, folder: str) -> set[str]:
    """Every file of a request."""
    if isinstance(document, str):
        return {document} if document.startswith(f"{folder}/") else set()
    parts = document.values() if isinstance(document, dict) else document if isinstance(document, list | tuple) else ()
    return set().union(*(_paths(part, folder) for part in parts))
