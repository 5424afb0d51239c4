"""Measurements: what is known of a workload on a platform, what is wanted, and what nobody wants any more."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row, text

from benchfarm_core.boards import is_single_use
from benchfarm_core.leases import FREE_ENDS
from benchfarm_core.measurements import MeasurementState, Purpose, Timing
from benchfarm_core.messages import Nudge, agent_channel
from benchfarm_core.planning import Known
from benchfarm_store.comparisons import GRADE_OF_COMPARISON
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import CLOCK_PROOFS, rows_json

# OFFSET 0: a few measurements are looked up one by one. Without it Postgres may read all items there are for them.
_IS_JOINED: Final = """
    (EXISTS (SELECT FROM job_items wi WHERE wi.measurement_id = m.id AND wi.state = 'pending' OFFSET 0)
        OR EXISTS (
            SELECT FROM adaptation_items wa JOIN adaptations w ON w.id = wa.adaptation_id AND w.finished_at IS NULL
            WHERE wa.measurement_id = m.id AND NOT wa.given_up OFFSET 0))
"""
_IS_OF_FARM: Final = """
    (m.purpose <> 'job' AND NOT EXISTS (
        SELECT FROM adaptation_items wn WHERE wn.measurement_id = m.id AND wn.source = 'new' OFFSET 0))
"""
IS_WANTED: Final = f"({_IS_JOINED} OR {_IS_OF_FARM})"
"""Whether anybody waits for a measurement `m`: a job, an adaptation, or the farm itself, which made it for neither.
Whatever it was made for, whoever joined it keeps it."""
OF_LEASE: Final = "ARRAY(SELECT measurement_id FROM lease_items WHERE lease_id = $1)"
"""The ids of a lease's measurements. Said beside a join with them, for Postgres would rather read all measurements in
order than look these up where it knows little of what was leased."""
HAS_BEGUN: Final = "EXISTS (SELECT FROM lease_items b WHERE b.lease_id = l.id AND b.started_at IS NOT NULL OFFSET 0)"
"""Whether any measurement of a lease `l` has begun."""
ENDED_FREE: Final = "(l.end_reason IN ({}))".format(", ".join(f"'{reason}'" for reason in FREE_ENDS))
"""Whether a lease `l` ended so that it cost nothing, if nothing of it had begun; NULL while it goes on."""
IS_AGAIN: Final = f"(m.purpose = 'holdout' AND {_IS_OF_FARM} AND NOT {_IS_JOINED})"
"""Whether a measurement `m` is a hold-out that only a refresh wants again (`refreshes.want_holdouts_again`)."""


def took_s(ended_at: str = "l.ended_at") -> str:
    """SQL for the board seconds of a lease `l`: its length, without what it waited at a gate that opened in the end."""
    return f"greatest(0, extract(epoch FROM {ended_at} - l.accepted_at) - l.gate_ms / 1000)::float8"


def rests_until(rests: str) -> str:
    """SQL for when any board may try a measurement `m` again that failed in a lease `l` which could begin no launch.

    rests: SQL for the array of how long it rests, attempt by attempt (`rests_s`).
    """
    return f"l.ended_at + make_interval(secs => ({rests})[least(m.attempts, cardinality({rests}))])"


def find_known(
    tx: Transaction, groups: Sequence[tuple[int, int]], protocol_id: int, timing: Timing
) -> dict[int, list[Row[Any]]]:
    """All measurements of (workload row, platform row) groups under a protocol and timing, by the group's index."""
    found: dict[int, list[Row[Any]]] = {}
    rows = rows_json([{"g": g, "w": w, "p": p} for g, (w, p) in enumerate(groups)])
    for row in tx.execute(_KNOWN, {"groups": rows, "protocol": protocol_id, "timing": timing}):
        found.setdefault(row.g, []).append(row)
    return found


