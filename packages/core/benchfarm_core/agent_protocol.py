"""The agent API: every message between an agent and the farm. Changed by addition only.

What an old agent may not overlook is a new version.
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from benchfarm_core.board_history import RecoveryStep
from benchfarm_core.boards import BoardName, BoardReport, BoardState, Health
from benchfarm_core.clock_proof import ClockEvidence
from benchfarm_core.measurements import MeasurementId, MeasurementResult, Ms, Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.protocols import Protocol
from benchfarm_core.values import Answer, Value
from benchfarm_core.workloads import Sha256, Workload

PROTOCOL_VERSION: Final = 3
"""From version 3 on an agent reports on all its leases at once, and a lease's end may bring the next one."""
OLDEST_PROTOCOL_VERSION: Final = 2
"""Agents of version 1 know neither timings nor pairs nor protocols without times, and would measure something else."""
MAX_RESULTS_PER_CHUNK: Final = 200

BoardId = Annotated[str, Field(max_length=40)]
LeaseToken = Annotated[str, Field(pattern=r"^l_[0-9a-f]{32}$")]


class EnrolRequest(Value):
    """Trades a one-time token for the agent's own."""

    enrol_token: str = Field(max_length=200)
    name: str = Field(min_length=1, max_length=100)
    agent_version: str = Field(max_length=40)
    protocol_version: int


class EnrolAnswer(Answer):
    """The agent's identity; the token is shown this once."""

    agent_id: str
    token: str


class RegisterBoards(Value):
    """All boards that the agent drives now; those it registered before and leaves out go offline and lose their leases.

    `process_started` is true in the first registration of a process: what an earlier process of the same agent
    leased is over, and its boards need not wait for those leases to expire.
    """

    protocol_version: int
    process_started: bool = False
    agent_version: str = Field(max_length=40)
    boards: tuple[BoardReport, ...] = Field(max_length=1000)


class RecoveryReport(Value):
    """What an agent did for a board that stays away; `detail` says why it did not go, and is empty where it went.

    `report_id` makes the report one: sent again, it changes nothing.
    """

    report_id: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    board: BoardName
    step: RecoveryStep
    detail: str = Field(default="", max_length=200)


class RegisteredBoard(Answer):
    """A board's identity and standing, in the order of the request."""

    board_id: str
    state: BoardState
    health: Health
    reason: str


class RegisterAnswer(Answer):
    """One entry per board, in the order of the request."""

    boards: list[RegisteredBoard]


class ToldWait(Value):
    """That a board waits at its gate: for how long now, by a clock that counts its host's sleep too, and why."""

    waited_s: float = Field(ge=0, le=1e9)
    reason: str = Field(max_length=300)


class PollRequest(Value):
    """Lists the agent's idle boards and waits for offers; `leases` are those it still works on.

    `waits`: every board that waits at its gate; null from agents that do not tell.
    """

    protocol_version: int
    agent_version: str = Field(max_length=40)
    idle: tuple[BoardId, ...] = Field(max_length=1000)
    leases: tuple[LeaseToken, ...] = Field(default=(), max_length=1000)
    wait_s: float = Field(default=25.0, ge=0, le=55)
    waits: dict[BoardId, ToldWait] | None = Field(default=None, max_length=1000)


class Offer(Answer):
    """The right to accept a batch for one board within `expires_in_s`."""

    lease_token: str
    board_id: str
    expires_in_s: float


class PollAnswer(Answer):
    """Offers for idle boards, and leases of the agent that are no longer live: stop their boards.

    `drifted_boards`: those of the agent, idle or at work, whose golden suite has just drifted and is to be run again:
    time for a reboot, between two leases.
    """

    offers: list[Offer]
    ended_leases: list[str]
    unknown_boards: list[str]
    drifted_boards: list[str] = []


class BesideFiles(Answer):
    """What `BatchItem` says of the a side of a pair, for its b side."""

    file_sha256: Sha256 | None
    reference_sha256: Sha256 | None
    max_relative_l2: float


class BatchItem(Answer):
    """One measurement of a batch. Files are fetched by hash from /v1/agent/files/{sha256}; of a pair, those of a.

    `apart`: an attempt has failed before, so what is timed in situ shares no carrier now and answers for itself.
    """

    measurement_id: int
    workload: Workload
    file_sha256: Sha256 | None
    reference_sha256: Sha256 | None
    max_relative_l2: float
    expected_s: float
    beside: BesideFiles | None = None
    timing: Timing = Timing.ALONE
    apart: bool = False


class LeaseGrant(Answer):
    """The answer to accepting an offer: the lease has started.

    `fastest_canary_ns`: what the clock's canary takes in the board's quiet leases at its fastest, null where none is
    known: a launch waits for moments that are about as quiet. `slowest_canary_ns`: of a lease with uploads, which are
    judged by their own canaries alone. A measurement whose SGEMM was never faster is visited in further launches, while
    there are any: as it is, its board has drifted.
    """

    lease_token: str
    board_id: str
    platform: Platform
    protocol: Protocol
    generation: str
    items: list[BatchItem]
    expires_in_s: float
    renew_in_s: float
    fastest_canary_ns: int | None = None
    slowest_canary_ns: int | None = None


class RenewAnswer(Answer):
    """How long the lease lives now; items that nobody wants any more may be skipped."""

    expires_in_s: float
    renew_in_s: float
    cancelled: list[int]


