"""What a runner said, checked. A runner may say anything: what is no proper line is named, never believed."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchfarm_core.agent_protocol import GpuEvidence
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import LaunchSamples, Ms, SideSamples, plain_subject
from benchfarm_core.platforms import EffectivePrecision, effective_precision

CONTRACT: Final = 2
_SHORT_LINE_BYTES: Final = 200
_DETAIL_CHARS: Final = 300
_Word = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""The farm takes no NUL, and refuses whatever comes with one."""

LAUNCH_FAILURES: Final[dict[str, FailureCode]] = {
    "engine_unavailable": FailureCode.ENGINE_UNAVAILABLE,
    "threads_not_obeyed": FailureCode.THREADS_NOT_OBEYED,
    "precision_not_obeyed": FailureCode.PRECISION_NOT_OBEYED,
    "affinity_refused": FailureCode.PIN_NOT_VERIFIED,
    "bad_request": FailureCode.ENGINE_ERROR,
}
"""Why a whole launch could not go on, as the failure of each of its measurements."""

VISIT_FAILURES: Final = frozenset(
    {
        FailureCode.UNSUPPORTED_OPERATOR,
        FailureCode.CONVERSION_FAILED,
        FailureCode.WRONG_RESULT,
        FailureCode.OUT_OF_MEMORY,
        FailureCode.INVALID_WORKLOAD,
        FailureCode.TIMEOUT,
        FailureCode.ENGINE_ERROR,
        FailureCode.PRECISION_NOT_OBEYED,
        FailureCode.THREADS_NOT_OBEYED,
        FailureCode.FUSED_AWAY,
        FailureCode.BELOW_CLOCK,
    }
)


class _Line(BaseModel):
    """Lines are changed by addition only, so unknown fields pass."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class ReadyLine(_Line):
    """The runner's first line: what it is and what holds it."""

    contract: int
    engine: _Word = Field(max_length=60)
    engine_version: _Word = Field(max_length=60)
    precision: _Word = Field(max_length=20)
    threads: int = Field(ge=1)
    threads_observed: int = Field(ge=0)
    affinity: tuple[Annotated[int, Field(ge=0, lt=4096)], ...] = Field(max_length=4096)
    confinement: tuple[Annotated[_Word, Field(max_length=40)], ...] = Field(max_length=20)
    witness_cost_ns: int = Field(ge=0)
    import_ms: Ms
    canary_open_ms: Ms
    ungated: bool = False


class EndLine(_Line):
    """The runner's last line."""

    peak_rss_bytes: int = Field(ge=0)
    first_block_unix_s: float | None = Field(default=None, ge=0)
    gpu: GpuEvidence | None = None
    twin_relative_l2: float | None = Field(default=None, ge=0)
    waited_ms: Ms = 0


class VisitFailure(NamedTuple):
    """Why one visit gave no samples. subject: the operator that it is about."""

    code: FailureCode
    detail: str
    subject: str = ""


@dataclass
class LaunchRecord:
    """One runner process, read.

    `running`: the visit that had started and not ended when the lines stop. `garbage`: why a line is no proper
    line; nothing behind it was read. `failed`: why the launch itself could not go on. `precisions`: what the engine
    computed a visit in, of those where it told; of pairs the a side, and in `b_precisions` the b side.
    """

    ready: ReadyLine | None = None
    samples: dict[int, LaunchSamples] = field(default_factory=dict)
    precisions: dict[int, EffectivePrecision] = field(default_factory=dict)
    b_precisions: dict[int, EffectivePrecision] = field(default_factory=dict)
    failures: dict[int, VisitFailure] = field(default_factory=dict)
    running: int | None = None
    end: EndLine | None = None
    failed: tuple[FailureCode, str] | None = None
    garbage: str | None = None

    def visited(self) -> set[int]:
        """Visits that came to an end, good or bad."""
        return {*self.samples, *self.failures}


class _Garbage(ValueError):
    """A line that no proper runner says at this place."""


