"""The native runner on real adbd: two at once are refused, and one that never ends is ended on the phone."""

import asyncio
import platform
from collections.abc import Callable
from typing import Any

from benchfarm_agent.boards.board_folder import BoardFolder
from benchfarm_agent.boards.remote_runner import NativeKit
from benchfarm_agent.ports.adb_port import AdbPort
from tests.agent.scripted_farm import true_soon
from tests.engines.native.conftest import built
from tests.peers.phones import Phone

Run = Callable[[Any], Any]
ROOT = "/data/local/tmp/benchfarm"
LIMIT_S = 2.0
READS_FOR_EVER = ["sh", "-c", 'sleep 30 | "$@"', "sh"]
"""What waits for a request that does not come."""


def test_it_holds_its_lock_and_keeps_its_limit(phone: Phone, peer_adb: Any, running: Run) -> None:
    runner = built(platform.machine())
    peer_adb.connect(phone.address)
    port, kit = AdbPort(peer_adb, phone.address), NativeKit(runner.path, runner.sha256)
    folder = BoardFolder(port, ROOT, owner="agent1", is_shared=False)
    lock = phone.root / folder.running.lstrip("/")

    async def two_at_once() -> tuple[Any, Any, Any]:
        await folder.sweep()
        await kit.ensure(port, folder)
        argv = kit.launch_argv(folder, LIMIT_S)
        first = asyncio.create_task(port.run([*READS_FOR_EVER, *argv], timeout_s=20))
        await true_soon(lambda: lock.exists() and lock.read_text().endswith("\n"), limit_s=10)
        pid = lock.read_text().strip()
        alive = await port.run(["kill", "-0", pid], timeout_s=10)
        second = await port.run(argv, timeout_s=20)
        await asyncio.sleep(LIMIT_S + 0.5)
        later = await port.run(["kill", "-0", pid], timeout_s=10)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return alive, second, later

    alive, second, later = running(two_at_once())
    assert alive.returncode == 0
    assert b"another runner holds this board" in second.stdout
    assert later.returncode != 0, "its limit has passed"
