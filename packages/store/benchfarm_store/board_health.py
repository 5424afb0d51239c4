"""The golden suite: wanted when it is due, judged when it has ended, shown to people.

A run's measurements take the normal way to their board and back; no other board takes them. The worker looks here at
every tick. One transaction at a time does: a second one finds the advisory lock taken and leaves.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, insert, text

from benchfarm_core.board_health import (
    BUDGET_S,
    CANARIES,
    DAY_S,
    GOLDEN_SUITE,
    HISTORY_MAX,
    KEPT,
    LAPSE_S,
    LATELY_S,
    PLATFORM_S,
    GoldenChoice,
    GoldenOutcome,
    GoldenReason,
    GoldenRunView,
    GoldenTime,
    GoldenTimeView,
    Judgement,
    LastGolden,
    SpreadRow,
    golden_platforms,
    is_out,
    judge,
    left_out_text,
    spread_row,
    why_due,
)
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import BOOT
from benchfarm_core.errors import NotFound
from benchfarm_core.jobs import Page, PriorityClass
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.planning import expected_s
from benchfarm_core.platforms import ClockProof, Platform
from benchfarm_core.protocols import GOLDEN
from benchfarm_store import board_history, boards, cursors, measurements, specs
from benchfarm_store.agents import IS_ONLINE
from benchfarm_store.board_history import Happened
from benchfarm_store.database import Database, Transaction
from benchfarm_store.encodings import CLOCK_PROOFS, clock_level, priority_number, rows_json
from benchfarm_store.tables import golden_runs

LOCK: Final = 0x676F6C64
"""The advisory lock of whoever looks after the runs."""
ACCOUNT: Final = "golden-suite"
"""Charged with the suite's time on boards; nobody has a token of it unless an administrator makes one."""
MAX_BOARDS: Final = 20
"""Whose runs one look begins, and ends; the next look takes the others."""
SPREAD_RUNS: Final = 5
"""The latest runs of each unit of which the typical time is taken."""


def look_after(database: Database, *, every_s: float) -> tuple[int, int]:
    """Give up what waits for too long, judge the runs that have ended, begin those that are due, each in a transaction
    of its own; how many were judged and begun. Safe at any time and twice.
    """
    with database.transaction() as tx:
        tx.execute(_CANCEL_LAPSED, {"now": tx.now})
    with database.transaction() as tx:
        ended = end_runs(tx)
    with database.transaction() as tx:
        return ended, begin_runs(tx, every_s)


