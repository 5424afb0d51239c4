"""What adaptations take of boards, and that they keep within their budgets while a round is measured.

What waits is looked at with every sweep and at the end of every lease: what would not fit any more is given up before a
board takes it. What leases took that have ended is counted once, by the sweep, so that the end of a lease looks at
those that came since, however many others measured there before.
"""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.adapting import PACE_UNKNOWN, PastLease, Running, beyond_limit, limit_s, pace, pace_before
from benchfarm_core.measurements import Purpose
from benchfarm_core.platforms import Platform
from benchfarm_store import measurements
from benchfarm_store.database import Transaction
from benchfarm_store.measurements import ENDED_FREE, HAS_BEGUN, took_s

PAST_LEASES: Final = 100
"""The latest ones of the farm that tell what a lease takes, and as many of the platform itself."""


class Spent(NamedTuple):
    """Board seconds of an adaptation: for what it learnt from, for what judged it, and what the measurements had taken
    that it found done."""

    board_s: float
    holdout_board_s: float
    known_board_s: float


def spent(tx: Transaction, adaptation_id: str) -> Spent:
    """What it took of boards so far: the length of the leases that had its measurements, whosever they were,
    conversions, canaries and lost ones included, not what they waited at their gates, nor those that came to nothing
    there. A lease that others share is split by what each of its measurements was expected to take. What was known
    costs nothing anew and is told apart."""
    ran = _ran(tx, adaptation_id)
    known_s = tx.execute(_KNOWN_SPENT, {"id": adaptation_id, "now": tx.now}).scalar_one()
    return Spent(ran.learnt_s, ran.judged_s, known_s)


# one that ran out and was not found yet ended then
_ENDED: Final = "coalesce(l.ended_at, least(:now, l.expires_at))"
_SHARE: Final = f"""
    {took_s(_ENDED)}
        * m.expected_s::float8 / nullif(sum(m.expected_s::float8) OVER (PARTITION BY l.id), 0)
"""


class _Ran(NamedTuple):
    """What leases took of an adaptation's own measurements: all of them for what teaches and for what judges, those
    that have ended, with the expected seconds of what was done in them, and those that go on, of what teaches alone."""

    learnt_s: float
    judged_s: float
    ended_s: float
    ended_expected_s: float
    live_s: float
    live_expected_s: float


def _ran(tx: Transaction, adaptation_id: str, upto: int | None = None) -> _Ran:
    """One look for all of it: leases end while their rows are held. `upto`: no lease after this one counts."""
    return _Ran._make(tx.execute(_RAN, {"id": adaptation_id, "now": tx.now, "upto": upto}).one())


# every account's queue of the platform: a measurement that it joined is measured in another's. Which of the leases had
# any of its own is told by keys alone; measurements are read of those. Of leases that go on nobody knows what they will
# have measured, nor, before anything has begun, whether they will have cost anything: they may wait at their gates
_RAN = text(f"""
    WITH a AS MATERIALIZED (
        SELECT platform_id, leases_after, created_at, board_s, holdout_board_s, finished_at FROM adaptations
        WHERE id = CAST(:id AS uuid)),
    mine AS MATERIALIZED (
        SELECT measurement_id, purpose = 'holdout' AS judges FROM adaptation_items
        WHERE adaptation_id = CAST(:id AS uuid) AND source <> 'known'),
    had AS MATERIALIZED (
        SELECT l.id, NOT {ENDED_FREE} OR {HAS_BEGUN} AS costs
        FROM a JOIN queues q ON q.platform_id = a.platform_id
            CROSS JOIN LATERAL (
                SELECT * FROM leases WHERE queue_id = q.id AND id > a.leases_after AND accepted_at IS NOT NULL
                    AND (CAST(:upto AS bigint) IS NULL OR id <= CAST(:upto AS bigint)) OFFSET 0) l
        WHERE a.finished_at IS NULL AND {_ENDED} >= a.created_at AND EXISTS (
            SELECT FROM lease_items i
            WHERE i.lease_id = l.id AND i.measurement_id IN (SELECT measurement_id FROM mine) OFFSET 0)),
    ran AS (
        SELECT i.measurement_id, m.expected_s, l.ended_at IS NULL AS goes_on,
            CASE WHEN had.costs THEN {_SHARE} ELSE 0 END AS took_s
        FROM had JOIN leases l ON l.id = had.id
            JOIN lease_items i ON i.lease_id = l.id
            JOIN measurements m ON m.id = i.measurement_id),
    since AS (
        SELECT coalesce(sum(took_s) FILTER (WHERE NOT judges), 0) AS learnt_s,
            coalesce(sum(took_s) FILTER (WHERE judges), 0) AS judged_s,
            coalesce(sum(took_s) FILTER (WHERE NOT goes_on), 0) AS ended_s,
            coalesce(sum(took_s) FILTER (WHERE goes_on AND NOT judges), 0) AS live_s,
            coalesce(sum(expected_s) FILTER (WHERE goes_on AND NOT judges), 0)::float8 AS live_expected_s
        FROM ran JOIN mine USING (measurement_id)),
    done AS (
        SELECT coalesce(sum(m.expected_s::float8), 0) AS expected_s
        FROM mine JOIN measurements m ON m.id = mine.measurement_id AND m.state = 'done'
        WHERE NOT EXISTS (SELECT FROM leases l WHERE l.id = m.lease_id AND l.ended_at IS NULL))
    SELECT a.board_s + since.learnt_s, a.holdout_board_s + since.judged_s,
        a.board_s + a.holdout_board_s + since.ended_s, done.expected_s, since.live_s, since.live_expected_s
    FROM a, since, done
""")


