"""What a job is: what a client asked for, and how it stands."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, ValidatorFunctionWrapHandler, WrapValidator

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_core.boards import BoardFilter, GateWait
from benchfarm_core.comparing import Comparison
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import KEY_FORM, OPTIONS_FORM, ClockProof, EffectivePrecision, PlatformFilter
from benchfarm_core.protocols import ChangedParameters, Protocol, ProtocolRequest
from benchfarm_core.summaries import Grade, ReusableGrade, Summary
from benchfarm_core.values import Answer, Value
from benchfarm_core.workloads import JobWorkloadRequest, Workload

T = TypeVar("T")

MAX_WORKLOADS: Final = 20_000
MAX_ITEMS: Final = 100_000
MAX_PLATFORMS: Final = 1000
"""Platforms that one request names."""
PLATFORMS_HELP: Final = (
    f"ids, keys or aliases, or a filter, which means engines at their default options. A key is `{KEY_FORM}`; options"
    f" of its engine (GET /v1/engines) are written as `{OPTIONS_FORM}`. An option at its default, or without effect at"
    " the precision, is left out of the key that the answer names; one named twice is refused."
)
PLAN_CHUNK: Final = 1000
"""Items planned in one transaction."""


class JobState(StrEnum):
    """Few states; the reason beside them is for people."""

    QUEUED = "queued"
    PLANNING = "planning"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = JobState
JOB_TRANSITIONS: Final[dict[JobState, frozenset[JobState]]] = {
    _S.QUEUED: frozenset({_S.PLANNING, _S.FAILED, _S.CANCELLED}),
    _S.PLANNING: frozenset({_S.RUNNING, _S.SUCCEEDED, _S.PARTIAL, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.PARTIAL, _S.FAILED, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.PARTIAL: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}


class ItemState(StrEnum):
    """How one item of a job stands: workload x platform x repeat."""

    PLANNED = "planned"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ItemSource(StrEnum):
    """Where an item's measurement comes from."""

    KNOWN = "known"
    JOINED = "joined"
    NEW = "new"


class JobKind(StrEnum):
    """What a job asks: how long each workload takes, or which side of each pair takes longer."""

    MEASURE = "measure"
    COMPARE = "compare"


class PriorityClass(StrEnum):
    """A class ages one step per 15 minutes waited."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


Label = Annotated[str, Field(max_length=100)]
PlatformNames = Annotated[tuple[Annotated[str, Field(max_length=300)], ...], Field(max_length=MAX_PLATFORMS)]


def _how_chosen(platforms: object) -> str | None:
    """Which of the two ways to choose platforms is meant, so that errors speak of it alone."""
    if isinstance(platforms, Mapping | PlatformFilter):
        return "filter"
    return "names" if isinstance(platforms, Iterable) and not isinstance(platforms, str | bytes) else None


Platforms = Annotated[
    Annotated[PlatformNames, Tag("names")] | Annotated[PlatformFilter, Tag("filter")],
    Discriminator(
        _how_chosen,
        custom_error_type="platforms",
        custom_error_message="it can be a list of platforms' ids, keys or aliases, or an object that filters them",
    ),
]


def _at_once(given: Any, one_by_one: ValidatorFunctionWrapHandler) -> Any:
    """Thousands of architectures of one space are read gene by gene, where all is right at first sight."""
    found = ArchitectureColumns.of_items(given)
    return one_by_one(given) if found is None else found.requests()


class JobRequest(Value):
    """The body of POST /v1/jobs. A job of kind `compare` has pairs as workloads, and no other has.

    `max_age_s` and `min_grade` say which stored results answer an item, of which grade D, and so what is noisy, never
    does: what nobody may have again is measured.
    """

    kind: JobKind = JobKind.MEASURE
    name: str = Field(default="", max_length=200)
    labels: dict[Annotated[str, Field(max_length=60)], Label] = Field(default={}, max_length=50)
    workloads: Annotated[
        tuple[JobWorkloadRequest, ...], Field(min_length=1, max_length=MAX_WORKLOADS), WrapValidator(_at_once)
    ]
    platforms: Platforms = Field(default=PlatformFilter(), description=PLATFORMS_HELP)
    protocol: ProtocolRequest | None = Field(default=None, description="by default `kernel`, or `compare` for pairs")
    timing: Timing = Field(default=Timing.ALONE, description="`in_situ`: kernels inside a carrier; kernels alone")
    priority: PriorityClass = PriorityClass.NORMAL
    max_age_s: int = Field(default=30 * 86_400, ge=0, le=10 * 365 * 86_400)
    min_grade: ReusableGrade = Grade.C
    clock_proof: ClockProof = ClockProof.UNPINNED
    repeats: int = Field(default=1, ge=1, le=20, description="of each item; no two share a lease")
    expires_in_s: int | None = Field(default=None, ge=1, le=30 * 86_400)
    budget_device_s: float | None = Field(default=None, gt=0)


class JobSpec(Value):
    """A job as it is stored: every name resolved, so that planning needs no other source."""

    kind: JobKind = JobKind.MEASURE
    workloads: tuple[Workload, ...]
    platform_keys: tuple[str, ...]
    protocol: Protocol
    timing: Timing = Timing.ALONE
    max_age_s: int
    min_grade: Grade
    clock_proof: ClockProof
    repeats: int
    budget_device_s: float | None

    @property
    def items_count(self) -> int:
        """Workloads x platforms x repeats."""
        return len(self.workloads) * len(self.platform_keys) * self.repeats


class Progress(Answer):
    """Counts over a job's items; they add up to `total`."""

    total: int
    planned: int
    pending: int
    succeeded: int
    failed: int
    cancelled: int
    known: int


