"""What can be timed in situ, and what cannot be asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import PROFILING_ENGINES, Timing
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.protocols import Protocol, purpose_of
from benchfarm_core.workloads import KernelRequest
from benchfarm_store.platforms import Found


def timing_of(options: Mapping[str, Any]) -> Timing:
    """How the job of these stored options is timed; those of older jobs do not say."""
    return Timing(options.get("timing") or Timing.ALONE)


def check_timing(
    timing: Timing, requests: Sequence[object], protocol: Protocol, rows: Sequence[Found], *, filtered: bool
) -> list[Found]:
    """The platforms of a job that can be timed so; a filter leaves the others out, of named ones each must.

    Raises InvalidRequest (`timing_impossible`) for what has no time in situ. requests: the job's workloads as asked
    for.
    """
    if timing != Timing.IN_SITU:
        return [*rows]
    for index, request in enumerate(requests):
        if not isinstance(request, KernelRequest):
            raise _impossible("only kernels are timed in situ: models have no carrier", f"workloads.{index}")
    if purpose_of(protocol) != "latency":
        raise _impossible(f"the protocol {protocol.name} does not time kernels", "protocol.name")
    strays = {row.key: engine for row in rows if (engine := _engine(row.key)) not in PROFILING_ENGINES}
    if strays and (not filtered or len(strays) == len(rows)):
        key, engine = next(iter(strays.items()))
        known = ", ".join(sorted(PROFILING_ENGINES))
        raise _impossible(f"{engine} does not tell the time of single operators ({key}); {known} do", "platforms")
    return [row for row in rows if row.key not in strays]


def _engine(key: str) -> str:
    return parse_platform_key(key).engine.name


def _impossible(detail: str, field: str) -> InvalidRequest:
    return InvalidRequest(detail, code="timing_impossible", field=field)
