"""The work of a bundle on a machine that reaches nothing: measure in the agent's own way, write one file, be gone.

What was measured lies in the private folder, part by part, until the results file is written: a run that was killed
goes on where it was. Where the machine is another than it was then (a new kernel), it starts again.
"""

import asyncio
import hashlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import Final, NamedTuple

from benchfarm_agent import VERSION
from benchfarm_agent.boards.interface import Board
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.bundle_start import CONTENTS, EXIT_REFUSED
from benchfarm_agent.bundle_work import FILES, WORK_FILE, BundledWork, unbundled_canary, unbundled_item
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.files import is_disk_full, write_whole
from benchfarm_agent.journal import Journal
from benchfarm_agent.launches import LeaseLaunches
from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import open_state_dir
from benchfarm_core import log
from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.boards import BoardReport
from benchfarm_core.bundles import (
    BUNDLE_FORMAT,
    ITEMS_PER_PART,
    ORDER_FILE,
    BundleHead,
    BundleOrder,
    BundlePart,
    launched_together,
    sign,
)
from benchfarm_core.errors import BenchfarmError, PermanentDeviceError, TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_core.platforms import OperatingPoint, Platform
from benchfarm_core.values import Value, canonical_json
from benchfarm_core.workloads import workload_id

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED: Final = 130
RUN_FILE: Final = "run.json"
RUNNER_FILE: Final = "runner.py"
NOWHERE: Final = "http://localhost"
"""The address of the farm in the agent's settings: nothing here asks for it."""


class _Run(Value):
    """What stays the same over the starts of one run."""

    run_id: str
    report: BoardReport
    platform: Platform


class _Place(NamedTuple):
    """The private folder's parts."""

    root: Path
    out: Path

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def parts(self) -> Path:
        return self.root / "parts"


def main(folder: str, out: str) -> int:
    """Measures what lies unpacked in a private folder; the exit code is 0 when the results file is written."""
    place = _Place(Path(folder), Path(out))
    log.configure("bundle")
    watch_children_without_threads()
    try:
        written = asyncio.run(_run(place))
    except asyncio.CancelledError:
        sys.stderr.write("bundle: interrupted; the same command goes on, `clean` removes what is left\n")
        return EXIT_INTERRUPTED
    except BenchfarmError as error:
        sys.stderr.write(f"bundle: {error.detail}\n")
        return EXIT_REFUSED
    except OSError as error:
        room = (
            "there is no room left; the same command goes on once there is" if is_disk_full(error) else error.strerror
        )
        sys.stderr.write(f"bundle: {error.filename or place.root}: {room}\n")
        return EXIT_REFUSED
    rmtree(place.root, ignore_errors=True)
    sys.stdout.write(f"{written}\n")
    return 0


async def _run(place: _Place) -> Path:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    runner = (sys.executable, "-I", "-B", str(place.bundle / RUNNER_FILE))
    settings = Settings(url=NOWHERE, state_dir=place.root / "state", runner_argv=runner)
    state, lock = open_state_dir(settings.state_dir)
    try:
        board = LocalBoard(state, Journal(state.journal), settings)
        await board.restore()
        return await _measure_all(place, board, settings)
    finally:
        os.close(lock)


async def _measure_all(place: _Place, board: Board, settings: Settings) -> Path:
    order = BundleOrder.model_validate_json((place.bundle / ORDER_FILE).read_bytes())
    work = BundledWork.model_validate_json((place.bundle / WORK_FILE).read_bytes())
    run = _same_run(place, order, await board.describe())
    groups = _groups(order, [unbundled_item(item, place.bundle / FILES) for item in work.items])
    for number, group in enumerate(groups):
        path = place.parts / f"{number}.json"
        if not path.exists():
            assert work.canary is not None  # it is there wherever anything could be prepared
            canary = unbundled_canary(work.canary, place.bundle / FILES)
            part = await _Part(board, settings, _grant(order, run, number)).measure(number, group, canary)
            write_whole(path, part.model_dump_json().encode())
            logger.info("part %d of %d is measured", number + 1, len(groups))
    return _write_results(place, order, run, [*_failed_parts(work, len(groups))], len(groups))


def _groups(order: BundleOrder, items: Sequence[PreparedItem]) -> list[list[PreparedItem]]:
    """What is measured, as it shares launches."""
    workloads = {one.measurement_id: workload_id(one.workload) for one in order.items}
    groups = launched_together([workloads[item.measurement_id] for item in items])
    return [[items[place] for place in group] for group in groups]


def _same_run(place: _Place, order: BundleOrder, report: BoardReport) -> _Run:
    """The run that was begun here before, while the machine is the same as then; else a new one, from the start."""
    report = report.model_copy(update={"kind": "air_gapped"})
    platform = _platform(order, report)
    path = place.root / RUN_FILE
    if path.exists():
        known = _Run.model_validate_json(path.read_bytes())
        if (known.report.generation, known.platform) == (report.generation, platform):
            return known
        rmtree(place.parts, ignore_errors=True)
    run = _Run(run_id=secrets.token_hex(16), report=report, platform=platform)
    place.parts.mkdir(exist_ok=True)
    write_whole(path, run.model_dump_json().encode())
    return run