class JobView(Answer):
    """A job as the API shows it."""

    id: str
    kind: JobKind = JobKind.MEASURE
    name: str
    labels: dict[str, str]
    state: JobState
    reason: str
    priority: PriorityClass
    protocol: Protocol
    timing: Timing = Timing.ALONE
    platforms: list[str]
    progress: Progress
    device_s_spent: float
    created_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None


class ItemView(Answer):
    """One item with its result, when it has one.

    `protocol_parameters`: those of its job's protocol that are not the named protocol's own. `effective_precision`:
    what the engine computed it in, of a pair its a side, and `b_effective_precision` its b side; null: unknown.
    """

    item_no: int
    workload_id: str
    workload: Workload
    label: str
    platform_id: str
    platform: str
    repeat: int
    timing: Timing = Timing.ALONE
    state: ItemState
    source: ItemSource | None
    reason: str
    failure: str | None
    measurement_id: int | None
    origin: str | None
    board_id: str | None
    measured_at: datetime | None
    summary: Summary | None
    comparison: Comparison | None = None
    effective_precision: EffectivePrecision | None = None
    protocol_parameters: ChangedParameters = {}
    b_effective_precision: EffectivePrecision | None = None


class Page(Answer, Generic[T]):
    """One page of a list; `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None


class WhyView(Answer):
    """Why a job is not further: per platform, what stands in the way and of how many items."""

    state: JobState
    reason: str
    platforms: list["PlatformWhy"]


class PlatformWhy(Answer):
    """What stands in the way of one platform's pending items."""

    platform: str
    pending: int
    reason: str
    boards: list["BoardWhy"]


class BoardWhy(Answer):
    """Which filter removed one board of a platform's model, with the reason; null for one that is idle."""

    board_id: str
    reason: str
    removed_by: BoardFilter | None = None
    gate_wait: GateWait | None = None


class DryRun(Answer):
    """What a job would do, without doing it."""

    timing: Timing = Timing.ALONE
    items: int
    known: int
    joined: int
    to_measure: int
    impossible: int
    device_s: float
    expected_wait_s: float | None
    reasons: list[str]
    within_budget: bool


def job_outcome(
    progress: Progress,
) -> tuple[Literal[JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED], str]:
    """The final state of a job whose items have all ended, with its reason."""
    lost = progress.failed + progress.cancelled
    if lost == 0:
        return JobState.SUCCEEDED, ""
    if progress.succeeded == 0:
        return JobState.FAILED, f"none of {progress.total} items could be measured"
    return JobState.PARTIAL, f"{lost} of {progress.total} items could not be measured"
