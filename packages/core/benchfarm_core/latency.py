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

    Platforms are ids, keys or aliases, as in POST /v1/jobs. `timing`: how long an item takes alone, or how long a
    kernel takes inside a model (`in_situ`), which is measured and not predicted. `max_age_s` and `min_grade` say which
    measurements count; where none does, a predictor answers.
    """

    platforms: tuple[Annotated[str, Field(max_length=300)], ...] = Field(min_length=1, max_length=100)
    items: tuple[WorkloadRequest, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    timing: Timing = Timing.ALONE
    max_age_s: int = Field(default=30 * 86_400, ge=1, le=10 * 365 * 86_400)
    min_grade: Grade = Grade.C


class LatencyAnswer(Answer):
    """One item on one platform; an item that cannot be answered carries `error` instead of numbers.

    `timing`: what the numbers mean, as the question had it. A `measured` answer names its measurement with grade, clock
    proof and age, a `predicted` one the version of the predictor. Predictors promise `normalised_ms`, the time without
    neighbours at the reference clock, so that a prediction has one number: `median_ms` is the same.

    `low_ms` and `high_ms` hold with probability `coverage`; of a prediction, for workloads like those that it was
    calibrated on. `unknown_kernels`: kernel types and operators that were guessed or left out; `outside`: what lies
    outside of what the predictor learnt from, each at most 20, fewer where a question has more than 10,000 answers, and
    at least 3. Both widen the interval by rules, and `coverage` is 0: no guarantee.
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
    predictor_id: str | None = None
    predictor_version: int | None = None
    unknown_kernels: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    error: str | None
    detail: str | None


class LatencyResponse(Answer):
    """Answers in the order of the request: items outer, platforms inner, each platform where it is first named."""

    answers: list[LatencyAnswer]


def predicted(
    item_no: int,
    platform: str,
    *,
    ms: float,
    low_ms: float,
    high_ms: float,
    coverage: float,
    predictor_id: str,
    predictor_version: int,
    unknown_kernels: tuple[str, ...] = (),
    outside: tuple[str, ...] = (),
) -> LatencyAnswer:
    """What a predictor says, `ms` and its interval in `normalised_ms`."""
    return LatencyAnswer(
        item_no=item_no,
        platform=platform,
        source="predicted",
        median_ms=ms,
        low_ms=low_ms,
        high_ms=high_ms,
        normalised_ms=ms,
        grade=None,
        clock_proof=None,
        coverage=coverage,
        measurement_id=None,
        measured_at=None,
        origin=None,
        predictor_id=predictor_id,
        predictor_version=predictor_version,
        unknown_kernels=unknown_kernels,
        outside=outside,
        error=None,
        detail=None,
    )


def unanswered(item_no: int, platform: str, timing: Timing, error: str, detail: str) -> LatencyAnswer:
    """Why there is no number, as a code of `error_codes` and a text."""
    return LatencyAnswer(
        item_no=item_no,
        platform=platform,
        timing=timing,
        source=None,
        median_ms=None,
        low_ms=None,
        high_ms=None,
        normalised_ms=None,
        grade=None,
        clock_proof=None,
        coverage=None,
        measurement_id=None,
        measured_at=None,
        origin=None,
        error=error,
        detail=detail,
    )
