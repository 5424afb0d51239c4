"""Dispatch: what a board does next. One board at a time, under its row's lock."""

import math
import secrets
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, text

from benchfarm_core.boards import BoardState, is_online
from benchfarm_core.leases import LeaseTimes, lease_ends, offer_ends
from benchfarm_core.measurements import MOMENTARY_CODES, Timing, rests_s, runs_alone
from benchfarm_core.messages import Nudge, agent_channel
from benchfarm_core.scheduling import Candidate, Group, choose_group, decay, fill_batch, is_full
from benchfarm_store import endings
from benchfarm_store.agents import IS_ONLINE, heard_s
from benchfarm_store.database import Prepared, Transaction
from benchfarm_store.encodings import lease_column
from benchfarm_store.measurements import IS_WANTED, rests_until
from benchfarm_store.pairs import IS_UPLOAD
from benchfarm_store.timings import ALL_TIME_IN_SITU, TIMES_IN_SITU

CANDIDATES: Final = (32, 400)
"""Rows looked at, at first and when those do not fill a batch; the shortest take tens of milliseconds each."""
DISPATCH_LOCK: Final = 0x64697370
"""The first half of the advisory locks of dispatch; the second stands for a board model."""


def dispatch(tx: Transaction, board_id: str, times: LeaseTimes, *, taken_by: str | None = None) -> str | None:
    """Offer the board its next batch; the lease token, or None when there is nothing to offer.

    `taken_by`: the agent that has asked for it and takes what there is, so that the lease starts at once; None where
    the board is another agent's. A board that another transaction holds is left to it. Safe to run at any time and
    twice.
    """
    board = _take_board(tx, board_id)
    if board is None or not _is_usable(tx, board) or taken_by not in (None, board.agent_id):
        return None
    groups = _groups(tx, board)
    while (group := _choose(tx, board, groups)) is not None:
        if batch := _take_batch(tx, board, group, times):
            return _offer(tx, board, group, batch, times, is_taken=taken_by is not None)
        groups.remove(group)
    return None


def _choose(tx: Transaction, board: Row[Any], groups: Sequence[Group]) -> Group | None:
    since = board.platform_since
    stayed_s = math.inf if since is None else (tx.now - since).total_seconds()
    return choose_group(groups, current_platform_id=board.platform_id, stayed_s=stayed_s)


def _take_board(tx: Transaction, board_id: str) -> Row[Any] | None:
    """The board's row, held, with the turn of its board model: boards of other models share no queue with it.

    Without turns, rows that one dispatcher merely looks at would seem taken to the others.
    """
    board = tx.execute_prepared(_TAKE, board_id, DISPATCH_LOCK).one_or_none()
    if board is not None and board.state == BoardState.LEASED and endings.expire(tx, board_id):
        board = tx.execute_prepared(_TAKE, board_id, DISPATCH_LOCK).one_or_none()
    return board


# boards of which every engine times in situ need not be asked for single platforms
_TAKE = Prepared(
    "dispatch_take",
    "text, int",
    f"""
    SELECT {ALL_TIME_IN_SITU} AS times_in_situ,
        b.id, b.public_id, b.agent_id, b.state, b.health, b.clock_proof, b.generation_id, b.platform_id,
        b.platform_since, b.cooling_until, a.last_heard_at, pg_advisory_xact_lock($2, hashtext(b.board_model))
    FROM boards b JOIN agents a ON a.id = b.agent_id
    WHERE b.public_id = $1 FOR NO KEY UPDATE OF b SKIP LOCKED
    """,
)


def _is_usable(tx: Transaction, board: Row[Any]) -> bool:
    online = is_online(board.state, heard_s(board.last_heard_at, tx.now))
    rested = board.state == BoardState.COOLING and board.cooling_until is not None and board.cooling_until <= tx.now
    return online and board.health in ("good", "suspect") and (board.state == BoardState.IDLE or rested)


def _groups(tx: Transaction, board: Row[Any]) -> list[Group]:
    rows: Sequence[Any] = tx.execute_prepared(_QUEUES, board.id, board.clock_proof, tx.now).all()
    return [
        Group(queue_id, platform_id, rank, waited_s, decay(device_s, since_s))
        for queue_id, platform_id, rank, waited_s, device_s, since_s in rows
    ]


