"""A farm, six real adbd phones and one agent, for experiments: each with the runner that is to measure there."""

import hashlib
import json
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text

from benchfarm import Client
from benchfarm_core.boards import BoardState, BoardView
from benchfarm_core.jobs import JobRequest, JobView
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.workloads import KernelRequest
from benchfarm_engines.native_build import runner_key
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_store.database import Database
from benchfarm_workloads.draws import draw_mixed
from tests.agent.agent_process import AgentProcess
from tests.peers.phone_files import DEFAULT_GOVERNOR
from tests.peers.phones import Phone, lab_models, running_phones

CACHE: Final = Path(__file__).resolve().parents[1] / ".benchfarm" / "native"
PACED: Final = Path(__file__).with_name("paced_runner.sh")
POLL_S: Final = 0.05
ONLINE_S: Final = 60.0


@dataclass(frozen=True)
class Lab:
    """What runs. listed_s: from the start of the agent's process until the farm listed all six phones."""

    farm: FarmProcess
    client: Client
    phones: Sequence[Phone]
    listed_s: float

    def phone_boards(self) -> list[BoardView]:
        """The phones that the farm has online."""
        online = [board for board in self.client.boards() if board.state is not BoardState.OFFLINE]
        return [board for board in online if board.kind == "adb"]

    def platforms(self) -> list[str]:
        """One platform for each model of board that is online: ncnn on one thread, its first operating point."""
        keys = [one.key for one in self.client.platforms(engine=["ncnn"], threads=[1], precision=["fp32"])]
        models = {board.board_model for board in self.client.boards() if board.state is not BoardState.OFFLINE}
        first = {model: next((key for key in keys if key.startswith(f"{model}/")), None) for model in sorted(models)}
        return [key for key in first.values() if key is not None]

    def submit(
        self, *, seed: int, kernels: int, protocol: ProtocolRequest, platforms: Sequence[str] | None = None
    ) -> JobView:
        """Kernels that are drawn from a seed, measured anew on some platforms; by default one of each model."""
        request = JobRequest(
            name=f"phones {seed}",
            workloads=tuple(KernelRequest(type=one.type, config=one.config) for one in draw_mixed(seed, kernels)),
            platforms=tuple(self.platforms() if platforms is None else platforms),
            protocol=protocol,
            max_age_s=0,
        )
        return self.client.submit(request)

    def wait_until(self, condition: Callable[[], bool], what: str, limit_s: float = ONLINE_S) -> float:
        """Returns after how many seconds a condition held. Raises TimeoutError."""
        began_s = time.monotonic()
        while not condition():
            if time.monotonic() - began_s > limit_s:
                raise TimeoutError(f"not within {limit_s:g} s: {what}")
            time.sleep(POLL_S)
        return time.monotonic() - began_s

    def done(self, serials: Sequence[str], begun_unix_s: float, ended_unix_s: float) -> tuple[int, int]:
        """Leases of these boards that ended as done within a span of time, and the results of these boards."""
        bounds = {"serials": list(serials), "begun": begun_unix_s, "ended": ended_unix_s}
        return self._count(_LEASES_DONE, bounds), self._count(_RESULTS, bounds)

    def leased_s(self, serials: Sequence[str], begun_unix_s: float, ended_unix_s: float) -> float:
        """For how long, in all, these boards were at work on leases within a span of time."""
        bounds = {"serials": list(serials), "begun": begun_unix_s, "ended": ended_unix_s}
        return float(self._value(_LEASED_S, bounds))

    def open_leases(self) -> int:
        """Leases that nobody has ended."""
        return self._count(_OPEN_LEASES, {})

    def pinned(self) -> list[str]:
        """Serials of phones whose clocks are not free."""
        return [one.serial for one in self.phones if governors(one) != {DEFAULT_GOVERNOR}]

    def _count(self, statement: str, bounds: dict[str, object]) -> int:
        return int(self._value(statement, bounds))

    def _value(self, statement: str, bounds: dict[str, object]) -> Any:
        database = Database(self.farm.database_url)
        try:
            with database.transaction(read_only=True) as tx:
                return tx.execute(text(statement), bounds).scalar_one()
        finally:
            database.dispose()


