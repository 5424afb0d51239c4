"""Which predictors are due to be made anew: by what came since their newest version, whatever became of that.

A version that was refused counts as an attempt, and so does a look that came to nothing: what was seen then is kept, so
that the same rows are not tried twice, and whoever was looked at longest ago comes first.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.adapting import DonorChoice
from benchfarm_core.boards import MARK_PREFIXES, is_single_use
from benchfarm_core.jobs import PriorityClass
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.messages import Task, TaskMessage, TrainingWork
from benchfarm_core.platforms import ClockProof, Platform
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.refreshing import (
    AGAIN_MAX,
    AGAIN_S,
    ATTEMPTS_MAX,
    JUDGES_MIN,
    MADE_WITHIN_S,
    Since,
    may_be_due,
    may_be_judged_again,
)
from benchfarm_core.workloads import WORKLOAD, ArchitectureWorkload, GeneratedModelWorkload, KernelWorkload
from benchfarm_store import measurements, planning, specs
from benchfarm_store.adaptation_items import PROTOCOL
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import clock_level, priority_number
from benchfarm_store.fusions import engine_rules, rules_digest
from benchfarm_store.kernel_lists import is_current
from benchfarm_store.measurements import IS_AGAIN
from benchfarm_store.predictors import CANARIES_NOW
from benchfarm_store.training_rows import TEACHING, teaching

MAX_DUE: Final = 20
"""Platforms that one look asks to look after; the next look takes the others."""
COUNTED_MAX: Final = 1000
"""Results of a subject that one look counts, the newest first: enough to say that it may be due. Whoever makes it anew
reads them all."""
SEARCHED_MAX: Final = 20_000
"""Results of a platform that are searched for a subject that it has no version of, the newest first."""


class Due(NamedTuple):
    """A subject with new results on a platform (its row), since a moment.

    `seen` names what there is to look at. `wanted_at`: when its hold-outs were last wanted again;
    `may_be_judged_again`: whether that is long enough ago. `donors`: whom the platform's latest adaptation could start
    from.
    """

    platform_id: int
    platform: Platform
    subject: str
    since: Since
    made_at: datetime
    seen: str
    wanted_at: datetime | None
    may_be_judged_again: bool
    donors: DonorChoice


def wake(tx: Transaction) -> int:
    """Ask to look after the platforms whose predictors may be due; how many. Hold-outs that no board has measured again
    by then are given up."""
    late = tx.execute(_HOLD_LATE, {"now": tx.now, "again_s": AGAIN_S}).scalars().all()
    measurements.cancel_again(tx, late)
    different = dict.fromkeys(one.row.public_id for one in _found(tx, None))
    found = list(islice(different, MAX_DUE))
    for platform_id in found:
        ask(tx, platform_id)
    return len(found)


# what waits has an index by platform; what another transaction holds is left to the next look
_HOLD_LATE = text(f"""
    SELECT m.id FROM measurements m
    WHERE m.platform_id IN (SELECT platform_id FROM predictor_looks WHERE wanted_at IS NOT NULL)
        AND m.state = 'wanted' AND m.wanted_at <= :now - make_interval(secs => :again_s) AND {IS_AGAIN}
    ORDER BY m.id FOR NO KEY UPDATE OF m SKIP LOCKED