def count_ended(tx: Transaction) -> int:
    """Count what the leases took that have ended, up to the first that goes on, so that nobody looks at them again; of
    how many adaptations. An adaptation that another transaction holds is left to the next sweep.

    What an adaptation joins later is its own from then on: what was lost of it in leases that are counted already is
    not. Leases of one platform are made one after the other (`dispatching`), so that none appears before those that
    are counted; what a bundle brings takes no time.
    """
    rows = tx.execute(_COUNTABLE).all()
    for row in rows:
        ran = _ran(tx, row.id, row.upto)
        counted = {"board_s": ran.learnt_s, "holdout_board_s": ran.judged_s, "upto": row.upto}
        tx.execute(_COUNT, {"id": row.id, **counted})
    return len(rows)


_COUNTABLE = text("""
    SELECT a.id::text AS id, x.upto
    FROM adaptations a CROSS JOIN LATERAL (
        SELECT coalesce(
            (SELECT min(l.id) - 1 FROM (SELECT id, queue_id FROM leases WHERE ended_at IS NULL OFFSET 0) l
                JOIN queues q ON q.id = l.queue_id AND q.platform_id = a.platform_id),
            (SELECT max(l.id) FROM queues q CROSS JOIN LATERAL (
                SELECT id FROM leases WHERE queue_id = q.id ORDER BY id DESC LIMIT 1) l
                WHERE q.platform_id = a.platform_id)) AS upto) x
    WHERE a.finished_at IS NULL AND x.upto > a.leases_after
    ORDER BY a.id FOR NO KEY UPDATE OF a SKIP LOCKED
""")
_COUNT = text("""
    UPDATE adaptations SET board_s = :board_s, holdout_board_s = :holdout_board_s, leases_after = :upto
    WHERE id = CAST(:id AS uuid) AND leases_after < :upto
""")
_KNOWN_SPENT = text(f"""
    WITH known AS (
        SELECT r.measurement_id, r.lease_id
        FROM adaptation_items i JOIN results r ON r.measurement_id = i.measurement_id
        WHERE i.adaptation_id = CAST(:id AS uuid) AND i.source = 'known' AND i.purpose <> 'holdout'),
    ran AS (
        SELECT l.id AS lease_id, i.measurement_id, {_SHARE} AS took_s
        FROM leases l JOIN lease_items i ON i.lease_id = l.id JOIN measurements m ON m.id = i.measurement_id
        WHERE l.id IN (SELECT lease_id FROM known) AND l.accepted_at IS NOT NULL)
    SELECT coalesce(sum(took_s), 0) FROM ran JOIN known USING (lease_id, measurement_id)
""")


class Pace(NamedTuple):
    """Board seconds that one expected second takes, and whether the platform's own leases told so."""

    value: float
    is_known: bool


def pace_of(tx: Transaction, adaptation_id: str, platform_id: int, platform: Platform) -> Pace:
    """The pace of an adaptation's own leases; before there is any, of the latest ones on its platform (its row, and
    itself), or on those that are nearest to it."""
    return _pace(tx, _ran(tx, adaptation_id), platform_id, platform)


def _pace(tx: Transaction, own: _Ran, platform_id: int, platform: Platform) -> Pace:
    if own.ended_s > 0 and own.ended_expected_s > 0:
        return Pace(pace(own.ended_s, own.ended_expected_s, PACE_UNKNOWN), is_known=True)
    engine = {"board_model": platform.board_model, "engine": platform.engine.name}
    rows = tx.execute(_PAST, {"platform": platform_id, "latest": PAST_LEASES, **engine}).all()
    past = [PastLease(row.nearness, row.took_s, row.expected_s) for row in rows]
    is_known = own.ended_s > 0 or any(one.nearness == 0 for one in past)
    return Pace(pace_before(past), is_known)


