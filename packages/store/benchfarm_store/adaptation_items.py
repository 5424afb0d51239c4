"""What is measured for adaptations: wanted within a budget, counted, and what it took of boards.

Hold-outs wait in a queue of their own, of the lowest priority: they are measured while the others are thought about,
and share no lease with them, so that the time of boards can be told apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import text

from benchfarm_core.adapting import AdaptationMeasured, pace
from benchfarm_core.jobs import ItemSource, PriorityClass
from benchfarm_core.matching import is_too_large, why_not_opened
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.planning import decide, expected_s
from benchfarm_core.platforms import ClockProof, Platform
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.summaries import Grade
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload, workload_id
from benchfarm_store import measurements, memory, planning, specs
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import clock_level, priority_number, rows_json, workload_text
from benchfarm_store.timings import way_of
from benchfarm_workloads.doubled_carriers import why_not_doubled
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import space

PROTOCOL: Final = PROTOCOLS["kernel"]
MAX_AGE_S: Final = 30 * 86_400
"""What was measured before this is measured anew."""
MAX_ASKED: Final = 2000
"""Workloads that are looked at for one round."""

AskedWorkload = KernelWorkload | ArchitectureWorkload


class Ask(NamedTuple):
    """Something to measure, and how."""

    workload: AskedWorkload
    timing: Timing = Timing.ALONE


class Whose(NamedTuple):
    """For which adaptation, at whose cost, on which platform: rows, and the platform itself."""

    adaptation_id: str
    account_id: int
    platform_id: int
    platform: Platform


class Wanted(NamedTuple):
    """What came of asking: measurements by source, and board seconds that the new ones are expected to take."""

    known: int = 0
    joined: int = 0
    new: int = 0
    expected_s: float = 0.0

    @property
    def is_any(self) -> bool:
        """Whether anything was learnt, or will be."""
        return self.known + self.joined + self.new > 0


def prepare(tx: Transaction, whose: Whose) -> None:
    """Make the queues that it will need: whoever waits for a queue that another one makes must hold no measurement."""
    protocol_id = specs.ensure_protocol(tx, PROTOCOL)
    keys = [
        (whose.platform_id, protocol_id, whose.account_id, _priority(one)) for one in (Purpose.TRAIN, Purpose.HOLDOUT)
    ]
    measurements.ensure_queues(tx, keys)


def want(
    tx: Transaction, whose: Whose, asks: Sequence[Ask], *, purpose: Purpose, round_no: int, limit_s: float
) -> Wanted:
    """Have the first of some workloads measured, as many as board seconds allow; what is known and fresh costs nothing.

    Hold-outs of anybody are left out, and what the platform's boards cannot measure. What another transaction asks for
    at this very moment is left to a later round.
    """
    possible = _possible(tx, whose, asks[:MAX_ASKED])
    held = _digests(tx, [one for one, _ in possible], _HELD_OUT)
    free = [(one, resolved) for one, resolved in possible if workload_id(one.workload) not in held]
    return _want(tx, whose, free, purpose=purpose, round_no=round_no, limit_s=limit_s)


def declare_holdouts(tx: Transaction, whose: Whose, drawn: Sequence[AskedWorkload], count: int) -> int:
    """Declare the first `count` of some architectures or kernels as what judges: none that anybody could have learnt
    from; how many there were. They are wanted at once, so that nothing else can take them.
    """
    possible = _possible(tx, whose, [Ask(one) for one in drawn])
    learnt = _digests(tx, [one for one, _ in possible], _LEARNT)
    free = [(one, resolved) for one, resolved in possible if workload_id(one.workload) not in learnt][:count]
    found = _want(tx, whose, free, purpose=Purpose.HOLDOUT, round_no=0, limit_s=float("inf"))
    return found.known + found.joined + found.new


def _possible(tx: Transaction, whose: Whose, asks: Iterable[Ask]) -> list[tuple[Ask, specs.Resolved]]:
    """Those that the platform's boards can measure, each once, with their costs."""
    largest = memory.of_largest_boards(tx, [whose.platform_id]).get(whose.platform_id)
    found: list[tuple[Ask, specs.Resolved]] = []
    for ask in _each_once(asks):
        if why_not_opened(ask.workload, whose.platform) is not None or not _can_be_timed(ask, whose.platform):
            continue
        resolved = _resolved(ask.workload)
        if not is_too_large(resolved.needed_bytes, largest):
            found.append((ask, resolved))
    return found


def _each_once(asks: Iterable[Ask]) -> list[Ask]:
    return list({(workload_id(one.workload), one.timing): one for one in asks}.values())


