"""Clocks put back: a real agent holds a real lease on the QEMU board, pinned, and the lease ends in every way it can.

python -m bench.pinned_leases [--print-only]

Farm, agent, SSH, lease, journal, the board's kernel and its cpufreq are real. In the place of the native runner is the
paced script, which computes nothing: that is enough to hold a lease, and needs no build for the board's processor.
"""

import argparse
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text

from bench.phone_lab import paced_runners
from bench.report import command_run, write_section
from benchfarm import Client
from benchfarm_agent.journal import Journal
from benchfarm_core.boards import BoardState
from benchfarm_core.jobs import ItemView, JobRequest, JobView
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.workloads import KernelRequest
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_store.database import Database
from benchfarm_workloads.draws import draw_mixed
from tests.agent.agent_process import AgentProcess
from tests.peers.qemu_board import POLICIES, QemuBoard

Row = dict[str, object]
SECTION: Final = "Clocks put back after leases on the QEMU board"
FAILS: Final = "/tmp/benchfarm-paced-fails"
"""While the board has this file the paced runner says that every visit has failed."""
LIMIT_S: Final = 120.0
"""For anything: the board is emulated."""
LOOK_S: Final = 0.1
KIND: Final = "conv-bn-act"
"""Every engine can express it."""
DRAWN: Final = 100
HELD_KERNELS: Final = 4
"""Of a lease that is to be cut short: three launches of them take the paced runner at least twelve seconds."""
_SETTINGS: Final = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")


@dataclass
class PinnedLab:
    """A farm, an agent and the board that it drives alone. `folder` has the agent's state and its file of boards."""

    farm: FarmProcess
    client: Client
    board: QemuBoard
    agent: AgentProcess
    folder: Path

    @property
    def journal(self) -> Journal:
        """What the agent still has to put back."""
        return Journal(self.folder / "state" / "journal")

    def settings(self) -> list[str]:
        """Governor and limits of both clocks of the board."""
        return self.board.read(" ".join(f"{POLICIES}/policy{n}/{name}" for n in (0, 2) for name in _SETTINGS)).split()

    def start(self, *options: str) -> None:
        """Starts the agent, which finds the board by itself; it is online when this returns."""
        self.agent.start("--boards", str(self.folder / "boards.toml"), *options)
        wait_until(lambda: bool(self.online()), lambda: f"the board is listed: {self.agent.said()}")

    def online(self) -> list[str]:
        """Ids of boards that are there."""
        return [board.id for board in self.client.boards() if board.state is not BoardState.OFFLINE]

    def submit(self, kernels: int, protocol: str) -> JobView:
        """Kernels at the board's highest clock, measured anew."""
        (platform,) = [one.key for one in self.client.platforms(engine=["ncnn"], threads=[1], precision=["fp32"])][:1]
        drawn = [one for one in draw_mixed(1, DRAWN) if one.type == KIND][:kernels]
        workloads = tuple(KernelRequest(type=one.type, config=one.config) for one in drawn)
        request = JobRequest(
            workloads=workloads, platforms=(platform,), protocol=ProtocolRequest(name=protocol), max_age_s=0
        )
        return self.client.submit(request)

    def ended(self, job: JobView) -> list[ItemView]:
        """The items of a job, once it has ended."""
        return list(self.client.items(self.client.wait(job.id, timeout_s=LIMIT_S).id))

    def held(self, found: Sequence[str]) -> JobView:
        """A job in whose lease the board stands at a pinned clock, with a launch on its way."""
        job = self.submit(HELD_KERNELS, "kernel")
        wait_until(lambda: bool(self.journal.unsettled()), lambda: f"the board is pinned: {self.agent.said()}")
        wait_until(lambda: _is_pinned(self.settings(), found), lambda: f"a pinned clock, not {self.settings()}")
        wait_until(lambda: self._value(_RUNNING) > 0, lambda: "a measurement runs")
        return job

    def last_end(self) -> str:
        """How the last lease that was accepted has ended."""
        wait_until(lambda: self._value(_OPEN) == 0, lambda: f"no lease is left open: {self.agent.said()}")
        return str(self._value(_LAST_END))

    def _value(self, statement: str) -> Any:
        database = Database(self.farm.database_url)
        try:
            with database.transaction(read_only=True) as tx:
                return tx.execute(text(statement)).scalar_one()
        finally:
            database.dispose()


_OPEN: Final = "SELECT count(*) FROM leases WHERE ended_at IS NULL"
_LAST_END: Final = "SELECT end_reason FROM leases WHERE accepted_at IS NOT NULL ORDER BY id DESC LIMIT 1"
_RUNNING: Final = """
    SELECT count(*) FROM leases l JOIN lease_items i ON i.lease_id = l.id
    WHERE l.ended_at IS NULL AND l.accepted_at IS NOT NULL AND i.started_at IS NOT NULL
"""


