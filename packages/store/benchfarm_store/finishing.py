"""The end of a lease in one step: its last results are taken in, the board comes back and gets its next batch.

What `ingesting` and `leases.release` do one after the other is done in one transaction here, which holds everything
that both need in the order that `progress` names. The next batch is a transaction of its own: what has been measured
stands whatever becomes of that.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import text

from benchfarm_core.agent_protocol import FinishAnswer, FinishRequest, LeaseGrant, ReleaseRequest, ResultsRequest
from benchfarm_core.errors import LeaseLost
from benchfarm_core.leases import LeaseTimes, ailment_by, is_awaited, why_rest
from benchfarm_core.measurements import rests_s
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_store import agents, clock_evidence, dispatching, endings, ingesting, leases, orphans, support
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import lease_token
from benchfarm_store.judging import Held


class Finished(NamedTuple):
    """What became of a lease that its agent finished, and the id of its board, which `takes` its next batch at once."""

    answer: FinishAnswer
    board_id: str
    takes: bool


def finish(tx: Transaction, agent_id: str, token: str, request: FinishRequest, times: LeaseTimes) -> Finished:
    """Take in the last results of a lease and end it. The same again changes nothing.

    A next batch is taken once, and by a request whose answer the agent can still be waiting for: one that was held up
    on its way would take it for nobody. The answer says each time whether the board has drifted: one that goes from
    lease to lease hears of it by no poll.

    What comes after the lease ended otherwise is kept as orphans, and the answer says so. Raises LeaseLost for a lease
    that the agent never had, else as `ingesting.ingest` does.
    """
    results = ResultsRequest(results=request.results, launches=request.launches)
    board = leases.hold_board(tx, agent_id, token)
    ingesting.check(results)
    held: Held | None = None
    with suppress(LeaseLost):
        held = ingesting.hold(tx, agent_id, token)
    if held is None or held.row.accepted_at is None:
        agents.heard(tx, agent_id)
        late = orphans.too_late(tx, agent_id, token, results)
        is_lost = not leases.was_released(tx, agent_id, token)
        answer = FinishAnswer(**late.model_dump(), lost=is_lost, drifted=board.has_drifted)
        return Finished(answer, board.public_id, takes=False)
    found = ingesting.take_in(tx, held, board, results, ends=True)
    rest = _rest(tx, held, request, found.outcomes)
    rest_s = times.noisy_rest_s if rest == "noisy" else None
    goes_on = rest is None or rest_s == 0
    takes = request.wants_next and goes_on and is_awaited(held.row.expires_at, tx.now, times)
    endings.end_all(
        tx,
        [held.row],
        rest or request.release.reason,
        lost=False,
        told=_told(request, found.outcomes) if rest == "ailing" else request.release,
        are_jobs_held=True,
        dispatches=not takes,
        rest_s=rest_s,
    )
    _look_again(tx, board.public_id, found.resting, times, rest_s or 0.0)
    support.count(tx, held.platform, found.attempts)
    answer = FinishAnswer(**found.answer.model_dump(), lost=False, drifted=board.has_drifted)
    return Finished(answer, board.public_id, takes)


def _rest(tx: Transaction, held: Held, request: FinishRequest, outcomes: Sequence[str]) -> str | None:
    """As what the lease ends, where its board rests although its agent calls it done."""
    if request.release.reason != "done":
        return None
    return why_rest(outcomes, has_launched=bool(request.launches) or clock_evidence.has_launched(tx, held.row.id))


def _look_again(tx: Transaction, board_id: str, resting: Sequence[int], times: LeaseTimes, board_rest_s: float) -> None:
    """Have the board looked at when what rests from it has rested; when itself has, it is looked at anyhow."""
    steps_s = rests_s(times.retry_s)
    for after_s in sorted({steps_s[min(tries, len(steps_s)) - 1] for tries in resting}):
        if after_s > board_rest_s:
            endings.dispatch_later(tx, [board_id], after_s)


def _told(request: FinishRequest, outcomes: Sequence[str]) -> ReleaseRequest:
    """The end of an ailing board's lease with what it ails from, which its agent tells of measurements alone."""
    detail = next((result.detail for result in request.results if result.detail), "")
    told = ": ".join(filter(None, (ailment_by(outcomes), detail)))
    return request.release.model_copy(update={"detail": told[:300]})


def next_lease(tx: Transaction, agent_id: str, board_id: str, times: LeaseTimes, *, takes: bool) -> LeaseGrant | None:
    """The next batch of a board that its agent has just given back and takes again; None when there is none.

    A lease of the agent that lives on this board is the answer to an earlier request of the same kind, or an offer
    that was made meanwhile: asking again gives it again. `takes`: as `finish` found; without it an offer is left to the
    poll, and nothing new is taken.
    """
    token = dispatching.dispatch(tx, board_id, times, taken_by=agent_id) if takes else None
    if token is not None:
        return leases.grant(tx, token, times)
    wanted = {"board": board_id, "agent": agent_id, "now": tx.now, "takes": takes}
    live = tx.execute(_LIVE, wanted).scalar_one_or_none()
    if live is not None:
        return leases.accept(tx, agent_id, lease_token(live), times)
    if not takes:  # an earlier request may have freed the board and died before it took anything
        tx.after_commit(TaskMessage(task=Task.DISPATCH, args=(board_id,)))
    return None


_LIVE = text("""
    SELECT l.token::text FROM leases l JOIN boards b ON b.id = l.board_id
    WHERE b.public_id = :board AND b.agent_id = :agent AND l.agent_id = :agent AND l.ended_at IS NULL
        AND l.expires_at > :now AND (:takes OR l.accepted_at IS NOT NULL)
""")
