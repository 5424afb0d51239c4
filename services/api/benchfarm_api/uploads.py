"""Receiving a model: streamed to disk, opened by the limited child, kept only when accepted."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from benchfarm_api.bodies import refuse_announced
from benchfarm_api.parts import Parts
from benchfarm_api.settings import Settings
from benchfarm_core.errors import InvalidRequest, QuotaExceeded, Unavailable
from benchfarm_core.views import ModelView
from benchfarm_core.workloads import Fill, ModelFormat
from benchfarm_store import models
from benchfarm_store.files import ReceivedFile, room
from benchfarm_store.models import NewModel
from benchfarm_store.tokens import Caller
from benchfarm_workloads.inspection import Inspection, inspect_upload

T = TypeVar("T")

PIECE_BYTES: Final = 2**20
UPLOADS_PER_ACCOUNT: Final = 1
RETRY_AFTER_S: Final = 2


@asynccontextmanager
async def received(request: Request, parts: Parts, by: Caller) -> AsyncIterator[ReceivedFile]:
    """The body as a temporary file that is gone after the block unless the store kept it.

    The account may begin its next upload after the block. Raises TooLarge, Unavailable (no turn, no room on the
    disk), QuotaExceeded (`upload_in_progress`), InvalidRequest (`upload_incomplete`, `upload_too_slow`).
    """
    limit_bytes = parts.settings.benchfarm_upload_limit_bytes
    refuse_announced(request, limit_bytes)
    with _account_place(parts.uploading_accounts, by):
        async with _turn(parts.uploads, parts.settings.benchfarm_inspection_wait_s, "received"):
            chunks = _fast_enough(_chunks(request, parts.settings.benchfarm_upload_stall_s), parts.settings)
            file = await _in_own_thread(lambda: parts.files.receive(_pulled(chunks), limit_bytes))
        try:
            yield file
        finally:
            parts.files.discard(file)


@dataclass(frozen=True, slots=True)
class Bound:
    """What the sender says of the file: sizes of open dimensions, what fills inputs, and which format it has."""

    dims: Mapping[str, int]
    fills: Mapping[str, Fill]
    format: ModelFormat | None


async def inspect_and_keep(parts: Parts, file: ReceivedFile, by: Caller, name: str, bound: Bound) -> ModelView:
    """The accepted model. Raises InvalidRequest with the child's verdict, QuotaExceeded, Unavailable."""
    async with _turn(parts.inspections, parts.settings.benchfarm_inspection_wait_s, "inspected"):
        return await _in_own_thread(lambda: _inspect_and_keep(parts, file, by, name, bound))


def _inspect_and_keep(parts: Parts, file: ReceivedFile, by: Caller, name: str, bound: Bound) -> ModelView:
    with _folder(file.path.parent) as folder:
        inspection = inspect_upload(
            file.path, out_dir=Path(folder), dims=bound.dims, fills=bound.fills, named=bound.format
        )
        return _keep(parts, file, by, name, inspection)


def _folder(parent: Path) -> tempfile.TemporaryDirectory[str]:
    with room():
        return tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True)  # what stays is swept


def _keep(parts: Parts, file: ReceivedFile, by: Caller, name: str, inspection: Inspection) -> ModelView:
    """The row first: a full quota keeps no file. The files before the commit: no row is without its files."""
    reference = _take_over(parts, inspection)
    model = NewModel(
        name=name,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        format=inspection.format,
        opset=inspection.opset,
        dims=inspection.dims,
        inputs=inspection.inputs,
        graph=inspection.graph.model_dump(mode="json"),
        flops=inspection.flops,
        parameters=inspection.parameters,
        reasons=inspection.reasons,
        reference_sha256=reference.sha256,
    )
    try:
        with parts.database.transaction() as tx:
            view = models.add(tx, model, by=by)
            parts.files.keep(reference)
            parts.files.keep(file)
    finally:
        parts.files.discard(reference)
    return view


def _take_over(parts: Parts, inspection: Inspection) -> ReceivedFile:
    """The child's reference as a file of our own, written to the disk for good."""
    with inspection.reference_path.open("rb") as file:
        return parts.files.receive(iter(lambda: file.read(PIECE_BYTES), b""), inspection.reference_size_bytes)


@contextmanager
def _account_place(uploading: set[int], by: Caller) -> Iterator[None]:
    """So that no account can take the places of all."""
    if by.account_number in uploading:
        raise QuotaExceeded(
            "the account has an upload under way; send this one after it",
            limit=UPLOADS_PER_ACCOUNT,
            retry_after_s=RETRY_AFTER_S,
            code="upload_in_progress",
        )
    uploading.add(by.account_number)
    try:
        yield
    finally:
        uploading.remove(by.account_number)


@asynccontextmanager
async def _turn(places: asyncio.Semaphore, wait_s: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(wait_s):
            await places.acquire()
    except TimeoutError as error:
        raise Unavailable(f"too many models are being {what}; try again shortly") from error
    try:
        yield
    finally:
        places.release()


async def _in_own_thread(work: Callable[[], T]) -> T:
    """Not one of the threads that serve requests: uploads are slow, and their number is bounded by `_turn`."""
    return await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))


async def _chunks(request: Request, stall_s: float) -> AsyncIterator[bytes]:
    stream = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(stall_s):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise _incomplete(f"nothing came for {stall_s:g} s") from error
        except ClientDisconnect as error:
            raise _incomplete("the connection was closed before the end") from error
        if chunk is None:
            return
        yield chunk


async def _fast_enough(chunks: AsyncIterator[bytes], settings: Settings) -> AsyncIterator[bytes]:
    """A sender that drips never stalls, so its mean rate is bounded too: a place is not held for ever."""
    began_s, came_bytes = time.monotonic(), 0
    async for chunk in chunks:
        yield chunk
        came_bytes += len(chunk)
        took_s = time.monotonic() - began_s
        lowest = settings.benchfarm_upload_min_bytes_per_s
        if took_s > settings.benchfarm_upload_grace_s and came_bytes < lowest * took_s:
            raise InvalidRequest(
                f"{came_bytes} bytes came in {took_s:.0f} s; at least {lowest} bytes per second are needed",
                code="upload_too_slow",
            )


def _pulled(chunks: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The chunks for a thread: each is fetched from the event loop when the disk is ready for it."""
    while (chunk := anyio.from_thread.run(_next, chunks)) is not None:
        yield chunk


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


def _incomplete(why: str) -> InvalidRequest:
    return InvalidRequest(f"{why}; send the file again", code="upload_incomplete")
