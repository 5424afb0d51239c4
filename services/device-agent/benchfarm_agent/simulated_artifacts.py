"""What simulated boards open: nothing. In the place of inputs stands what a run of the workload costs."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, Final

from benchfarm_agent.artifacts import failed_result
from benchfarm_agent.boards.simulated_latency import MOBILENET, Work
from benchfarm_agent.freights import CarriedSite, why_not_carried, why_not_doubled
from benchfarm_agent.prepared import Canary, PreparedBeside, PreparedItem
from benchfarm_core.agent_protocol import BatchItem
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.failures import FailureCode
from benchfarm_core.matching import why_not_opened
from benchfarm_core.measurements import MeasurementResult, Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.workloads import (
    AnySingle,
    ArchitectureWorkload,
    Cost,
    GeneratedModelWorkload,
    KernelWorkload,
    PairWorkload,
    family,
    workload_id,
)
from benchfarm_workloads.kernels import CATALOGUE_VERSION, kernel_type
from benchfarm_workloads.models import ZOO_VERSION, model_recipe
from benchfarm_workloads.spaces import space

CANARY: Final = Canary(artifact=Path("simulated-canary"), inputs=(MOBILENET.document(),))
UPLOAD_FLOPS: Final = (20e6, 2e9)
"""The cost of an uploaded model follows from its hash alone: nobody looks into it."""
_FLOPS_PER_BYTE: Final = 20
_MODELS_KEPT: Final = 1000
_KERNELS_KEPT: Final = 10_000
"""Each is measured several times, and by many boards of one agent."""


class SimulatedArtifacts:
    """Prepares batches without building, fetching or converting anything."""

    @asynccontextmanager
    async def prepared(
        self, items: Sequence[BatchItem], platform: Platform, on_building: Callable[[int | None], None] = lambda _: None
    ) -> AsyncIterator[tuple[dict[int, PreparedItem], list[MeasurementResult]]]:
        """As `ArtifactCache.prepared`; what is timed in situ is visited by itself."""
        del on_building
        outcomes = [_outcome(item, platform) for item in items]
        ready = {one.measurement_id: one for one in outcomes if isinstance(one, PreparedItem)}
        yield ready, [one for one in outcomes if isinstance(one, MeasurementResult)]

    async def canary(self, own: Canary, platform: Platform) -> Canary:
        """The same on every platform."""
        del platform
        return own


def work_of(workload: AnySingle) -> Work:
    """What one run costs. Raises InvalidRequest for a generated workload that this build does not know."""
    if isinstance(workload, KernelWorkload):
        _refuse_version("catalogue_version", workload.catalogue_version, CATALOGUE_VERSION)
        return Work.of(_kernel_cost(workload.type, tuple(sorted(workload.config.items()))), workload.type)
    if isinstance(workload, GeneratedModelWorkload):
        _refuse_version("zoo_version", workload.zoo_version, ZOO_VERSION)
        return Work.of(_model_cost(workload.name, tuple(sorted(workload.config.items()))), workload.name)
    if isinstance(workload, ArchitectureWorkload):
        return Work.of(_architecture_cost(workload.model_dump_json()), workload.space)
    flops = round(Random(workload.sha256).uniform(*UPLOAD_FLOPS))
    return Work(flops, flops // _FLOPS_PER_BYTE, flops // (2 * _FLOPS_PER_BYTE), family(workload))


@lru_cache(maxsize=_KERNELS_KEPT)
def _kernel_cost(name: str, config: tuple[tuple[str, Any], ...]) -> Cost:
    return kernel_type(name).cost(dict(config))


@lru_cache(maxsize=_MODELS_KEPT)
def _model_cost(name: str, config: tuple[tuple[str, Any], ...]) -> Cost:
    return model_recipe(name).cost(dict(config))


@lru_cache(maxsize=_MODELS_KEPT)
def _architecture_cost(document: str) -> Cost:
    workload = ArchitectureWorkload.model_validate_json(document)
    return space(workload.space).cost(workload)


def _refuse_version(field: str, asked: int, known: int) -> None:
    if asked != known:
        raise InvalidRequest(f"{field}={asked} is not known here; this build knows {known}", field=field)


def _outcome(item: BatchItem, platform: Platform) -> PreparedItem | MeasurementResult:
    unread = why_not_opened(item.workload, platform)
    if unread is not None:
        return failed_result(item.measurement_id, FailureCode.CONVERSION_FAILED, unread)
    in_situ = item.timing == Timing.IN_SITU
    by_difference = in_situ and in_situ_by(platform.engine.name, platform.precision) == "difference"
    why = why_not_doubled(item) if by_difference else why_not_carried(item) if in_situ else None
    if why is not None:
        return failed_result(item.measurement_id, FailureCode.INVALID_WORKLOAD, why)
    try:
        prepared = _prepared(item)
        return _doubled(prepared) if by_difference else prepared
    except InvalidRequest as error:
        return failed_result(item.measurement_id, FailureCode.INVALID_WORKLOAD, error.detail)


def _prepared(item: BatchItem) -> PreparedItem:
    workload = item.workload
    if not isinstance(workload, PairWorkload):
        return _side(item, workload)
    options = None if workload.b_options is None else dict(workload.b_options)
    precision = None if workload.b_precision is None else str(workload.b_precision)
    beside = PreparedBeside(_side(item, workload.b), precision, options)
    return _side(item, workload.a, beside)


def _doubled(item: PreparedItem) -> PreparedItem:
    """By difference: a carrier of the kernel alone, and one that costs twice as much."""
    once = item.inputs[0]
    twice = once | {name: 2 * once[name] for name in ("flops", "traffic_bytes", "weight_bytes")}
    sites = (CarriedSite("k0", item.measurement_id),)
    return replace(item, sites=sites, twice=replace(item, inputs=(twice,)))


def _side(item: BatchItem, workload: AnySingle, beside: PreparedBeside | None = None) -> PreparedItem:
    """Its files have a name and no content: what they are called is what failures of a workload go by."""
    sha256 = hashlib.sha256(f"simulated:{workload_id(workload)}".encode()).hexdigest()
    path = Path(sha256)
    return PreparedItem(
        measurement_id=item.measurement_id,
        artifact=path,
        artifact_sha256=sha256,
        inputs=(work_of(workload).document(),),
        reference=path,
        max_relative_l2=item.max_relative_l2,
        beside=beside,
    )