def read_lines(lines: Sequence[bytes], *, visits: Collection[int], launch_no: int) -> LaunchRecord:
    """Reads a runner's lines in order; stops at the first that is not what the contract says."""
    record = LaunchRecord()
    try:
        for line in lines:
            _read_line(record, line, visits, launch_no)
    except ValidationError as error:
        first = error.errors()[0]
        record.garbage = plain_text(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")[:200]
    except _Garbage as error:
        record.garbage = str(error)[:200]
    return record


def plain_text(said: object) -> str:
    """What a runner wrote, as a result can carry it to the farm: whole characters, no NUL, of bounded length."""
    return str(said).replace("\0", "")[:_DETAIL_CHARS].encode("utf-8", "replace").decode()


def started_visit(line: bytes, visits: Collection[int]) -> int | None:
    """The visit that a line starts, if it is one of `visits`, else None. Cheap: made for use while a launch runs."""
    if len(line) > _SHORT_LINE_BYTES or b'"started"' not in line:
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    visit = content.get("visit") if isinstance(content, dict) else None
    return visit if type(visit) is int and visit in visits else None


def _read_line(record: LaunchRecord, line: bytes, visits: Collection[int], launch_no: int) -> None:
    content = _object(line)
    event = content.get("event")
    if record.end is not None or record.failed is not None:
        raise _Garbage("a line after the last one")
    if event == "failed":
        record.failed = _launch_failure(content)
    elif record.ready is None:
        _expect(event == "ready", f"{event!r} before ready")
        record.ready = ReadyLine.model_validate(content)
        _expect(record.ready.contract == CONTRACT, f"contract {record.ready.contract}, not {CONTRACT}")
    elif event == "started":
        _start(record, content.get("visit"), visits)
    elif event == "done":
        _finish(record, content, launch_no)
    else:
        _expect(event == "end" and record.running is None, f"{event!r} out of its place")
        record.end = EndLine.model_validate(content)


def _object(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Garbage(f"no JSON: {line[:60]!r}") from error
    if not isinstance(content, dict):
        raise _Garbage(f"no JSON object: {line[:60]!r}")
    return content


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Garbage(otherwise)


def _launch_failure(content: dict[str, Any]) -> tuple[FailureCode, str]:
    code = LAUNCH_FAILURES.get(str(content.get("code")))
    if code is None:
        raise _Garbage(f"an unknown failure code {str(content.get('code'))[:60]!r}")
    return code, plain_text(content.get("detail", ""))


def _start(record: LaunchRecord, visit: object, visits: Collection[int]) -> None:
    _expect(record.running is None, "a visit starts before the last one is done")
    _expect(type(visit) is int and visit in visits, f"visit {str(visit)[:30]!r} was not asked for")
    assert isinstance(visit, int)
    _expect(visit not in record.visited(), f"visit {visit} a second time")
    record.running = visit


def _finish(record: LaunchRecord, content: dict[str, Any], launch_no: int) -> None:
    visit = content.get("visit")
    _expect(type(visit) is int and visit == record.running, "a visit is done that did not run")
    assert isinstance(visit, int)
    if content.get("outcome") == "ok":
        record.samples[visit] = _samples(content, launch_no)
        _tell(record.precisions, visit, content)
        _tell(record.b_precisions, visit, content.get("beside"))
    else:
        record.failures[visit] = _visit_failure(content)
    record.running = None


def _tell(precisions: dict[int, EffectivePrecision], visit: int, side: object) -> None:
    told = effective_precision(side.get("effective_precision")) if isinstance(side, dict) else None
    if told is not None:
        precisions[visit] = told


def _samples(content: dict[str, Any], launch_no: int) -> LaunchSamples:
    known = {name: content[name] for name in LaunchSamples.model_fields if name in content}
    if isinstance(beside := known.get("beside"), dict):
        known["beside"] = {name: beside[name] for name in SideSamples.model_fields if name in beside}
    samples = LaunchSamples.model_validate({**known, "launch_no": launch_no})
    _expect(len(set(samples.lengths)) == 1, "blocks_ns, delays_ns and switches differ in length")
    _expect(not samples.has_stray_canaries, "a canary ran behind more blocks than there are")
    pairs = None if samples.beside is None else sum(samples.beside.rounds)
    _expect(pairs in (None, len(samples.blocks_ns)), "the rounds are not all pairs")
    return samples


def _visit_failure(content: dict[str, Any]) -> VisitFailure:
    code = str(content.get("code"))
    _expect(code in VISIT_FAILURES, f"an unknown failure code {code[:60]!r}")
    subject = plain_subject(content.get("subject", ""))
    return VisitFailure(FailureCode(code), plain_text(content.get("detail", "")), subject)