_KNOWN = text(f"""
    SELECT x.g, m.id, m.repeat_no, m.state, r.measured_at, s.median_ms,
        coalesce(s.grade, CASE WHEN c.verdict IS NOT NULL THEN {GRADE_OF_COMPARISON} END) AS grade,
        coalesce(s.clock_proof, c.clock_proof) AS clock_proof,
        coalesce(b.generation_id = r.generation_id, false) AS fresh, p.key AS platform
    FROM jsonb_to_recordset(CAST(:groups AS jsonb)) AS x(g int, w bigint, p int)
    JOIN measurements m ON m.workload_id = x.w AND m.platform_id = x.p AND m.protocol_id = :protocol
        AND m.timing = :timing
    JOIN platforms p ON p.id = m.platform_id
    LEFT JOIN results r ON r.measurement_id = m.id
    LEFT JOIN summaries s ON s.measurement_id = m.id AND s.active
    LEFT JOIN comparisons c ON c.measurement_id = m.id
    LEFT JOIN generations g ON g.id = r.generation_id
    LEFT JOIN boards b ON b.id = g.board_id
""")


def known_of(row: Row[Any]) -> Known:
    """A row of `find_known` as the planning rule sees it."""
    return Known(
        measurement_id=row.id,
        repeat_no=row.repeat_no,
        state=MeasurementState(row.state),
        measured_at=row.measured_at,
        grade=row.grade,
        clock_proof=None if row.clock_proof is None else CLOCK_PROOFS[row.clock_proof],
        fresh_generation=row.fresh,
        is_single_use=is_single_use(row.platform),
    )


QueueKey = tuple[int, int, int, int]
"""Platform, protocol, account and priority number of a queue."""


def ensure_queues(tx: Transaction, wanted: Sequence[QueueKey]) -> dict[QueueKey, int]:
    """Rows of queues, made where they are missing. Waits for whoever makes one of them now."""
    if not wanted:
        return {}
    names = ("platform_id", "protocol_id", "account_id", "priority")
    rows = rows_json([dict(zip(names, queue, strict=True)) for queue in sorted(set(wanted))])
    found = _queues(tx, rows)
    if len(found) < len(set(wanted)):
        tx.execute(_ADD_QUEUES, {"rows": rows})
        found = _queues(tx, rows)
    return found


def _queues(tx: Transaction, rows: str) -> dict[QueueKey, int]:
    found = tx.execute(_FIND_QUEUES, {"rows": rows})
    return {(row.platform_id, row.protocol_id, row.account_id, row.priority): row.id for row in found}


_QUEUE_ROWS = """
    jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(platform_id int, protocol_id int, account_id int, priority int)
"""
_FIND_QUEUES = text(f"""
    SELECT q.* FROM {_QUEUE_ROWS} JOIN queues q USING (platform_id, protocol_id, account_id, priority)
""")
_ADD_QUEUES = text(f"""
    INSERT INTO queues (platform_id, protocol_id, account_id, priority)
    SELECT platform_id, protocol_id, account_id, priority FROM {_QUEUE_ROWS} ON CONFLICT DO NOTHING
""")


def add_wanted(
    tx: Transaction,
    rows: Sequence[dict[str, Any]],
    *,
    protocol_id: int,
    timing: Timing,
    clock_need: int,
    purpose: Purpose = Purpose.JOB,
    only_board: int | None = None,
) -> dict[tuple[int, int, int], int]:
    """Make wanted measurements; returns (workload, platform, repeat) -> id of those that did not exist.

    With `only_board` (its row) no other board takes them.

    Rows hold `w`, `p`, `r`, `q` (queue) and `s` (expected board seconds). They are inserted in identity
    order, so that two planners with the same wishes wait for each other and never both.
    """
    wish = {"protocol": protocol_id, "timing": timing, "need": clock_need, "purpose": purpose, "board": only_board}
    parameters = {"rows": rows_json(rows), **wish, "now": tx.now}
    made = tx.execute(_ADD, parameters)
    return {(row.workload_id, row.platform_id, row.repeat_no): row.id for row in made}


_ADD = text("""
    INSERT INTO measurements (workload_id, platform_id, protocol_id, queue_id, wanted_at, expected_s, repeat_no,
        clock_need, timing, state, purpose, only_board_id)
    SELECT w, p, :protocol, q, :now, s, r, :need, :timing, 'wanted', :purpose, CAST(:board AS int)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(w bigint, p int, r int, q int, s real)
    ORDER BY w, p, r ON CONFLICT DO NOTHING RETURNING id, workload_id, platform_id, repeat_no
""")