_PAST = text(f"""
    WITH past AS (
        SELECT l.id, l.queue_id, l.accepted_at, l.ended_at, l.gate_ms FROM (
            SELECT * FROM leases WHERE accepted_at IS NOT NULL AND end_reason = 'done'
            ORDER BY id DESC LIMIT :latest) l
        UNION
        SELECT l.id, l.queue_id, l.accepted_at, l.ended_at, l.gate_ms FROM queues q CROSS JOIN LATERAL (
            SELECT * FROM leases WHERE queue_id = q.id AND accepted_at IS NOT NULL AND end_reason = 'done'
            ORDER BY id DESC LIMIT :latest) l
        WHERE q.platform_id = :platform)
    SELECT CASE WHEN q.platform_id = :platform THEN 0
            WHEN p.spec->'engine'->>'name' <> :engine THEN 3
            WHEN p.spec->>'board_model' = :board_model THEN 1 ELSE 2 END AS nearness,
        {took_s()} AS took_s, x.expected_s
    FROM past l JOIN queues q ON q.id = l.queue_id JOIN platforms p ON p.id = q.platform_id
        JOIN protocols t ON t.id = q.protocol_id AND t.spec->>'name' = 'kernel'
    CROSS JOIN LATERAL (
        SELECT sum(m.expected_s)::float8 AS expected_s FROM lease_items i JOIN measurements m ON m.id = i.measurement_id
        WHERE i.lease_id = l.id AND i.outcome = 'ok') x
    WHERE x.expected_s > 0
""")


def keep(tx: Transaction, queue_ids: Collection[int] | None = None) -> int:
    """Give up what waits for adaptations and does not fit into their budgets any more, on the platforms of some queues
    or everywhere; how many measurements. Never waits for a lock: what a board takes at this moment is left to it.
    """
    queues = None if queue_ids is None else sorted(set(queue_ids))
    return sum(_keep_one(tx, row) for row in tx.execute(_MEASURING, {"queues": queues}).all())


_MEASURING = text("""
    SELECT a.id::text AS id, a.platform_id, a.round, CAST(a.request->>'budget_s' AS float8) AS budget_s, p.spec,
        coalesce(jsonb_array_length(a.request->'architectures'), 0) > 0 AS is_given,
        coalesce((
            SELECT CAST(r.point->>'board_s' AS float8) FROM adaptation_rounds r
            WHERE r.adaptation_id = a.id AND r.round = a.round - 1), 0) AS before_s
    FROM adaptations a JOIN platforms p ON p.id = a.platform_id
    WHERE a.finished_at IS NULL AND a.state IN ('probing', 'measuring')
        AND (CAST(:queues AS int[]) IS NULL
            OR a.platform_id IN (SELECT platform_id FROM queues WHERE id = ANY(CAST(:queues AS int[]))))
    ORDER BY a.id
""")


def _keep_one(tx: Transaction, row: Row[Any]) -> int:
    waiting = [(one.id, one.expected_s) for one in tx.execute(_WAITING, {"id": row.id})]
    if not waiting:
        return 0
    ran = _ran(tx, row.id)
    found = _pace(tx, ran, row.platform_id, Platform.model_validate(row.spec)).value
    running = Running(
        limit_s=limit_s(row.budget_s, row.round, row.before_s, is_given=row.is_given),
        spent_s=ran.learnt_s,
        due_s=max(0.0, found * ran.live_expected_s - ran.live_s),
        pace=found,
        has_begun=ran.live_expected_s > 0 or ran.learnt_s > row.before_s + 1e-6,
    )
    return give_up(tx, row.id, beyond_limit(waiting, running))


_WAITING = text("""
    SELECT m.id, m.expected_s::float8 AS expected_s FROM adaptation_items i
        JOIN measurements m ON m.id = i.measurement_id AND m.state = 'wanted'
    WHERE i.adaptation_id = CAST(:id AS uuid) AND i.purpose <> 'holdout' AND NOT i.given_up
    ORDER BY m.wanted_at, m.id
""")


def give_up(tx: Transaction, adaptation_id: str, measurement_ids: Collection[int]) -> int:
    """Wait no more for some measurements that no board has taken; how many. Nobody measures them unless others wait."""
    if not measurement_ids:
        return 0
    held = tx.execute(_HOLD, {"ids": sorted(measurement_ids)}).scalars().all()
    tx.execute(_GIVE_UP, {"id": adaptation_id, "ids": list(held)})
    measurements.drop_unwanted(tx, held)
    return len(held)


_HOLD = text("""
    SELECT id FROM measurements WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'wanted'
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
""")
_GIVE_UP = text("""
    UPDATE adaptation_items SET given_up = true
    WHERE adaptation_id = CAST(:id AS uuid) AND measurement_id = ANY(CAST(:ids AS bigint[]))
""")


def give_up_holdouts(tx: Transaction, adaptation_id: str) -> int:
    """Wait no more for what judges and has not ended; how many. What a board has now is not waited for either."""
    found = tx.execute(_OPEN_HOLDOUTS, {"id": adaptation_id, "holdout": Purpose.HOLDOUT}).scalars().all()
    tx.execute(_GIVE_UP, {"id": adaptation_id, "ids": list(found)})
    measurements.drop_unwanted(tx, found)
    return len(found)


_OPEN_HOLDOUTS = text("""
    SELECT m.id FROM adaptation_items i JOIN measurements m ON m.id = i.measurement_id
    WHERE i.adaptation_id = CAST(:id AS uuid) AND i.purpose = :holdout AND NOT i.given_up
        AND m.state IN ('wanted', 'leased') ORDER BY m.id
""")
