"""The latency question: measured where it is known, predicted where it can be, and which of the two it was."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_core.errors import TooLarge
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import ClockProof
from benchfarm_core.refusals import needs_kind
from benchfarm_core.summaries import Grade, ReusableGrade
from benchfarm_core.values import Answer, Instant, Value
from benchfarm_core.workloads import (
    ArchitectureRequest,
    GeneratedModelRequest,
    KernelListRequest,
    KernelRequest,
    UploadRequest,
)

MAX_ITEMS: Final = 20_000
MAX_ANSWERS: Final = 200_000
"""Items x distinct platforms of one question."""
MAX_QUESTION_BYTES: Final = 16 * 2**20
"""Of a question's body."""
MAX_PINNED: Final = 5000
"""Versions, and platforms, that a pin names."""
MAX_TOLD: Final = 20
"""Unknown kernels, and findings, of one answer."""


class OnMiss(StrEnum):
    """What is done where no usable measurement exists.

    `predict`: a predictor answers. `measure`: it does too, and what it says less exactly than the tolerance, or not at
    all, is queued to be measured. `error`: the answer says that nothing is measured.
    """

    PREDICT = "predict"
    MEASURE = "measure"
    ERROR = "error"


class Pin(Value):
    """What holds answers still for a whole search: an answer names the one that it was given by.

    `predictors`: ids of versions, each of which answers for its platform and subject, whatever answers by now; what is
    not named is answered by what answers now, where there was a version at that moment. `fusions`: by platform, a hash
    of how its engine fused, by which whole models have their kernels. `as_of`: what was measured later does not count,
    and ages end there.
    """

    predictors: tuple[Annotated[str, Field(max_length=20)], ...] = Field(default=(), max_length=MAX_PINNED)
    fusions: dict[Annotated[str, Field(max_length=300)], Annotated[str, Field(max_length=64)]] = Field(
        default={}, max_length=MAX_PINNED
    )
    as_of: Instant | None = None


def _few_enough(given: Any) -> Any:
    """Before any item is looked at: a list a hundred times too long is not read to its end."""
    if isinstance(given, Sequence) and not isinstance(given, str | bytes) and len(given) > MAX_ITEMS:
        raise TooLarge(f"the question has {len(given)} items; the limit is {MAX_ITEMS}", field="items")
    return given


def _at_once(given: Any, one_by_one: ValidatorFunctionWrapHandler) -> Any:
    """Thousands of architectures are read gene by gene, where all is right at first sight."""
    found = ArchitectureColumns.of_items(given)
    return one_by_one(given) if found is None else found


LatencyItem = Annotated[
    KernelRequest | GeneratedModelRequest | ArchitectureRequest | UploadRequest | KernelListRequest,
    Field(discriminator="kind"),
    BeforeValidator(needs_kind("kernel", "model", "architecture", "upload", "kernel_list")),
]


class LatencyRequest(Value):
    """The body of POST /v1/latency: every item on every platform; a platform named twice is asked once.

    Platforms are ids, keys or aliases, as in POST /v1/jobs. `timing`: how long an item takes alone, or how long a
    kernel takes inside a model (`in_situ`), which is measured and not predicted. `max_age_s` and `min_grade` say which
    measurements count, of which grade D, and so what is noisy, never does; of several the best grade's newest answers.
    `on_miss`: what is done where none counts.
    `tolerance`: half the width of a prediction's interval over its median, at the most; an interval that guarantees
    nothing is never within it. `pin`: that of an earlier answer, so that a search asks the same predictors from its
    beginning to its end.
    """

    platforms: tuple[Annotated[str, Field(max_length=300)], ...] = Field(min_length=1, max_length=100)
    items: Annotated[
        tuple[LatencyItem, ...],
        Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True),
        WrapValidator(_at_once),
        BeforeValidator(_few_enough),
    ]
    timing: Timing = Timing.ALONE
    max_age_s: int = Field(default=30 * 86_400, ge=1, le=10 * 365 * 86_400)
    min_grade: ReusableGrade = Grade.C
    tolerance: Annotated[float, Field(gt=0, le=10, strict=True)] | None = None
    on_miss: OnMiss = OnMiss.PREDICT
    pin: Pin | None = None

    @property
    def architectures(self) -> ArchitectureColumns | None:
        """The items gene by gene, where all are architectures of one space that name the same genes."""
        items: object = self.items
        return items if isinstance(items, ArchitectureColumns) else None

    @model_validator(mode="after")
    def _says_what_is_exact(self) -> Self:
        if self.on_miss == OnMiss.MEASURE and self.tolerance is None:
            raise ValueError("on_miss measure needs a tolerance: what is less exact is measured")
        return self