def _can_be_timed(ask: Ask, platform: Platform) -> bool:
    if ask.timing == Timing.ALONE:
        return True
    way = way_of(ask.timing, platform)
    if way is None or not isinstance(ask.workload, KernelWorkload):
        return False
    return way == "profiler" or why_not_doubled(ask.workload.type, ask.workload.config) is None


def _resolved(workload: AskedWorkload) -> specs.Resolved:
    if isinstance(workload, KernelWorkload):
        return specs.Resolved(workload, kernel_type(workload.type).cost_rule(workload.config))
    return specs.Resolved(workload, space(workload.space).cost(workload))


def _digests(tx: Transaction, asks: Sequence[Ask], statement: Any) -> set[str]:
    """Ids of the workloads among these that a statement finds."""
    ids = sorted({workload_id(one.workload) for one in asks})
    rows = rows_json([{"digest": id_.removeprefix("w_")} for id_ in ids])
    return {workload_text(digest) for digest in tx.execute(statement, {"rows": rows}).scalars()}


_OF_WORKLOADS: Final = """
    SELECT w.digest::text FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(digest uuid)
    JOIN workloads w ON w.digest = x.digest
"""
_HELD_OUT = text(f"""
    {_OF_WORKLOADS} WHERE EXISTS (SELECT FROM measurements m WHERE m.workload_id = w.id AND m.purpose = 'holdout')
""")
_LEARNT = text(f"""
    {_OF_WORKLOADS} WHERE EXISTS (
        SELECT FROM measurements m WHERE m.workload_id = w.id AND m.purpose <> 'holdout' AND m.state <> 'cancelled')
""")


class _Choice(NamedTuple):
    """One workload with what was decided for it."""

    row: int
    timing: Timing
    source: ItemSource
    measurement_id: int | None
    repeat_no: int
    seconds: float


def _want(
    tx: Transaction,
    whose: Whose,
    asks: Sequence[tuple[Ask, specs.Resolved]],
    *,
    purpose: Purpose,
    round_no: int,
    limit_s: float,
) -> Wanted:
    if not asks:
        return Wanted()
    protocol_id = specs.ensure_protocol(tx, PROTOCOL)
    choices = _within(_decide(tx, whose, asks, protocol_id), limit_s, _pace(tx, whose.adaptation_id))
    items = [one for one in choices if one.source != ItemSource.NEW]
    ids = {one: one.measurement_id for one in items if one.measurement_id is not None}
    for timing in Timing:
        new = [one for one in choices if one.source == ItemSource.NEW and one.timing == timing]
        ids |= _make(tx, whose, new, protocol_id, timing, purpose)
    rows = [{"m": id_, "s": one.source} for one, id_ in ids.items()]
    fixed = {"id": whose.adaptation_id, "round": round_no, "purpose": purpose}
    added = tx.execute(_ADD_ITEMS, {"rows": rows_json(rows), **fixed}).scalars().all()
    kept = [one for one, id_ in ids.items() if id_ in set(added)]
    if any(one.source != ItemSource.KNOWN for one in kept):
        planning.wake_boards(tx, [whose.platform_id])
    counts = {source: sum(one.source == source for one in kept) for source in ItemSource}
    expected = sum(one.seconds for one in kept if one.source == ItemSource.NEW)
    return Wanted(counts[ItemSource.KNOWN], counts[ItemSource.JOINED], counts[ItemSource.NEW], expected)


# an earlier round may have brought the same measurement
_ADD_ITEMS = text("""
    INSERT INTO adaptation_items (adaptation_id, measurement_id, round, purpose, source)
    SELECT CAST(:id AS uuid), m, :round, :purpose, s
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(m bigint, s text) ORDER BY m
    ON CONFLICT DO NOTHING RETURNING measurement_id
""")


def _decide(
    tx: Transaction, whose: Whose, asks: Sequence[tuple[Ask, specs.Resolved]], protocol_id: int
) -> list[_Choice]:
    """For each workload what is known, joined or new, in order."""
    rows = specs.ensure_workloads(tx, [resolved for _, resolved in asks])
    way = way_of(Timing.IN_SITU, whose.platform)
    known = {
        timing: measurements.find_known(tx, [(row, whose.platform_id) for row in rows], protocol_id, timing)
        for timing in {ask.timing for ask, _ in asks}
    }
    found = []
    for index, ((ask, resolved), row) in enumerate(zip(asks, rows, strict=True)):
        before = known[ask.timing].get(index, [])
        (decision,) = decide([measurements.known_of(one) for one in before], now=tx.now, **_WISH)
        medians = [one.median_ms for one in before if one.median_ms is not None]
        median_ms, doubled = medians[-1] if medians else None, way == "difference"
        seconds = expected_s(PROTOCOL, resolved.cost, median_ms, ask.timing, by_difference=doubled)
        number = decision.repeat_no
        found.append(_Choice(row, ask.timing, decision.source, decision.measurement_id, number, seconds))
    return found


