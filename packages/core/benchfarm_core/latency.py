"""The latency question: measured where it is known, predicted where it can be, and which of the two it was."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import ClockProof
from benchfarm_core.summaries import Grade
from benchfarm_core.values import Answer, Value
from benchfarm_core.workloads import WorkloadRequest

MAX_ITEMS: Final = 20_000
MAX_ANSWERS: Final = 200_000
"""Items x distinct platforms of one question."""


class LatencyRequest(Value):
    """The body of POST /v1/latency: every item on every platform; a platform named twice is asked once.

    Platforms are ids, keys or aliases, as in POST /v1/jobs.
    """

    platforms: tuple[Annotated[str, Field(max_length=300)], ...] = Field(min_length=1, max_length=100)
    items: tuple[WorkloadRequest, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    max_age_s: int = Field(default=30 * 86_400, ge=1, le=10 * 365 * 86_400)
    min_grade: Grade = Grade.C


class LatencyAnswer(Answer):
    """One item on one platform; an item that cannot be answered carries `error` instead of numbers.

    `timing`: what the numbers mean; the question is answered by workloads timed alone.
    """

    item_no: int
    platform: str
    timing: Timing = Timing.ALONE
    source: Literal["measured", "predicted", "mixed"] | None
    median_ms: float | None
    low_ms: float | None
    high_ms: float | None
    normalised_ms: float | None
    grade: Grade | None
    clock_proof: ClockProof | None
    coverage: float | None
    measurement_id: int | None
    measured_at: datetime | None
    origin: str | None
    error: str | None
    detail: str | None


class LatencyResponse(Answer):
    """Answers in the order of the request: items outer, platforms inner, each platform where it is first named."""

    answers: list[LatencyAnswer]
