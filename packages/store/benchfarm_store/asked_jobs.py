"""Jobs that latency questions ask for: one for a platform, each workload once, within a budget of the token.

The budget is of device-seconds as they are expected, for what was newly queued in a day, which begins with the first of
them. What an account's questions asked for and what still waits, or ended a short while ago, is not asked for again: it
would be measured again and again where it cannot be measured.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import text

from benchfarm_core.errors import BenchfarmError
from benchfarm_core.jobs import JobRequest, PriorityClass
from benchfarm_core.latency import LatencyRequest
from benchfarm_store import accounts, asked_items, jobs, latency, model_merges, platforms, specs
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import workload_digest
from benchfarm_store.tokens import Caller

BUDGET_DAY_S: Final = 86_400
AGAIN_AFTER_S: Final = 3600
"""What a question asked for and did not get is asked for again after this long."""
EXPIRES_S: Final = 86_400
"""What no board has measured by then is given up: a search that asked for it is over."""
LABEL: Final = "asked_by"
ASKED_BY: Final = "latency"
MOST: Final = 2000
"""Workloads of one question on one platform that are newly looked at, beside those that can be measured nowhere:
whoever wants more at once submits a job."""
LOCK: Final = 0x61736B73
"""The first half of the advisory locks of who has measured what a question lacks; the second is the account."""


class Wanted(NamedTuple):
    """An item as it was asked, and the id of its workload."""

    request: specs.AnyRequest
    workload_id: str


class Queued(NamedTuple):
    """What came of one platform's wishes. `job_ids`: by the place of the item among the wanted ones, also of what
    waited before. `why`: of the first that is refused."""

    job_ids: Mapping[int, str]
    queued: int = 0
    waiting: int = 0
    measured: int = 0
    left_out: int = 0
    refused: int = 0
    device_s: float = 0.0
    left_s: float | None = None
    until: datetime | None = None
    why: str | None = None


def queue(
    tx: Transaction,
    request: LatencyRequest,
    platform: str,
    wanted: Sequence[Wanted],
    *,
    by: Caller,
    budget_s: float,
    share: int = 1,
) -> Queued:
    """Queue a question's different items on one platform, the most wanted first, as far as the budget goes: what is
    left of it over `share`, the number of platforms that want some of it.

    What waits or is measured by now is not queued again. What cannot be a job's item is refused alone.
    """
    model_merges.hold(tx)
    (place,) = platforms.find_all(tx, [platform])
    known = latency.measured_now(tx, request, place.id, [one.workload_id for one in wanted])
    lacking = {at: one for at, one in enumerate(wanted) if one.workload_id not in known}
    job_ids = _before(tx, request, platform, lacking, by)
    fresh = [at for at in lacking if at not in job_ids]
    left_s = (budget_s - _spent(tx, by).device_s) / share
    items = [(at, wanted[at].request) for at in fresh]
    looked = asked_items.look(tx, request, place, items, by=by, left_s=left_s, most=MOST)
    # who asks the same now waits, and finds it queued; what takes long is done
    tx.execute(_ALONE, {"lock": LOCK, "account": by.account_number})
    job_ids |= _before(tx, request, platform, {at: wanted[at] for at, _ in looked.possible}, by)
    spent = _spent(tx, by)
    possible = [one for one in looked.possible if one[0] not in job_ids]
    chosen = _within(possible, (budget_s - spent.device_s) / share)
    made = _submit(tx, request, platform, [(at, wanted[at].request) for at, _ in chosen], by)
    device_s = sum(seconds for at, seconds in chosen if at in made.job_ids)
    if made.job_ids:
        charge = {"token": by.token_id, "asked_s": spent.device_s + device_s, "since": spent.since}
        tx.execute(_CHARGE, charge)
    refused = looked.refused + len(chosen) - len(made.job_ids)
    return Queued(
        job_ids | made.job_ids,
        queued=len(made.job_ids),
        waiting=len(job_ids),
        measured=len(wanted) - len(lacking),
        left_out=len(lacking) - len(job_ids) - len(made.job_ids) - refused,
        refused=refused,
        device_s=device_s,
        left_s=max(budget_s - spent.device_s - device_s, 0.0),
        until=spent.since + timedelta(seconds=BUDGET_DAY_S),
        why=made.why or looked.why,
    )


class _Made(NamedTuple):
    """`job_ids`: by place, of what is queued; `why`: of the first that is not."""

    job_ids: dict[int, str]
    why: str | None


def _submit(
    tx: Transaction, request: LatencyRequest, platform: str, items: Sequence[tuple[int, specs.AnyRequest]], by: Caller
) -> _Made:
    """A job of the first items, of as many as the account's quota has room for. Nothing stays of one that is refused:
    what waits already is told all the same."""
    room = accounts.free_items(tx, by.account_number) if items else 0
    taken = items[:room]
    why = f"{len(items) - room} items are above the account's quota of waiting items" if len(items) > room else None
    if not taken:
        return _Made({}, why)
    try:
        with tx.savepoint():
            view, _ = jobs.submit(tx, _job(request, platform, [item for _, item in taken]), by=by)
    except BenchfarmError as error:
        return _Made({}, error.detail)
    return _Made(dict.fromkeys((at for at, _ in taken), view.id), why)


def _job(request: LatencyRequest, platform: str, workloads: Sequence[specs.AnyRequest]) -> JobRequest:
    return JobRequest(
        name="asked for by a latency question",
        labels={LABEL: ASKED_BY},
        workloads=tuple(workloads),
        platforms=(platform,),
        timing=request.timing,
        priority=PriorityClass.LOW,
        max_age_s=request.max_age_s,
        min_grade=request.min_grade,
        expires_in_s=EXPIRES_S,
    )


def _before(
    tx: Transaction, request: LatencyRequest, platform: str, wanted: Mapping[int, Wanted], by: Caller
) -> dict[int, str]:
    """The jobs that the account's questions asked for these before, by place: those that wait, or ended not long
    ago."""
    digests = {at: workload_digest(one.workload_id) for at, one in wanted.items()}
    parameters = {
        "account": by.account_number,
        "timing": request.timing,
        "platform": platform,
        "digests": list(digests.values()),
        "again": tx.now - timedelta(seconds=AGAIN_AFTER_S),
    }
    before = {row.digest: row.job_id for row in tx.execute(_BEFORE, parameters)} if digests else {}
    return {at: before[digest] for at, digest in digests.items() if digest in before}


def _within(items: Sequence[tuple[int, float]], left_s: float) -> list[tuple[int, float]]:
    """The items from the first on that fit into what is left: a long one that does not keeps no shorter one out."""
    chosen, device_s = [], 0.0
    for at, needed_s in items:
        if device_s + needed_s <= left_s:
            chosen.append((at, needed_s))
            device_s += needed_s
    return chosen


class _Spent(NamedTuple):
    """What the token's questions had queued since its day began, and when that was."""

    device_s: float
    since: datetime


