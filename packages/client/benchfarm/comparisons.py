"""Comparisons as a person asks for them: two workloads and a platform, or one workload and two platforms."""

from collections.abc import Iterator
from typing import Any

from benchfarm_core.comparing import Comparison, ComparisonVerdict
from benchfarm_core.errors import Conflict, InvalidRequest
from benchfarm_core.jobs import ItemView, JobKind, JobView
from benchfarm_core.protocols import COMPARE
from benchfarm_core.workloads import PairRequest, WorkloadRequest


def comparison_fields(
    a: WorkloadRequest, b: WorkloadRequest, platform: str, *, b_platform: str | None, tolerance_percent: float | None
) -> dict[str, Any]:
    """The fields of a job request that asks for one comparison. Raises InvalidRequest for an impossible tolerance."""
    parameters = {} if tolerance_percent is None else {"half_width_target": _share(tolerance_percent)}
    return {
        "kind": JobKind.COMPARE,
        "workloads": [PairRequest(a=a, b=b, b_platform=b_platform)],
        "platforms": [platform],
        "protocol": {"name": COMPARE, "parameters": parameters},
    }


def _share(tolerance_percent: float) -> float:
    share = tolerance_percent / 100
    if not 0 < share < 1:
        raise InvalidRequest(
            f"tolerance_percent is {tolerance_percent:g}; it must be above 0 and below 100",
            code="protocol_impossible",
            field="tolerance_percent",
        )
    return share


def first_item(job: JobView, items: Iterator[ItemView]) -> ItemView:
    """The one item of a comparison. Raises Conflict where the job ended without any."""
    item = next(items, None)
    if item is None:
        raise Conflict(nothing_planned(job), code="job_finished")
    return item


def nothing_planned(job: JobView) -> str:
    """Why a job that ended has no item."""
    return f"job {job.id} ended as {job.state} before it was planned: {job.reason or 'no reason was given'}"


def comparison_text(found: Comparison) -> str:
    """The answer in words: ``b is slower by 3.10 % [+2.60, +3.60]``."""
    interval = f"[{found.low_percent:+.2f}, {found.high_percent:+.2f}]"
    if found.verdict == ComparisonVerdict.NO_DIFFERENCE:
        return f"no difference within {found.tolerance_percent:g} % {interval}"
    if found.verdict == ComparisonVerdict.INCONCLUSIVE:
        return f"inconclusive: {found.change_percent:+.2f} % {interval}"
    how = "slower" if found.verdict == ComparisonVerdict.A_FASTER else "faster"
    return f"b is {how} by {abs(found.change_percent):.2f} % {interval}"


def is_slower(found: Comparison) -> bool:
    """Whether b is slower, and perhaps by more than the tolerance: one that lies within it all in all is tolerated."""
    return found.verdict == ComparisonVerdict.A_FASTER and found.high_percent > found.tolerance_percent
