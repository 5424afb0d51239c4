"""Canaries of a board generation on a platform: the reference that normalises, and the history that judges.

The reference is what the first accepted results saw and never changes, so that normalised times stay
comparable. The history is the median of the latest leases: one lease that is off is inconclusive; a change
that stays for two leases is how the board is now. What is quiet is the lowest of many more leases, less a sixteenth
of them that may have been lucky: noisy minutes last for several. All are floors, the fastest runs of their lease, which
are kept with the lease: they normalise its results. Leases with uploads give none of these: a stranger's file ran in
the process that timed them, so each of their results is normalised by its own canaries.

Before rule version 8 the clock of a lease was what a share of its canaries stayed below. What was normalised by it
keeps its reference (`sgemm_ns`), and so does what its own canaries normalise, of which there are few; `fastest_ns` is
the reference of leases since, handed over by the first one that tells both, by canaries enough (`tells_fastest`): one
that missed the processor's fast mode would move all later times. A lease before it is normalised as those of before.
"""

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.drift import is_of_a_moment
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.quality import CanaryGolden, CanaryName, canary_floors, clock_by_share, tells_fastest
from benchfarm_store import sample_codec
from benchfarm_store.database import Prepared, Transaction

HISTORY_LEASES: Final = 3
EARLIER: Final = 64
"""Measurements of whose canaries as few runs are looked at as an upload has, among the latest of the platform."""
EARLIER_AMONG: Final = 512
QUIET_LEASES: Final = 32
LUCKY_OF: Final = 16
_NAMES: Final[tuple[CanaryName, ...]] = ("sgemm", "mobilenet")


class Canaries(NamedTuple):
    """What is known of one generation on one platform; `quiet` of its quiet leases (`quality.is_noisy`).

    seen: what all results of the lease that came together saw, in ns; nothing of one with uploads. share_ns: their
    clock by the scale of `sgemm_ns`, where that has no reference yet. is_by_share: `reference` is the old one and
    waits to be handed over; so the clock in `seen` is by its scale.
    """

    generation_id: int
    platform_id: int
    seen: Mapping[CanaryName, int]
    reference: CanaryGolden
    history: CanaryGolden
    quiet: CanaryGolden
    share_ns: int | None
    is_by_share: bool
    is_kept: bool


def find(
    tx: Transaction,
    generation_id: int,
    platform_id: int,
    told: Sequence[LaunchSamples],
    *,
    by_lease: bool,
    is_by_share: bool,
) -> Canaries:
    """Reference and history; a canary without a reference gets what is seen now (floors in ns).

    told: launches of a lease, of whose canaries it all is. by_lease: whether times are divided by the clock of their
    lease, or each by its own canaries. is_by_share: whether earlier results of the lease had the old reference.
    """
    row = tx.execute_prepared(_FIND, generation_id, platform_id).one_or_none()
    seen = canary_floors(told)
    own = CanaryGolden(sgemm_ns=seen.get("sgemm"), mobilenet_ns=seen.get("mobilenet"))
    if row is None:
        share_ns = clock_by_share(told)
        return Canaries(
            generation_id, platform_id, seen, own, CanaryGolden(), CanaryGolden(), share_ns, False, is_kept=False
        )
    share_ns = clock_by_share(told) if row.sgemm_ns is None or row.fastest_ns is None or is_by_share else None
    waits = is_by_share or not (row.fastest_ns or tells_fastest(told))
    is_by_share = bool(by_lease and row.sgemm_ns and share_ns and waits)
    sgemm_ns = row.sgemm_ns
    if is_by_share and share_ns:
        seen = {**seen, "sgemm": share_ns}
    elif by_lease:
        sgemm_ns = row.fastest_ns or _handed_over(row.sgemm_ns, own.sgemm_ns, share_ns)
    return Canaries(
        generation_id,
        platform_id,
        seen,
        CanaryGolden(sgemm_ns=sgemm_ns or own.sgemm_ns, mobilenet_ns=row.mobilenet_ns or own.mobilenet_ns),
        _history(row),
        CanaryGolden(sgemm_ns=_quiet(row.sgemm_recent_ns), mobilenet_ns=_quiet(row.mobilenet_recent_ns)),
        share_ns if row.sgemm_ns is None else None,
        is_by_share,
        is_kept=True,
    )


