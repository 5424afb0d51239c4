"""What is measured for adaptations: wanted within a budget, and counted.

Hold-outs wait in a queue of their own, of the lowest priority: they are measured while the others are thought about,
and share no lease with them, so that the time of boards can be told apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.adapting import AdaptationMeasured
from benchfarm_core.jobs import ItemSource, PriorityClass
from benchfarm_core.matching import is_too_large, why_not_opened
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.planning import Known, decide, expected_s
from benchfarm_core.platforms import ClockProof, Platform
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.summaries import Grade
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload, workload_id
from benchfarm_store import adaptation_budgets, measurements, memory, planning, specs
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


class Costed(NamedTuple):
    """An ask whose platform can open and time it, with what is known of its cost."""

    ask: Ask
    resolved: specs.Resolved


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


def costed(asks: Iterable[Ask], platform: Platform) -> list[Costed]:
    """Those that a platform can open and time, each once, the first `MAX_ASKED`. It takes up to a millisecond for each,
    so that it comes before a transaction and not within one."""
    once = list({(workload_id(one.workload), one.timing): one for one in asks}.values())[:MAX_ASKED]
    return [
        Costed(ask, _resolved(ask.workload))
        for ask in once
        if why_not_opened(ask.workload, platform) is None and _can_be_timed(ask, platform)
    ]


def prepare(tx: Transaction, whose: Whose, asks: Sequence[Costed]) -> None:
    """Make the queues that it will need and the workloads of what it may ask for, in a transaction of its own: whoever
    waits for a row that another one makes must hold no measurement, and makes them in one order."""
    specs.ensure_workloads(tx, [one.resolved for one in asks])
    protocol_id = specs.ensure_protocol(tx, PROTOCOL)
    keys = [
        (whose.platform_id, protocol_id, whose.account_id, _priority(one)) for one in (Purpose.TRAIN, Purpose.HOLDOUT)
    ]
    measurements.ensure_queues(tx, keys)


def want(
    tx: Transaction,
    whose: Whose,
    asks: Sequence[Costed],
    *,
    purpose: Purpose,
    round_no: int,
    limit_s: float,
    one_s: float = float("inf"),
) -> Wanted:
    """Have the first of some workloads measured, as many as board seconds allow; what is known and fresh costs nothing.

    Hold-outs of anybody are left out, what the platform's boards have no room for, and what this adaptation asked for
    already, whatever became of it. What another transaction asks for at this very moment is left to a later round.

    Args:
        one_s: one is wanted where it alone takes longer than `limit_s`, but not than this: what fits into no round
            would never be measured.
    """
    possible = _with_room(tx, whose, asks)
    held = _digests(tx, possible, _HELD_OUT)
    free = [one for one in possible if workload_id(one.ask.workload) not in held]
    asked = _asked(tx, whose)
    new = [one for one in free if _place(one) not in asked]
    return _want(tx, whose, new, purpose=purpose, round_no=round_no, limit_s=limit_s, one_s=one_s)


def declare_holdouts(tx: Transaction, whose: Whose, drawn: Sequence[Costed], count: int) -> int:
    """Declare the first `count` of some architectures or kernels as what judges: none that anybody could have learnt
    from; how many there were. They are wanted at once, so that nothing else can take them.
    """
    possible = _with_room(tx, whose, drawn)
    learnt = _digests(tx, possible, _LEARNT)
    free = [one for one in possible if workload_id(one.ask.workload) not in learnt][:count]
    asked = _asked(tx, whose)
    new = [one for one in free if _place(one) not in asked]
    found = _want(tx, whose, new, purpose=Purpose.HOLDOUT, round_no=0, limit_s=float("inf"))
    return found.known + found.joined + found.new


def _with_room(tx: Transaction, whose: Whose, asks: Iterable[Costed]) -> list[Costed]:
    """Those that the platform's boards have the memory for."""
    largest = memory.of_largest_boards(tx, [whose.platform_id]).get(whose.platform_id)
    return [one for one in asks if not is_too_large(one.resolved.needed_bytes, largest)]


def _place(one: Costed) -> tuple[str, Timing]:
    return workload_id(one.ask.workload), one.ask.timing


def _asked(tx: Transaction, whose: Whose) -> set[tuple[str, Timing]]:
    """What this adaptation asked for and has not given up."""
    rows = tx.execute(_ASKED, {"id": whose.adaptation_id})
    return {(workload_text(row.digest), Timing(row.timing)) for row in rows}


_ASKED = text("""
    SELECT w.digest::text AS digest, m.timing FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
        JOIN workloads w ON w.id = m.workload_id
    WHERE i.adaptation_id = CAST(:id AS uuid) AND NOT i.given_up
""")


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


def _digests(tx: Transaction, asks: Sequence[Costed], statement: Any) -> set[str]:
    """Ids of the workloads among these that a statement finds."""
    ids = sorted({workload_id(one.ask.workload) for one in asks})
    rows = rows_json([{"digest": id_.removeprefix("w_")} for id_ in ids])
    return {workload_text(digest) for digest in tx.execute(statement, {"rows": rows}).scalars()}