class StartedRequest(Value):
    """Visits of these measurements have begun since the last report, in this order; the last one runs now.

    `over`: nothing of the lease runs any more, so nothing pays when it is lost.
    """

    measurement_ids: tuple[MeasurementId, ...] = Field(max_length=1000)
    over: bool = False


class LeaseReport(Value):
    """What runs in one lease: visits of these measurements have begun since the last report, the last one runs now.

    Without any, what ran goes on. `over`: nothing runs any more. `renew`: the lease is to live on. `gate_ms`: what it
    waited at its gate.
    """

    lease_token: LeaseToken
    measurement_ids: tuple[MeasurementId, ...] = Field(default=(), max_length=1000)
    over: bool = False
    renew: bool = False
    gate_ms: Ms = 0


class ReportsRequest(Value):
    """What runs in an agent's leases, each named once."""

    leases: tuple[LeaseReport, ...] = Field(max_length=1000)


class RenewedLease(Answer):
    """A lease that lives on, and items of it that nobody wants any more."""

    lease_token: str
    cancelled: list[int]


class ReportsAnswer(Answer):
    """Leases that are no longer live: stop their boards. How long those that are `renewed` live now."""

    lost: list[str]
    renewed: list[RenewedLease]
    expires_in_s: float
    renew_in_s: float


class GpuEvidence(Value):
    """What a GPU was and did when its launch ended; null is what it does not tell.

    `throttle_reasons` are the bits of NVIDIA's management library.
    """

    name: str | None = Field(max_length=100, pattern=r"^[^\x00]*$")
    driver: str | None = Field(max_length=100, pattern=r"^[^\x00]*$")
    sm_clock_khz: int | None = Field(ge=0, lt=2**53)
    memory_clock_khz: int | None = Field(ge=0, lt=2**53)
    power_mw: int | None = Field(ge=0, lt=2**53)
    temperature_c: int | None = Field(ge=0, lt=2**53)
    throttle_reasons: int | None = Field(ge=0, lt=2**53)


class LaunchEvidence(Value):
    """Facts about one launch of a lease, stored once.

    `wall_ms` from process start to exit; `timed_ms`, `canary_ms`, `open_ms` are its shares. `began_unix_s` and
    `ended_unix_s` are the board host's wall clock at start and exit, `first_block_unix_s` at the first timed block
    (null when the launch timed nothing): for people and for busy shares, never for a rule. `ungated`: nothing looked at
    outputs, neighbours or canaries. `twin_relative_l2`: how far the farthest good output of 8 bits lay from its twin;
    null where none has one, or the runner does not tell.
    """

    launch_no: int = Field(ge=0, lt=64)
    began_unix_s: float = Field(ge=0)
    first_block_unix_s: float | None = Field(ge=0)
    ended_unix_s: float = Field(ge=0)
    engine_version: str = Field(max_length=60)
    precision: str = Field(max_length=20)
    threads: int = Field(ge=1)
    threads_observed: int = Field(ge=0)
    affinity: tuple[int, ...] = Field(max_length=4096)
    confinement: tuple[str, ...] = Field(max_length=20)
    witness_cost_ns: int = Field(ge=0)
    import_ms: Ms
    canary_open_ms: Ms
    wall_ms: Ms
    timed_ms: Ms
    canary_ms: Ms
    open_ms: Ms
    peak_rss_bytes: int = Field(ge=0)
    load_1m_before: float | None
    freq_khz_observed: tuple[int, ...] = Field(max_length=4096)
    governor: str | None = Field(max_length=40)
    temperature_c_before: float | None
    temperature_c_after: float | None
    throttled: bool | None
    gpu: GpuEvidence | None = None
    clock: ClockEvidence | None = None
    ungated: bool = False
    twin_relative_l2: float | None = Field(default=None, ge=0)


class ResultsRequest(Value):
    """One chunk of a lease's results. Sending the same chunk again changes nothing."""

    results: tuple[MeasurementResult, ...] = Field(max_length=MAX_RESULTS_PER_CHUNK)
    launches: tuple[LaunchEvidence, ...] = Field(default=(), max_length=64)


class ResultsAnswer(Answer):
    """What became of each: `accepted`, `repeated` (known already) or `orphaned` (the lease was lost)."""

    accepted: list[int]
    repeated: list[int]
    orphaned: list[int]


ReleaseReason = Literal["done", "gate", "drain", "lease_lost", "board_lost", "error", "cancelled"]


class ReleaseRequest(Value):
    """Gives the board back. What has no result yet goes back to wanted; nobody pays for that.

    `gate_ms`: what the lease waited at its gate, which nobody pays for either.
    """

    reason: ReleaseReason
    detail: str = Field(default="", max_length=300)
    conversion_ms: Ms = 0
    lease_wall_ms: Ms = 0
    gate_ms: Ms = 0


class FinishRequest(Value):
    """The end of a lease in one message: its last results, and the board back.

    `wants_next`: the board takes its next batch at once; the answer's `next_lease` has started then. The same
    message again changes nothing and is answered with the same next lease.
    """

    results: tuple[MeasurementResult, ...] = Field(default=(), max_length=MAX_RESULTS_PER_CHUNK)
    launches: tuple[LaunchEvidence, ...] = Field(default=(), max_length=64)
    release: ReleaseRequest
    wants_next: bool = False


class FinishAnswer(ResultsAnswer):
    """What became of the results. `lost`: the lease had ended otherwise, and its board is no longer the agent's.

    `drifted`: the board is one of those that `PollAnswer.drifted_boards` names.
    """

    lost: bool
    drifted: bool = False
    next_lease: LeaseGrant | None = None
