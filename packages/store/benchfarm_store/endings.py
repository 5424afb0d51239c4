"""How leases end: what becomes of their measurements, their boards, and who pays.

A lost lease costs an attempt only for what was running. Everything is locked in the order that `progress`
names, also when many leases end at once.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from datetime import timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Row, text

from benchfarm_core.agent_protocol import ReleaseRequest
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import BoardState
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemState
from benchfarm_core.leases import pays_attempt
from benchfarm_core.measurements import MeasurementState, Timing, Tries, Verdict, after_failure, rests_s
from benchfarm_core.messages import AHEAD_MAX_S, Nudge, Task, TaskMessage, agent_channel
from benchfarm_core.platforms import Platform
from benchfarm_core.protocols import COMPARE, PROFILE
from benchfarm_store import accounts, adaptation_budgets, board_history, measurements, progress, support
from benchfarm_store.board_history import Happened, agent_author
from benchfarm_store.database import Prepared, Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.measurements import ENDED_FREE, HAS_BEGUN, took_s
from benchfarm_store.pairs import IS_UPLOAD

COOLING_S: Final[dict[str, float]] = {
    "gate": 10.0,
    "error": 5.0,
    "board_lost": 10.0,
    "board_gone": 10.0,
    "unanswered": 5.0,
    "ailing": 10.0,
}
"""How long a board rests after a lease that ended so: the same offer at once would end the same way. After further
leases in a row that ended as ailing it rests longer, by `rests_s`: a disk that is full waits for a person. After a
noisy one it rests as its caller says, who knows how long what is tried again rests."""


def expire(tx: Transaction, board_id: str | None) -> int:
    """End the leases and offers that ran out, of one board or of all; returns how many.

    Boards that another transaction holds are left to it.
    """
    boards = tx.execute(_EXPIRED_BOARDS, {"board": board_id, "now": tx.now}).scalars().all()
    leases = tx.execute(_EXPIRED, {"boards": list(boards), "now": tx.now}).all() if boards else []
    if leases:
        end_all(tx, leases, "expired", lost=True)
    return len(leases)


_EXPIRED_BOARDS = text("""
    SELECT b.id FROM boards b WHERE (CAST(:board AS text) IS NULL OR b.public_id = :board) AND b.id IN (
        SELECT l.board_id FROM leases l WHERE l.ended_at IS NULL AND l.expires_at <= :now)
    ORDER BY b.id FOR NO KEY UPDATE SKIP LOCKED
""")
_EXPIRED = text("""
    SELECT id, board_id, agent_id, queue_id, accepted_at FROM leases
    WHERE board_id = ANY(CAST(:boards AS int[])) AND ended_at IS NULL AND expires_at <= :now
    ORDER BY id FOR NO KEY UPDATE
""")


def end_of_board(tx: Transaction, board: int, reason: str) -> None:
    """End the live lease of a held board, free of charge."""
    leases = tx.execute(_LIVE_OF_BOARDS, {"boards": [board]}).all()
    if leases:
        end_all(tx, leases, reason, lost=False)
        tx.after_commit(Nudge(channel=agent_channel(leases[0].agent_id)))


def end_of_process(tx: Transaction, boards: Sequence[int]) -> None:
    """End the live leases of held boards whose agent process is gone: what was running pays, as on expiry."""
    leases = tx.execute(_LIVE_OF_BOARDS, {"boards": list(boards)}).all()
    if leases:
        end_all(tx, leases, "agent_restarted", lost=True)


def end_of_lost_boards(tx: Transaction, boards: Sequence[int]) -> None:
    """End the live leases of held boards that are gone: what was running pays, where nothing was nobody does.

    The farm's own reason: an agent that gives such a board back as `board_lost` is told that it comes too late.
    """
    leases = tx.execute(_LIVE_OF_BOARDS, {"boards": list(boards)}).all() if boards else []
    if leases:
        end_all(tx, leases, "board_gone", lost=True)
    for agent_id in {lease.agent_id for lease in leases}:
        tx.after_commit(Nudge(channel=agent_channel(agent_id)))


_LIVE_OF_BOARDS = text("""
    SELECT id, board_id, agent_id, queue_id, accepted_at FROM leases
    WHERE board_id = ANY(CAST(:boards AS int[])) AND ended_at IS NULL ORDER BY id FOR NO KEY UPDATE