def _handed_over(reference_ns: int | None, seen_ns: int | None, share_ns: int | None) -> int | None:
    """The old reference on the scale of fastest canaries: a lease's times are the same by both."""
    return round(reference_ns * seen_ns / share_ns) if reference_ns and seen_ns and share_ns else reference_ns


_FIND = Prepared(
    "canaries_find", "int, int", "SELECT * FROM canary_goldens WHERE generation_id = $1 AND platform_id = $2"
)


def _median(times_ns: list[int]) -> int | None:
    return median_low(times_ns[-HISTORY_LEASES:]) if times_ns else None


def _quiet(times_ns: list[int]) -> int | None:
    return sorted(times_ns)[len(times_ns) // LUCKY_OF] if times_ns else None


def history_of(tx: Transaction, generation_id: int, platform_id: int) -> CanaryGolden:
    """What judges canaries of a generation on a platform; of none where nothing is known."""
    row = tx.execute_prepared(_FIND, generation_id, platform_id).one_or_none()
    return CanaryGolden() if row is None else _history(row)


def fastest_ns(tx: Transaction, generation_id: int, platform_id: int) -> int | None:
    """What the clock's canary takes in the board's quiet leases at its fastest, in ns, whatever the latest ones met."""
    row = tx.execute_prepared(_FIND, generation_id, platform_id).one_or_none()
    return None if row is None else _quiet(row.sgemm_recent_ns)


def _history(row: Row[Any]) -> CanaryGolden:
    return CanaryGolden(sgemm_ns=_median(row.sgemm_recent_ns), mobilenet_ns=_median(row.mobilenet_recent_ns))


def told_apart(
    tx: Transaction, canaries: Canaries, code: FailureCode, launches: Sequence[LaunchSamples] | None
) -> FailureCode:
    """The code of an attempt; what drifted by nothing but the few canaries beside an upload, and no farther than
    earlier measurements did now and then, was `CONTENDED`."""
    if code != FailureCode.CANARY_DRIFT or launches is None or canaries.seen:
        return code
    rows = tx.execute(_EARLIER, {"platform": canaries.platform_id, "generation": canaries.generation_id})
    earlier = [sample_codec.decode(bytes(data)) for data in rows.scalars()]
    return FailureCode.CONTENDED if is_of_a_moment(launches, earlier, canaries.history) else code


# a lease with uploads keeps no canaries
_EARLIER = text(f"""
    SELECT d.data FROM (
        SELECT measurement_id, lease_id, measured_at FROM results
        WHERE platform_id = :platform AND generation_id = :generation
        ORDER BY measured_at DESC LIMIT {EARLIER_AMONG}) r
    JOIN leases l ON l.id = r.lease_id AND l.fastest_ns IS NOT NULL
    JOIN samples d ON d.measurement_id = r.measurement_id
    ORDER BY r.measured_at DESC LIMIT {EARLIER}
""")


def of_lease(tx: Transaction, lease_id: int, canaries: Canaries) -> CanaryGolden:
    """The canaries' floors in a lease, in ns: those seen in its first results, kept with the lease.

    Later results of the lease are normalised by the same ones, and so is whatever is derived again.
    """
    seen = canaries.seen
    row = tx.execute_prepared(_OF_LEASE, lease_id, seen.get("sgemm"), seen.get("mobilenet"), canaries.is_by_share).one()
    return CanaryGolden(sgemm_ns=row.clock_ns, mobilenet_ns=row.mobilenet_ns)


_OF_LEASE = Prepared(
    "canaries_of_lease",
    "bigint, bigint, bigint, boolean",
    """
    UPDATE leases SET sgemm_ns = coalesce(sgemm_ns, $2), mobilenet_ns = coalesce(mobilenet_ns, $3),
        fastest_ns = CASE WHEN $4 THEN fastest_ns ELSE coalesce(fastest_ns, $2) END
    WHERE id = $1 RETURNING coalesce(fastest_ns, sgemm_ns) AS clock_ns, mobilenet_ns
    """,
)


def remember(tx: Transaction, canaries: Canaries, *, lease_id: int, keep_reference: bool) -> None:
    """Add a lease's canaries to the history, once per lease; the reference waits for an accepted result."""
    seen = canaries.seen
    if not seen or not (keep_reference or canaries.is_kept):
        return
    fastest_ns = canaries.reference.sgemm_ns if "sgemm" in seen and not canaries.is_by_share else None
    references = (canaries.share_ns, fastest_ns, canaries.reference.mobilenet_ns)
    told = references if keep_reference else (None, None, None)
    recent = [[seen[name]] if name in seen else [] for name in _NAMES]
    of_lease = (canaries.generation_id, canaries.platform_id, lease_id, tx.now)
    tx.execute_prepared(_REMEMBER, *of_lease, *told, *recent, canaries.is_by_share)
    if not canaries.is_kept:
        tx.execute(_DERIVE_AGAIN, {"generation": canaries.generation_id, "platform": canaries.platform_id})


# what was measured before there was a reference, uploads above all, gets its normalised time by the next sweep
_DERIVE_AGAIN = text("""
    UPDATE summaries s SET rule_version = 1 FROM measurements m JOIN results r ON r.measurement_id = m.id
    WHERE m.platform_id = :platform AND r.generation_id = :generation AND s.measurement_id = m.id
        AND s.active AND s.normalised_ms IS NULL AND s.rule_version > 1
        AND NOT EXISTS (SELECT FROM summaries o WHERE o.measurement_id = m.id AND o.rule_version = 1)
""")


def _extended(name: CanaryName) -> str:
    both = f"(g.{name}_recent_ns || excluded.{name}_recent_ns)"
    return f"""CASE WHEN g.lease_id = excluded.lease_id THEN g.{name}_recent_ns
        WHEN g.fastest_ns IS NULL AND NOT $10 THEN excluded.{name}_recent_ns
        ELSE {both}[greatest(1, cardinality({both}) - {QUIET_LEASES} + 1):] END"""


_REMEMBER = Prepared(
    "canaries_remember",
    "int, int, bigint, timestamptz, bigint, bigint, bigint, bigint[], bigint[], boolean",
    f"""
    INSERT INTO canary_goldens AS g (generation_id, platform_id, lease_id, measured_at, sgemm_ns, fastest_ns,
        mobilenet_ns, sgemm_recent_ns, mobilenet_recent_ns)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (generation_id, platform_id) DO UPDATE SET sgemm_ns = coalesce(g.sgemm_ns, excluded.sgemm_ns),
        fastest_ns = coalesce(g.fastest_ns, excluded.fastest_ns),
        mobilenet_ns = coalesce(g.mobilenet_ns, excluded.mobilenet_ns),
        sgemm_recent_ns = {_extended("sgemm")}, mobilenet_recent_ns = {_extended("mobilenet")},
        lease_id = excluded.lease_id
    """,
)


def seen_by_all(tx: Transaction, canaries: Canaries, lease_id: int, beside: CanaryGolden | None) -> Canaries:
    """The same with what earlier results of the lease saw: a lease that hands in by and by is held to all that it saw
    until then, and stands in the history by its fastest.

    Args:
        beside: the lease's own, as its first results saw them (`of_lease`); None of one with uploads.
    """
    seen = canaries.seen
    if beside is None or all(beside.of(name) == ns for name, ns in seen.items()):  # the first ones
        return canaries
    own = (canaries.generation_id, canaries.platform_id, lease_id)
    row = tx.execute_prepared(_SEEN_BY_ALL, *own, *(seen.get(name) for name in _NAMES)).one_or_none()
    if row is None:  # the history does not know the lease: nothing of it was accepted
        return canaries
    earlier = {"sgemm": row.sgemm_ns, "mobilenet": row.mobilenet_ns}
    return canaries._replace(seen={name: earlier[name] or ns for name, ns in seen.items()})


def _last_is_least(name: CanaryName, parameter: str) -> str:
    times = f"{name}_recent_ns"
    last = f"cardinality({times})"
    return f"""{times} = CASE WHEN {last} = 0 OR {parameter} IS NULL THEN {times}
        ELSE {times}[:{last} - 1] || least({times}[{last}], {parameter}) END"""


_SEEN_BY_ALL = Prepared(
    "canaries_seen_by_all",
    "int, int, bigint, bigint, bigint",
    f"""
    UPDATE canary_goldens SET {_last_is_least("sgemm", "$4")}, {_last_is_least("mobilenet", "$5")}
    WHERE generation_id = $1 AND platform_id = $2 AND lease_id = $3
    RETURNING sgemm_recent_ns[cardinality(sgemm_recent_ns)] AS sgemm_ns,
        mobilenet_recent_ns[cardinality(mobilenet_recent_ns)] AS mobilenet_ns
    """,
)
