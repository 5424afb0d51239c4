"""What can be timed in situ or profiled and by which boards, and what cannot be asked for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import text

from benchfarm_core.correctness import is_ungated
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.matching import NOT_BY_DIFFERENCE
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform, parse_platform_key
from benchfarm_core.profilers import DIFFERENCE_ENGINES, InSituBy, has_profiler, in_situ_by, who_has_one
from benchfarm_core.protocols import Protocol, purpose_of
from benchfarm_core.workloads import KernelRequest
from benchfarm_store.database import Transaction
from benchfarm_store.platforms import Found
from benchfarm_workloads.doubled_carriers import why_not_doubled
from benchfarm_workloads.kernels import kernel_type

TIMES_IN_SITU: Final = f"""
    (p.spec->'engine'->>'name' NOT IN ({", ".join(f"'{name}'" for name in sorted(DIFFERENCE_ENGINES))}) OR EXISTS (
        SELECT FROM jsonb_array_elements(b.engines) AS told
        WHERE told->>'name' = p.spec->'engine'->>'name' AND told->>'version' = p.spec->'engine'->>'version'
            AND told->>'by_difference' = 'true'))
"""
"""Whether a board `b` times kernels in situ on its platform `p`: agents of older versions and native runners know no
times by difference, and would fail them for good."""


ALL_TIME_IN_SITU: Final = f"""
    NOT EXISTS (SELECT FROM jsonb_array_elements(b.engines) AS told
        WHERE told->>'name' IN ({", ".join(f"'{name}'" for name in sorted(DIFFERENCE_ENGINES))})
            AND coalesce(told->>'by_difference', 'false') <> 'true')
"""
"""Whether a board `b` times kernels in situ on all platforms of its engines."""


def timing_of(options: Mapping[str, Any]) -> Timing:
    """How the job of these stored options is timed; those of older jobs do not say."""
    return Timing(options.get("timing") or Timing.ALONE)


def way_of(timing: Timing, platform: Platform) -> InSituBy | None:
    """How a measurement on a platform is timed in situ; None where it is timed alone, or cannot be."""
    return in_situ_by(platform.engine.name, platform.precision) if timing == Timing.IN_SITU else None


def by_difference(tx: Transaction, timing: Timing, platform_ids: Sequence[int]) -> set[int]:
    """The rows of platforms among these whose kernels are timed by difference."""
    if timing != Timing.IN_SITU:
        return set()
    rows = tx.execute(_PLATFORMS, {"ids": sorted(set(platform_ids))})
    return {row.id for row in rows if way_of(timing, Platform.model_validate(row.spec)) == "difference"}


_PLATFORMS = text("SELECT id, spec FROM platforms WHERE id = ANY(CAST(:ids AS int[]))")


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
        able = _able(tx, rows, _no_time_in_situ, "timing_impossible", filtered=filtered)
        able = _served(tx, able, filtered=filtered)
        _check_doubled(requests, able)
        return able
    if purpose_of(protocol) == "profile":
        return _able(tx, rows, _no_profile, "profile_impossible", filtered=filtered)
    return [*rows]


def _check_in_situ(requests: Sequence[object], protocol: Protocol) -> None:
    for index, request in enumerate(requests):
        if not isinstance(request, KernelRequest):
            raise _impossible("only kernels are timed in situ: models have no carrier", f"workloads.{index}")
    if purpose_of(protocol) != "latency":
        raise _impossible(f"the protocol {protocol.name} does not time kernels", "protocol.name")


def _check_doubled(requests: Sequence[object], rows: Sequence[Found]) -> None:
    """By difference a kernel has a second copy beside it, which not every one can have."""
    keys = [row.key for row in rows if way_of(Timing.IN_SITU, parse_platform_key(row.key)) == "difference"]
    if not keys:
        return
    for index, request in enumerate(requests):
        why = _not_doubled(request) if isinstance(request, KernelRequest) else None
        if why is not None:
            detail = f"by difference, as {keys[0]} times in situ, this kernel has no time: {why}"
            raise _impossible(detail, f"workloads.{index}")


def why_not_by_difference(timing: Timing, platform: Platform, request: object) -> str | None:
    """Why a kernel has no time in situ on a platform that times by difference; None where nothing is known against
    it."""
    if way_of(timing, platform) != "difference" or not isinstance(request, KernelRequest):
        return None
    why = _not_doubled(request)
    return None if why is None else f"by difference this kernel has no time in situ: {why}"


def _not_doubled(request: KernelRequest) -> str | None:
    try:
        return why_not_doubled(request.type, kernel_type(request.type).validate(request.config))
    except InvalidRequest:
        return None  # what the catalogue refuses is refused by name elsewhere


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


def _no_profile(platform: Platform) -> str | None:
    """Why a platform has no profiles; None where it has."""
    name = platform.engine.name
    return None if has_profiler(name) else f"{name} does not tell the time of single operators"


def _no_time_in_situ(platform: Platform) -> str | None:
    if way_of(Timing.IN_SITU, platform) is not None:
        return None
    return f"{_no_profile(platform)} and does not time them by difference at {platform.precision}"


def _able(
    tx: Transaction, rows: Sequence[Found], why_not: Callable[[Platform], str | None], code: str, *, filtered: bool
) -> list[Found]:
    strays = {row.key: why for row in rows if (why := why_not(parse_platform_key(row.key))) is not None}
    return _without(tx, rows, strays, code, filtered=filtered)


def _served(tx: Transaction, rows: Sequence[Found], *, filtered: bool) -> list[Found]:
    """Platforms of which a board times in situ, or that have no board now."""
    unserved = set(tx.execute(_UNSERVED, {"ids": [row.base_id for row in rows]}).scalars())
    strays = {row.key: f"none of its boards can; one {NOT_BY_DIFFERENCE}" for row in rows if row.base_id in unserved}
    return _without(tx, rows, strays, "timing_impossible", filtered=filtered)


_UNSERVED = text(f"""
    SELECT o.platform_id FROM board_platforms o JOIN boards b ON b.id = o.board_id
        JOIN platforms p ON p.id = o.platform_id
    WHERE o.platform_id = ANY(CAST(:ids AS int[])) AND b.health <> 'retired'
    GROUP BY o.platform_id HAVING NOT bool_or({TIMES_IN_SITU})
""")


def _without(
    tx: Transaction, rows: Sequence[Found], strays: Mapping[str, str], code: str, *, filtered: bool
) -> list[Found]:
    """The platforms that are no strays; raises InvalidRequest for these where they are named, or nothing else is."""
    if strays and (not filtered or len(strays) == len(rows)):
        key, why = next(iter(strays.items()))
        known = who_has_one(tx.execute(_ENGINES).scalars())
        raise InvalidRequest(f"{why} ({key}); {known}", code=code, field="platforms")
    return [row for row in rows if row.key not in strays]


_ENGINES = text("""
    SELECT DISTINCT report->>'name' FROM boards b, jsonb_array_elements(b.engines) AS report
    WHERE b.health <> 'retired' AND report->>'available' = 'true'
""")
