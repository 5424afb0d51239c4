"""What the agent owes the farm: results on disk before they are sent, until the farm has confirmed them.

One folder per lease. `running` names the measurement whose file is being built inside the agent, or whose visit
is in progress, so that an agent that was killed knows afterwards which one to blame; it is written in place and
without fsync, because it has to survive the agent, not the machine.
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Final

from pydantic import TypeAdapter, ValidationError

from benchfarm_agent.farm_client import FarmClient, Patience
from benchfarm_agent.files import is_disk_full, write_whole
from benchfarm_core.agent_protocol import (
    MAX_RESULTS_PER_CHUNK,
    FinishAnswer,
    FinishRequest,
    LaunchEvidence,
    ReleaseRequest,
    ResultsAnswer,
    ResultsRequest,
)
from benchfarm_core.errors import BenchfarmError, InvalidRequest, TooLarge
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MeasurementId, MeasurementResult

logger = logging.getLogger(__name__)

CHUNK_SAMPLES: Final = 50_000
"""Blocks in one chunk: below a megabyte on the wire, so that one request never takes long."""
_RUNNING: Final = "running"
_RUNNING_BYTES: Final = 20
_NOTE: Final[TypeAdapter[int]] = TypeAdapter(MeasurementId)


class LeaseSpool:
    """The folder of one lease."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, ResultsRequest] = {}  # what is on the disk too: reading it back takes tens of ms
        self._unwritten: list[ResultsRequest] = []
        self._running: int | None = None

    @property
    def lease_token(self) -> str:
        return self._folder.name

    def open(self) -> None:
        """Makes the folder; from now on a restart knows of this lease. Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._running = os.open(self._folder / _RUNNING, flags, 0o600)

    def note_running(self, measurement_id: int | None) -> None:
        """Names the measurement that runs now: one small write into the page cache, a few microseconds."""
        if self._running is not None:
            text = "" if measurement_id is None else str(measurement_id)
            os.pwrite(self._running, text.ljust(_RUNNING_BYTES).encode(), 0)

    def running(self) -> int | None:
        """The measurement that ran when the note was last written; None where the note names none."""
        try:
            return _NOTE.validate_json((self._folder / _RUNNING).read_bytes(), strict=True)
        except (OSError, ValidationError):
            return None

    def add(self, results: Sequence[MeasurementResult], launches: Sequence[LaunchEvidence]) -> None:
        """Writes results to disk; what does not fit there stays in memory and is sent from there."""
        for chunk in chunks_of(results, launches):
            name = self._next_name()
            try:
                write_whole(self._folder / name, chunk.model_dump_json().encode())
                self._written[name] = chunk
            except OSError as error:
                if not is_disk_full(error):
                    raise
                logger.error("the spool's disk is full: results wait in memory", extra={"lease": self.lease_token[:8]})
                self._unwritten.append(chunk)

    async def deliver(self, farm: FarmClient, *, patience_s: Patience, but_last: bool = False) -> None:
        """Sends everything; each chunk is removed once the farm has it. Raises BenchfarmError and keeps the rest.

        `but_last`: the last chunk is left for `finish`.
        """
        owed = self._owed()
        for one in owed[:-1] if but_last else owed:
            chunk = self._content(one)
            if chunk is not None:
                await send_chunk(farm, self.lease_token, chunk, patience_s=patience_s)
            await asyncio.to_thread(self._settle, one)

    async def finish(
        self, farm: FarmClient, release: ReleaseRequest, *, patience_s: Patience, wants_next: bool
    ) -> FinishAnswer:
        """Sends the one chunk that may be left, and the board back, in one request. Raises as `deliver` does."""
        owed = self._owed()
        chunk = self._content(owed[0]) if owed else None
        request = _finish_of(chunk, release, wants_next=wants_next)
        try:
            answer = await farm.finish(self.lease_token, request, patience_s=patience_s)
        except (InvalidRequest, TooLarge) as error:
            if chunk is None:
                raise
            for part in smaller_chunks(chunk, error):
                await send_chunk(farm, self.lease_token, part, patience_s=patience_s)
            request = _finish_of(None, release, wants_next=wants_next)
            answer = await farm.finish(self.lease_token, request, patience_s=patience_s)
        _tell_orphans(answer)
        for one in owed:
            await asyncio.to_thread(self._settle, one)
        return answer

    def chunks(self) -> int:
        """How many wait."""
        return len(self._owed())

    def _owed(self) -> list[Path | ResultsRequest]:
        """What waits, on the disk and off it, in order."""
        return [*self._files(), *self._unwritten]

    def _content(self, owed: Path | ResultsRequest) -> ResultsRequest | None:
        if isinstance(owed, ResultsRequest):
            return owed
        return self._written.get(owed.name) or _read_chunk(owed)

    def _settle(self, owed: Path | ResultsRequest) -> None:
        """The farm has it. Removing a file may wait for the disk for as long as writing it does."""
        if isinstance(owed, ResultsRequest):
            self._unwritten.remove(owed)
        else:
            owed.unlink()

    def drop(self) -> None:
        """Forgets what waits: the farm has said that it never gave this agent such a lease."""
        waiting = self._files()
        if waiting or self._unwritten:
            logger.error(
                "results of a lease that the farm does not know are dropped", extra={"lease": self.lease_token[:8]}
            )
        for path in waiting:
            path.unlink(missing_ok=True)
        self._unwritten.clear()

    def note_settled(self) -> None:
        """The measurement that ran has its result in the spool now."""
        (self._folder / _RUNNING).unlink(missing_ok=True)

    def known_ids(self) -> set[int]:
        """Measurements whose results wait here."""
        chunks = [*map(_read_chunk, self._files()), *self._unwritten]
        return {result.measurement_id for chunk in chunks if chunk for result in chunk.results}

    def close(self) -> None:
        """Removes the folder when nothing waits in it; otherwise the results stay for a later delivery."""
        if self._running is not None:
            os.close(self._running)
            self._running = None
        if not self._files() and not self._unwritten:
            rmtree(self._folder, ignore_errors=True)

    def _next_name(self) -> str:
        """Above all that wait: after a part has been delivered their number is no free name."""
        files = self._files()
        return f"{int(files[-1].stem) + 1 if files else 0:06d}.json"

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]*.json"))


class Spool:
    """All leases that something is owed for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def lease(self, lease_token: str) -> LeaseSpool:
        """The folder of a lease, not made yet."""
        return LeaseSpool(self._folder / lease_token)

    def leftovers(self) -> list[LeaseSpool]:
        """Leases that an earlier run of the agent left behind, oldest first."""
        found = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # a lease that ends now removes its own
                if path.is_dir():
                    found.append((path.stat().st_mtime, path))
        return [LeaseSpool(path) for _, path in sorted(found)]