""")


def end_all(
    tx: Transaction,
    leases: Sequence[Row[Any]],
    reason: str,
    *,
    lost: bool,
    told: ReleaseRequest | None = None,
    are_jobs_held: bool = False,
    dispatches: bool = True,
    rest_s: float | None = None,
) -> None:
    """End held leases of held boards: return or fail what is unfinished, free the boards, charge.

    `lost` makes what was running pay an attempt; a lease that was never accepted is an offer that lapsed. `told`: what
    the agent says of it. `are_jobs_held`: by `progress.lock_jobs_of`. `dispatches`: whether a worker is to look after
    boards that are idle now; else the caller does. `rest_s`: how long the boards rest, 0 for not at all; None: as
    `COOLING_S` has it.
    """
    ids = [lease.id for lease in leases]
    boards = {lease.id: lease.board_id for lease in leases}
    said = told or ReleaseRequest(reason="done")
    notes = (said.conversion_ms, said.lease_wall_ms, said.detail, said.gate_ms)
    ended = tx.execute_prepared(_END, ids, tx.now, reason, *notes, told is not None).all()
    rows = tx.execute_prepared(_UNFINISHED, ids).all()
    loss = _LOSSES.get(reason, FailureCode.LEASE_LOST) if lost else None
    verdicts = {row.id: _verdict(row, boards[row.lease_id], loss) for row in rows}
    if not are_jobs_held:
        waiting = progress.waiting_jobs(tx, list(verdicts)) if verdicts else []
        progress.lock_jobs(tx, [*waiting, *tx.execute(_PAYING_JOBS, {"ids": ids}).scalars()])
    if verdicts:
        _return(tx, verdicts)
    unanswered = {lease.board_id for lease in leases if lost and lease.accepted_at is None}
    _free_boards(tx, set(boards.values()) - unanswered, reason, rest_s, dispatches=dispatches)
    _free_boards(tx, unanswered, "unanswered", dispatches=dispatches)
    _charge(tx, [row for row in ended if row.was_accepted])
    _count_failed(tx, verdicts)
    if any(row.is_adapted for row in ended):
        adaptation_budgets.keep(tx, [lease.queue_id for lease in leases])


# Found dead late, a lease ended when it ran out: nobody measured while nobody looked. Whose time it was is told with
# it. A lease that came with the end of another, accepted in the instant of its offer, and of which nobody ever said a
# word costs nothing: the answer that named it was lost, and no board worked on it. Nor does one that ended free, nor
# what a lease waited at its gate, as far as it was told by then.
_END = Prepared(
    "ending_end",
    "bigint[], timestamptz, text, float8, float8, text, float8, boolean",
    f"""
    UPDATE leases l SET ended_at = least($2, expires_at), end_reason = $3, conversion_ms = $4, lease_wall_ms = $5,
        detail = $6, gate_ms = greatest(l.gate_ms, $7)
    WHERE id = ANY($1) AND ended_at IS NULL
    RETURNING l.id, accepted_at IS NOT NULL AS was_accepted,
        {took_s()} AS board_s,
        (SELECT account_id FROM queues WHERE id = l.queue_id) AS account_id,
        ($8 OR l.accepted_at > l.offered_at) AND NOT {ENDED_FREE} OR {HAS_BEGUN} AS is_charged,
        EXISTS (
            SELECT FROM queues q JOIN adaptations a ON a.platform_id = q.platform_id AND a.finished_at IS NULL
            WHERE q.id = l.queue_id OFFSET 0) AS is_adapted
    """,
)
_UNFINISHED = Prepared(
    "ending_unfinished",
    "bigint[]",
    """
    SELECT m.id, m.lease_id, m.attempts, m.losses, m.inconclusive, m.noisy, l.running_measurement_id = m.id AS running
    FROM leases l JOIN lease_items i ON i.lease_id = l.id
        JOIN measurements m ON m.id = i.measurement_id AND m.lease_id = l.id AND m.state = 'leased'
    WHERE l.id = ANY($1) AND m.id = ANY(ARRAY(SELECT measurement_id FROM lease_items WHERE lease_id = ANY($1)))
    ORDER BY m.id FOR NO KEY UPDATE OF m
    """,
)
_PAYING_JOBS = text("""
    SELECT DISTINCT j.job_id::text FROM lease_items i
    JOIN job_items j ON j.measurement_id = i.measurement_id AND j.source = 'new'
    WHERE i.lease_id = ANY(CAST(:ids AS bigint[])) AND i.started_at IS NOT NULL
