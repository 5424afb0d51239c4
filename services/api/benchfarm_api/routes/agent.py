"""The agent API: everything that an agent asks of the farm."""

import logging
from random import uniform
from typing import Annotated

from fastapi import Path, Request
from fastapi.responses import FileResponse

from benchfarm_api.access import AgentIdDep, CallerDep
from benchfarm_api.parts import Parts, PartsDep
from benchfarm_api.problems import binary_answer, lease_lost, not_found, unauthenticated, upgrade_required
from benchfarm_api.routes import new_router
from benchfarm_api.waiting import wait_for
from benchfarm_core.agent_protocol import (
    EnrolAnswer,
    EnrolRequest,
    FinishAnswer,
    FinishRequest,
    LeaseGrant,
    LeaseToken,
    PollAnswer,
    PollRequest,
    RecoveryReport,
    RegisterAnswer,
    RegisterBoards,
    ReleaseRequest,
    RenewAnswer,
    ReportsAnswer,
    ReportsRequest,
    ResultsAnswer,
    ResultsRequest,
    StartedRequest,
)
from benchfarm_core.errors import BenchfarmError
from benchfarm_core.messages import agent_channel
from benchfarm_core.workloads import Sha256
from benchfarm_store import agents, boards, finishing, gate_waits, ingesting, leases, tokens

logger = logging.getLogger(__name__)

router = new_router("agent")

Token = Annotated[LeaseToken, Path()]


@router.post("/agent/enrol", status_code=201, responses=unauthenticated() | upgrade_required())
def enrol_agent(enrolment: EnrolRequest, parts: PartsDep) -> EnrolAnswer:
    """Trade a one-time token for the agent's own."""
    with parts.database.transaction() as tx:
        return agents.enrol(tx, enrolment)


@router.post("/agent/boards", responses=upgrade_required())
def register_boards(report: RegisterBoards, agent_id: AgentIdDep, parts: PartsDep) -> RegisterAnswer:
    """All boards that the agent drives now."""
    with parts.database.transaction() as tx:
        return boards.register(tx, agent_id, report)


@router.post("/agent/recoveries", status_code=204, responses=not_found())
def report_recovery(report: RecoveryReport, agent_id: AgentIdDep, parts: PartsDep) -> None:
    """What the agent did for a board of its own that stays away; stands in the board's history."""
    with parts.database.transaction() as tx:
        boards.note_recovery(tx, agent_id, report)


@router.post("/agent/poll", responses=upgrade_required())
async def poll_offers(
    request: Request, poll: PollRequest, agent_id: AgentIdDep, caller: CallerDep, parts: PartsDep
) -> PollAnswer:
    """Wait for offers to idle boards, and for the end of leases that the agent still works on."""
    agents.check_version(poll.protocol_version)
    idle_or_busy = bool(poll.idle or poll.leases)
    untold = [] if poll.waits is None else [poll.waits]  # once: a later poll of the agent may know better

    def look() -> PollAnswer:
        with parts.database.transaction() as tx:
            tokens.check_valid(tx, caller.token_id)  # it may have been revoked while the poll was parked
            tx.allow_loss()  # it only notes when the agent spoke; hundreds of polls must not queue at the disk
            agents.heard(tx, agent_id, poll.agent_version)
            if untold:
                gate_waits.note(tx, agent_id, untold.pop())
            return PollAnswer(
                offers=leases.offers_for(tx, agent_id, poll.idle),
                ended_leases=leases.ended(tx, agent_id, poll.leases) if poll.leases else [],
                unknown_boards=leases.unknown_boards(tx, agent_id, poll.idle) if poll.idle else [],
                drifted_boards=boards.drifted(tx, agent_id, poll.idle, poll.leases) if idle_or_busy else [],
            )

    channel = agent_channel(agent_id)
    # A part left to chance: agents that came together, after a restart, do not come back together for ever.
    wait_s = min(poll.wait_s, parts.settings.benchfarm_longest_wait_s) * uniform(0.8, 1.0)
    with parts.metrics.parked_polls.track_inprogress():
        return await wait_for(request, parts, channel, look, _has_news, wait_s)