""")


def ask(tx: Transaction, platform: str) -> None:
    """Have one predictor of a platform (its id) looked after, once the transaction has ended."""
    tx.after_commit(TaskMessage(task=Task.TRAIN, args=(TrainingWork.REFRESH, platform)))


def due_on(tx: Transaction, platform: str) -> list[Due]:
    """The subjects of a platform (its id) that may be due, those that were looked at longest ago first."""
    return [_due(tx, one) for one in _found(tx, platform)]


_Rules = dict[tuple[str, str, str], str]
"""Hashes of what engines fuse now, by engine, precision and board model."""


class _Found(NamedTuple):
    """A subject as it stands in the store, and what happened since its newest version."""

    row: Row[Any]
    since: Since


def _found(tx: Transaction, platform: str | None) -> Iterator[_Found]:
    """Those that may be due, on one platform or on all; who wants a few looks no further."""
    own: dict[str, Any] = {"platform": platform, "model": WHOLE_MODEL, "alone": Timing.ALONE}
    own |= {"counted": COUNTED_MAX, "searched": SEARCHED_MAX}
    own |= {"marked": [f"{prefix}%" for prefix in MARK_PREFIXES.values()]}
    rows = tx.execute(_DUE, {**own, **teaching(), "now": tx.now, "again_s": AGAIN_S, "made_s": MADE_WITHIN_S}).all()
    rules: _Rules = {}
    for row in rows:
        one = _Found(row, _since(tx, row, rules))
        if _may_be_due(tx, one):
            yield one


def _may_be_due(tx: Transaction, one: _Found) -> bool:
    row = one.row
    # of single use: what learnt there before boards were marked, or marks meant that, is history
    if row.waits or is_single_use(row.spec["board_model"]) or not may_be_due(one.since):
        return False
    return row.seen != _seen(tx, one) or not (row.is_done or row.attempts >= ATTEMPTS_MAX)


def _due(tx: Transaction, one: _Found) -> Due:
    row = one.row
    donors = DonorChoice(row.donors or DonorChoice.ANY)
    platform, again = Platform.model_validate(row.spec), may_be_judged_again(row.wanted_at, row.again_s, tx.now)
    seen = _seen(tx, one)
    return Due(row.platform_id, platform, row.subject, one.since, row.made_at, seen, row.wanted_at, again, donors)


def _since(tx: Transaction, row: Row[Any], rules: _Rules) -> Since:
    moved = row.canaries / row.canaries_then - 1 if row.canaries and row.canaries_then else 0.0
    return Since(row.learnt, row.new, row.is_other_generation, moved, row.is_first, _has_new_rules(tx, row, rules))


def _has_new_rules(tx: Transaction, row: Row[Any], rules: _Rules) -> bool:
    """Whether kernel lists are made by others than it was: measured again, most rules stay as they are. `rules`: hashes
    of what was looked up before, which many platforms share."""
    if row.rules_at is None or row.rules_then is None:
        return row.rules_at is not None
    platform = Platform.model_validate(row.spec)
    engine = (platform.engine.key, platform.precision, platform.board_model)
    if engine not in rules:
        rules[engine] = rules_digest(engine_rules(tx, platform))
    return bool(row.rules_then != rules[engine])


def _seen(tx: Transaction, one: _Found) -> str:
    row, since = one
    told = [row.made_at, row.newest_at, since.new, since.is_other_generation, since.have_canaries_moved]
    told += [row.rules_at] if since.has_new_rules else []
    # once hold-outs may be measured again there is something else to see
    told += [] if may_be_judged_again(row.wanted_at, row.again_s, tx.now) else ["judged"]
    return " ".join(map(str, told))


# another version of an engine is another platform, which begins without predictors and has a neighbour that knows
_SUBJECTS: Final = """
    SELECT a.platform_id, a.subject, false AS is_first, coalesce(CAST(a.evidence->'rows'->>
            CASE WHEN a.subject = :model THEN 'models' ELSE 'alone' END AS int), 0) AS learnt
    FROM predictors a WHERE a.state = 'active'
    UNION ALL
    SELECT DISTINCT o.id, a.subject, true, 0
    FROM predictors a JOIN platforms p ON p.id = a.platform_id
        JOIN platforms o ON o.id <> p.id
            AND CAST(o.spec AS jsonb) #- '{engine,version}' = CAST(p.spec AS jsonb) #- '{engine,version}'
    WHERE a.state = 'active' AND NOT EXISTS (
        SELECT FROM predictors k WHERE k.platform_id = o.id AND k.subject = a.subject)
"""
_OPEN_HOLDOUTS: Final = """
    EXISTS (SELECT FROM measurements m
        WHERE m.platform_id = p.id AND m.state = 'wanted' AND m.purpose = 'holdout')
    OR EXISTS (SELECT FROM leases c JOIN lease_items i ON i.lease_id = c.id
            JOIN measurements m ON m.id = i.measurement_id
        WHERE c.ended_at IS NULL AND m.platform_id = p.id AND m.state = 'leased' AND m.purpose = 'holdout')
