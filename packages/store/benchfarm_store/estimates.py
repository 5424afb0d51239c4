"""What a job would do and cost, worked out without writing anything."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row, text

from benchfarm_core.boards import Health, provable
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import DryRun, ItemSource, JobSpec
from benchfarm_core.matching import is_too_large, why_board_unusable, why_not_opened, why_platform
from benchfarm_core.planning import decide, expected_s
from benchfarm_core.platforms import ClockProof, Platform, parse_platform_key
from benchfarm_store import measurements, memory, platforms, specs
from benchfarm_store.agents import IS_ONLINE
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import CLOCK_PROOFS, clock_level, workload_digest
from benchfarm_store.timings import way_of

CHUNK: Final = 1000
MAX_COUNTED: Final = 20_000
"""Waiting measurements looked at for the expected wait; above this the wait is a lower bound."""


def check_budget(
    tx: Transaction, spec: JobSpec, resolved: Sequence[specs.Resolved], wanted: Sequence[platforms.Found]
) -> None:
    """Raise InvalidRequest (`budget_too_small`) when the estimate is above the job's budget."""
    estimate = dry_run(tx, spec, resolved, wanted)
    if not estimate.within_budget:
        raise InvalidRequest(
            f"the job needs about {estimate.device_s:.1f} device-seconds, its budget is {spec.budget_device_s:g}",
            code="budget_too_small",
            field="budget_device_s",
        )


def dry_run(
    tx: Transaction, spec: JobSpec, resolved: Sequence[specs.Resolved], wanted: Sequence[platforms.Found]
) -> DryRun:
    """Counts by source, device-seconds, wait and what stands in the way."""
    base_ids = [platform.base_id for platform in wanted]
    found = {row.platform_id: row for row in tx.execute(_BOARDS, {"ids": base_ids, "now": tx.now})}
    boards = {platform.id: found.get(platform.base_id) for platform in wanted}
    need = clock_level(spec.clock_proof)
    memory_bytes = memory.of_largest_boards(tx, base_ids)
    largest = {platform.id: memory_bytes.get(platform.base_id) for platform in wanted}
    opening = {platform.id: parse_platform_key(platform.key) for platform in wanted}
    unprovable = {id_ for id_, row in boards.items() if row is not None and _proof(opening[id_], row) < need}
    unopened: dict[int, list[str]] = {platform.id: [] for platform in wanted}
    counts: Counter[str] = Counter()
    too_large: Counter[int] = Counter()
    device_s = 0.0
    for one, platform, source, seconds in _decisions(tx, spec, resolved, opening):
        new = source != ItemSource.KNOWN
        large = new and is_too_large(one.needed_bytes, largest[platform])
        unread = why_not_opened(one.workload, opening[platform])
        unopened[platform] += [unread] if unread is not None else []
        impossible = large or (new and platform in unprovable) or unread is not None
        too_large[platform] += large
        counts["impossible" if impossible else source] += 1
        device_s += seconds if source == ItemSource.NEW and not impossible else 0.0
    reasons = [f"{p.key}: no board can prove its clock as {spec.clock_proof}" for p in wanted if p.id in unprovable]
    reasons += [f"{p.key}: {too_large[p.id]} items are too large for its boards" for p in wanted if too_large[p.id]]
    reasons += [f"{p.key}: {len(whys)} items: {whys[0]}" for p in wanted if (whys := unopened[p.id])]
    reasons += [reason for p in wanted if (reason := _why_away(p.key, boards[p.id])) is not None]
    return DryRun(
        timing=spec.timing,
        items=spec.items_count,
        known=counts[ItemSource.KNOWN],
        joined=counts[ItemSource.JOINED],
        to_measure=counts[ItemSource.NEW],
        impossible=counts["impossible"],
        device_s=device_s,
        expected_wait_s=_wait_s(tx, base_ids, device_s, counts[ItemSource.KNOWN] == spec.items_count),
        reasons=reasons,
        within_budget=spec.budget_device_s is None or device_s <= spec.budget_device_s,
    )


def _proof(platform: Platform, row: Row[Any]) -> int:
    """The best that a platform's boards can prove at its operating point."""
    return clock_level(provable(platform.operating_point, CLOCK_PROOFS[row.best]))