_WISH: Final[Mapping[str, Any]] = {
    "repeats": 1,
    "max_age_s": MAX_AGE_S,
    "min_grade": Grade.C,
    "clock_proof": ClockProof.UNPINNED,
}


def _within(choices: Sequence[_Choice], limit_s: float, pace_of: float) -> list[_Choice]:
    """As many as the board seconds allow, in order and at the measured pace; one more where otherwise nothing would be
    new, because what no board has time for in one round would never be measured."""
    found: list[_Choice] = []
    spent_s = 0.0
    for one in choices:
        cost_s = one.seconds * pace_of if one.source == ItemSource.NEW else 0.0
        if cost_s and spent_s and spent_s + cost_s > limit_s:
            break
        spent_s += cost_s
        found.append(one)
    return found if limit_s > 0 else [one for one in found if one.source != ItemSource.NEW]


def _make(
    tx: Transaction, whose: Whose, new: Sequence[_Choice], protocol_id: int, timing: Timing, purpose: Purpose
) -> dict[_Choice, int]:
    """The new measurements' ids; what another transaction made meanwhile is not among them."""
    if not new:
        return {}
    key = (whose.platform_id, protocol_id, whose.account_id, _priority(purpose))
    queue = measurements.ensure_queues(tx, [key])[key]
    rows = [{"w": one.row, "p": whose.platform_id, "r": one.repeat_no, "q": queue, "s": one.seconds} for one in new]
    made = measurements.add_wanted(
        tx,
        rows,
        protocol_id=protocol_id,
        timing=timing,
        clock_need=clock_level(ClockProof.UNPINNED),
        purpose=purpose,
    )
    keys = {one: (one.row, whose.platform_id, one.repeat_no) for one in new}
    return {one: made[key] for one, key in keys.items() if key in made}


def _priority(purpose: Purpose) -> int:
    return priority_number(PriorityClass.LOW if purpose == Purpose.HOLDOUT else PriorityClass.NORMAL)


def raise_holdouts(tx: Transaction, whose: Whose) -> None:
    """Let what judges wait no longer behind others: nothing else is left to do."""
    protocol_id = specs.ensure_protocol(tx, PROTOCOL)
    key = (whose.platform_id, protocol_id, whose.account_id, priority_number(PriorityClass.NORMAL))
    queue = measurements.ensure_queues(tx, [key])[key]
    tx.execute(_RAISE, {"id": whose.adaptation_id, "queue": queue})


_RAISE = text("""
    UPDATE measurements SET queue_id = :queue WHERE id IN (
        SELECT m.id FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
            JOIN queues q ON q.id = m.queue_id
        WHERE i.adaptation_id = CAST(:id AS uuid) AND i.purpose = 'holdout' AND m.state = 'wanted' AND q.priority = 0
        ORDER BY m.id FOR NO KEY UPDATE OF m SKIP LOCKED)
""")


def open_items(tx: Transaction, adaptation_id: str, *, holdouts: bool) -> int:
    """How many measurements have not ended, of hold-outs or of all others."""
    return int(tx.execute(_OPEN, {"id": adaptation_id, "holdouts": holdouts}).scalar_one())


_OPEN = text("""
    SELECT count(*) FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
    WHERE i.adaptation_id = CAST(:id AS uuid) AND m.state IN ('wanted', 'leased')
        AND (i.purpose = 'holdout') = CAST(:holdouts AS boolean)
""")


def drop(tx: Transaction, adaptation_id: str) -> int:
    """Give up what waits for an adaptation alone; how many. Never waits for a lock: what a board has just taken is
    measured and kept. The second statement has its own snapshot, so jobs that joined just before are seen."""
    held = tx.execute(_HOLD_OWN, {"id": adaptation_id}).scalars().all()
    return tx.execute(_DROP, {"id": adaptation_id, "ids": list(held)}).rowcount if held else 0


_HOLD_OWN = text("""
    SELECT m.id FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id AND m.state = 'wanted'
    WHERE i.adaptation_id = CAST(:id AS uuid) AND i.source = 'new' AND m.purpose <> 'job'
    ORDER BY m.id FOR NO KEY UPDATE OF m SKIP LOCKED
""")
# a job or another adaptation that joined one waits for it too
_DROP = text("""
    UPDATE measurements m SET state = 'cancelled' WHERE m.id = ANY(CAST(:ids AS bigint[])) AND m.state = 'wanted'
        AND NOT EXISTS (SELECT FROM job_items j WHERE j.measurement_id = m.id AND j.state = 'pending')
        AND NOT EXISTS (
            SELECT FROM adaptation_items o JOIN adaptations a ON a.id = o.adaptation_id AND a.finished_at IS NULL
            WHERE o.measurement_id = m.id AND o.adaptation_id <> CAST(:id AS uuid))
""")


