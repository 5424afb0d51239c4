"""How alike platforms are over the probe set: what is compared, when it is due, and what came of it.

Comparing needs numpy and is the worker's; here are its rows and its results. Both times of a pair are read, compared
and kept in one transaction that holds `hold`, so that no older comparison overwrites a newer one.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.boards import SINGLE_USE_PREFIXES
from benchfarm_core.jobs import Page
from benchfarm_core.measurements import Timing
from benchfarm_core.messages import Task, TaskMessage, TrainingWork
from benchfarm_core.pool import Likeness, LikenessView, MatrixWanted
from benchfarm_core.protocols import PROTOCOLS, purpose_of
from benchfarm_core.quality import RULE_VERSION
from benchfarm_core.summaries import Grade, is_reusable
from benchfarm_store import cursors, platforms, pool_entries
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json, workload_digest, workload_text
from benchfarm_workloads.probes import PROBES_VERSION, probe_set

ANY_LIKENESS: Final = MatrixWanted()
LOCK: Final = 0x6C696B65
"""The advisory lock of whoever compares."""
MAX_DUE: Final = 20
"""Members that one look asks to compare; the next look asks for the others."""


class Probed(NamedTuple):
    """A member of the pool with its times of probes, by workload id and timing, in ms.

    `id` is that of a platform or an entry. `seen`: how many results of a platform these are, and the newest of them.
    """

    id: str
    board_model: str
    times: Mapping[tuple[str, Timing], float]
    seen: tuple[int, Any] = (0, None)


def hold(tx: Transaction) -> bool:
    """Whether this transaction is the only one that compares until its end; it does not wait for another."""
    return bool(tx.execute(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": LOCK}).scalar_one())


def wake(tx: Transaction) -> int:
    """Ask for the comparison of members whose probes are others than those that were compared; how many."""
    due = due_members(tx)[:MAX_DUE]
    for member_id in due:
        tx.after_commit(TaskMessage(task=Task.TRAIN, args=(TrainingWork.LIKEN, member_id)))
    return len(due)


def due_members(tx: Transaction) -> list[str]:
    """The ids of platforms and entries that are to be compared anew."""
    parameters = _probes() | {"version": PROBES_VERSION}
    return list(tx.execute(_DUE, parameters).scalars())


def probed_platforms(tx: Transaction) -> list[Probed]:
    """The platforms of this farm that have results of probes: of each the steadiest, the newest of these.

    As what predictors learn from: graded A to C by the present rule, from boards as they are now, no hold-outs, nothing
    of single use.
    """
    rows: dict[str, list[Row[Any]]] = {}
    for row in tx.execute(_TIMES, _probes()):
        rows.setdefault(row.public_id, []).append(row)
    return [_probed(id_, found) for id_, found in rows.items()]


def _probed(id_: str, rows: Sequence[Row[Any]]) -> Probed:
    return Probed(
        id=id_,
        board_model=rows[0].board_model,
        times={(workload_text(row.digest), Timing(row.timing)): row.normalised_ms for row in rows},
        seen=(len(rows), max(row.measured_at for row in rows)),
    )


def probed_entries(tx: Transaction) -> list[Probed]:
    """The entries of the pool that have times of probes."""
    return [Probed(one.id, one.board_model, one.times) for one in pool_entries.probed(tx) if one.times]


def _probes() -> dict[str, Any]:
    return {
        "digests": [workload_digest(id_) for id_ in probe_set().workload_ids],
        "protocols": [protocol.id for protocol in PROTOCOLS.values() if purpose_of(protocol) == "latency"],
        "rule": RULE_VERSION,
        "grades": [grade for grade in Grade if is_reusable(grade)],
        "single_use": [f"{prefix}%" for prefix in SINGLE_USE_PREFIXES],
    }


# by workload, which the identity of measurements begins with: a few dozen on each platform, however much is measured
_FOUND: Final = """
    SELECT DISTINCT ON (m.platform_id, w.id, m.timing) m.platform_id, w.digest::text AS digest, m.timing,
        s.normalised_ms, r.measured_at
    FROM workloads w
    JOIN measurements m ON m.workload_id = w.id AND m.state = 'done' AND m.origin_id = 1
    JOIN platforms o ON o.id = m.platform_id AND NOT o.key LIKE ANY(CAST(:single_use AS text[]))
    JOIN protocols t ON t.id = m.protocol_id AND t.public_id = ANY(:protocols)
    JOIN results r ON r.measurement_id = m.id
    JOIN summaries s ON s.measurement_id = m.id AND s.active AND s.rule_version = :rule AND s.grade = ANY(:grades)
        AND s.normalised_ms IS NOT NULL
    JOIN generations g ON g.id = r.generation_id
    JOIN boards b ON b.id = g.board_id AND b.generation_id = g.id
    WHERE w.digest = ANY(CAST(:digests AS uuid[]))
        AND NOT EXISTS (SELECT FROM measurements h
            WHERE h.workload_id = w.id AND h.purpose = 'holdout' AND h.state <> 'cancelled')
    ORDER BY m.platform_id, w.id, m.timing, (s.launches >= 3) DESC, r.measured_at DESC, m.id DESC
