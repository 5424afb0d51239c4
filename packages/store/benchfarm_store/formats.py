"""Which platforms of a job open which of its workloads' files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.matching import why_not_opened
from benchfarm_core.platforms import Platform, Precision, parse_platform_key
from benchfarm_core.workloads import WORKLOAD, AnyWorkload, PairWorkload, UploadedWorkload
from benchfarm_store.database import Transaction
from benchfarm_store.platforms import Found


def check(workloads: Sequence[AnyWorkload], wanted: Sequence[Found], *, filtered: bool) -> list[Found]:
    """The platforms to measure on; those that a filter found are left out where they open nothing of the job.

    Raises InvalidRequest (`format_not_opened`) for the first workload whose file none of them opens.
    """
    kinds: dict[object, int] = {}
    for index, workload in enumerate(workloads):
        kinds.setdefault(_kind(workload), index)
    rows = [(one, parse_platform_key(one.key)) for one in wanted]
    for index in kinds.values():
        whys = [why_not_opened(workloads[index], platform) for _, platform in rows]
        if whys and None not in whys:
            raise InvalidRequest(
                f"none of the platforms can measure this: {whys[0]}",
                code="format_not_opened",
                field=f"workloads.{index}",
            )
    if not filtered:
        return [*wanted]
    firsts = [workloads[index] for index in kinds.values()]
    return [one for one, platform in rows if any(why_not_opened(first, platform) is None for first in firsts)]


def _kind(workload: AnyWorkload) -> object:
    """What decides where a workload's file is opened: few kinds, however many workloads."""
    if isinstance(workload, PairWorkload):
        return _kind(workload.a), _kind(workload.b), workload.b_precision
    return workload.format if isinstance(workload, UploadedWorkload) else None


def find_unopened(
    tx: Transaction, pairs: Iterable[tuple[int, int]], platform_ids: Sequence[int]
) -> Mapping[tuple[int, int], str]:
    """Why, for those of some (workload, platform) rows whose file the platform does not open.

    platform_ids: all platforms of the pairs, in any order.
    """
    platforms = {row.id: Platform.model_validate(row.spec) for row in tx.execute(_PLATFORMS, {"ids": platform_ids})}
    wanted = set(pairs)
    parameters: dict[str, Any] = {
        "ids": sorted({workload for workload, _ in wanted}),
        "all": any(one.precision is Precision.AS_GIVEN for one in platforms.values()),
    }
    workloads = {row.id: WORKLOAD.validate_python(row.spec) for row in tx.execute(_WORKLOADS, parameters)}
    whys = {
        (workload, platform): why_not_opened(workloads[workload], platforms[platform])
        for workload, platform in wanted
        if workload in workloads
    }
    return {pair: why for pair, why in whys.items() if why is not None}


_PLATFORMS = text("SELECT id, spec FROM platforms WHERE id = ANY(CAST(:ids AS int[]))")
# what the farm makes itself is made for every platform but those that make nothing
_WORKLOADS = text("""
    SELECT id, spec FROM workloads
    WHERE id = ANY(CAST(:ids AS bigint[])) AND (CAST(:all AS boolean) OR kind IN ('upload', 'pair'))
""")