def holdout_workloads(tx: Transaction, adaptation_id: str) -> list[str]:
    """Ids of the workloads that judge it."""
    return [workload_text(digest) for digest in tx.execute(_HOLDOUTS, {"id": adaptation_id}).scalars()]


_HOLDOUTS = text("""
    SELECT DISTINCT w.digest::text FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
        JOIN workloads w ON w.id = m.workload_id
    WHERE i.adaptation_id = CAST(:id AS uuid) AND i.purpose = 'holdout' ORDER BY 1
""")


def measured(tx: Transaction, adaptation_id: str) -> AdaptationMeasured:
    """Counts of its measurements."""
    row = tx.execute(_MEASURED, {"id": adaptation_id}).one()
    return AdaptationMeasured.model_validate(row._asdict())


_MEASURED = text("""
    SELECT count(*) FILTER (WHERE i.purpose <> 'holdout') AS wanted,
        count(*) FILTER (WHERE i.purpose <> 'holdout' AND m.state = 'done') AS done,
        count(*) FILTER (WHERE i.purpose <> 'holdout' AND m.state IN ('failed', 'cancelled')) AS failed,
        count(*) FILTER (WHERE i.purpose <> 'holdout' AND i.source = 'known') AS known,
        count(*) FILTER (WHERE i.purpose <> 'holdout' AND m.state = 'done'
            AND (s.grade = 'D' OR s.normalised_ms IS NULL)) AS rough,
        count(*) FILTER (WHERE i.purpose = 'holdout') AS holdouts,
        count(*) FILTER (WHERE i.purpose = 'holdout' AND m.state = 'done') AS holdouts_done
    FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
        LEFT JOIN summaries s ON s.measurement_id = m.id AND s.active
    WHERE i.adaptation_id = CAST(:id AS uuid)
""")


class Spent(NamedTuple):
    """Board seconds of the leases of an adaptation: for what it learnt from, and for what judged it."""

    board_s: float
    holdout_board_s: float


def spent(tx: Transaction, adaptation_id: str) -> Spent:
    """What it took of boards so far: the length of its leases, conversions, canaries and lost ones included. A lease
    that others share is split by what each of its measurements was expected to take."""
    row = tx.execute(_SPENT, {"id": adaptation_id, "now": tx.now}).one()
    return Spent(row.board_s, row.holdout_board_s)


# its leases are of its queues, which are those of its account on its platform, and younger than itself
_SPENT_FROM: Final = """
    WITH ran AS (
        SELECT i.measurement_id, m.expected_s, i.lease_id, m.state,
            greatest(0, extract(epoch FROM coalesce(l.ended_at, :now) - l.accepted_at))::float8
                * m.expected_s::float8 / sum(m.expected_s::float8) OVER (PARTITION BY l.id) AS took_s
        FROM adaptations a
            JOIN queues q ON q.platform_id = a.platform_id AND q.account_id = a.account_id
            JOIN leases l ON l.id > a.leases_after AND l.queue_id = q.id AND l.accepted_at IS NOT NULL
            JOIN lease_items i ON i.lease_id = l.id
            JOIN measurements m ON m.id = i.measurement_id
        WHERE a.id = CAST(:id AS uuid))
"""
_SPENT = text(f"""
    {_SPENT_FROM}
    SELECT coalesce(sum(r.took_s) FILTER (WHERE i.purpose <> 'holdout'), 0) AS board_s,
        coalesce(sum(r.took_s) FILTER (WHERE i.purpose = 'holdout'), 0) AS holdout_board_s
    FROM ran r JOIN adaptation_items i ON i.adaptation_id = CAST(:id AS uuid) AND i.measurement_id = r.measurement_id
""")


def _pace(tx: Transaction, adaptation_id: str) -> float:
    """Board seconds that one expected second took so far."""
    row = tx.execute(_PACE, {"id": adaptation_id, "now": tx.now}).one()
    return pace(row.took_s, row.expected_s)


_PACE = text(f"""
    {_SPENT_FROM}
    SELECT coalesce(sum(took_s), 0) AS took_s,
        coalesce((SELECT sum(expected_s) FROM (
            SELECT DISTINCT measurement_id, expected_s FROM ran WHERE state = 'done') d), 0)::float8 AS expected_s
    FROM ran
""")
