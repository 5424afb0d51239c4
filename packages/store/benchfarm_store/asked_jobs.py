"""Jobs that latency questions ask for: one for a platform, each workload once, within a budget of the token.

The budget is of device-seconds as they are expected, for what was newly queued in a day, which begins with the first of
them. What an account's questions asked for and what still waits, or ended a short while ago, is not asked for again: it
would be measured again and again where it cannot be measured.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import text

from benchfarm_core.jobs import JobRequest, PriorityClass
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.planning import expected_s
from benchfarm_core.protocols import ProtocolRequest, resolve_protocol
from benchfarm_store import jobs, model_merges, specs
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
PROTOCOL: Final = "kernel"
MOST: Final = 2000
"""Workloads of one question on one platform that are looked at: whoever wants more measured submits a job."""


class Wanted(NamedTuple):
    """An item as it was asked, and the id of its workload."""

    request: specs.AnyRequest
    workload_id: str


class Queued(NamedTuple):
    """What came of one platform's wishes. `job_ids`: by the place of the item among the wanted ones."""

    job_ids: Mapping[int, str]
    queued: int
    waiting: int
    left_out: int
    device_s: float
    left_s: float | None
    until: datetime | None


def queue(
    tx: Transaction,
    request: LatencyRequest,
    platform: str,
    wanted: Sequence[Wanted],
    *,
    by: Caller,
    budget_s: float,
) -> Queued:
    """Queue a question's different items on one platform, the most wanted first, as far as the budget goes.

    Raises as `jobs.submit`: nothing is queued or charged then.
    """
    model_merges.hold(tx)
    tx.execute(_HOLD_ACCOUNT, {"account": by.account_number})  # who asks the same now waits, and finds it queued
    items = wanted[:MOST]
    digests = [workload_digest(one.workload_id) for one in items]
    parameters = {
        "account": by.account_number,
        "label": LABEL,
        "asked_by": ASKED_BY,
        "timing": request.timing,
        "platform": platform,
        "digests": digests,
        "again": tx.now - timedelta(seconds=AGAIN_AFTER_S),
    }
    before = {row.digest: row.job_id for row in tx.execute(_BEFORE, parameters)}
    job_ids = {at: before[digest] for at, digest in enumerate(digests) if digest in before}
    fresh = [at for at in range(len(items)) if at not in job_ids]
    spent_s, since = _spent(tx, by)
    chosen, device_s = _within(tx, request, [(at, items[at].request) for at in fresh], by, budget_s - spent_s)
    if chosen:
        view, _ = jobs.submit(tx, _job(request, platform, [items[at].request for at in chosen]), by=by)
        job_ids |= dict.fromkeys(chosen, view.id)
        tx.execute(_CHARGE, {"token": by.token_id, "asked_s": spent_s + device_s, "since": since})
    left_out = len(fresh) - len(chosen) + len(wanted) - len(items)
    until = since + timedelta(seconds=BUDGET_DAY_S)
    left_s = max(budget_s - spent_s - device_s, 0.0)
    return Queued(job_ids, len(chosen), len(items) - len(fresh), left_out, device_s, left_s, until)


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


def _within(
    tx: Transaction, request: LatencyRequest, items: Sequence[tuple[int, specs.AnyRequest]], by: Caller, left_s: float
) -> tuple[list[int], float]:
    """The items from the first on that fit into what is left, and what they are expected to take."""
    protocol = resolve_protocol(ProtocolRequest(name=PROTOCOL))
    chosen, device_s = [], 0.0
    for at, item in items:
        (one,) = specs.resolve_workloads(tx, [item], by.account_number, field="items")
        needed_s = expected_s(protocol, one.cost, None, request.timing)
        if device_s + needed_s > left_s:
            break
        chosen.append(at)
        device_s += needed_s
    return chosen, device_s


def _spent(tx: Transaction, by: Caller) -> tuple[float, datetime]:
    """What the token's questions had queued since its day began, and when that was; nobody else changes it now."""
    row = tx.execute(_HOLD_TOKEN, {"token": by.token_id}).one()
    if row.asked_since is None or tx.now - row.asked_since >= timedelta(seconds=BUDGET_DAY_S):
        return 0.0, tx.now
    return row.asked_s, row.asked_since


_HOLD_ACCOUNT = text("SELECT id FROM accounts WHERE id = :account FOR NO KEY UPDATE")
_HOLD_TOKEN = text("SELECT asked_s, asked_since FROM tokens WHERE id = :token FOR NO KEY UPDATE")
_CHARGE = text("UPDATE tokens SET asked_s = :asked_s, asked_since = :since WHERE id = :token")
_BEFORE = text("""
    SELECT DISTINCT ON (w.digest) w.digest::text AS digest, j.id::text AS job_id
    FROM jobs j CROSS JOIN LATERAL unnest(j.workload_ids) AS x(id) JOIN workloads w ON w.id = x.id
    WHERE j.account_id = :account AND j.labels ->> :label = :asked_by AND j.options ->> 'timing' = :timing
        AND (j.finished_at IS NULL OR j.finished_at > :again)
        AND w.digest = ANY(CAST(:digests AS uuid[]))
        AND EXISTS (SELECT FROM unnest(j.platform_ids) AS y(id) JOIN platforms p ON p.id = y.id WHERE p.key = :platform)
    ORDER BY w.digest, j.id DESC
""")