def _spent(tx: Transaction, by: Caller) -> _Spent:
    row = tx.execute(_ASKED, {"token": by.token_id}).one()
    if row.asked_since is None or tx.now - row.asked_since >= timedelta(seconds=BUDGET_DAY_S):
        return _Spent(0.0, tx.now)
    return _Spent(row.asked_s, row.asked_since)


# not the account's row: jobs are submitted and leases end under it, and who submits takes it after his workloads
_ALONE = text("SELECT pg_advisory_xact_lock(:lock, :account)")
_ASKED = text("SELECT asked_s, asked_since FROM tokens WHERE id = :token")
_CHARGE = text("UPDATE tokens SET asked_s = :asked_s, asked_since = :since WHERE id = :token")
# the label stands in the statement, or Postgres could not know that an index has these jobs alone
_BEFORE = text(f"""
    SELECT DISTINCT ON (w.digest) w.digest::text AS digest, j.id::text AS job_id
    FROM jobs j CROSS JOIN LATERAL unnest(j.workload_ids) AS x(id) JOIN workloads w ON w.id = x.id
    WHERE j.account_id = :account AND j.labels ->> '{LABEL}' = '{ASKED_BY}' AND j.options ->> 'timing' = :timing
        AND (j.finished_at IS NULL OR j.finished_at > :again)
        AND w.digest = ANY(CAST(:digests AS uuid[]))
        AND EXISTS (SELECT FROM unnest(j.platform_ids) AS y(id) JOIN platforms p ON p.id = y.id WHERE p.key = :platform)
    ORDER BY w.digest, j.id DESC
""")
