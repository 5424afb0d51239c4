"""The files of a batch: built, fetched or found in a bounded cache, named by their content."""

import asyncio
import hashlib
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchfarm_agent.farm_client import DamagedFile, FarmClient
from benchfarm_agent.files import is_disk_full, write_whole
from benchfarm_agent.references import ReferenceChild, Unusable
from benchfarm_core.agent_protocol import BatchItem
from benchfarm_core.errors import BenchfarmError, InvalidRequest, Unavailable
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MeasurementResult
from benchfarm_core.values import Value
from benchfarm_core.workloads import InputSpec, Sha256, UploadedWorkload, workload_id

logger = logging.getLogger(__name__)

FORMAT: Final = 1
"""Of the index files; another number starts the cache anew."""
FILE_MODE: Final = 0o644
"""A runner may run as another user. The folder cannot be listed by others, and names are hashes."""
IN_PREPARATION_S: Final = 300.0
"""Files used this lately may belong to a batch in preparation and stay even when the disk is full."""

OnBuilding = Callable[[int | None], None]
"""Hears which measurement's file is being built inside the agent, and None when that is over."""


@dataclass(frozen=True)
class PreparedItem:
    """A measurement whose files are on this machine. `inputs` as the runner contract has them.

    `uploaded`: the artefact is a stranger's and not built here.
    """

    measurement_id: int
    artifact: Path
    artifact_sha256: str
    inputs: tuple[dict[str, Any], ...]
    reference: Path
    max_relative_l2: float
    uploaded: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.artifact, self.reference)


@dataclass(frozen=True)
class Canary:
    """The MobileNet canary's file and inputs, as the runner contract has them."""

    artifact: Path
    inputs: tuple[dict[str, Any], ...]


class _Entry(Value):
    """What a generated workload was built to."""

    artifact_sha256: Sha256
    reference_sha256: Sha256
    inputs: tuple[InputSpec, ...]


