"""The check of an uploaded file, seen from the process that received it: start the child, judge its verdict.

Imports neither onnx nor LiteRT nor numpy. The child is as trustworthy as the file it opened: its answer is bounded,
validated, and the reference it wrote is hashed here.
"""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

from pydantic import Field, ValidationError

from benchfarm_core.errors import BenchfarmError, InvalidRequest, Unavailable
from benchfarm_core.values import Value
from benchfarm_core.workloads import Fill, InputSpec, ModelFormat, Sha256
from benchfarm_workloads.tflite_file import IDENTIFIER
from benchfarm_workloads.verdicts import (
    MAX_DIM,
    MAX_VERDICT_BYTES,
    NO_ROOM,
    NOT_CONFINED,
    VERDICT,
    Accepted,
    Graph,
    InspectionLimits,
    InspectionRequest,
    Refused,
    cleaned,
)

_log = logging.getLogger(__name__)

REFERENCE_NAME: Final = "reference.npz"

_STDERR_TAIL_BYTES: Final = 4000
_NO_MEMORY: Final = ("bad_alloc", "MemoryError", "Cannot allocate memory")


class Inspection(Value):
    """What is known about an accepted upload. ``flops`` counts multiplications and additions of Conv, Gemm
    and MatMul, and of what TFLite calls them; None when a shape is open. ``reasons`` say what is estimated or left
    out. ``opset``: of a TFLite file the version of its schema."""

    format: ModelFormat
    opset: int
    dims: dict[str, int]
    inputs: tuple[InputSpec, ...]
    outputs: int
    graph: Graph
    flops: int | None
    parameters: int
    reasons: tuple[str, ...]
    reference_path: Path
    reference_sha256: Sha256
    reference_size_bytes: int = Field(gt=0)
    confinement: tuple[str, ...]


def inspect_upload(
    path: Path,
    *,
    out_dir: Path,
    dims: Mapping[str, int] | None = None,
    fills: Mapping[str, Fill] | None = None,
    limits: InspectionLimits | None = None,
    named: ModelFormat | None = None,
) -> Inspection:
    """Opens an uploaded model in the limited child and leaves ``reference.npz`` in ``out_dir``.

    The file's own identifier says what it is; ``named`` is what its sender takes it for. ``dims`` binds open
    dimensions by name, or by ``input[axis]`` where one has no name. ``fills`` says per input what fills it. Blocks up
    to ``limits.wall_s``; the caller decides how many run at once. Leaves nothing behind when it raises.

    Raises:
        InvalidRequest: with a stable code and what to do about it; nothing of the file is to be kept.
        Unavailable: `inspection_unavailable`, this host cannot confine the child; the file was not opened.
            `disk_full`, what it has to write found no room.
    """
    limits = limits or InspectionLimits()
    dims, fills = dict(dims or {}), dict(fills or {})
    _refuse_sizes(dims)
    found = named or _format_of(path)
    reference_path = out_dir / REFERENCE_NAME
    with ExitStack() as undo:
        undo.callback(reference_path.unlink, missing_ok=True)
        accepted = _ask_child(path, reference_path, found, dims, fills, limits)
        sha256, size_bytes = _measure_file(reference_path, limits.reference_bytes + 1024**2)
        undo.pop_all()
    return Inspection(
        format=found,
        dims=dims,
        reference_path=reference_path,
        reference_sha256=sha256,
        reference_size_bytes=size_bytes,
        **{name: getattr(accepted, name) for name in Accepted.model_fields if name != "verdict"},
    )


def _refuse_sizes(dims: Mapping[str, int]) -> None:
    for name, size in dims.items():
        if not 1 <= size <= MAX_DIM:
            raise InvalidRequest(
                f"dimension {cleaned(name, 80)!r} is {str(size)[:40]}; it must be an integer from 1 to {MAX_DIM}",
                field="dims",
            )


def _format_of(path: Path) -> ModelFormat:
    with path.open("rb") as file:
        return "tflite" if file.read(8)[4:] == IDENTIFIER else "onnx"