def _is_alone(tx: Transaction) -> bool:
    return bool(tx.execute(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": LOCK}).scalar_one())


def begin_runs(tx: Transaction, every_s: float) -> int:
    """Want the suite's measurements on the boards where it is due; on how many.

    Boards that turn out to have no time for it keep no others waiting.
    """
    begun = 0
    seen: list[int] = []
    rows = _may_be_due(tx, every_s, seen) if _is_alone(tx) else []
    while rows and begun < MAX_BOARDS:
        for board in rows:
            reason = _why_due(tx, board, every_s)
            begun += reason is not None and _begin(tx, board, reason)
        seen += [board.id for board in rows]
        rows = _may_be_due(tx, every_s, seen)
    return begun


def _may_be_due(tx: Transaction, every_s: float, seen: Sequence[int]) -> Sequence[Row[Any]]:
    parameters = {"now": tx.now, "every": every_s, "limit": MAX_BOARDS, "seen": list(seen)}
    return tx.execute(_MAY_BE_DUE, parameters).all()


def _why_due(tx: Transaction, board: Row[Any], every_s: float) -> GoldenReason | None:
    last = None
    if board.wanted_at is not None:
        last = LastGolden(board.wanted_at, board.ended_at, board.last_generation, board.last_boot_id, board.outcome)
    return why_due(
        last,
        generation_id=board.generation_id,
        boot_id=board.boot_id,
        released_at=board.released_at,
        now=tx.now,
        every_s=every_s,
    )


# boards with marks are left out: their times say nothing of any board. What looks again at a drift is not of the
# day's budget.
_MAY_BE_DUE = text(f"""
    SELECT b.id, b.public_id, b.generation_id, coalesce(b.facts->>'{BOOT}', '') AS boot_id, last.wanted_at,
        last.ended_at, last.generation_id AS last_generation, last.boot_id AS last_boot_id, last.outcome,
        released.at AS released_at, {BUDGET_S} - spent.board_s AS left_s
    FROM boards b JOIN agents a ON a.id = b.agent_id
    LEFT JOIN LATERAL (
        SELECT * FROM golden_runs WHERE board_id = b.id ORDER BY wanted_at DESC LIMIT 1) last ON true
    CROSS JOIN LATERAL (
        SELECT max(at) AS at FROM health_changes WHERE board_id = b.id AND to_health = 'good') released
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(board_s), 0) AS board_s FROM golden_runs
        WHERE board_id = b.id AND wanted_at > :now - interval '{DAY_S} seconds' AND reason <> 'again') spent
    WHERE {IS_ONLINE} AND b.health IN ('good', 'suspect') AND b.marks = '[]' AND b.generation_id IS NOT NULL
        AND b.id <> ALL(CAST(:seen AS int[]))
        AND (spent.board_s < {BUDGET_S} OR last.outcome IN ('drifted', 'lapsed'))
        AND (last.id IS NULL OR last.ended_at IS NOT NULL) AND EXISTS (
            SELECT FROM board_platforms o JOIN platforms p ON p.id = o.platform_id
            WHERE o.board_id = b.id AND p.wanted_by_id IS NULL)
        AND (last.id IS NULL OR last.generation_id <> b.generation_id
            OR last.boot_id <> coalesce(b.facts->>'{BOOT}', '') OR released.at > last.wanted_at
            OR last.outcome IN ('drifted', 'lapsed') OR last.wanted_at <= :now - make_interval(secs => :every))
    ORDER BY last.wanted_at NULLS FIRST, b.id LIMIT :limit FOR NO KEY UPDATE OF b SKIP LOCKED
""")


def _begin(tx: Transaction, board: Row[Any], reason: GoldenReason) -> bool:
    """Want one run's measurements; whether the board offers a platform that its day has time for."""
    rows = tx.execute(_OFFERED, {"board": board.id, "since": tx.now - timedelta(seconds=LATELY_S)}).all()
    offered = {row.id: Platform.model_validate(row.spec) for row in rows}
    took_s = {row.id: row.took_s for row in rows if row.took_s is not None}
    drifted = _drifted(tx, board, offered) if reason == GoldenReason.AGAIN else []
    choice = GoldenChoice(drifted, []) if drifted else golden_platforms(offered, took_s, board.left_s)
    if not choice.chosen:
        return False
    columns = {
        "board_id": board.id,
        "generation_id": board.generation_id,
        "reason": reason,
        "boot_id": board.boot_id,
        "wanted_at": tx.now,
        "detail": left_out_text((offered[id_].engine.name, took_s.get(id_, PLATFORM_S)) for id_ in choice.too_slow),
    }
    run: int = tx.execute(insert(golden_runs).values(**columns).returning(golden_runs.c.id)).scalar_one()
    wanted = _want(tx, board.id, choice.chosen)
    tx.execute(_ADD_TIMES, {"run": run, "rows": rows_json(wanted)})
    tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(board.public_id,)))
    return True


# what a platform took is what its launches took: waiting at the gate and converting say nothing of the board
_OFFERED = text("""
    SELECT p.id, p.spec, last.took_s FROM board_platforms o JOIN platforms p ON p.id = o.platform_id
    LEFT JOIN LATERAL (
        SELECT (
            SELECT sum((v.evidence->>'wall_ms')::float8) / 1000 FROM launches v WHERE v.lease_id IN (
                SELECT m.lease_id FROM golden_times t JOIN measurements m ON m.id = t.measurement_id
                WHERE t.run_id = r.id AND t.platform_id = p.id)) AS took_s
        FROM golden_runs r
        WHERE r.board_id = o.board_id AND r.ended_at IS NOT NULL AND r.wanted_at > :since AND EXISTS (
            SELECT FROM golden_times t WHERE t.run_id = r.id AND t.platform_id = p.id)
        ORDER BY r.wanted_at DESC LIMIT 1) last ON true
    WHERE o.board_id = :board AND p.wanted_by_id IS NULL
""")


