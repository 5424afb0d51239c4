"""Answers about platforms, models, results, and what the farm knows how to measure."""

from datetime import datetime
from typing import Any

from benchfarm_core.boards import EngineOption
from benchfarm_core.comparing import Comparison
from benchfarm_core.measurements import LaunchSamples, MeasurementState, Purpose, Timing
from benchfarm_core.operating_ranges import OperatingRange
from benchfarm_core.platforms import EffectivePrecision, EngineSpec, OperatingPoint, Precision
from benchfarm_core.profilers import InSituBy
from benchfarm_core.protocols import ChangedParameters, Protocol
from benchfarm_core.summaries import Summary
from benchfarm_core.values import Answer, Value
from benchfarm_core.workloads import InputSpec, Workload


class PlatformView(Answer):
    """A platform with the boards that serve it now."""

    id: str
    key: str
    aliases: list[str]
    board_model: str
    operating_point: OperatingPoint
    engine: EngineSpec
    precision: Precision
    boards: list[str]
    boards_online: int
    results: int
    ranges: list[OperatingRange] = []
    """What the boards of its model can be set to: keys at any point of these mean platforms too."""


class ListedModel(Answer):
    """An uploaded model of the account, as lists show it."""

    id: str
    name: str
    sha256: str
    size_bytes: int
    format: str
    opset: int
    dims: dict[str, int]
    inputs: list[InputSpec]
    flops: int | None
    parameters: int | None
    reasons: list[str]
    created_at: datetime


class ModelView(ListedModel):
    """An uploaded model of the account with its operator graph."""

    graph: dict[str, Any]


class ResultsWanted(Value):
    """Which results are listed: every given field must match. `platform` is an id, key or alias, `protocol` a
    protocol's name; `since` is included, `until` is not."""

    workload_id: str | None = None
    platform: str | None = None
    origin: str | None = None
    protocol: str | None = None
    timing: Timing | None = None
    since: datetime | None = None
    until: datetime | None = None


class ResultView(Answer):
    """A stored result with its summary. `bundle_id`: the bundle that brought it from an air-gapped board.

    `in_situ_by`: of a time in situ, whether the engine's profiler told it or the difference of two carriers.
    `effective_precision`: what the engine computed it in, which may be another than the platform's; null: unknown.
    `protocol_parameters`: those that are not the named protocol's own.
    """

    measurement_id: int
    workload_id: str
    workload: Workload
    label: str
    platform_id: str
    platform: str
    protocol: Protocol
    timing: Timing
    repeat_no: int
    purpose: Purpose
    origin: str
    board_id: str
    generation: str
    measured_at: datetime
    summary: Summary
    bundle_id: str | None = None
    in_situ_by: InSituBy | None = None
    effective_precision: EffectivePrecision | None = None
    protocol_parameters: ChangedParameters = {}


class AttemptView(Answer):
    """One lease that worked on a measurement."""

    lease_id: str
    board_id: str
    started_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    launches: list[dict[str, Any]]


class MeasurementView(Answer):
    """A measurement with its evidence and, while they are kept, its samples.

    `in_situ_by`: as of a result; by difference, a launch's samples are of the carrier that holds the kernel once, and
    `beside` of the one that holds it twice. `effective_precision`: as of a result, of a pair that of its a side, and
    `b_effective_precision` of its b side.
    """

    measurement_id: int
    state: MeasurementState
    workload: Workload
    platform: str
    protocol: Protocol
    timing: Timing
    repeat_no: int
    purpose: Purpose
    attempts: int
    inconclusive: int
    failure: str | None
    detail: str
    summary: Summary | None
    comparison: Comparison | None = None
    evidence: AttemptView | None
    samples: list[LaunchSamples]
    in_situ_by: InSituBy | None = None
    effective_precision: EffectivePrecision | None = None
    b_effective_precision: EffectivePrecision | None = None


class KernelColumn(Answer):
    """One column of a kernel type: an integer range or a set of choices."""

    name: str
    unit: str
    low: int | None
    high: int | None
    choices: list[str]
    meaning: str


class KernelTypeView(Answer):
    """A kernel type of the catalogue."""

    type: str
    catalogue_version: int
    columns: list[KernelColumn]
    rules: list[str]


class GeneratedModelView(Answer):
    """A generated model of the zoo."""

    name: str
    zoo_version: int
    columns: list[KernelColumn]


class EngineView(Answer):
    """An engine at a version, with the boards that have it and the reasons of those that do not.

    `profiles`: whether it tells the time of single operators, which the protocol `profile` needs. Without that, some
    engines time kernels in situ by difference, in fp32.
    """

    name: str
    versions: list[str]
    precisions: list[str]
    boards: list[str]
    unavailable: dict[str, str]
    options: dict[str, dict[str, EngineOption]] = {}
    """By version; a version whose options no board has told is left out."""
    profiles: bool = False