""")

Avoid = int | None
"""The board that the next attempt should not go to, where another one could take it."""


_LOSSES: Final = {"board_gone": FailureCode.BOARD_LOST}
"""What was running failed with, where it is not `lease_lost`."""


def _verdict(row: Row[Any], board: int, loss: FailureCode | None) -> tuple[Verdict, Avoid]:
    """What becomes of an unfinished measurement; `loss`: how the lease was lost, None where it was not."""
    tries = Tries(row.attempts, row.losses, row.inconclusive, row.noisy)
    if loss is not None and pays_attempt(lost=True, running=bool(row.running)):
        return after_failure(loss, tries), board
    return Verdict(state=MeasurementState.WANTED, tries=tries), None


def _count_failed(tx: Transaction, verdicts: Mapping[int, tuple[Verdict, Avoid]]) -> None:
    """What failed because it took its boards along is an outcome of its family too, platform by platform.

    Comparisons are none, nor are times in situ: nobody knows which kernel of a carrier it was.
    """
    failed = [id_ for id_, (verdict, _) in verdicts.items() if verdict.state == MeasurementState.FAILED]
    rows = tx.execute(_FAILED, {"ids": failed}).all() if failed else []
    for _, here in groupby(rows, key=attrgetter("platform_id")):
        found = list(here)
        attempts = [
            support.Attempt(row.id, str(verdicts[row.id][0].failure), row.family, row.protocol == PROFILE)
            for row in found
            if row.timing == Timing.ALONE and row.protocol != COMPARE
        ]
        support.count(tx, Platform.model_validate(found[0].platform), attempts)


_FAILED = text("""
    SELECT m.id, w.family, m.timing, m.platform_id, p.spec AS platform, t.spec->>'name' AS protocol
    FROM measurements m JOIN workloads w ON w.id = m.workload_id JOIN platforms p ON p.id = m.platform_id
        JOIN protocols t ON t.id = m.protocol_id
    WHERE m.id = ANY(CAST(:ids AS bigint[])) ORDER BY m.platform_id
""")


def _failed(measurement_id: int, verdict: Verdict) -> progress.Finished:
    return progress.Finished(
        measurement_id=measurement_id, state=ItemState.FAILED, failure=verdict.failure, reason=verdict.reason[:300]
    )


def write_verdicts(tx: Transaction, verdicts: dict[int, tuple[Verdict, Avoid]]) -> None:
    """Write verdicts on held measurements; jobs are told by the caller."""
    rows = [
        {
            "id": id_,
            "state": verdict.state,
            **verdict.tries._asdict(),
            "failure": verdict.failure,
            "detail": verdict.reason[:300] or None,
            "avoid": avoid,
        }
        for id_, (verdict, avoid) in verdicts.items()
    ]
    if rows:
        tx.execute(_WRITE_VERDICTS, {"rows": rows_json(rows)})


_WRITE_VERDICTS = text("""
    UPDATE measurements m SET state = x.state, attempts = x.attempts,
        losses = x.losses, inconclusive = x.inconclusive, noisy = x.noisy, failure = x.failure,
        detail = coalesce(x.detail, m.detail), avoid_board_id = coalesce(x.avoid, m.avoid_board_id)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(id bigint, state text, attempts smallint, losses smallint,
        inconclusive smallint, noisy smallint, failure text, detail text, avoid int)
    WHERE m.id = x.id AND m.state = 'leased'