@contextmanager
def open_lab(folder: Path, *, runners: Path, local: bool) -> Iterator[Lab]:
    """All of it while the block runs, with all six phones listed. runners: as `benchfarm agent runner build` has it."""
    folder.chmod(0o711)
    (folder / "state").mkdir()
    (folder / "state" / "runners").symlink_to(runners)
    agent = AgentProcess("", folder / "state", folder / "agent.log")
    with (
        running_phones(lab_models(), folder) as phones,
        FarmProcess(folder / "farm", local_board=False) as farm,
        Client(farm.url, farm.admin_token) as client,
    ):
        agent.url = farm.url
        began_s = time.monotonic()
        _start(agent, client, folder, phones, local=local)
        try:
            lab = Lab(farm, client, phones, 0.0)
            lab.wait_until(lambda: len(lab.phone_boards()) == len(phones), "all phones are listed")
            yield Lab(farm, client, phones, time.monotonic() - began_s)
        finally:
            agent.signal(signal.SIGTERM)
            agent.wait_ended()


def _start(agent: AgentProcess, client: Client, folder: Path, phones: Sequence[Phone], *, local: bool) -> None:
    addresses = ", ".join(f'"{phone.address}"' for phone in phones)
    lab_file = f'local = {str(local).lower()}\nadb = [{addresses}]\nshared_host = ["*"]\n'
    (folder / "boards.toml").write_text(lab_file)
    (folder / "enrol").write_text(client.create_enrol_token().token)
    agent.start("--enrol-token-file", str(folder / "enrol"), "--boards", str(folder / "boards.toml"))


def paced_runners(folder: Path) -> Path:
    """A cache of runners whose only one is the paced script, in the place of this machine's native runner."""
    target, compiler = platform.machine(), "paced"
    place = folder / "paced" / "runners" / f"{target}-{runner_key(target, compiler)}"
    place.mkdir(parents=True)
    shutil.copyfile(PACED, place / "benchfarm-runner")
    content = PACED.read_bytes()
    built = {"target": target, "key": runner_key(target, compiler), "size_bytes": len(content), "compiler": compiler}
    built |= {"sha256": hashlib.sha256(content).hexdigest(), "ncnn_version": "none"}
    (place / "built.json").write_text(json.dumps(built))
    return folder / "paced"


def governors(phone: Phone) -> set[str]:
    """The governors of a phone's clusters."""
    return {phone.read(f"{cluster.policy}/scaling_governor") for cluster in phone.model.clusters}


_OF_BOARDS: Final = """
    FROM leases l JOIN boards b ON b.id = l.board_id
"""
_LEASES_DONE: Final = f"""
    SELECT count(*) {_OF_BOARDS}
    WHERE b.serial = ANY(CAST(:serials AS text[])) AND l.end_reason = 'done'
      AND extract(epoch FROM l.ended_at) BETWEEN :begun AND :ended
"""
_RESULTS: Final = f"""
    SELECT count(*) {_OF_BOARDS} JOIN lease_items i ON i.lease_id = l.id
    WHERE b.serial = ANY(CAST(:serials AS text[])) AND i.outcome = 'ok'
      AND extract(epoch FROM i.finished_at) BETWEEN :begun AND :ended
"""
_LEASED_S: Final = f"""
    SELECT coalesce(sum(greatest(0, least(coalesce(extract(epoch FROM l.ended_at), :ended), :ended)
        - greatest(extract(epoch FROM l.accepted_at), :begun))), 0) {_OF_BOARDS}
    WHERE b.serial = ANY(CAST(:serials AS text[])) AND l.accepted_at IS NOT NULL
"""
_OPEN_LEASES: Final = "SELECT count(*) FROM leases WHERE ended_at IS NULL"