# Steps over the partial index from queue to queue, the oldest row of each: one in which nothing waits costs nothing,
# and there are as many as ever were. The oldest that this board's clock suffices for is sought only where the oldest
# of all asks for more. Times come as numbers, which the driver reads faster.
_QUEUES = Prepared(
    "dispatch_queues",
    "int, int, timestamptz",
    """
    WITH RECURSIVE heads AS (
        SELECT o.platform_id, m.* FROM board_platforms o
        CROSS JOIN LATERAL (
            SELECT queue_id, wanted_at, clock_need FROM measurements
            WHERE platform_id = o.platform_id AND state = 'wanted'
            ORDER BY queue_id, wanted_at, id LIMIT 1) m
        WHERE o.board_id = $1
        UNION ALL
        SELECT h.platform_id, m.* FROM heads h
        CROSS JOIN LATERAL (
            SELECT queue_id, wanted_at, clock_need FROM measurements
            WHERE platform_id = h.platform_id AND state = 'wanted' AND queue_id > h.queue_id
            ORDER BY queue_id, wanted_at, id LIMIT 1) m)
    SELECT h.queue_id, h.platform_id, q.priority, extract(epoch FROM $3 - m.wanted_at)::float8, a.device_s,
        extract(epoch FROM $3 - a.device_s_at)::float8
    FROM heads h
    CROSS JOIN LATERAL (SELECT account_id, priority FROM queues WHERE id = h.queue_id OFFSET 0) q
    JOIN accounts a ON a.id = q.account_id
    CROSS JOIN LATERAL (
        SELECT h.wanted_at WHERE h.clock_need <= $2
        UNION ALL (
            SELECT wanted_at FROM measurements
            WHERE h.clock_need > $2 AND platform_id = h.platform_id AND queue_id = h.queue_id AND state = 'wanted'
                AND clock_need <= $2
            ORDER BY wanted_at, id LIMIT 1)) m
    """,
)


def _take_batch(tx: Transaction, board: Row[Any], group: Group, times: LeaseTimes) -> list[int]:
    """Hold the head of a queue and choose from it."""
    batch: list[int] = []
    for limit in CANDIDATES:
        wanted = (group.platform_id, group.queue_id, board.clock_proof, board.id)
        prepared = _candidates(tx, board, group)[limit]
        rows = tx.execute_prepared(prepared, *wanted, tx.now, list(rests_s(times.retry_s))).all()
        candidates = [_candidate(row) for row in _not_avoiding(tx, board, group, _still_wanted(tx, rows))]
        batch = fill_batch(candidates)
        if len(rows) < limit or is_full(candidates, batch):
            break
    return batch


def _candidate(row: Row[Any]) -> Candidate:
    return Candidate(row.id, row.expected_s, runs_alone(row.losses), row.uploaded, (row.workload_id, row.timing))


# $4 is the board, $5 the time and $6 how long tries let a measurement rest. Another board may take it at once. A lease
# that ended before it came to the measurement leaves no outcome of it there: it had rested before that one. What failed
# on a board that could begin no launch rests from all boards: others may be of the same agent, whose disk is full.
_RESTS = f"""
    (m.attempts > 0 AND EXISTS (
        SELECT FROM leases l WHERE l.id = m.lease_id AND l.end_reason = 'ailing'
            AND {rests_until("$6")} > $5 OFFSET 0)
    OR m.inconclusive + m.noisy > 0 AND m.avoid_board_id = $4 AND EXISTS (
        SELECT FROM lease_items i WHERE i.lease_id = m.lease_id AND i.measurement_id = m.id
            AND i.outcome IN ({", ".join(f"'{code}'" for code in sorted(MOMENTARY_CODES))})
            AND i.finished_at + make_interval(secs => $6[least(m.inconclusive + m.noisy, cardinality($6))]) > $5
        OFFSET 0))
"""


def _candidates(tx: Transaction, board: Row[Any], group: Group) -> dict[int, Prepared]:
    """What reads the head of a queue, by limit: where the board does not time in situ on that platform, what is timed
    alone has an index of its own, however much else waits before it."""
    is_able = board.times_in_situ or tx.execute_prepared(_TIMES_IN_SITU, board.id, group.platform_id).scalar_one()
    return _CANDIDATES if is_able else _ALONE


_TIMES_IN_SITU = Prepared(
    "dispatch_times_in_situ",
    "int, int",
    f"SELECT {TIMES_IN_SITU} AS able FROM boards b, platforms p WHERE b.id = $1 AND p.id = $2",
)


def _candidates_within(limit: int, name: str = "candidates", timings: str = "true") -> Prepared:
    """The head of a queue. The limit stands in the statement: one that Postgres does not know it takes for a tenth.

    What rests from this board is passed over, however much it is.
    """
    return Prepared(
        f"dispatch_{name}_{limit}",
        "int, int, int, int, timestamptz, float8[]",
        f"""
        SELECT m.id, m.expected_s, m.losses, m.timing, m.workload_id,
            CASE WHEN m.only_board_id IS NULL THEN m.avoid_board_id END AS avoid_board_id,
            (SELECT {IS_UPLOAD} FROM workloads w WHERE w.id = m.workload_id) AS uploaded,
            {IS_WANTED} AS wanted
        FROM measurements m WHERE m.platform_id = $1 AND m.queue_id = $2 AND m.state = 'wanted' AND m.clock_need <= $3
            AND (m.only_board_id IS NULL OR m.only_board_id = $4)
            AND {timings} AND NOT {_RESTS}
        ORDER BY m.wanted_at, m.id LIMIT {limit} FOR NO KEY UPDATE OF m SKIP LOCKED
        """,
    )


_CANDIDATES = {limit: _candidates_within(limit) for limit in CANDIDATES}
_ALONE = {limit: _candidates_within(limit, "alone", "m.timing = 'alone'") for limit in CANDIDATES}