""")


def _return(tx: Transaction, verdicts: dict[int, tuple[Verdict, Avoid]]) -> None:
    """What is unfinished is wanted again, has failed, or is wanted by nobody."""
    write_verdicts(tx, verdicts)
    failed = [_failed(id_, v) for id_, (v, _) in verdicts.items() if v.state == MeasurementState.FAILED]
    progress.advance(tx, failed, are_jobs_held=True)
    wanted = [id_ for id_, (v, _) in verdicts.items() if v.state == MeasurementState.WANTED]
    if wanted:
        measurements.drop_unwanted(tx, wanted)


def _free_boards(
    tx: Transaction, boards: Set[int], reason: str, rest_s: float | None = None, *, dispatches: bool
) -> None:
    """Boards of ended leases: idle, resting after what would only repeat, offline when their agent drains."""
    if not boards:
        return
    if rest_s is None:
        rest_s = _ailing_s(tx, boards) if reason == "ailing" else COOLING_S.get(reason)
    state = BoardState.OFFLINE if reason == "drain" else BoardState.COOLING if rest_s else BoardState.IDLE
    until = tx.now + timedelta(seconds=rest_s) if rest_s else None
    freed = tx.execute_prepared(_FREE, sorted(boards), state, until).all()
    if state == BoardState.OFFLINE:
        happened = [
            Happened(row.id, BoardEventKind.OFFLINE, agent_author(row.agent_id), reason="its agent drains")
            for row in freed
        ]
        board_history.record(tx, happened)
    elif rest_s or dispatches:
        dispatch_later(tx, [row.public_id for row in freed], rest_s or 0.0)


def dispatch_later(tx: Transaction, boards: Sequence[str], after_s: float) -> None:
    """Have a worker look after boards when a rest has ended; after a long one the next sweep is soon enough."""
    if after_s <= AHEAD_MAX_S:
        for board in boards:
            tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(board,), after_s=after_s))


def _ailing_s(tx: Transaction, boards: Set[int]) -> float:
    """How long the board of a lease that has just ended as ailing rests, by how many of its latest ones did.

    Those with uploads are none of them: over a stranger's file his agent's child may have died.
    """
    rests = rests_s(COOLING_S["ailing"])
    (board,) = boards
    in_a_row = int(tx.execute(_AILING, {"board": board, "latest": len(rests)}).scalar_one())
    return rests[max(in_a_row - 1, 0)]


_AILING = text(f"""
    SELECT count(*) FROM (
        SELECT bool_and(l.end_reason = 'ailing' AND NOT EXISTS (
            SELECT FROM lease_items i JOIN measurements m ON m.id = i.measurement_id
                JOIN workloads w ON w.id = m.workload_id
            WHERE i.lease_id = l.id AND {IS_UPLOAD})) OVER (ORDER BY l.id DESC) AS is_in_a_row
        FROM (SELECT id, end_reason FROM leases WHERE board_id = :board ORDER BY id DESC LIMIT :latest) l) x
    WHERE is_in_a_row
""")
_FREE = Prepared(
    "ending_free",
    "int[], text, timestamptz",
    """
    UPDATE boards SET state = $2, cooling_until = $3
    WHERE id = ANY($1) AND state = 'leased' RETURNING id, public_id, agent_id
    """,
)


def _charge(tx: Transaction, ended: Sequence[Row[Any]]) -> None:
    """Charge the board seconds of accepted leases to jobs by the share of their new measurements, and to accounts."""
    seconds = {lease.id: lease.board_s for lease in ended}
    if not seconds:
        return
    rows = rows_json([{"id": id_, "s": device_s} for id_, device_s in seconds.items()])
    tx.execute_prepared(_CHARGE_JOBS, rows)
    by_account: dict[int, float] = defaultdict(float)
    for row in ended:
        if row.is_charged:
            by_account[row.account_id] += row.board_s
    for account in sorted(by_account):
        accounts.charge(tx, account, by_account[account])


# what ran shares the time by its expected length; a lease of which nothing ran is no job's. LATERAL with OFFSET 0: each
# is looked up, where Postgres, which expects a hundred leases, would read all measurements and items there are
_CHARGE_JOBS = Prepared(
    "ending_charge_jobs",
    "jsonb",
    """
    WITH ran AS (
        SELECT i.measurement_id AS id, x.s * m.expected_s / sum(m.expected_s) OVER (PARTITION BY x.id) AS device_s
        FROM jsonb_to_recordset($1) AS x(id bigint, s float8)
        CROSS JOIN LATERAL (
            SELECT measurement_id FROM lease_items WHERE lease_id = x.id AND started_at IS NOT NULL OFFSET 0) i
        CROSS JOIN LATERAL (SELECT expected_s FROM measurements WHERE id = i.measurement_id OFFSET 0) m),
    shares AS (
        SELECT j.job_id, sum(ran.device_s) AS device_s FROM ran
        CROSS JOIN LATERAL (
            SELECT job_id FROM job_items WHERE measurement_id = ran.id AND source = 'new' OFFSET 0) j
        GROUP BY j.job_id)
    UPDATE jobs SET device_s_spent = device_s_spent + shares.device_s FROM shares WHERE jobs.id = shares.job_id
    """,
)