"""
_TIMES = text(f"""
    SELECT p.public_id, p.spec->>'board_model' AS board_model, f.digest, f.timing, f.normalised_ms, f.measured_at
    FROM ({_FOUND}) f JOIN platforms p ON p.id = f.platform_id ORDER BY p.key
""")
_DUE = text(f"""
    SELECT p.public_id FROM (
        SELECT platform_id, count(*) AS probes, max(measured_at) AS newest_at FROM ({_FOUND}) each_probe
        GROUP BY platform_id) f
    FULL JOIN (
        SELECT * FROM probed_platforms WHERE probes_version = :version AND rule_version = :rule) k USING (platform_id)
    JOIN platforms p ON p.id = platform_id
    WHERE (f.probes, f.newest_at) IS DISTINCT FROM (k.probes, k.newest_at)
    UNION ALL
    SELECT public_id FROM pool_entries WHERE compared_at IS NULL OR probes_version <> :version
    ORDER BY 1
""")


def keep_platform(tx: Transaction, platform: Probed, found: Iterable[Likeness]) -> None:
    """Keep what a platform's comparison came to, as target and as donor; what was kept of it before goes."""
    _replace(tx, platform.id, found)
    count, newest_at = platform.seen
    parameters = {"platform": platform.id, "probes": count, "newest_at": newest_at, "now": tx.now}
    tx.execute(_MARK, parameters | {"version": PROBES_VERSION, "rule": RULE_VERSION})


def keep_entry(tx: Transaction, entry_id: str, found: Iterable[Likeness]) -> None:
    """The same of an entry, which is a donor alone."""
    _replace(tx, entry_id, found)
    pool_entries.mark_compared(tx, entry_id)


def forget_platform(tx: Transaction, platform_id: str) -> None:
    """A platform without results of probes is like nobody. An id that means none changes nothing."""
    _replace(tx, platform_id, ())
    tx.execute(_UNMARK, {"platform": platform_id})


def _replace(tx: Transaction, member_id: str, found: Iterable[Likeness]) -> None:
    tx.execute(_CLEAR, {"member": member_id})
    rows = rows_json([one.model_dump(mode="json") for one in found])
    tx.execute(_ADD, {"rows": rows, "version": PROBES_VERSION, "now": tx.now})


_CLEAR = text("""
    DELETE FROM likenesses WHERE donor = :member OR target_id = (SELECT id FROM platforms WHERE public_id = :member)
""")
_ADD = text("""
    INSERT INTO likenesses (target_id, donor, subject, timing, count, divergence, low, high, spearman,
        log_ratio_variance, is_near, probes_version, compared_at)
    SELECT p.id, x.donor, x.subject, x.timing, x.count, x.divergence, x.low, x.high, x.spearman, x.log_ratio_variance,
        x.is_near, :version, :now
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(target text, donor text, subject text, timing text, count int,
        divergence double precision, low double precision, high double precision, spearman double precision,
        log_ratio_variance double precision, is_near boolean)
    JOIN platforms p ON p.public_id = x.target
""")
_MARK = text("""
    INSERT INTO probed_platforms (platform_id, probes, newest_at, compared_at, probes_version, rule_version)
    SELECT id, :probes, :newest_at, :now, :version, :rule FROM platforms WHERE public_id = :platform
    ON CONFLICT (platform_id) DO UPDATE SET probes = excluded.probes, newest_at = excluded.newest_at,
        compared_at = excluded.compared_at, probes_version = excluded.probes_version,
        rule_version = excluded.rule_version
""")
_UNMARK = text("""
    DELETE FROM probed_platforms WHERE platform_id = (SELECT id FROM platforms WHERE public_id = :platform)
""")