def raised_queues(tx: Transaction, ids: Sequence[int], *, priority: int) -> list[QueueKey]:
    """The queues that measurements of a lower priority move to when a job joins them. Nothing is held."""
    if not ids:
        return []
    rows = tx.execute(_LOWER, {"ids": list(ids), "priority": priority})
    return [(row.platform_id, row.protocol_id, row.account_id, priority) for row in rows]


_LOWER = text("""
    SELECT DISTINCT m.platform_id, m.protocol_id, q.account_id FROM measurements m JOIN queues q ON q.id = m.queue_id
    WHERE m.id = ANY(CAST(:ids AS bigint[])) AND q.priority < :priority
""")


def lock_joined(
    tx: Transaction, ids: Sequence[int], queues: Mapping[QueueKey, int], *, priority: int, clock_need: int
) -> dict[int, Row[Any]]:
    """Hold measurements that a job joins, in id order; waiting ones inherit the higher wish.

    `queues` holds at least those of `raised_queues`; a measurement's priority only ever rises.
    """
    if not ids:
        return {}
    rows = {row.id: row for row in tx.execute(_LOCK, {"ids": list(ids)})}
    raised = [
        row
        for row in rows.values()
        if row.state == MeasurementState.WANTED and (row.priority < priority or row.clock_need < clock_need)
    ]
    if raised:
        changes = [{"id": row.id, "q": _queue(row, queues, priority)} for row in raised]
        tx.execute(_RAISE, {"rows": rows_json(changes), "need": clock_need})
    return rows


def _queue(row: Row[Any], queues: Mapping[QueueKey, int], priority: int) -> int:
    if row.priority >= priority:
        return int(row.queue_id)
    return queues[row.platform_id, row.protocol_id, row.account_id, priority]


_LOCK = text("""
    SELECT m.id, m.state, m.failure, m.detail, m.clock_need, m.platform_id, m.protocol_id, m.queue_id, q.account_id,
        q.priority, p.key AS platform
    FROM measurements m JOIN queues q ON q.id = m.queue_id JOIN platforms p ON p.id = m.platform_id
    WHERE m.id = ANY(CAST(:ids AS bigint[])) ORDER BY m.id FOR NO KEY UPDATE OF m
""")
_RAISE = text("""
    UPDATE measurements m SET queue_id = x.q, clock_need = greatest(m.clock_need, :need)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(id bigint, q int) WHERE m.id = x.id
""")


def drop_unwanted(tx: Transaction, ids: Sequence[int]) -> int:
    """Cancel waiting measurements that nobody waits for; running ones are told to their agents.

    Never waits for a lock: what another transaction holds is looked at again by dispatch. The second
    statement has its own snapshot, so items linked just before the lock was taken are seen.
    """
    wanted = list(ids)
    held = tx.execute(_HOLD_WANTED, {"ids": wanted}).scalars().all()
    dropped = tx.execute(_DROP, {"ids": list(held)}).rowcount if held else 0
    for agent_id in tx.execute(_RUNNING_AGENTS, {"ids": wanted}).scalars():
        tx.after_commit(Nudge(channel=agent_channel(agent_id)))
    return dropped


def cancel_again(tx: Transaction, ids: Sequence[int]) -> int:
    """Cancel hold-outs that only a refresh wants again, of waiting ones that the transaction holds; how many. It is a
    statement of its own, so that who joined one just before it was held is seen."""
    return tx.execute(_CANCEL_AGAIN, {"ids": list(ids)}).rowcount if ids else 0


_CANCEL_AGAIN = text(f"""
    UPDATE measurements m SET state = 'cancelled'
    WHERE m.id = ANY(CAST(:ids AS bigint[])) AND m.state = 'wanted' AND {IS_AGAIN}
""")
_HOLD_WANTED = text("""
    SELECT id FROM measurements WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'wanted'
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
""")
_DROP = text(f"""
    UPDATE measurements m SET state = 'cancelled'
    WHERE m.id = ANY(CAST(:ids AS bigint[])) AND m.state = 'wanted' AND NOT {IS_WANTED}
""")
_RUNNING_AGENTS = text("""
    SELECT DISTINCT l.agent_id FROM measurements m JOIN leases l ON l.id = m.lease_id
    WHERE m.id = ANY(CAST(:ids AS bigint[])) AND m.state = 'leased'
""")