_OF_WORKLOADS: Final = """
    SELECT w.digest::text FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(digest uuid)
    JOIN workloads w ON w.digest = x.digest
"""
_HELD_OUT = text(f"""
    {_OF_WORKLOADS} WHERE EXISTS (
        SELECT FROM measurements m WHERE m.workload_id = w.id AND m.purpose = 'holdout' AND m.state <> 'cancelled')
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
    asks: Sequence[Costed],
    *,
    purpose: Purpose,
    round_no: int,
    limit_s: float,
    one_s: float = float("inf"),
) -> Wanted:
    if not asks:
        return Wanted()
    protocol_id = specs.ensure_protocol(tx, PROTOCOL)
    pace = adaptation_budgets.pace_of(tx, whose.adaptation_id, whose.platform_id, whose.platform).value
    choices = _within(_decide(tx, whose, asks, protocol_id), limit_s, pace, one_s)
    ids = _held(tx, [one for one in choices if one.source != ItemSource.NEW])
    for timing in Timing:
        new = [one for one in choices if one.source == ItemSource.NEW and one.timing == timing]
        ids |= _make(tx, whose, new, protocol_id, timing, purpose)
    rows = [{"m": id_, "s": one.source} for one, id_ in ids.items()]
    fixed = {"id": whose.adaptation_id, "round": round_no, "purpose": purpose}
    added = tx.execute(_ADD_ITEMS, {"rows": rows_json(rows), **fixed}).scalars().all()
    kept = [one for one, id_ in ids.items() if id_ in set(added)]
    if waiting := sum(one.source != ItemSource.KNOWN for one in kept):
        planning.wake_boards(tx, [whose.platform_id], waiting)
    counts = {source: sum(one.source == source for one in kept) for source in ItemSource}
    expected = sum(one.seconds for one in kept if one.source == ItemSource.NEW)
    return Wanted(counts[ItemSource.KNOWN], counts[ItemSource.JOINED], counts[ItemSource.NEW], expected)


# what was given up is measured all the same where a job waits for it too
_ADD_ITEMS = text("""
    INSERT INTO adaptation_items AS i (adaptation_id, measurement_id, round, purpose, source)
    SELECT CAST(:id AS uuid), m, :round, :purpose, s
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(m bigint, s text) ORDER BY m
    ON CONFLICT (adaptation_id, measurement_id) DO UPDATE SET given_up = false, round = excluded.round
        WHERE i.given_up
    RETURNING measurement_id
""")


def _held(tx: Transaction, choices: Sequence[_Choice]) -> dict[_Choice, int]:
    """Measurements that there are: those done, and those that wait, held, so that nobody cancels them before they are
    joined. What another transaction holds at this moment is left out."""
    ids = {one: one.measurement_id for one in choices if one.measurement_id is not None}
    joined = [id_ for one, id_ in ids.items() if one.source == ItemSource.JOINED]
    held = set(tx.execute(_HOLD_JOINED, {"ids": joined}).scalars()) if joined else set()
    return {one: id_ for one, id_ in ids.items() if one.source == ItemSource.KNOWN or id_ in held}


_HOLD_JOINED = text("""
    SELECT id FROM measurements WHERE id = ANY(CAST(:ids AS bigint[])) AND state IN ('wanted', 'leased')
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
""")


def _decide(tx: Transaction, whose: Whose, asks: Sequence[Costed], protocol_id: int) -> list[_Choice]:
    """For each workload what is known, joined or new, in order."""
    rows = specs.ensure_workloads(tx, [one.resolved for one in asks])
    way = way_of(Timing.IN_SITU, whose.platform)
    known = {
        timing: measurements.find_known(tx, [(row, whose.platform_id) for row in rows], protocol_id, timing)
        for timing in {ask.timing for ask, _ in asks}
    }
    since = {row.subject: row.judges_from for row in tx.execute(_OTHER_BOARD, {"platform": whose.platform_id})}
    found = []
    for index, ((ask, resolved), row) in enumerate(zip(asks, rows, strict=True)):
        before = known[ask.timing].get(index, [])
        moments = [since[one] for one in (WHOLE_MODEL, _subject(ask.workload)) if one in since]
        (decision,) = decide([_known(one, moments) for one in before], now=tx.now, **_WISH)
        medians = [one.median_ms for one in before if one.median_ms is not None]
        median_ms, doubled = medians[-1] if medians else None, way == "difference"
        seconds = expected_s(PROTOCOL, resolved.cost, median_ms, ask.timing, by_difference=doubled)
        number = decision.repeat_no
        found.append(_Choice(row, ask.timing, decision.source, decision.measurement_id, number, seconds))
    return found


# what was measured of another board teaches and judges nobody: it is measured anew
_OTHER_BOARD = text("""
    SELECT subject, judges_from FROM predictor_looks WHERE platform_id = :platform AND judges_from IS NOT NULL
""")


def _subject(workload: AskedWorkload) -> str:
    return workload.type if isinstance(workload, KernelWorkload) else WHOLE_MODEL


def _known(row: Row[Any], moments: Sequence[datetime]) -> Known:
    """A measurement, stale where one of the moments came after it."""
    found = measurements.known_of(row)
    is_stale = found.measured_at is not None and any(found.measured_at <= one for one in moments)
    return found.model_copy(update={"fresh_generation": found.fresh_generation and not is_stale})


_WISH: Final[Mapping[str, Any]] = {
    "repeats": 1,
    "max_age_s": MAX_AGE_S,
    "min_grade": Grade.C,
    "clock_proof": ClockProof.UNPINNED,
}


def _within(choices: Sequence[_Choice], limit_s: float, pace: float, one_s: float) -> list[_Choice]:
    """As many new ones as the board seconds allow, in order and at the measured pace, and all that cost nothing."""
    found: list[_Choice] = []
    spent_s = 0.0
    is_full = limit_s <= 0
    for one in choices:
        if one.source == ItemSource.NEW:
            cost_s = one.seconds * pace
            is_full = is_full or (spent_s + cost_s > limit_s and (spent_s > 0 or cost_s > one_s))
            if is_full:
                continue
            spent_s += cost_s
        found.append(one)
    return found


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
        AND NOT i.given_up AND (i.purpose = 'holdout') = CAST(:holdouts AS boolean)
""")


