"""What can be timed in situ, and what cannot be asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import PROFILING_ENGINES, Timing
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.protocols import Protocol, purpose_of
from benchfarm_core.workloads import KernelRequest


def timing_of(options: Mapping[str, Any]) -> Timing:
    """How the job of these stored options is timed; those of older jobs do not say."""
    return Timing(options.get("timing") or Timing.ALONE)


def check_timing(timing: Timing, requests: Sequence[object], protocol: Protocol, keys: Sequence[str]) -> None:
    """Raise InvalidRequest (`timing_impossible`) for what has no time in situ.

    requests: the job's workloads as asked for; keys: its platforms.
    """
    if timing != Timing.IN_SITU:
        return
    for index, request in enumerate(requests):
        if not isinstance(request, KernelRequest):
            raise _impossible("only kernels are timed in situ: models have no carrier", f"workloads.{index}")
    if purpose_of(protocol) != "latency":
        raise _impossible(f"the protocol {protocol.name} does not time kernels", "protocol.name")
    for key in keys:
        engine = parse_platform_key(key).engine.name
        if engine not in PROFILING_ENGINES:
            known = ", ".join(sorted(PROFILING_ENGINES))
            detail = f"{engine} does not tell the time of single operators ({key}); {known} do"
            raise _impossible(detail, "platforms")


def _impossible(detail: str, field: str) -> InvalidRequest:
    return InvalidRequest(detail, code="timing_impossible", field=field)