def _still_wanted(tx: Transaction, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Without those that nobody wants any more: they are cancelled in passing.

    An item may have been linked between the statement's snapshot and its locks, so a second statement decides.
    """
    doubtful = [row.id for row in rows if not row.wanted]
    gone = set(tx.execute(_CANCEL_UNWANTED, {"ids": doubtful}).scalars()) if doubtful else set()
    return [row for row in rows if row.id not in gone]


_CANCEL_UNWANTED = text(f"""
    UPDATE measurements m SET state = 'cancelled' WHERE m.id = ANY(CAST(:ids AS bigint[])) AND NOT {IS_WANTED}
    RETURNING m.id
""")


def _not_avoiding(tx: Transaction, board: Row[Any], group: Group, rows: list[Row[Any]]) -> list[Row[Any]]:
    """What failed here goes elsewhere, when another board that could take it is there."""
    if all(row.avoid_board_id != board.id for row in rows):
        return rows
    parameters = {"board": board.id, "platform": group.platform_id, "clock": board.clock_proof, "now": tx.now}
    others = tx.execute(_OTHER_BOARDS, parameters).one()
    return [row for row in rows if row.avoid_board_id != board.id or not getattr(others, row.timing)]


_OTHER_BOARDS = text(f"""
    SELECT count(*) > 0 AS {Timing.ALONE}, coalesce(bool_or({TIMES_IN_SITU}), false) AS {Timing.IN_SITU}
    FROM board_platforms o JOIN boards b ON b.id = o.board_id JOIN agents a ON a.id = b.agent_id
        JOIN platforms p ON p.id = o.platform_id
    WHERE o.platform_id = :platform AND b.id <> :board AND b.clock_proof >= :clock
        AND b.health IN ('good', 'suspect') AND {IS_ONLINE}
""")


def _offer(
    tx: Transaction, board: Row[Any], group: Group, batch: Sequence[int], times: LeaseTimes, *, is_taken: bool
) -> str:
    token = "l_" + secrets.token_hex(16)
    tx.execute_prepared(
        _OFFER,
        lease_column(token),
        board.id,
        board.agent_id,
        board.generation_id,
        group.queue_id,
        group.platform_id,
        tx.now,
        lease_ends(tx.now, times) if is_taken else offer_ends(tx.now, times),
        list(batch),
        tx.now if is_taken else None,
    )
    if not is_taken:
        tx.after_commit(Nudge(channel=agent_channel(board.agent_id)))
    return token


_OFFER = Prepared(
    "dispatch_offer",
    "uuid, int, text, int, int, int, timestamptz, timestamptz, bigint[], timestamptz",
    """
    WITH lease AS (
        INSERT INTO leases (token, board_id, agent_id, generation_id, queue_id, offered_at, expires_at, accepted_at)
        VALUES ($1, $2, $3, $4, $5, $7, $8, $10) RETURNING id),
    items AS (
        INSERT INTO lease_items (lease_id, measurement_id, position)
        SELECT lease.id, x.id, x.position - 1 FROM lease, unnest($9) WITH ORDINALITY AS x(id, position)),
    marked AS (
        UPDATE measurements SET state = 'leased', lease_id = lease.id FROM lease
        WHERE measurements.id = ANY($9) AND state = 'wanted')
    UPDATE boards SET state = 'leased', cooling_until = NULL, platform_id = $6,
        platform_since = CASE WHEN platform_id = $6 THEN platform_since ELSE $7 END
    WHERE id = $2
    """,
)


def boards_to_dispatch(tx: Transaction) -> list[str]:
    """Boards that may take work now and for which there is some, or whose lease has expired, in id order."""
    return list(tx.execute(_TO_DISPATCH, {"now": tx.now}).scalars())


# a thousand idle boards without work must not mean a thousand tasks; one probe of the partial index per platform. What
# one board alone may measure is of its golden run, which is found by the board.
_TO_DISPATCH = text(f"""
    WITH busy AS MATERIALIZED (
        SELECT p.id AS platform_id FROM platforms p
        CROSS JOIN LATERAL (
            SELECT FROM measurements WHERE platform_id = p.id AND state = 'wanted' AND only_board_id IS NULL
            LIMIT 1) m)
    SELECT b.public_id FROM boards b JOIN agents a ON a.id = b.agent_id
    WHERE b.state IN ('idle', 'leased', 'cooling') AND b.health IN ('good', 'suspect')
        AND {IS_ONLINE}
        AND CASE WHEN b.state = 'leased' THEN EXISTS (
                SELECT FROM leases l WHERE l.board_id = b.id AND l.ended_at IS NULL AND l.expires_at <= :now)
            ELSE (b.state = 'idle' OR b.cooling_until <= :now) AND (EXISTS (
                SELECT FROM board_platforms o JOIN busy ON busy.platform_id = o.platform_id WHERE o.board_id = b.id)
                OR EXISTS (
                SELECT FROM golden_runs r JOIN golden_times t ON t.run_id = r.id
                    JOIN measurements m ON m.id = t.measurement_id AND m.state = 'wanted'
                WHERE r.board_id = b.id AND r.ended_at IS NULL))
            END
    ORDER BY random()
""")