def ranked(
    tx: Transaction, platform_id: int, subject: str, timing: Timing, donors: Collection[str] | None = None
) -> list[Likeness]:
    """What is known of donors of a platform (its row) in one subject, the nearest first; `donors`: of these alone."""
    parameters = {
        "target": platform_id,
        "subject": subject,
        "timing": timing,
        "version": PROBES_VERSION,
        "donors": None if donors is None else sorted(donors),
    }
    return [Likeness.model_validate(row._asdict()) for row in tx.execute(_RANKED, parameters)]


_RANKED = text("""
    SELECT l.donor, p.public_id AS target, l.subject, l.timing, l.divergence, l.low, l.high, l.spearman,
        l.log_ratio_variance, l.count, l.is_near
    FROM likenesses l JOIN platforms p ON p.id = l.target_id
    WHERE l.target_id = :target AND l.subject = :subject AND l.timing = :timing AND l.probes_version = :version
        AND (CAST(:donors AS text[]) IS NULL OR l.donor = ANY(CAST(:donors AS text[])))
    ORDER BY l.divergence, l.donor
""")


def list_likenesses(
    tx: Transaction, wanted: MatrixWanted = ANY_LIKENESS, *, cursor: str | None = None, limit: int = 100
) -> Page[LikenessView]:
    """The matrix by target, subject and timing, the nearest donors first. Raises InvalidRequest for a wrong target."""
    last = cursors.decode("likenesses", cursor, int, str, str, float, str) if cursor else None
    names = ("last_target", "last_subject", "last_timing", "last_divergence", "last_donor")
    parameters: dict[str, Any] = {
        "target": None if wanted.target is None else platforms.find(tx, wanted.target, field="target").id,
        "subject": wanted.subject,
        "timing": wanted.timing,
        "version": PROBES_VERSION,
        "limit": limit + 1,
        **dict(zip(names, last or [None] * len(names), strict=True)),
    }
    rows = tx.execute(_MATRIX, parameters).all()
    return cursors.page(rows, limit, _view, _cursor)


def _cursor(row: Row[Any]) -> str:
    place = (row.target_row, row.subject, row.timing, row.divergence, row.donor_id)
    return cursors.encode("likenesses", *place)


_MATRIX = text("""
    SELECT l.target_id AS target_row, l.donor AS donor_id, coalesce(d.key, e.key) AS donor, d.id IS NOT NULL AS is_own,
        p.public_id AS target_id, p.key AS target, l.subject, l.timing, l.divergence, l.low, l.high, l.spearman,
        l.log_ratio_variance, l.count, l.is_near, l.probes_version, l.compared_at
    FROM likenesses l JOIN platforms p ON p.id = l.target_id
        LEFT JOIN platforms d ON d.public_id = l.donor LEFT JOIN pool_entries e ON e.public_id = l.donor
    WHERE l.probes_version = :version AND (d.id IS NOT NULL OR e.id IS NOT NULL)
        AND (CAST(:target AS int) IS NULL OR l.target_id = :target)
        AND (CAST(:subject AS text) IS NULL OR l.subject = :subject)
        AND (CAST(:timing AS text) IS NULL OR l.timing = :timing)
        AND (CAST(:last_target AS bigint) IS NULL OR (l.target_id, l.subject, l.timing, l.divergence, l.donor)
            > (:last_target, :last_subject, :last_timing, CAST(:last_divergence AS double precision), :last_donor))
    ORDER BY l.target_id, l.subject, l.timing, l.divergence, l.donor LIMIT :limit
""")


def _view(row: Row[Any]) -> LikenessView:
    return LikenessView.model_validate(row._asdict())