"""
# an adaptation that is under way will make them itself. What fuses may have been measured between a version's rows and
# its publication: where it says by which rules it was made, these are held against those of now
_SAME_ENGINE: Final = """
    ({fused}.engine, {fused}.version) = (p.spec#>>'{{engine,name}}', p.spec#>>'{{engine,version}}')
    AND {fused}.options = substr(split_part(p.key, '/', 3),
        length(p.spec#>>'{{engine,name}}') + length(p.spec#>>'{{engine,version}}') + 2)
    AND {fused}.precision = p.spec->>'precision'
"""
# once for all platforms: the pairs of all engines are tens of thousands of rows
_DUE = text(f"""
    WITH fused AS MATERIALIZED (
        SELECT engine, version, options, precision, board_model, max(measured_at) AS at FROM fusions
        GROUP BY engine, version, options, precision, board_model),
    lent AS MATERIALIZED (
        SELECT engine, version, options, precision, max(at) AS at FROM fused
        WHERE NOT board_model LIKE ANY(CAST(:marked AS text[])) GROUP BY engine, version, options, precision)
    SELECT a.platform_id, p.public_id, p.spec, a.subject, a.is_first, a.learnt, came.new, came.newest_at,
        coalesce(newest.created_at, to_timestamp(0)) AS made_at, newest.canaries AS canaries_then,
        newest.rules AS rules_then,
        {CANARIES_NOW.format(platform="p.id")} AS canaries,
        EXISTS (SELECT FROM board_platforms o JOIN boards b ON b.id = o.board_id
            JOIN generations g ON g.id = b.generation_id
            WHERE o.platform_id = p.id AND g.created_at > newest.created_at) AS is_other_generation,
        rules.rules_at, l.wanted_at, l.again_s, coalesce(l.is_done, false) AS is_done,
        coalesce(l.attempts, 0) AS attempts, l.seen,
        coalesce(l.wanted_at > :now - make_interval(secs => :again_s) AND ({_OPEN_HOLDOUTS}), false) AS waits,
        (SELECT d.request->>'donors' FROM adaptations d WHERE d.platform_id = p.id
            AND (d.state = 'succeeded' OR d.predictors @> '[{{"is_active": true}}]')
            ORDER BY d.id DESC LIMIT 1) AS donors
    FROM ({_SUBJECTS}) a JOIN platforms p ON p.id = a.platform_id
        LEFT JOIN predictor_looks l ON l.platform_id = p.id AND l.subject = a.subject
        LEFT JOIN LATERAL (SELECT v.created_at, v.canaries, v.evidence->>'rules' AS rules FROM predictors v
            WHERE v.platform_id = p.id AND v.subject = a.subject ORDER BY v.version DESC LIMIT 1) newest ON true
        LEFT JOIN fused ON a.subject = :model AND {_SAME_ENGINE.format(fused="fused")}
            AND fused.board_model = split_part(p.key, '/', 1)
        LEFT JOIN lent ON a.subject = :model AND {_SAME_ENGINE.format(fused="lent")}
        CROSS JOIN LATERAL (SELECT max(f.at) AS rules_at FROM (VALUES (fused.at), (lent.at)) f (at)
            WHERE f.at > newest.created_at
                - CASE WHEN newest.rules IS NULL THEN interval '0' ELSE make_interval(secs => :made_s) END) rules
        LEFT JOIN LATERAL (SELECT o.measured_at FROM results o WHERE a.is_first AND o.platform_id = p.id
            ORDER BY o.measured_at DESC OFFSET :searched LIMIT 1) oldest ON true
        CROSS JOIN LATERAL (SELECT count(DISTINCT c.workload_id) AS new, max(c.measured_at) AS newest_at FROM (
            SELECT m.workload_id, r.measured_at {TEACHING}
                AND r.platform_id = p.id
                AND r.measured_at > coalesce(newest.created_at, oldest.measured_at, to_timestamp(0))
                AND CASE WHEN a.subject = :model THEN w.kind IN ('model', 'architecture')
                    ELSE w.kind = 'kernel' AND w.family = a.subject AND m.timing = :alone END
            ORDER BY r.measured_at DESC LIMIT :counted) c) came
    WHERE (CAST(:platform AS text) IS NULL OR p.public_id = :platform) AND NOT EXISTS (
        SELECT FROM adaptations d WHERE d.platform_id = p.id AND d.finished_at IS NULL)
    ORDER BY l.looked_at NULLS FIRST, a.platform_id, a.subject
""")


def begin(tx: Transaction, due: Due) -> None:
    """Say that somebody looks: who dies of it is asked a few times more, and after that only when more has come."""
    tx.execute(_BEGIN, {"platform": due.platform_id, "subject": due.subject, "seen": due.seen, "now": tx.now})


_BEGIN = text("""
    INSERT INTO predictor_looks AS l (platform_id, subject, looked_at, seen, attempts, is_done)
    VALUES (:platform, :subject, :now, :seen, 1, false)
    ON CONFLICT (platform_id, subject) DO UPDATE SET looked_at = excluded.looked_at, seen = excluded.seen,
        attempts = CASE WHEN l.seen = excluded.seen THEN l.attempts ELSE 0 END + 1, is_done = false
""")


def end(tx: Transaction, due: Due) -> None:
    """Say that what was seen needs no other look."""
    tx.execute(_END, {"platform": due.platform_id, "subject": due.subject, "seen": due.seen})


_END = text("""
    UPDATE predictor_looks SET is_done = true
    WHERE platform_id = :platform AND subject = :subject AND seen = :seen
""")


def judge_from(tx: Transaction, due: Due, moment: datetime) -> None:
    """From now on what was measured of a subject until a moment is of another board: hold-outs judge nobody, and rows
    are `training_rows.former_rows`. Write it together with the version that says so."""
    parameters = {"platform": due.platform_id, "subject": due.subject, "from": moment}
    tx.execute(_JUDGE_FROM, parameters)


_JUDGE_FROM = text("""
    UPDATE predictor_looks SET judges_from = greatest(judges_from, :from)
    WHERE platform_id = :platform AND subject = :subject
""")


def want_holdouts_again(tx: Transaction, due: Due) -> int:
    """Have the declared hold-outs of a subject measured again, the same ones each time; how many are wanted.

    They are charged to whoever declared them, and wait behind everything else. Where too few were declared to judge by,
    none is wanted.
    """
    protocol_id = specs.ensure_protocol(tx, PROTOCOL)
    parameters = {"platform": due.platform_id, "subject": due.subject, "protocol": protocol_id, "model": WHOLE_MODEL}
    rows = [row for row in tx.execute(_DECLARED, parameters) if _is_current(row.workload)][:AGAIN_MAX]
    if len(rows) < JUDGES_MIN:
        return 0
    low = priority_number(PriorityClass.LOW)
    keys = {row.w: (due.platform_id, protocol_id, row.account_id, low) for row in rows}
    queues = measurements.ensure_queues(tx, list(keys.values()))
    wanted = [{"w": one.w, "p": due.platform_id, "r": one.r, "q": queues[keys[one.w]], "s": one.s} for one in rows]
    measurements.add_wanted(
        tx,
        wanted,
        protocol_id=protocol_id,
        timing=Timing.ALONE,
        clock_need=clock_level(ClockProof.UNPINNED),
        purpose=Purpose.HOLDOUT,
    )
    cost_s = sum(one.s for one in rows)
    tx.execute(_WANTED, {"platform": due.platform_id, "subject": due.subject, "now": tx.now, "cost_s": cost_s})
    planning.wake_boards(tx, [due.platform_id], len(wanted))
    return len(wanted)


def _is_current(workload: str) -> bool:
    found = WORKLOAD.validate_json(workload)
    return isinstance(found, KernelWorkload | GeneratedModelWorkload | ArchitectureWorkload) and is_current(found)


# waiting is no attempt
_WANTED = text("""
    UPDATE predictor_looks SET wanted_at = :now, again_s = :cost_s, attempts = 0
    WHERE platform_id = :platform AND subject = :subject
""")
_DECLARED = text("""
    SELECT DISTINCT ON (w.digest) w.id AS w, w.spec::text AS workload, m.expected_s AS s, q.account_id,
        (SELECT max(o.repeat_no) + 1 FROM measurements o WHERE o.workload_id = w.id AND o.platform_id = :platform
            AND o.protocol_id = :protocol AND o.timing = 'alone') AS r
    FROM results r JOIN measurements m ON m.id = r.measurement_id AND m.purpose = 'holdout' AND m.timing = 'alone'
            AND m.protocol_id = :protocol
        JOIN workloads w ON w.id = m.workload_id JOIN queues q ON q.id = m.queue_id
    WHERE r.platform_id = :platform AND CASE WHEN :subject = :model THEN w.kind IN ('model', 'architecture')
        ELSE w.kind = 'kernel' AND w.family = :subject END
    ORDER BY w.digest, m.id
""")