def _why_away(key: str, row: Row[Any] | None) -> str | None:
    """Why a platform is served by nobody now; None where a board is online."""
    if row is not None and row.online:
        return None
    why = why_platform(
        parse_platform_key(key),
        boards_offering=row.offering if row else 0,
        boards_online=0,
        boards_idle=0,
        unusable=_unusable(row) if row else (),
    )
    return f"{key}: {why}"


def _unusable(row: Row[Any]) -> list[str]:
    """Why each board that is out of use is so."""
    pairs = zip(row.unusable_healths or (), row.unusable_reasons or (), strict=True)
    whys = (why_board_unusable(health=Health(health), reason=why, clock_proof_ok=True) for health, why in pairs)
    return [why for why in whys if why is not None]


_BOARDS = text(f"""
    SELECT o.platform_id, count(*) AS offering, max(b.clock_proof) AS best,
        array_agg(b.health ORDER BY b.id) FILTER (WHERE b.health NOT IN ('good', 'suspect')) AS unusable_healths,
        array_agg(b.reason ORDER BY b.id) FILTER (WHERE b.health NOT IN ('good', 'suspect')) AS unusable_reasons,
        count(*) FILTER (
        WHERE b.health IN ('good', 'suspect') AND {IS_ONLINE}) AS online
    FROM board_platforms o JOIN boards b ON b.id = o.board_id JOIN agents a ON a.id = b.agent_id
    WHERE o.platform_id = ANY(CAST(:ids AS int[])) AND b.health <> 'retired' GROUP BY o.platform_id
""")


def _decisions(
    tx: Transaction, spec: JobSpec, resolved: Sequence[specs.Resolved], opened_by: Mapping[int, Platform]
) -> Iterator[tuple[specs.Resolved, int, ItemSource, float]]:
    """(workload, platform, source, expected seconds) of every item."""
    pairs = [(one, platform) for one in resolved for platform in opened_by]
    doubled = {id_ for id_, platform in opened_by.items() if way_of(spec.timing, platform) == "difference"}
    protocol = tx.execute(_PROTOCOL, {"id": spec.protocol.id}).scalar_one_or_none() or 0
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        rows = workload_rows(tx, [one for one, _ in chunk])
        groups = [(rows.get(workload_digest(one.id), 0), p) for one, p in chunk]
        known = measurements.find_known(tx, groups, protocol, spec.timing)
        for index, (one, platform) in enumerate(chunk):
            found = known.get(index, [])
            medians = [row.median_ms for row in found if row.median_ms is not None]
            median_ms, by = medians[-1] if medians else None, platform in doubled
            seconds = expected_s(spec.protocol, one.cost, median_ms, spec.timing, by_difference=by)
            decisions = decide(
                [measurements.known_of(row) for row in found],
                repeats=spec.repeats,
                max_age_s=spec.max_age_s,
                min_grade=spec.min_grade,
                clock_proof=ClockProof(spec.clock_proof),
                now=tx.now,
            )
            yield from ((one, platform, decision.source, seconds) for decision in decisions)


_PROTOCOL = text("SELECT id FROM protocols WHERE public_id = :id")


def workload_rows(tx: Transaction, wanted: Sequence[specs.Resolved]) -> dict[str, int]:
    """Rows of the workloads that are known, by digest."""
    return specs.known_workloads(tx, {workload_digest(one.id) for one in wanted})


def _wait_s(tx: Transaction, platform_ids: Sequence[int], device_s: float, nothing_to_do: bool) -> float | None:
    """Board time that waits on these platforms and the job's own, over their boards; None without a board."""
    if nothing_to_do:
        return 0.0
    row = tx.execute(_LOAD, {"ids": list(platform_ids), "now": tx.now, "limit": MAX_COUNTED}).one()
    return (row.waiting_s + device_s) / row.boards if row.boards else None


_LOAD = text(f"""
    SELECT
        (SELECT coalesce(sum(expected_s), 0) FROM (
            SELECT expected_s FROM measurements
            WHERE platform_id = ANY(CAST(:ids AS int[])) AND state = 'wanted' LIMIT :limit) w) AS waiting_s,
        (SELECT count(DISTINCT b.id) FROM board_platforms o JOIN boards b ON b.id = o.board_id
            JOIN agents a ON a.id = b.agent_id
         WHERE o.platform_id = ANY(CAST(:ids AS int[])) AND b.health IN ('good', 'suspect') AND {IS_ONLINE}) AS boards
""")
