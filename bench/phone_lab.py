"""A farm, six real adbd phones and one agent, for experiments: each with the runner that is to measure there."""

import hashlib
import json
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from tests.peers.phones import Phone, lab_models, running_phones

CACHE: Final = Path(__file__).resolve().parents[1] / ".benchfarm" / "native"
PACED: Final = Path(__file__).with_name("paced_runner.sh")
FIXED: Final = "/data/fixed_performance"
"""Where the tests' phones keep whether their performance is fixed."""
POLL_S: Final = 0.05
ONLINE_S: Final = 60.0


@dataclass(frozen=True)
class Lab:
    """What runs. listed_s: from the start of the agent's process until the farm listed all six phones. found: what each
    phone's clocks were set to before the agent had them, by serial."""

    farm: FarmProcess
    client: Client
    phones: Sequence[Phone]
    listed_s: float
    found: Mapping[str, Mapping[str, str]]

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

    def open_leases(self) -> dict[int, float]:
        """Leases that nobody has ended, and in how many seconds the deadline of each is."""
        return {row.id: float(row.left_s) for row in self._rows(_OPEN_LEASES, {})}

    def outlived_leases(self) -> set[int]:
        """Leases that their agent has not ended before their deadline: the farm had to, or has to."""
        return {row.id for row in self._rows(_OUTLIVED, {})}

    def changed(self) -> dict[str, dict[str, str]]:
        """What is set on phones otherwise than it was found, by serial."""
        now = {one.serial: clock_settings(one) for one in self.phones}
        differ = {
            serial: {path: text for path, text in settings.items() if self.found[serial][path] != text}
            for serial, settings in now.items()
        }
        return {serial: settings for serial, settings in differ.items() if settings}

    def _count(self, statement: str, bounds: dict[str, object]) -> int:
        return int(self._value(statement, bounds))

    def _value(self, statement: str, bounds: dict[str, object]) -> Any:
        ((value,),) = self._rows(statement, bounds)
        return value

    def _rows(self, statement: str, bounds: dict[str, object]) -> Sequence[Any]:
        database = Database(self.farm.database_url)
        try:
            with database.transaction(read_only=True) as tx:
                return tx.execute(text(statement), bounds).all()
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
        found = {phone.serial: clock_settings(phone) for phone in phones}
        began_s = time.monotonic()
        _start(agent, client, folder, phones, local=local)
        try:
            lab = Lab(farm, client, phones, 0.0, found)
            lab.wait_until(lambda: len(lab.phone_boards()) == len(phones), "all phones are listed")
            yield replace(lab, listed_s=time.monotonic() - began_s)
        finally:
            agent.signal(signal.SIGTERM)
            agent.wait_ended()


def _start(agent: AgentProcess, client: Client, folder: Path, phones: Sequence[Phone], *, local: bool) -> None:
    addresses = ", ".join(f'"{phone.address}"' for phone in phones)
    lab_file = f'local = {str(local).lower()}\nadb = [{addresses}]\nshared_host = ["*"]\n'
    (folder / "boards.toml").write_text(lab_file)
    (folder / "enrol").write_text(client.create_enrol_token().token)
    agent.start("--enrol-token-file", str(folder / "enrol"), "--boards", str(folder / "boards.toml"))


def paced_runners(folder: Path, target: str = platform.machine()) -> Path:
    """A cache of runners whose only one is the paced script, in the place of a processor's native runner."""
    compiler = "paced"
    place = folder / "paced" / "runners" / f"{target}-{runner_key(target, compiler)}"
    place.mkdir(parents=True)
    shutil.copyfile(PACED, place / "benchfarm-runner")
    content = PACED.read_bytes()
    built = {"target": target, "key": runner_key(target, compiler), "size_bytes": len(content), "compiler": compiler}
    built |= {"sha256": hashlib.sha256(content).hexdigest(), "ncnn_version": "none"}
    (place / "built.json").write_text(json.dumps(built))
    return folder / "paced"


def clock_settings(phone: Phone) -> dict[str, str]:
    """Everything by which a phone's clocks can be held: governors, limits, and Android's fixed performance."""
    paths = [f"{cluster.policy}/{name}" for cluster in phone.model.clusters for name in _SETTINGS]
    fixed = phone.root / FIXED.lstrip("/")
    is_fixed = fixed.read_text().strip() if fixed.exists() else "false"
    return {path: phone.read(path) for path in paths} | {FIXED: is_fixed}


_SETTINGS: Final = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
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
_OPEN_LEASES: Final = "SELECT id, extract(epoch FROM expires_at - now()) AS left_s FROM leases WHERE ended_at IS NULL"
_OUTLIVED: Final = """
    SELECT id FROM leases WHERE accepted_at IS NOT NULL
        AND (end_reason = 'expired' OR (ended_at IS NULL AND expires_at <= now()))
"""
