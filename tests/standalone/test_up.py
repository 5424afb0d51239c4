"""``benchfarm up`` with the real services: up, every process killed once, the supervisor killed, up again, stopped."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from benchfarm import Client
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_standalone.probes import get_json
from benchfarm_standalone.processes import is_alive
from benchfarm_standalone.socket_dir import socket_dir_path
from tests.standalone.descendants import descendants_of

Eventually = Callable[[Callable[[], object], float], None]
SERVICES = ("agent", "trainer", "worker", "api", "valkey", "postgres")


def boards(farm: FarmProcess) -> list[tuple[str, str]]:
    """Kind and state of each board that the farm shows its administrator."""
    port = int(farm.url.rpartition(":")[2])
    status, page = get_json(port, "/v1/boards", farm.admin_token)
    assert status == 200, page
    return [(board["kind"], board["state"]) for board in page["items"]]


@pytest.mark.slow
def test_up_through_every_death_and_a_killed_supervisor(tmp_path: Path, eventually: Eventually) -> None:
    farm = FarmProcess(tmp_path / "home")
    farm.start()
    assert boards(farm) == [("local", "idle")]
    token = farm.admin_token
    for name in SERVICES:
        others = {other: farm.pid(other) for other in SERVICES if other != name}
        farm.wait_until_back(name, farm.kill(name))
        assert others == {other: farm.pid(other) for other in others}
    eventually(lambda: boards(farm) == [("local", "idle")], 30)

    pids = {farm.supervisor_pid, *descendants_of(farm.supervisor_pid)}
    os.kill(farm.supervisor_pid, signal.SIGKILL)
    farm.stop()
    eventually(lambda: not any(is_alive(pid) for pid in pids), 15)

    with FarmProcess(tmp_path / "home") as again:
        assert again.admin_token == token
        assert boards(again) == [("local", "idle")]
        pids = {again.supervisor_pid, *descendants_of(again.supervisor_pid)}
    assert not any(is_alive(pid) for pid in pids)
    assert not socket_dir_path(tmp_path / "home").exists()


def test_stopping_leaves_no_process_and_no_port(tmp_path: Path) -> None:
    farm = FarmProcess(tmp_path / "short")
    farm.start()
    pids = [service["pid"] for service in farm.state()["services"].values()]
    url = farm.url
    assert farm.stop() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    with pytest.raises(Exception, match=r"reach|refused"), Client(url, "bft_x") as client:
        client.whoami()
