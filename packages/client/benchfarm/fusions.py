"""Fusion found by measurement: pairs of operators with each part alone, timed, and profiled where the engine can be."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any, Final

from benchfarm.client import Client
from benchfarm.results import Results
from benchfarm_core.access import ACCESS
from benchfarm_core.errors import Forbidden, InvalidRequest
from benchfarm_core.fusion import MAX_ROWS, FusionRow, FusionsView
from benchfarm_core.jobs import ItemView, JobView
from benchfarm_core.operator_pairs import OPERATOR_PAIRS, PAIR_PARTS, Pair, fused_by_profile, pair_request
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.profilers import has_profiler
from benchfarm_core.protocols import PROFILE
from benchfarm_core.summaries import Summary

Wait = Callable[[str], JobView]
"""Waits for a job, given by its id."""
ENOUGH_PAIRS: Final = MAX_ROWS
NOT_PLANNED: Final = "the job ended before all of it was planned"
_ONE_LAUNCH: Final = {"launches_min": 1, "launches_max": 12, "visit_ms": 5}
"""Which operators there are shows in one launch; a short one is seldom disturbed."""


@dataclass(frozen=True)
class FoundPair:
    """What was found of a pair: a row for the farm, if any, and the reason of what is missing."""

    first: str
    second: str
    row: FusionRow | None
    reason: str


@dataclass(frozen=True)
class FusionsFound:
    """All that a search found. `view`: what the farm holds afterwards of the engine, these pairs and earlier ones."""

    pairs: list[FoundPair]
    view: FusionsView

    @property
    def complete(self) -> int:
        """How many pairs have all that their engine can tell."""
        return sum(not pair.reason for pair in self.pairs)


def measure_fusions(
    client: Client,
    platform: str,
    pairs: Iterable[Pair] = OPERATOR_PAIRS,
    *,
    wait: Wait | None = None,
    max_age_s: int | None = None,
) -> FusionsFound:
    """Measure pairs of operators on a platform and tell the farm; operators only.

    Results that the farm has already are taken, unless they are older than `max_age_s`: what was interrupted goes on.

    Raises:
        Forbidden: the token may not tell what was found; nothing is measured then.
        InvalidRequest: no such platform, no pairs, more than `ENOUGH_PAIRS`, or one that no network can have.
    """
    wanted = tuple(dict.fromkeys(pairs))
    if not 0 < len(wanted) <= ENOUGH_PAIRS:
        raise InvalidRequest(f"{len(wanted)} pairs; it must be from 1 to {ENOUGH_PAIRS}", field="pairs")
    if client.whoami().role not in ACCESS["set_platform_fusion"]:
        raise Forbidden("what is measured of fusion is told by operators; this token may not")
    aged: dict[str, Any] = {} if max_age_s is None else {"max_age_s": max_age_s}
    jobs = [client.submit(**_timed(wanted), platforms=[platform], **aged)]
    [key] = jobs[0].platforms
    if has_profiler(parse_platform_key(key).engine.name):
        jobs.append(client.submit(**_profiled(wanted), platforms=[key], **aged))
    for job in jobs:
        (wait or client.wait)(job.id)
    timed, *profiled = (client.results(job.id) for job in jobs)
    found = _found(client, wanted, timed, profiled[0] if profiled else None)
    rows = [pair.row for pair in found if pair.row is not None]
    view = client.set_platform_fusion(key, rows) if rows else client.platform_fusion(key)
    return FusionsFound(found, view)


def _timed(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Pairs outer, parts inner."""
    parts = [pair_request(pair, part) for pair in pairs for part in PAIR_PARTS]
    return {"name": "fusion: times", "workloads": parts, "protocol": {"name": "kernel"}}


def _profiled(pairs: Sequence[Pair]) -> dict[str, Any]:
    both = [pair_request(pair, "both") for pair in pairs]
    protocol = {"name": PROFILE, "parameters": dict(_ONE_LAUNCH)}
    return {"name": "fusion: profiles", "workloads": both, "protocol": protocol}


def _found(client: Client, pairs: Sequence[Pair], timed: Results, profiled: Results | None) -> list[FoundPair]:
    """What ended before it was planned has no item, so items are found by their number."""
    count = len(PAIR_PARTS)
    times, profiles = ({item.item_no: item for item in items or ()} for items in (timed, profiled))
    found = []
    for number, pair in enumerate(pairs):
        wanted = [times.get(number * count + place) for place in range(count)]
        parts = [part for part in wanted if part is not None]
        seen = profiles.get(number)
        items = [*parts, *([] if seen is None else [seen])]
        lacking = [f"{item.label}: {item.failure or item.reason}" for item in items if item.summary is None]
        lacking += [f"{part.label}: noisy" for part in parts if part.summary is not None and part.summary.noisy]
        if len(parts) < count or (seen is None and profiled is not None):
            lacking.append(NOT_PLANNED)
        known = {**_times(parts), **_profile(client, pair, seen)}
        row = FusionRow(first=pair[0], second=pair[1], **known) if known else None
        found.append(FoundPair(*pair, row, "; ".join(lacking)))
    return found


def _times(parts: Sequence[ItemView]) -> dict[str, Any]:
    """The times of a row; empty where one is missing, or noisy, for then its spread does not say how far it is off. All
    are normalised, or none is."""
    summaries = [part.summary for part in parts if part.summary is not None and not part.summary.noisy]
    if len(summaries) < len(PAIR_PARTS):
        return {}
    known = all(summary.normalised_ms for summary in summaries)
    times, spreads = zip(*((_normalised if known else _seen)(summary) for summary in summaries), strict=True)
    return dict(zip(("t1_ms", "t2_ms", "t12_ms"), times, strict=True)) | {"spread_ms": hypot(*spreads)}


def _normalised(summary: Summary) -> tuple[float, float]:
    """A time and its spread between launches, in ms."""
    time_ms = summary.normalised_ms or summary.median_ms
    return time_ms, summary.spread * time_ms


def _seen(summary: Summary) -> tuple[float, float]:
    return summary.median_ms, (summary.high_ms - summary.low_ms) / 2


def _profile(client: Client, pair: Pair, item: ItemView | None) -> dict[str, Any]:
    """The verdict that all launches agree on, if any."""
    if item is None or item.measurement_id is None or item.summary is None:
        return {}
    launches = client.measurement(item.measurement_id).samples
    verdicts = {fused_by_profile(pair, launch.nodes) for launch in launches if launch.nodes}
    verdict = verdicts.pop() if len(verdicts) == 1 else None
    return {} if verdict is None else {"by_profile": verdict}