def _drifted(tx: Transaction, board: Row[Any], offered: Mapping[int, Platform]) -> list[int]:
    """The platforms on which the latest run that could be compared drifted, and that the board still offers."""
    parameters = {"board": board.id, "generation": board.generation_id, "since": board.released_at}
    run = tx.execute(_COMPARED, parameters).one_or_none()
    if run is None or run.outcome != GoldenOutcome.DRIFTED:
        return []
    judged = _judge(tx, run, _read(tx, run), _since(tx, run))
    return [id_ for id_, one in judged.items() if one.outcome == GoldenOutcome.DRIFTED and id_ in offered]


_COMPARED = text("""
    SELECT id, board_id, generation_id, outcome FROM golden_runs
    WHERE board_id = :board AND generation_id = :generation AND outcome IN ('steady', 'drifted')
        AND (CAST(:since AS timestamptz) IS NULL OR wanted_at > :since)
    ORDER BY wanted_at DESC LIMIT 1
""")
_ADD_TIMES = text("""
    INSERT INTO golden_times (run_id, platform_id, name, measurement_id)
    SELECT :run, platform, name, measurement
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(platform int, name text, measurement bigint)
""")


def _want(tx: Transaction, board_id: int, platform_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The wanted measurements of one run: platform, name in the suite and measurement of each."""
    account = _account(tx)
    resolved = specs.resolve_workloads(tx, list(GOLDEN_SUITE.values()), account, field="suite")
    workloads = specs.ensure_workloads(tx, resolved)
    protocol_id = specs.ensure_protocol(tx, GOLDEN)
    keys = {id_: (id_, protocol_id, account, priority_number(PriorityClass.NORMAL)) for id_ in platform_ids}
    queues = measurements.ensure_queues(tx, list(keys.values()))
    parameters = {"protocol": protocol_id, "workloads": workloads, "platforms": list(platform_ids)}
    last = {(row.workload_id, row.platform_id): row.repeat_no for row in tx.execute(_REPEATS, parameters)}
    names = dict(zip(workloads, GOLDEN_SUITE, strict=True))
    seconds = {w: expected_s(GOLDEN, one.cost, None) for w, one in zip(workloads, resolved, strict=True)}
    rows = [
        {"w": w, "p": p, "r": last.get((w, p), -1) + 1, "q": queues[keys[p]], "s": seconds[w]}
        for p in platform_ids
        for w in workloads
    ]
    made = measurements.add_wanted(
        tx,
        rows,
        protocol_id=protocol_id,
        timing=Timing.ALONE,
        clock_need=clock_level(ClockProof.UNPINNED),
        purpose=Purpose.GOLDEN,
        only_board=board_id,
    )
    return [{"platform": p, "name": names[w], "measurement": id_} for (w, p, _), id_ in made.items()]


# one probe of the index per pair, however many years there are
_REPEATS = text("""
    SELECT w AS workload_id, p AS platform_id, last.repeat_no
    FROM unnest(CAST(:workloads AS bigint[])) w CROSS JOIN unnest(CAST(:platforms AS int[])) p
    CROSS JOIN LATERAL (
        SELECT repeat_no FROM measurements
        WHERE workload_id = w AND platform_id = p AND protocol_id = :protocol AND timing = 'alone'
        ORDER BY repeat_no DESC LIMIT 1) last
""")


def _account(tx: Transaction) -> int:
    """The account that the suite is charged to, made where it is missing."""
    tx.execute(_ADD_ACCOUNT, {"name": ACCOUNT, "now": tx.now})
    return int(tx.execute(text("SELECT id FROM accounts WHERE name = :name"), {"name": ACCOUNT}).scalar_one())


_ADD_ACCOUNT = text("""
    INSERT INTO accounts (name, quota_pending_items, quota_active_jobs, quota_stored_bytes, device_s_at, created_at)
    SELECT :name, 1, 1, 1, :now, :now WHERE NOT EXISTS (SELECT FROM accounts WHERE name = :name)
    ON CONFLICT DO NOTHING
""")


def end_runs(tx: Transaction) -> int:
    """Judge the runs that have ended; how many. A board that another transaction holds is left to the next look."""
    runs = tx.execute(_ENDED, {"limit": MAX_BOARDS}).all() if _is_alone(tx) else []
    for run in runs:
        _end(tx, run)
    return len(runs)


_CANCEL_LAPSED = text(f"""
    UPDATE measurements SET state = 'cancelled' WHERE id IN (
        SELECT m.id FROM golden_runs r JOIN golden_times t ON t.run_id = r.id
            JOIN measurements m ON m.id = t.measurement_id AND m.state = 'wanted'
        WHERE r.ended_at IS NULL AND r.wanted_at <= :now - interval '{LAPSE_S} seconds'
        ORDER BY m.id FOR NO KEY UPDATE OF m SKIP LOCKED)
""")
_ENDED = text("""
    SELECT r.id, r.board_id, r.generation_id, r.detail, b.health
    FROM golden_runs r JOIN boards b ON b.id = r.board_id
    WHERE r.ended_at IS NULL AND NOT EXISTS (
        SELECT FROM golden_times t JOIN measurements m ON m.id = t.measurement_id
        WHERE t.run_id = r.id AND m.state IN ('wanted', 'leased'))
    ORDER BY r.board_id LIMIT :limit FOR NO KEY UPDATE OF b SKIP LOCKED
""")


def _end(tx: Transaction, run: Row[Any]) -> None:
    seen = _read(tx, run)
    _keep(tx, run.id, seen.times)
    since = _since(tx, run)
    found = _worst(list(_judge(tx, run, seen, since).values()), seen)
    outcome, reason = str(found.outcome), "; ".join(filter(None, (found.detail, run.detail)))[:300]
    columns = {"id": run.id, "now": tx.now, "outcome": outcome, "drift": found.share, "detail": reason}
    tx.execute(_END, {**columns, "board_s": seen.board_s})
    board_history.record(
        tx, [Happened(run.board_id, BoardEventKind.GOLDEN, board_history.FARM, after=outcome, reason=reason)]
    )
    outcomes = tx.execute(_OUTCOMES, {"board": run.board_id, "generation": run.generation_id, "since": since})
    if found.outcome == GoldenOutcome.DRIFTED and is_out([GoldenOutcome(one) for one in outcomes.scalars()]):
        row = tx.execute(text("SELECT id, health FROM boards WHERE id = :id"), {"id": run.board_id}).one()
        boards.quarantine(tx, row, f"golden suite drifted twice: {found.detail}"[:300])


def _judge(tx: Transaction, run: Row[Any], seen: "_Seen", since: datetime) -> dict[int, Judgement]:
    """What a run says of each platform, in the platforms' order."""
    return {
        platform_id: judge(times, _history(tx, run, platform_id, since), seen.proofs[platform_id])
        for platform_id, times in sorted(seen.times.items())
    }


_END = text("""
    UPDATE golden_runs SET ended_at = :now, outcome = :outcome, drift = :drift, detail = :detail, board_s = :board_s
    WHERE id = :id
""")
_OUTCOMES = text("""
    SELECT outcome FROM golden_runs
    WHERE board_id = :board AND generation_id = :generation AND wanted_at > :since AND outcome IS NOT NULL
    ORDER BY wanted_at DESC LIMIT 10
""")


class _Seen(NamedTuple):
    """What a run brought: its times and the clock's weakest proof by platform, and what it took of the board."""

    times: dict[int, dict[str, GoldenTime]]
    proofs: dict[int, ClockProof]
    board_s: float
    cancelled: int


def _read(tx: Transaction, run: Row[Any]) -> _Seen:
    """A run's results. What was measured of another generation is none of it."""
    rows = tx.execute(_RESULTS, {"run": run.id, "generation": run.generation_id}).all()
    times: dict[int, dict[str, GoldenTime]] = defaultdict(dict)
    proofs: dict[int, int] = {}
    for row in rows:
        if row.median_ms is not None:
            floor_ms = row.normalised_ms or row.median_ms
            times[row.platform_id][row.name] = GoldenTime(floor_ms, row.median_ms, row.spread)
            proofs[row.platform_id] = min(row.clock_proof, proofs.get(row.platform_id, row.clock_proof))
    leases = tx.execute(_LEASES, {"run": run.id, "generation": run.generation_id}).all()
    for lease in leases:
        if lease.platform_id in times:
            times[lease.platform_id] |= _canaries(lease)
    board_s = sum(lease.board_s * max(1, lease.tries) for lease in leases)
    known = {platform_id: CLOCK_PROOFS[level] for platform_id, level in proofs.items()}
    return _Seen(times, known, board_s, sum(row.state == "cancelled" for row in rows))


def _canaries(lease: Row[Any]) -> dict[str, GoldenTime]:
    floors = zip(CANARIES, (lease.sgemm_ns, lease.mobilenet_ns), strict=True)
    return {name: GoldenTime(ns / 1e6, ns / 1e6) for name, ns in floors if ns is not None}


_RESULTS = text("""
    SELECT t.platform_id, t.name, m.state, s.normalised_ms, s.median_ms, s.spread, s.clock_proof
    FROM golden_times t JOIN measurements m ON m.id = t.measurement_id
    LEFT JOIN results r ON r.measurement_id = m.id AND r.generation_id = :generation
    LEFT JOIN summaries s ON s.measurement_id = r.measurement_id AND s.active
    WHERE t.run_id = :run
""")
# Launches say what a lease took of the board; where it told none, it is the lease without its conversions and what it
# waited at its gate. An attempt that came to nothing took about as long as the last one.
_LEASES = text("""
    SELECT q.platform_id, min(l.sgemm_ns) FILTER (WHERE l.generation_id = :generation) AS sgemm_ns,
        min(l.mobilenet_ns) FILTER (WHERE l.generation_id = :generation) AS mobilenet_ns,
        coalesce(sum(coalesce(
            (SELECT sum((v.evidence->>'wall_ms')::float8) / 1000 FROM launches v WHERE v.lease_id = l.id),
            greatest(0, extract(epoch FROM l.ended_at - l.accepted_at) - (l.conversion_ms + l.gate_ms) / 1000))),
            0)::float8 AS board_s, max(x.tries) AS tries
    FROM (
        SELECT m.lease_id, max(m.attempts + m.inconclusive) AS tries
        FROM golden_times t JOIN measurements m ON m.id = t.measurement_id
        WHERE t.run_id = :run AND m.lease_id IS NOT NULL GROUP BY m.lease_id) x
    JOIN leases l ON l.id = x.lease_id JOIN queues q ON q.id = l.queue_id GROUP BY q.platform_id
""")


def _keep(tx: Transaction, run: int, times: Mapping[int, Mapping[str, GoldenTime]]) -> None:
    rows = [
        {"platform": p, "name": name, "floor": one.floor_ms, "median": one.median_ms, "spread": one.spread}
        for p, named in times.items()
        for name, one in named.items()
    ]
    if rows:
        tx.execute(_KEEP, {"run": run, "rows": rows_json(rows)})


_KEEP = text("""
    INSERT INTO golden_times AS g (run_id, platform_id, name, normalised_ms, median_ms, spread)
    SELECT :run, platform, name, floor, median, spread
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(platform int, name text, floor float8, median float8,
        spread real)
    ON CONFLICT (run_id, platform_id, name) DO UPDATE SET normalised_ms = excluded.normalised_ms,
        median_ms = excluded.median_ms, spread = excluded.spread
""")


def _since(tx: Transaction, run: Row[Any]) -> datetime:
    """From when on a board is compared with itself: a person who releases it says that it is good as it is."""
    found: datetime | None = tx.execute(_RELEASED, {"board": run.board_id}).scalar()
    return found or tx.now - timedelta(days=36_500)


_RELEASED = text("SELECT max(at) FROM health_changes WHERE board_id = :board AND to_health = 'good'")


def _history(tx: Transaction, run: Row[Any], platform_id: int, since: datetime) -> list[dict[str, GoldenTime]]:
    """The times of earlier runs on a platform, by run."""
    parameters = {
        "board": run.board_id,
        "generation": run.generation_id,
        "since": since,
        "platform": platform_id,
        "kept": sorted(KEPT),
        "limit": HISTORY_MAX,
    }
    runs: dict[int, dict[str, GoldenTime]] = defaultdict(dict)
    for row in tx.execute(_HISTORY, parameters):
        runs[row.run_id][row.name] = GoldenTime(row.normalised_ms, row.median_ms, row.spread)
    return list(runs.values())


_HISTORY = text("""
    SELECT t.run_id, t.name, t.normalised_ms, t.median_ms, t.spread
    FROM (
        SELECT id FROM golden_runs
        WHERE board_id = :board AND generation_id = :generation AND wanted_at > :since AND outcome = ANY(:kept)
        ORDER BY wanted_at DESC LIMIT :limit) r
    JOIN golden_times t ON t.run_id = r.id AND t.platform_id = :platform AND t.normalised_ms IS NOT NULL
""")

_WEIGHTS: Final = (GoldenOutcome.FAILED, GoldenOutcome.BEGUN, GoldenOutcome.STEADY, GoldenOutcome.DRIFTED)


def _worst(judged: Sequence[Judgement], seen: _Seen) -> Judgement:
    """What a run says as a whole: one platform that drifted speaks for the board."""
    if not judged:
        given_up = Judgement(GoldenOutcome.LAPSED, None, "the board had no moment for it")
        return given_up if seen.cancelled else judge({}, (), ClockProof.UNPINNED)
    return max(judged, key=lambda one: (_WEIGHTS.index(one.outcome), abs(one.share or 0.0)))


def list_runs(tx: Transaction, board: str, *, cursor: str | None = None, limit: int = 100) -> Page[GoldenRunView]:
    """A board's golden runs, newest first. Raises NotFound."""
    before = cursors.decode("golden", cursor, int)[0] if cursor else None
    parameters = {"board": board_history.board_row(tx, board), "before": before, "limit": limit + 1}
    rows = tx.execute(_RUNS, parameters).all()
    times: dict[int, list[GoldenTimeView]] = defaultdict(list)
    for row in tx.execute(_TIMES, {"runs": [row.id for row in rows[:limit]]}):
        times[row.run_id].append(GoldenTimeView.model_validate(row._asdict()))
    return cursors.page(rows, limit, lambda row: _run(row, times[row.id]), lambda row: cursors.encode("golden", row.id))


_RUNS = text("""
    SELECT r.*, g.name AS generation FROM golden_runs r JOIN generations g ON g.id = r.generation_id
    WHERE r.board_id = :board AND (CAST(:before AS bigint) IS NULL OR r.id < :before) ORDER BY r.id DESC LIMIT :limit
""")
_TIMES = text("""
    SELECT t.run_id, p.key AS platform, t.name, t.normalised_ms, t.median_ms, t.spread
    FROM golden_times t JOIN platforms p ON p.id = t.platform_id
    WHERE t.run_id = ANY(CAST(:runs AS bigint[])) ORDER BY p.key, t.name
""")


def _run(row: Row[Any], times: list[GoldenTimeView]) -> GoldenRunView:
    return GoldenRunView.model_validate({**row._asdict(), "times": times})


def list_spread(tx: Transaction, board_model: str) -> list[SpreadRow]:
    """How the units of a board model differ, by platform and name. Raises NotFound for an unknown model.

    Each unit's time is the median of its latest runs in its present generation; retired units are left out.
    """
    model = {"model": board_model.replace("\x00", "")}
    if tx.execute(text("SELECT 1 FROM boards WHERE board_model = :model LIMIT 1"), model).scalar() is None:
        raise NotFound("no board is of this model")
    found: dict[tuple[str, str], list[tuple[str, float, int]]] = defaultdict(list)
    for row in tx.execute(_UNITS, {**model, "runs": SPREAD_RUNS}):
        found[row.platform, row.name].append((row.board, median(row.times), len(row.times)))
    return [spread_row(platform, name, units) for (platform, name), units in sorted(found.items())]


_UNITS = text("""
    SELECT p.key AS platform, t.name, b.public_id AS board, array_agg(t.normalised_ms) AS times
    FROM boards b
    CROSS JOIN LATERAL (
        SELECT id FROM golden_runs WHERE board_id = b.id AND generation_id = b.generation_id AND ended_at IS NOT NULL
        ORDER BY wanted_at DESC LIMIT :runs) r
    JOIN golden_times t ON t.run_id = r.id AND t.normalised_ms IS NOT NULL
    JOIN platforms p ON p.id = t.platform_id
    WHERE b.board_model = :model AND b.health <> 'retired'
    GROUP BY p.key, t.name, b.public_id ORDER BY b.public_id
""")