class LatencyAnswer(Answer):
    """One item on one platform; an item that cannot be answered carries `error` instead of numbers, and `field` where
    the item itself is wrong.

    `timing`: what the numbers mean, as the question had it. A `measured` answer names its measurement with grade, clock
    proof and age, a `predicted` one the version of the predictor. Predictors promise `normalised_ms`, the time without
    neighbours at the reference clock, so that a prediction has one number: `median_ms` is the same.

    `low_ms` and `high_ms` hold with probability `coverage`; of a prediction, for workloads like those that it was
    calibrated on. `mixed`: a kernel list that no predictor of whole models answers, as the sum of its kernels alone, of
    which some are measured. `unknown_kernels`: kernel types and operators that were guessed or left out; `outside`:
    what lies outside of what the predictor learnt from, each at most 20, fewer where a question has more than 10,000
    answers, and at least 3. Both widen the interval by rules, and `coverage` is 0: no guarantee.

    `age_s`: of the measurement. `within_tolerance`: whether the interval is as narrow as was asked. `job_id`: the job
    that measures what was not exact enough.
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
    age_s: float | None = None
    within_tolerance: bool | None = None
    job_id: str | None = None
    error: str | None
    detail: str | None
    field: str | None = None


AnswerRow = Mapping[str, Any]
"""The fields of a `LatencyAnswer` in their order: of two hundred thousand answers most of the time is spent on making
objects of them."""


class Measuring(Answer):
    """What a question with `on_miss: measure` had queued: workloads on platforms, each once.

    `wanted`: not measured, and not predicted within the tolerance; of these `queued` are new, `waiting` were asked for
    before, `measured` are so by now, after the moment of the question's pin, `left_out` are beyond the token's budget
    or beyond what one question has looked at, and `refused` cannot be queued: `detail` says why. `device_s`: what was
    charged to the budget, of which `budget_left_s` are left until `budget_until`.
    """

    wanted: int
    queued: int
    waiting: int
    measured: int = 0
    left_out: int
    refused: int
    device_s: float
    budget_left_s: float | None
    budget_until: datetime | None
    jobs: list[str]
    detail: str | None


class LatencyResponse(Answer):
    """Answers in the order of the request: items outer, platforms inner, each platform where it is first named.

    `pin`: asked with it, the same predictors answer again. `measuring`: with `on_miss: measure`.
    """

    answers: list[LatencyAnswer]
    pin: Pin | None = None
    measuring: Measuring | None = None


def half_width(median_ms: float, low_ms: float, high_ms: float) -> float:
    """Half the width of an interval over its median: what a tolerance is held against."""
    return (high_ms - low_ms) / (2 * median_ms)


def is_within(tolerance: float, answer: AnswerRow) -> bool:
    """Whether an answer is as exact as was asked: what was measured always is, as it is what there is to be known.

    An interval that guarantees nothing never is.
    """
    if answer["source"] == "measured":
        return True
    median_ms, low_ms, high_ms = answer["median_ms"], answer["low_ms"], answer["high_ms"]
    if None in (median_ms, low_ms, high_ms) or not answer["coverage"]:
        return False
    return half_width(median_ms, low_ms, high_ms) <= tolerance


def predicted(
    item_no: int,
    platform: str,
    *,
    ms: float,
    low_ms: float,
    high_ms: float,
    coverage: float,
    predictor_id: str | None,
    predictor_version: int | None,
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


def summed(item_no: int, platform: str, parts: Sequence[tuple[LatencyAnswer, int]]) -> LatencyAnswer:
    """A kernel list as the sum of its kernels alone, each with how often it occurs: `mixed` where some are measured.

    The ends of its interval are the sums of theirs, and nothing is guaranteed: what neighbours save or cost is in none.
    """

    def total(values: Sequence[float | None]) -> float | None:
        known = [value * count for value, (_, count) in zip(values, parts, strict=True) if value is not None]
        return sum(known) if len(known) == len(parts) else None

    return LatencyAnswer(
        item_no=item_no,
        platform=platform,
        source="mixed" if any(one.source == "measured" for one, _ in parts) else "predicted",
        median_ms=total([one.median_ms for one, _ in parts]),
        low_ms=total([one.low_ms for one, _ in parts]),
        high_ms=total([one.high_ms for one, _ in parts]),
        normalised_ms=total([one.normalised_ms for one, _ in parts]),
        grade=None,
        clock_proof=None,
        coverage=0.0,
        measurement_id=None,
        measured_at=None,
        origin=None,
        unknown_kernels=tuple(dict.fromkeys(name for one, _ in parts for name in one.unknown_kernels))[:MAX_TOLD],
        outside=tuple(dict.fromkeys(found for one, _ in parts for found in one.outside))[:MAX_TOLD],
        error=None,
        detail=None,
    )


def unanswered(
    item_no: int, platform: str, timing: Timing, error: str, detail: str, field: str | None = None
) -> LatencyAnswer:
    """Why there is no number, as a code of `error_codes` and a text; `field`: the part of the request."""
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
        field=field,
    )