def chunks_of(results: Iterable[MeasurementResult], launches: Sequence[LaunchEvidence]) -> list[ResultsRequest]:
    """Requests of bounded size; the launches' evidence goes with the first."""
    groups: list[list[MeasurementResult]] = [[]]
    samples = 0
    for result in results:
        samples += sum(len(launch.blocks_ns) for launch in result.launches)
        if groups[-1] and (samples > CHUNK_SAMPLES or len(groups[-1]) == MAX_RESULTS_PER_CHUNK):
            groups.append([])
            samples = sum(len(launch.blocks_ns) for launch in result.launches)
        groups[-1].append(result)
    chunks = [ResultsRequest(results=tuple(group)) for group in groups]
    chunks[0] = ResultsRequest(results=chunks[0].results, launches=tuple(launches))
    return [chunk for chunk in chunks if chunk.results or chunk.launches]


async def send_chunk(farm: FarmClient, lease_token: str, chunk: ResultsRequest, *, patience_s: Patience) -> None:
    """Hands a chunk over. One bad result must not hold up the others, so a refused chunk is halved.

    A single result that is refused becomes a failure `runner_garbage`; the farm then knows at least that.
    """
    try:
        answer = await farm.results(lease_token, chunk, patience_s=patience_s)
    except (InvalidRequest, TooLarge) as error:
        for part in smaller_chunks(chunk, error):
            await send_chunk(farm, lease_token, part, patience_s=patience_s)
        return
    _tell_orphans(answer)


def _tell_orphans(answer: ResultsAnswer) -> None:
    if answer.orphaned:
        logger.warning("results came after their lease had ended", extra={"measurements": answer.orphaned})


def _finish_of(chunk: ResultsRequest | None, release: ReleaseRequest, *, wants_next: bool) -> FinishRequest:
    """The end of a lease with its last chunk, or with none."""
    chunk = chunk or ResultsRequest(results=())
    return FinishRequest(results=chunk.results, launches=chunk.launches, release=release, wants_next=wants_next)


def smaller_chunks(chunk: ResultsRequest, error: BenchfarmError) -> list[ResultsRequest]:
    """What to send instead of a refused chunk; nothing when even the plain failure was refused."""
    half = len(chunk.results) // 2
    if half:
        first = ResultsRequest(results=chunk.results[:half], launches=chunk.launches)
        return [first, ResultsRequest(results=chunk.results[half:])]
    logger.error("the farm refused a result: %s", error.detail)
    if chunk.launches and chunk.results:  # the evidence is the whole lease's: it must not fall with one result
        return [ResultsRequest(results=(), launches=chunk.launches), ResultsRequest(results=chunk.results)]
    if not chunk.results or chunk.results[0].failure == FailureCode.RUNNER_GARBAGE:
        return []
    return [ResultsRequest(results=(_refused(chunk.results[0].measurement_id, error),))]


def _refused(measurement_id: int, error: BenchfarmError) -> MeasurementResult:
    return MeasurementResult(
        measurement_id=measurement_id,
        outcome="failed",
        failure=FailureCode.RUNNER_GARBAGE,
        detail=f"the farm refused the result: {error.detail}"[:300],
    )


def _read_chunk(path: Path) -> ResultsRequest | None:
    """A spooled chunk; None when the file is damaged, which costs its measurements one more attempt."""
    try:
        return ResultsRequest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        logger.exception("a spooled chunk cannot be read")
        return None