def main() -> None:
    """Measures the table and writes its section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print-only", action="store_true", help="leave docs/performance.md alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchfarm-pinned-") as folder:
        board = QemuBoard(Path(folder))
        try:
            with open_pinned_lab(Path(folder), board) as lab:
                rows = [ending(lab, name) for name in ENDINGS]
        finally:
            board.end()
    for row in rows:
        print(row, flush=True)
    if not given.print_only:
        write_section(SECTION, command_run(), rows)
    if not all(row["met"] for row in rows):
        raise SystemExit("a clock was not put back, or a lease did not end as it should")


@contextmanager
def open_pinned_lab(folder: Path, board: QemuBoard) -> Iterator[PinnedLab]:
    """All of it while the block runs, with the board online."""
    folder.chmod(0o711)
    (folder / "state").mkdir()
    (folder / "state" / "runners").symlink_to(paced_runners(folder, target="aarch64"))
    (folder / "boards.toml").write_text(_lab_file(board))
    agent = AgentProcess("", folder / "state", folder / "agent.log")
    try:
        with (
            FarmProcess(folder / "farm", local_board=False) as farm,
            Client(farm.url, farm.admin_token) as client,
        ):
            agent.url = farm.url
            lab = PinnedLab(farm, client, board, agent, folder)
            (folder / "enrol").write_text(client.create_enrol_token().token)
            lab.start("--enrol-token-file", str(folder / "enrol"))
            wait_until(lambda: bool(list(client.platforms(engine=["ncnn"]))), lambda: "the engine has answered")
            yield lab
    finally:
        agent.stop()


def ending(lab: PinnedLab, name: str) -> Row:
    """One way in which a lease ends: what it came to, and whether the board is as it was found."""
    found = lab.settings()
    row, end_reasons = ENDINGS[name](lab, found)
    ended_s = time.monotonic()
    wait_until(lambda: not lab.journal.unsettled(), lambda: f"the journal is settled: {lab.agent.said()}")
    settled_s = time.monotonic() - ended_s
    told: Row = {"how a lease on a pinned clock ends": name, "told as": lab.last_end(), **row}
    told |= {"put back": lab.settings() == found, "left in the journal": len(lab.journal.unsettled())}
    told |= {"put back after it, s": f"{settled_s:.1f}"}
    return told | {"met": bool(told["put back"]) and told["told as"] in end_reasons}


def _after_success(lab: PinnedLab, found: Sequence[str]) -> tuple[Row, tuple[str, ...]]:
    del found
    (item,) = lab.ended(lab.submit(1, "quick"))
    clock = "none" if item.summary is None else item.summary.clock_proof.value
    return {"item": item.state.value, "clock": clock}, ("done",) if clock == "verified" else ()


def _after_failure(lab: PinnedLab, found: Sequence[str]) -> tuple[Row, tuple[str, ...]]:
    del found
    lab.board.ssh_run(f"touch {FAILS}")
    try:
        (item,) = lab.ended(lab.submit(1, "quick"))
    finally:
        lab.board.ssh_run(f"rm -f {FAILS}")
    has_failed = item.failure == "engine_error"
    return {"item": f"{item.state.value}, {item.failure}", "clock": "none"}, ("done",) if has_failed else ()


def _after_sigterm(lab: PinnedLab, found: Sequence[str]) -> tuple[Row, tuple[str, ...]]:
    job = lab.held(found)
    lab.agent.signal(signal.SIGTERM)
    code = lab.agent.wait_ended()
    is_back = lab.settings() == found  # before anything else could have done it
    lab.client.cancel(job.id)
    end = lab.last_end()
    lab.start()
    was = f"the agent ended with {code}, the board {'was' if is_back else 'was NOT'} back then"
    return {"item": was, "clock": "none"}, (end,) if is_back and end in ("drain", "cancelled", "done") else ()


def _after_sigkill(lab: PinnedLab, found: Sequence[str]) -> tuple[Row, tuple[str, ...]]:
    job = lab.held(found)
    lab.agent.signal(signal.SIGKILL)
    lab.agent.wait_ended()
    was_pinned = _is_pinned(lab.settings(), found)
    lab.client.cancel(job.id)
    lab.start()
    was = f"the board {'stayed' if was_pinned else 'was NOT'} pinned until then"
    return {"item": was, "clock": "none"}, ("error", "lease_lost", "board_lost", "cancelled") if was_pinned else ()


def _after_unplugging(lab: PinnedLab, found: Sequence[str]) -> tuple[Row, tuple[str, ...]]:
    job = lab.held(found)
    lab.board.ssh_relay.unplug()
    wait_until(lambda: not lab.online(), lambda: f"the board is offline: {lab.agent.said()}")
    was_owed = bool(lab.journal.unsettled())
    lab.client.cancel(job.id)
    lab.board.ssh_relay.plug()
    wait_until(lambda: bool(lab.online()), lambda: f"the board is back: {lab.agent.said()}")
    was = f"the journal {'named' if was_owed else 'did NOT name'} it meanwhile"
    return {"item": was, "clock": "none"}, ("board_lost", "lease_lost") if was_owed else ()


ENDINGS: Final[dict[str, Callable[[PinnedLab, Sequence[str]], tuple[Row, tuple[str, ...]]]]] = {
    "success": _after_success,
    "a failed measurement": _after_failure,
    "SIGTERM": _after_sigterm,
    "kill -9, then a new start": _after_sigkill,
    "connection lost, then back": _after_unplugging,
}


def wait_until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Raises TimeoutError with what was waited for."""
    until_s = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError(f"not within {LIMIT_S:g} s: {what()}")
        time.sleep(LOOK_S)


def _is_pinned(shown: Sequence[str], found: Sequence[str]) -> bool:
    """Whether one of the clocks stands at a single frequency, and did not before."""
    clocks = zip(*(iter(shown),) * len(_SETTINGS), strict=True)
    return any(low == high for _, low, high in clocks) and list(shown) != list(found)


def _lab_file(board: QemuBoard) -> str:
    ssh = board.ssh
    return f"""
local = false
[[ssh]]
name = "qemu"
host = "{ssh.host}"
port = {ssh.port}
user = "{ssh.user}"
key_file = "{ssh.key_file}"
known_hosts_file = "{ssh.known_hosts_file}"
runner = "native"
"""


if __name__ == "__main__":
    main()