def drop(tx: Transaction, adaptation_id: str) -> int:
    """Have nobody measure what waited for an adaptation that has ended, unless others wait for it; how many."""
    return measurements.drop_unwanted(tx, tx.execute(_OPEN_IDS, {"id": adaptation_id}).scalars().all())


_OPEN_IDS = text("""
    SELECT m.id FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
    WHERE i.adaptation_id = CAST(:id AS uuid) AND m.state IN ('wanted', 'leased') ORDER BY m.id
""")


def holdout_workloads(tx: Transaction, adaptation_id: str) -> list[str]:
    """Ids of the workloads that judge it."""
    return [workload_text(digest) for digest in tx.execute(_HOLDOUTS, {"id": adaptation_id}).scalars()]


_HOLDOUTS = text("""
    SELECT DISTINCT w.digest::text FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
        JOIN workloads w ON w.id = m.workload_id
    WHERE i.adaptation_id = CAST(:id AS uuid) AND i.purpose = 'holdout' ORDER BY 1
""")


def given_since(tx: Transaction, platform_id: int, moment: datetime) -> list[str]:
    """Ids of the workloads that judge and were given to adaptations of a platform from a moment on: somebody picked
    them by what answered there."""
    rows = tx.execute(_GIVEN, {"platform": platform_id, "moment": moment})
    return [workload_text(digest) for digest in rows.scalars()]


_GIVEN = text("""
    SELECT DISTINCT w.digest::text FROM adaptations a JOIN adaptation_items i ON i.adaptation_id = a.id
        JOIN measurements m ON m.id = i.measurement_id JOIN workloads w ON w.id = m.workload_id
    WHERE a.platform_id = :platform AND a.created_at >= :moment AND i.purpose = 'holdout'
        AND jsonb_array_length(a.request->'architectures') > 0
    ORDER BY 1
""")


def measured(tx: Transaction, adaptation_id: str) -> AdaptationMeasured:
    """Counts of its measurements."""
    row = tx.execute(_MEASURED, {"id": adaptation_id}).one()
    return AdaptationMeasured.model_validate(row._asdict())


_MEASURED = text("""
    SELECT count(*) FILTER (WHERE NOT judges) AS wanted,
        count(*) FILTER (WHERE NOT judges AND m.state = 'done') AS done,
        count(*) FILTER (WHERE NOT judges AND m.state IN ('failed', 'cancelled')) AS failed,
        count(*) FILTER (WHERE NOT judges AND i.source = 'known') AS known,
        count(*) FILTER (WHERE NOT judges AND m.state = 'done' AND (s.grade = 'D' OR s.normalised_ms IS NULL)) AS rough,
        count(*) FILTER (WHERE judges) AS holdouts,
        count(*) FILTER (WHERE judges AND m.state = 'done') AS holdouts_done,
        (SELECT count(*) FROM adaptation_items g WHERE g.adaptation_id = CAST(:id AS uuid) AND g.given_up) AS given_up
    FROM (
        SELECT measurement_id, source, purpose = 'holdout' AS judges FROM adaptation_items
        WHERE adaptation_id = CAST(:id AS uuid) AND (NOT given_up OR purpose = 'holdout')) i
    JOIN measurements m ON m.id = i.measurement_id
        LEFT JOIN summaries s ON s.measurement_id = m.id AND s.active
""")