def _has_news(answer: PollAnswer) -> bool:
    return bool(answer.offers or answer.ended_leases or answer.unknown_boards)


@router.post("/agent/reports")
def report_leases(report: ReportsRequest, agent_id: AgentIdDep, parts: PartsDep) -> ReportsAnswer:
    """What runs in the agent's leases, and which of them are to live on; all of them in one message."""
    with parts.database.transaction() as tx:
        return leases.report(tx, agent_id, report, parts.settings.lease_times)


@router.post("/agent/leases/{lease_token}/accept", responses=lease_lost())
def accept_offer(lease_token: Token, agent_id: AgentIdDep, parts: PartsDep) -> LeaseGrant:
    """Accept an offer: the lease starts, and this is its batch."""
    with parts.database.transaction() as tx:
        return leases.accept(tx, agent_id, lease_token, parts.settings.lease_times)


@router.post("/agent/leases/{lease_token}/renew", responses=lease_lost())
def renew_lease(lease_token: Token, agent_id: AgentIdDep, parts: PartsDep) -> RenewAnswer:
    """Keep the lease alive."""
    with parts.database.transaction() as tx:
        return leases.renew(tx, agent_id, lease_token, parts.settings.lease_times)


@router.post("/agent/leases/{lease_token}/started", status_code=204, responses=lease_lost())
def report_started(lease_token: Token, started: StartedRequest, agent_id: AgentIdDep, parts: PartsDep) -> None:
    """These measurements are running now."""
    with parts.database.transaction() as tx:
        leases.started(tx, agent_id, lease_token, started)


@router.post("/agent/leases/{lease_token}/results", responses=lease_lost())
def report_results(lease_token: Token, report: ResultsRequest, agent_id: AgentIdDep, parts: PartsDep) -> ResultsAnswer:
    """One chunk of results. Sending it again changes nothing; after a lost lease it is kept apart."""
    with parts.database.transaction() as tx:
        return ingesting.ingest(tx, agent_id, lease_token, report)


@router.post("/agent/leases/{lease_token}/release", status_code=204, responses=lease_lost())
def release_lease(lease_token: Token, release: ReleaseRequest, agent_id: AgentIdDep, parts: PartsDep) -> None:
    """Give the board back."""
    with parts.database.transaction() as tx:
        leases.release(tx, agent_id, lease_token, release)


@router.post("/agent/leases/{lease_token}/finish", responses=lease_lost())
def finish_lease(lease_token: Token, finish: FinishRequest, agent_id: AgentIdDep, parts: PartsDep) -> FinishAnswer:
    """The lease's last results and the board back; with `wants_next` the answer brings the board's next lease."""
    with parts.database.transaction() as tx:
        answer, board_id, takes = finishing.finish(tx, agent_id, lease_token, finish, parts.settings.lease_times)
    if answer.lost or not finish.wants_next:
        return answer
    return answer.model_copy(update={"next_lease": _next_lease(parts, agent_id, board_id, takes=takes)})


def _next_lease(parts: Parts, agent_id: str, board_id: str, *, takes: bool) -> LeaseGrant | None:
    """The results are in: where no batch can be had now, the board gets an offer like any idle one."""
    try:
        with parts.database.transaction() as tx:
            return finishing.next_lease(tx, agent_id, board_id, parts.settings.lease_times, takes=takes)
    except BenchfarmError as error:  # the lease has ended and its results stand, whatever is wrong with the next one
        logger.warning("no batch for a board that was given back", extra={"board_id": board_id, "why": error.detail})
        return None


@router.get("/agent/files/{sha256}", response_class=FileResponse, responses=not_found() | binary_answer())
def get_agent_file(sha256: Annotated[Sha256, Path()], agent_id: AgentIdDep, parts: PartsDep) -> FileResponse:
    """A file that a live lease of this agent needs."""
    with parts.database.transaction(read_only=True) as tx:
        leases.check_file(tx, agent_id, sha256)
    return FileResponse(parts.files.path(sha256), media_type="application/octet-stream")