def _platform(order: BundleOrder, report: BoardReport) -> Platform:
    """Where the bundle measures on this machine. Raises PermanentDeviceError for a machine that cannot be that."""
    engine = next((one for one in report.engines if one.name == order.engine), None)
    if engine is None or not engine.available or engine.version is None:
        why = "it is not in the bundle" if engine is None else engine.reason
        raise PermanentDeviceError(f"{order.engine} does not run on this machine: {why}")
    if order.precision not in engine.precisions:
        raise PermanentDeviceError(f"{order.engine} has no {order.precision} on this machine")
    if order.engine_version not in (None, engine.version):
        raise PermanentDeviceError(f"{order.engine} {order.engine_version} is wanted, and {engine.version} was packed")
    return order.platform(report.board_model, _point(order, report), engine.version)


def _point(order: BundleOrder, report: BoardReport) -> OperatingPoint:
    points = [one for one in report.operating_points if one.mode == "free" and one.threads == order.threads]
    if not points:
        have = ", ".join(str(one.threads) for one in report.operating_points)
        raise PermanentDeviceError(f"{order.threads} threads are wanted, and this machine measures on {have}")
    return points[0]


def _grant(order: BundleOrder, run: _Run, number: int) -> LeaseGrant:
    """What a lease would be, for the launches; its token only draws their order."""
    return LeaseGrant(
        lease_token=f"{run.run_id}:{number}",
        board_id="",
        platform=run.platform,
        protocol=order.protocol,
        generation=run.report.generation,
        items=[],
        expires_in_s=0,
        renew_in_s=0,
    )


class _Part:
    """Some measurements that share launches, led as the agent leads a lease."""

    def __init__(self, board: Board, settings: Settings, grant: LeaseGrant) -> None:
        self._board = board
        self._settings = settings
        self._grant = grant

    async def measure(self, number: int, items: Sequence[PreparedItem], canary: Canary) -> BundlePart:
        """Gate, pin, launch, restore. Raises TransientDeviceError where the machine does not come to rest."""
        begun_s = boottime_s()
        await self._gate()
        launches = LeaseLaunches(self._board, self._grant, items, canary, lambda _: None)
        try:
            await self._board.prepare(self._grant.lease_token)
            await self._board.pin(self._grant.platform.operating_point)
            await self._launch(launches)
        finally:
            await self._board.restore()
        wall_ms = (boottime_s() - begun_s) * 1000
        results, evidence = tuple(launches.results()), tuple(launches.evidence)
        return BundlePart(number=number, wall_ms=wall_ms, results=results, launches=evidence)

    async def _launch(self, launches: LeaseLaunches) -> None:
        try:
            await launches.run()
        except OSError as error:
            if is_disk_full(error):
                raise
            launches.give_up(FailureCode.RUNNER_DIED, f"the runner could not be started: {error.strerror}")

    async def _gate(self) -> None:
        until_s = boottime_s() + self._settings.gate_wait_s
        while (why := await self._board.gate(self._grant.platform.operating_point)) is not None:
            if boottime_s() > until_s:
                raise TransientDeviceError(f"{why}: run it again when the machine is quiet and cool")
            await asyncio.sleep(0.5)


def _failed_parts(work: BundledWork, first: int) -> list[BundlePart]:
    """What could not even be prepared, as parts of their own."""
    chunks = [work.failed[start : start + ITEMS_PER_PART] for start in range(0, len(work.failed), ITEMS_PER_PART)]
    return [BundlePart(number=first + index, wall_ms=0, results=chunk) for index, chunk in enumerate(chunks)]


def _write_results(place: _Place, order: BundleOrder, run: _Run, failed: Sequence[BundlePart], measured: int) -> Path:
    """One file: the head, then each part with its signature. The parts' texts are those that lie in the folder."""
    head = BundleHead(
        format=BUNDLE_FORMAT,
        bundle_id=order.bundle_id,
        farm=order.farm,
        contents_sha256=hashlib.sha256((place.bundle / CONTENTS).read_bytes()).hexdigest(),
        run_id=run.run_id,
        parts=measured + len(failed),
        agent_version=VERSION,
        report=run.report,
        platform=run.platform,
    ).model_dump_json()
    parts = [(place.parts / f"{number}.json").read_text() for number in range(measured)]
    parts += [part.model_dump_json() for part in failed]
    lines = [canonical_json({"head": head})]
    lines += [canonical_json({"part": part, "signature": sign(order.key, head, part)}) for part in parts]
    path = place.out / f"{order.bundle_id}-{run.run_id[:8]}.results"
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())
    return path