def _ask_child(
    path: Path,
    reference_path: Path,
    file_format: ModelFormat,
    dims: dict[str, int],
    fills: dict[str, Fill],
    limits: InspectionLimits,
) -> Accepted:
    with path.open("rb") as model, reference_path.open("wb") as reference:
        request = InspectionRequest(
            model_descriptor=model.fileno(),
            reference_descriptor=reference.fileno(),
            format=file_format,
            dims=dims,
            fills=fills,
            limits=limits,
        )
        with _scratch(reference_path.parent) as (answer, complaints):
            ending = _run_child(request, (model.fileno(), reference.fileno()), answer, complaints)
            return _judge(ending, _head(answer), _tail(complaints), limits)


@contextmanager
def _scratch(folder: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Nameless files for the child's answer and stderr: its file-size limit bounds both, no thread reads."""
    with tempfile.TemporaryFile(dir=folder) as answer, tempfile.TemporaryFile(dir=folder) as complaints:
        yield answer, complaints


def _run_child(
    request: InspectionRequest, descriptors: tuple[int, ...], answer: IO[bytes], complaints: IO[bytes]
) -> int | None:
    """The child's exit status, negative for a signal, None when it had to be stopped."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "benchfarm_workloads.inspect_child"],
        stdin=subprocess.PIPE,
        stdout=answer,
        stderr=complaints,
        pass_fds=descriptors,
        cwd="/",
        env=_ENVIRONMENT,
        start_new_session=True,
    )
    try:
        process.communicate(request.model_dump_json().encode(), timeout=request.limits.wall_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode


_ENVIRONMENT: Final = {
    "HOME": "/nonexistent",
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # a thread started by an import would double the address space
    "ORT_DISABLE_TELEMETRY": "1",
    "MALLOC_ARENA_MAX": "2",
}
"""All that the child sees of the server's environment."""


def _head(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(MAX_VERDICT_BYTES + 1)


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _STDERR_TAIL_BYTES))
    return file.read(_STDERR_TAIL_BYTES).decode("utf-8", "replace")


def _judge(ending: int | None, answer: bytes, complaints: str, limits: InspectionLimits) -> Accepted:
    if ending != 0:
        _log.warning("inspection child ended with %s: %s", ending, complaints)
        raise _ended(ending, complaints, limits)
    try:
        verdict = VERDICT.validate_json(answer) if len(answer) <= MAX_VERDICT_BYTES else None
    except ValidationError:
        verdict = None
    if verdict is None:
        _log.warning("inspection child gave no valid verdict (%d bytes): %s", len(answer), complaints)
        raise InvalidRequest("the model could not be described within the limits", code="inspection_failed")
    if isinstance(verdict, Refused):
        raise InvalidRequest(cleaned(verdict.detail), code=verdict.code, field=verdict.field)
    return verdict


def _ended(ending: int | None, complaints: str, limits: InspectionLimits) -> BenchfarmError:
    """Why a child without a verdict ended, as far as the kernel tells."""
    if ending == NOT_CONFINED:
        return Unavailable(
            "this farm's host cannot confine the process that would open the model; its operator finds in the log "
            "what the kernel lacks",
            code="inspection_unavailable",
        )
    if ending == NO_ROOM:
        return Unavailable("the farm has no room for the model's reference output; nothing was kept", code="disk_full")
    if ending in (None, -signal.SIGXCPU, -signal.SIGALRM):
        return InvalidRequest(
            f"opening and running the model once took more than {limits.cpu_s} s of processor time or "
            f"{limits.wall_s:g} s in all; bind smaller dimensions or submit a smaller model",
            code="inspection_timeout",
        )
    if ending == -signal.SIGKILL or any(mark in complaints for mark in _NO_MEMORY):
        return InvalidRequest(
            f"opening the model took more than {limits.memory_bytes} bytes of memory; submit a smaller one",
            code="model_too_large_for_inspection",
        )
    assert ending is not None
    how = f"signal {-ending}" if ending < 0 else f"exit status {ending}"
    return InvalidRequest(
        f"the process that opened the model ended with {how}: the file is damaged or provokes a fault; "
        "check it with its own tools and export it again",
        code="inspection_failed",
    )


def _measure_file(path: Path, limit_bytes: int) -> tuple[str, int]:
    size_bytes = path.stat().st_size
    if not 0 < size_bytes <= limit_bytes:
        raise InvalidRequest("the model's reference output could not be written", code="inspection_failed")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), size_bytes
