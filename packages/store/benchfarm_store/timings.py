"""What can be timed in situ or profiled, and what cannot be asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text

from benchfarm_core.correctness import is_ungated
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.profilers import has_profiler, who_has_one
from benchfarm_core.protocols import Protocol, purpose_of
from benchfarm_core.workloads import KernelRequest
from benchfarm_store.database import Transaction
from benchfarm_store.platforms import Found


def timing_of(options: Mapping[str, Any]) -> Timing:
    """How the job of these stored options is timed; those of older jobs do not say."""
    return Timing(options.get("timing") or Timing.ALONE)


def check_timing(
    tx: Transaction,
    timing: Timing,
    requests: Sequence[object],
    protocol: Protocol,
    rows: Sequence[Found],
    *,
    filtered: bool,
) -> list[Found]:
    """The platforms of a job that can be timed so; a filter leaves the others out, of named ones each must.

    Raises InvalidRequest (`timing_impossible`) for what has no time in situ and for more than times of ungated engines,
    and (`profile_impossible`) for profiles where no engine has a profiler. requests: the job's workloads as asked for.
    """
    if timing == Timing.IN_SITU or purpose_of(protocol) != "latency":
        rows = _without_ungated(rows, filtered=filtered)
    if timing == Timing.IN_SITU:
        _check_in_situ(requests, protocol)
        return _with_profiler(tx, rows, "timing_impossible", filtered=filtered)
    if purpose_of(protocol) == "profile":
        return _with_profiler(tx, rows, "profile_impossible", filtered=filtered)
    return [*rows]


def _check_in_situ(requests: Sequence[object], protocol: Protocol) -> None:
    for index, request in enumerate(requests):
        if not isinstance(request, KernelRequest):
            raise _impossible("only kernels are timed in situ: models have no carrier", f"workloads.{index}")
    if purpose_of(protocol) != "latency":
        raise _impossible(f"the protocol {protocol.name} does not time kernels", "protocol.name")


def _impossible(detail: str, field: str) -> InvalidRequest:
    return InvalidRequest(detail, code="timing_impossible", field=field)


def _without_ungated(rows: Sequence[Found], *, filtered: bool) -> list[Found]:
    """What tells times alone has neither profiles nor sizes of memory nor carriers."""
    engines = {row.key: parse_platform_key(row.key).engine.name for row in rows}
    kept = [row for row in rows if not is_ungated(engines[row.key])]
    if len(kept) < len(rows) and not (filtered and kept):
        key, engine = next((key, engine) for key, engine in engines.items() if is_ungated(engine))
        detail = f"{engine} tells how long a whole workload takes and no more ({key})"
        raise InvalidRequest(detail, code="timing_impossible", field="platforms")
    return kept


def _with_profiler(tx: Transaction, rows: Sequence[Found], code: str, *, filtered: bool) -> list[Found]:
    strays = {row.key: engine for row in rows if not has_profiler(engine := parse_platform_key(row.key).engine.name)}
    if strays and (not filtered or len(strays) == len(rows)):
        key, engine = next(iter(strays.items()))
        known = who_has_one(tx.execute(_ENGINES).scalars())
        raise InvalidRequest(
            f"{engine} does not tell the time of single operators ({key}); {known}", code=code, field="platforms"
        )
    return [row for row in rows if row.key not in strays]


_ENGINES = text("""
    SELECT DISTINCT report->>'name' FROM boards b, jsonb_array_elements(b.engines) AS report
    WHERE b.health <> 'retired' AND report->>'available' = 'true'
""")
