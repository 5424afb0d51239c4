"""Which operators an engine computes as one: how it was found out, and what both ways say."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from benchfarm_core.measurements import MS_MAX
from benchfarm_core.operator_families import known_family
from benchfarm_core.platforms import Precision
from benchfarm_core.values import Answer, Value

FUSED_SHARE: Final = 0.5
LEAST_TIMED_MS: Final = 0.03
"""An engine's call costs up to a third of this. Every pair saves one call, so that shorter operators look fused."""
MAX_ROWS: Final = 500

Family = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{0,59}$"), AfterValidator(known_family)]
SpreadMs = Annotated[float, Field(ge=0, le=MS_MAX, strict=True)]
TimeMs = Annotated[float, Field(gt=0, le=MS_MAX, strict=True)]
"""Strict: a truth value is no time."""


def is_fused(t1_ms: float, t2_ms: float, t12_ms: float) -> bool:
    """nn-Meter's rule (MobiSys 2021): two operators are one kernel when together they save more than half the
    shorter one: T1 + T2 - T12 > 0.5 min(T1, T2). All times of one engine, alone and in a row."""
    return t1_ms + t2_ms - t12_ms > FUSED_SHARE * min(t1_ms, t2_ms)


def latency_verdict(t1_ms: float, t2_ms: float, t12_ms: float, spread_ms: float) -> bool | None:
    """`is_fused` where the times can tell: None for operators below `LEAST_TIMED_MS`, and where the saving is no
    farther than `spread_ms` from the limit."""
    shorter_ms = min(t1_ms, t2_ms)
    beyond_ms = abs(t1_ms + t2_ms - t12_ms - FUSED_SHARE * shorter_ms)
    if shorter_ms < LEAST_TIMED_MS or (spread_ms > 0 and beyond_ms <= spread_ms):
        return None
    return is_fused(t1_ms, t2_ms, t12_ms)


def fused_verdict(by_latency: bool | None, by_profile: bool | None) -> bool:
    """What counts: an engine's own profile where there is one, for times are noisy; else the rule on latencies."""
    return bool(by_latency) if by_profile is None else by_profile


class FusionRow(Value):
    """What was found of two operator families in a row: three times, or what a profile shows, or both.

    `first`, `second`: operators of ONNX's standard set, or a family of `operator_families.OWN_FAMILIES`; a rule on any
    other would be about nothing.
    `spread_ms`: by how much the saving t1 + t2 - t12 may be wrong, as the measurements themselves spread.
    """

    first: Family
    second: Family
    t1_ms: TimeMs | None = None
    t2_ms: TimeMs | None = None
    t12_ms: TimeMs | None = None
    spread_ms: SpreadMs | None = None
    by_profile: bool | None = None

    @model_validator(mode="after")
    def _told(self) -> "FusionRow":
        times = (self.t1_ms, self.t2_ms, self.t12_ms)
        if None in times and any(one is not None for one in times):
            raise ValueError("t1_ms, t2_ms and t12_ms belong together")
        if None in times and self.spread_ms is not None:
            raise ValueError("spread_ms belongs to the times")
        if None in times and self.by_profile is None:
            raise ValueError("a row needs its three times, or by_profile")
        return self

    @property
    def by_latency(self) -> bool | None:
        """The verdict of the three times; None without them, and where they cannot tell."""
        if self.t1_ms is None or self.t2_ms is None or self.t12_ms is None:
            return None
        return latency_verdict(self.t1_ms, self.t2_ms, self.t12_ms, self.spread_ms or 0.0)


class FusionReport(Value):
    """Rows for one engine at one precision; each pair once."""

    rows: tuple[FusionRow, ...] = Field(min_length=1, max_length=MAX_ROWS)

    @model_validator(mode="after")
    def _distinct(self) -> "FusionReport":
        if len({(row.first, row.second) for row in self.rows}) < len(self.rows):
            raise ValueError("a pair appears twice")
        return self


class FusionView(Answer):
    """What is known of a pair. `fused` is what counts; where neither way could tell, that is the default. `disagree`:
    the two ways contradict each other."""

    first: str
    second: str
    fused: bool
    by_latency: bool | None
    by_profile: bool | None
    disagree: bool
    t1_ms: float | None
    t2_ms: float | None
    t12_ms: float | None
    spread_ms: float | None
    board_model: str
    measured_at: datetime


RulesSource = Literal["measured", "other_board_model", "default"]
"""Measured on boards of the platform's model; on another model's, with the same engine and precision; or assumed."""


class FusionsView(Answer):
    """The rules of a platform's engine at its precision, as boards of its model showed them.

    A pair that was not measured on them is told as another model showed it last with the same engine (`board_model`;
    empty: kept by an older farm). Where all are of other models `rules` is `other_board_model`; where nothing was
    measured, `default`: the pairs that count as fused unless measured otherwise.
    """

    platform: str
    engine: str
    precision: Precision
    rules: RulesSource
    measured: list[FusionView]
    disagreements: list[FusionView]
    default: list[tuple[str, str]]


class KernelPart(Answer):
    """A part of a fused kernel. `type` is null for an operator that the catalogue does not know; `config` is null
    where its sizes are unknown or outside the catalogue, and `reason` says why. `is_free`: it computes nothing."""

    type: str | None
    config: dict[str, int | str] | None
    operators: list[str]
    names: list[str]
    reason: str
    is_free: bool


class ModelKernel(Answer):
    """What the engine computes as one: one part, or several that are fused."""

    kernel_no: int
    parts: list[KernelPart]


class UnknownOperator(Answer):
    """An operator without a kernel type, and how often the model has it."""

    operator: str
    count: int


class ModelKernels(Answer):
    """A model's kernels on a platform, in an order in which they can run; every operator is in exactly one.

    `rules` as of the platform; `assumed` are the pairs fused by default because nothing was measured of them.
    """

    model_id: str
    platform: str
    rules: RulesSource
    assumed: list[tuple[str, str]]
    kernels: list[ModelKernel]
    unknown: list[UnknownOperator]
