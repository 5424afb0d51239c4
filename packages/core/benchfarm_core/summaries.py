"""A summary: headline, interval and grade, derived from raw data by a numbered rule version."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, Field, WithJsonSchema

from benchfarm_core.platforms import ClockProof
from benchfarm_core.values import Value


class Grade(StrEnum):
    """By the spread between launches: A <= 2 %, B <= 5 %, C <= 10 %, D above."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"


GRADE_LIMITS: Final = ((Grade.A, 0.02), (Grade.B, 0.05), (Grade.C, 0.10))
GRADE_ORDER: Final = {Grade.A: 0, Grade.B: 1, Grade.C: 2, Grade.D: 3}


class Summary(Value):
    """What one measurement says. Times in ms per iteration.

    `interval_coverage` is the probability that the true median over launches lies in
    [`low_ms`, `high_ms`]; 0 where a single launch allows no statement.
    """

    rule_version: int = Field(ge=1)
    median_ms: float = Field(gt=0, description="what was seen, median over all launches; its interval judges it")
    normalised_ms: float | None = Field(
        gt=0,
        description="what a quarter of the quiet blocks stay below, without clock points the floor of the quiet "
        "launches, at the reference clock; `spread` and `grade` judge it",
    )
    canary: str | None
    low_ms: float = Field(ge=0, description="0 where a time by difference may be none at all")
    high_ms: float = Field(gt=0)
    interval_coverage: float = Field(ge=0, le=1)
    spread: float = Field(ge=0, description="of what launches say that tell `normalised_ms`; memory: of all peaks")
    grade: Grade = Field(
        description="by `spread`; says nothing of how far `median_ms` repeats, which the interval does"
    )
    clock_proof: ClockProof
    launches: int = Field(ge=1)
    blocks: int = Field(ge=1)
    clean_share: float = Field(ge=0, le=1)
    load_ms: float | None = Field(default=None, ge=0, description="protocol memory: a cold load, without an inference")
    first_ms: float | None = Field(default=None, ge=0, description="protocol memory: the first inference")
    peak_pss_bytes: int | None = Field(default=None, ge=0, description="protocol memory: the process at its largest")
    model_pss_bytes: int | None = Field(
        default=None, ge=0, description="protocol memory: of that, what came with the model"
    )
    mapped_weights_bytes: int | None = Field(
        default=None, ge=0, description="protocol memory: resident pages of the model's file"
    )
    noisy: bool = Field(
        default=False,
        description="measured beside neighbours whom no witness sees, and taken for want of a better answer; grade D",
    )


def as_noisy(summary: Summary) -> Summary:
    """What a summary says that counts although the canary beside it was slower than the board has it: its launches may
    agree well, for all of them were slowed alike, so its spread earns no grade."""
    return summary.model_copy(update={"grade": Grade.D, "noisy": True})


def meets(grade: Grade, wanted: Grade) -> bool:
    """Whether a grade is at least as good as the wanted one."""
    return GRADE_ORDER[grade] <= GRADE_ORDER[wanted]


def is_reusable(grade: Grade) -> bool:
    """D is delivered and marked, never reused and never trained on."""
    return grade != Grade.D


def _reusable(grade: Grade) -> Grade:
    if not is_reusable(grade):
        raise ValueError(
            f"grade {grade} is delivered to whoever has it measured and never reused; C is the worst that is"
        )
    return grade


ReusableGrade = Annotated[
    Grade,
    AfterValidator(_reusable),
    WithJsonSchema({"type": "string", "enum": [grade.value for grade in Grade if is_reusable(grade)]}),
]
"""The worst grade that a stored result may have to be an answer."""