class ArtifactCache:
    """Files by hash, plus one small index file per generated workload.

    The least recently used go first when `limit_bytes` is passed; files of leases in progress stay.
    """

    def __init__(
        self, folder: Path, farm: FarmClient, references: ReferenceChild, *, limit_bytes: int, file_limit_bytes: int
    ) -> None:
        self._files = folder / "files"
        self._index = folder / f"workloads-{FORMAT}"
        self._farm = farm
        self._references = references
        self._limit_bytes = limit_bytes
        self._file_limit_bytes = file_limit_bytes
        self._building = asyncio.Lock()
        self._in_use: list[frozenset[str]] = []

    def open(self) -> None:
        """Makes the folders and removes what a killed agent left half-written. Raises OSError."""
        self._files.mkdir(parents=True, exist_ok=True)
        self._files.chmod(0o711)
        self._index.mkdir(mode=0o700, exist_ok=True)
        for part in self._files.glob(".*"):
            part.unlink(missing_ok=True)

    @asynccontextmanager
    async def prepared(
        self, items: Sequence[BatchItem], on_building: OnBuilding = lambda _: None
    ) -> AsyncIterator[tuple[dict[int, PreparedItem], list[MeasurementResult]]]:
        """Prepares a batch: what is ready by measurement, and a typed failure for what cannot be.

        What the farm cannot hand out now is in neither: it stays wanted, and nobody pays.
        Building the next file overlaps with the reference of the last one. While the context is open its files
        are safe from eviction.
        """
        first = {workload_id(item.workload): item for item in reversed(items)}
        repeats = [item for item in items if item is not first[workload_id(item.workload)]]
        outcomes = await asyncio.gather(*(self._outcome(item, on_building) for item in first.values()))
        outcomes += await asyncio.gather(*(self._outcome(item, on_building) for item in repeats))
        ready = {one.measurement_id: one for one in outcomes if isinstance(one, PreparedItem)}
        failed = [one for one in outcomes if isinstance(one, MeasurementResult)]
        used = frozenset(path.name for item in ready.values() for path in item.files)
        self._in_use.append(used)
        try:
            self._evict(self._limit_bytes, kept=frozenset().union(*self._in_use))
            yield ready, failed
        finally:
            self._in_use.remove(used)

    def put_canary(self) -> Canary:
        """The MobileNet canary, safe from eviction for as long as this cache lives. Raises OSError."""
        from benchfarm_workloads.onnx_canary import build_canary, canary_inputs

        path = self.put(build_canary())
        self._in_use.append(frozenset({path.name}))
        return Canary(artifact=path, inputs=tuple(spec.model_dump(mode="json") for spec in canary_inputs()))

    def put(self, content: bytes) -> Path:
        """Keeps bytes under their hash. Raises OSError."""
        path = self._files / hashlib.sha256(content).hexdigest()
        if _touch(path):
            return path
        try:
            write_whole(path, content, mode=FILE_MODE, durable=False)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._evict(0, kept=frozenset().union(*self._in_use), older_than_s=IN_PREPARATION_S)
            write_whole(path, content, mode=FILE_MODE, durable=False)
        return path

    async def _outcome(self, item: BatchItem, on_building: OnBuilding) -> PreparedItem | MeasurementResult | None:
        """None while the farm does not hand out its files."""
        try:
            return await self._prepare(item, on_building)
        except Unusable as error:
            code, detail = error.code, error.detail
        except BenchfarmError as error:
            if isinstance(error, Unavailable) and not isinstance(error, DamagedFile):
                logger.warning("the farm does not hand out a file: %s", error.detail)
                return None
            code, detail = FailureCode.FILE_LOST, f"the farm's file cannot be had: {error.detail}"
        except OSError as error:
            code = FailureCode.DISK_FULL if is_disk_full(error) else FailureCode.RUNNER_DIED
            detail = f"its files could not be written: {error.strerror}"
        except Exception as error:  # boundary: a fault that cost nobody an attempt would come back for ever
            logger.exception("a measurement could not be prepared", extra={"measurement": item.measurement_id})
            code, detail = FailureCode.RUNNER_DIED, f"the agent could not prepare it: {error!r}"
        return MeasurementResult(
            measurement_id=item.measurement_id, outcome="failed", failure=code, detail=detail[:300]
        )

    async def _prepare(self, item: BatchItem, on_building: OnBuilding) -> PreparedItem:
        if isinstance(item.workload, UploadedWorkload):
            return await self._fetched(item, item.workload)
        entry = self._known(workload_id(item.workload)) or await self._build(item, on_building)
        return PreparedItem(
            measurement_id=item.measurement_id,
            artifact=self._files / entry.artifact_sha256,
            artifact_sha256=entry.artifact_sha256,
            inputs=tuple(spec.model_dump(mode="json") for spec in entry.inputs),
            reference=self._files / entry.reference_sha256,
            max_relative_l2=item.max_relative_l2,
        )

    def _known(self, name: str) -> _Entry | None:
        """The index entry of a workload whose files are all there; an unreadable entry counts as none."""
        try:
            entry = _Entry.model_validate_json((self._index / name).read_bytes())
        except (OSError, ValueError):
            return None
        files = (self._files / entry.artifact_sha256, self._files / entry.reference_sha256)
        return entry if all(map(_touch, files)) else None

    async def _build(self, item: BatchItem, on_building: OnBuilding) -> _Entry:
        async with self._building:  # one at a time: the interpreter would not run two at once anyway
            on_building(item.measurement_id)
            try:
                artifact, inputs = await asyncio.to_thread(self._write_artifact, item)
            finally:
                on_building(None)
        reference = await self._reference(artifact, inputs)
        entry = _Entry(artifact_sha256=artifact.name, reference_sha256=reference.name, inputs=inputs)
        name = workload_id(item.workload)
        write_whole(self._index / name, entry.model_dump_json().encode(), durable=False)
        return entry

    def _write_artifact(self, item: BatchItem) -> tuple[Path, tuple[InputSpec, ...]]:
        from benchfarm_workloads.artifacts import build  # brings onnx, which the agent's start does not wait for

        try:
            artifact = build(item.workload)
        except InvalidRequest as error:
            raise Unusable(FailureCode.INVALID_WORKLOAD, error.detail) from error
        return self.put(artifact.onnx_bytes), artifact.inputs

    async def _reference(self, artifact: Path, inputs: Sequence[InputSpec]) -> Path:
        """The expected output, under its hash."""
        documents = [spec.model_dump(mode="json") for spec in inputs]
        found, sha256 = await self._references.compute(artifact, documents)
        path = self._files / sha256
        found.chmod(FILE_MODE)
        os.replace(found, path)
        return path

    async def _fetched(self, item: BatchItem, workload: UploadedWorkload) -> PreparedItem:
        if item.file_sha256 is None or item.reference_sha256 is None:
            raise Unusable(FailureCode.INVALID_WORKLOAD, "the farm names no file or no reference for this upload")
        for sha256 in (item.file_sha256, item.reference_sha256):
            await self._fetch(sha256)
        return PreparedItem(
            measurement_id=item.measurement_id,
            artifact=self._files / item.file_sha256,
            artifact_sha256=item.file_sha256,
            inputs=tuple(spec.model_dump(mode="json") for spec in workload.inputs),
            reference=self._files / item.reference_sha256,
            max_relative_l2=item.max_relative_l2,
            uploaded=True,
        )

    async def _fetch(self, sha256: str) -> None:
        path = self._files / sha256
        if _touch(path):
            return
        part = self._files / f".{secrets.token_hex(8)}.part"
        try:
            await self._farm.fetch(sha256, part, limit_bytes=self._file_limit_bytes)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _evict(self, limit_bytes: int, *, kept: frozenset[str], older_than_s: float = 0.0) -> None:
        """Removes the least recently used files above a limit. An index entry without its files is built anew."""
        found = [(path, path.stat()) for path in self._files.iterdir() if not path.name.startswith(".")]
        excess_bytes = sum(stat.st_size for _, stat in found) - limit_bytes
        newest_s = time.time() - older_than_s
        for path, stat in sorted(found, key=lambda pair: pair[1].st_mtime_ns):
            if excess_bytes <= 0 or stat.st_mtime > newest_s:
                return
            if path.name not in kept:
                path.unlink(missing_ok=True)
                excess_bytes -= stat.st_size


def _touch(path: Path) -> bool:
    """Whether a file is there; marks it as used just now."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True
