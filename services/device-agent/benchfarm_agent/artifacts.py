"""The files of a batch: built, fetched, converted or found in a bounded cache, named by their content."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchfarm_agent.conversions import (
    Conversions,
    Made,
    Source,
    activations,
    int8_options,
    is_converted,
    is_opened_as_it_is,
    is_quantised,
)
from benchfarm_agent.farm_client import DamagedFile, FarmClient
from benchfarm_agent.file_cache import FileCache
from benchfarm_agent.files import is_disk_full
from benchfarm_agent.freights import (
    Freight,
    OwnGraph,
    carried_failure,
    doubled,
    freights,
    why_not_carried,
    why_not_doubled,
)
from benchfarm_agent.kept_child import Unusable
from benchfarm_agent.makers import ENGINES, WORKLOADS, made_by
from benchfarm_agent.prepared import Canary, PreparedBeside, PreparedItem
from benchfarm_agent.references import ReferenceChild
from benchfarm_core.agent_protocol import BatchItem, BesideFiles
from benchfarm_core.errors import BenchfarmError, InvalidRequest, Unavailable
from benchfarm_core.failures import FailureCode
from benchfarm_core.matching import why_not_opened
from benchfarm_core.measurements import MeasurementResult, Timing, plain_subject
from benchfarm_core.platforms import Platform, Precision
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.values import Value
from benchfarm_core.workloads import (
    AnySingle,
    InputSpec,
    KernelWorkload,
    PairWorkload,
    Sha256,
    UploadedWorkload,
    workload_id,
)
from benchfarm_engines.conversion import ONNX

logger = logging.getLogger(__name__)

OnBuilding = Callable[[int | None], None]
"""Hears which measurement's file is being built inside the agent, and None when that is over."""


@dataclass(frozen=True)
class _Model:
    """A workload's own files: its graph, and what that must output."""

    source: Source
    reference: Path
    format: str = ONNX


@dataclass(frozen=True)
class _Side:
    """One workload of a measurement, the farm's files for it, and where it is to run."""

    measurement_id: int
    workload: AnySingle
    file_sha256: str | None
    reference_sha256: str | None
    max_relative_l2: float
    platform: Platform


class _Built(Value):
    """What a generated workload was built to."""

    artifact_sha256: Sha256
    reference_sha256: Sha256
    inputs: tuple[InputSpec, ...]


class _Derived(Value):
    """What was made of a file."""

    sha256: Sha256
    format: str
    edges: dict[str, Any] | None


class ArtifactCache:
    """Graphs and references once per workload, what engines open once per way to make it."""

    def __init__(
        self,
        files: FileCache,
        farm: FarmClient,
        references: ReferenceChild,
        conversions: Conversions,
        *,
        file_limit_bytes: int,
    ) -> None:
        self._files = files
        self._farm = farm
        self._references = references
        self._conversions = conversions
        self._file_limit_bytes = file_limit_bytes
        self._building = asyncio.Lock()

    @asynccontextmanager
    async def prepared(
        self, items: Sequence[BatchItem], platform: Platform, on_building: OnBuilding = lambda _: None
    ) -> AsyncIterator[tuple[dict[int, PreparedItem], list[MeasurementResult]]]:
        """Prepares a batch: what is ready by measurement, and a typed failure for what cannot be.

        What the farm cannot hand out now is in neither: it stays wanted, and nobody pays.
        Building the next file overlaps with the reference of the last one. While the context is open its files
        are safe from eviction.
        """
        alone = [item for item in items if item.timing == Timing.ALONE]
        first = {workload_id(item.workload): item for item in reversed(alone)}
        repeats = [item for item in alone if item is not first[workload_id(item.workload)]]
        outcomes = await asyncio.gather(*(self._alone(item, platform, on_building) for item in first.values()))
        outcomes += await asyncio.gather(*(self._alone(item, platform, on_building) for item in repeats))
        in_situ = [item for item in items if item.timing == Timing.IN_SITU]
        if in_situ_by(platform.engine.name, platform.precision) == "difference":
            outcomes += await asyncio.gather(*(self._doubled(item, platform, on_building) for item in in_situ))
        else:
            outcomes += await self._carried(in_situ, platform, on_building)
        ready = {one.measurement_id: one for one in outcomes if isinstance(one, PreparedItem)}
        failed = [one for one in outcomes if isinstance(one, MeasurementResult)]
        with self._files.held(frozenset(path.name for item in ready.values() for path in item.files)):
            yield ready, failed

    def own_canary(self) -> Canary:
        """The MobileNet canary's ONNX file, safe from eviction for as long as this cache lives. Raises OSError."""
        from benchfarm_workloads.onnx_canary import build_canary, canary_inputs

        path = self._files.put(build_canary())
        self._files.hold_for_good(frozenset({path.name}))
        return Canary(artifact=path, inputs=tuple(spec.model_dump(mode="json") for spec in canary_inputs()))

    async def canary(self, own: Canary, platform: Platform) -> Canary:
        """The canary as a platform opens it, safe as `own` is. Raises Unusable, OSError.

        Files that run as they are have their engine's own fp32 file beside them.
        """
        if platform.precision is Precision.AS_GIVEN:
            platform = platform.model_copy(update={"precision": Precision.FP32})
        source = await self._quantised(Source(own.artifact, own.inputs), platform)
        derived = await self._converted(source, platform)
        if derived is not None:
            source = replace(source, artifact=self._files.path(derived.sha256), edges=derived.edges)
        self._files.hold_for_good(frozenset({source.artifact.name}))
        return Canary(source.artifact, source.inputs, source.edges)

    async def _carried(
        self, items: Sequence[BatchItem], platform: Platform, on_building: OnBuilding
    ) -> list[PreparedItem | MeasurementResult | None]:
        """What is timed in situ: the same files for every kernel of a carrier."""
        whys = {item.measurement_id: why_not_carried(item) for item in items}
        outcomes: list[PreparedItem | MeasurementResult | None] = [
            failed_result(measurement_id, FailureCode.INVALID_WORKLOAD, why)
            for measurement_id, why in whys.items()
            if why is not None
        ]
        for freight in freights([item for item in items if whys[item.measurement_id] is None], platform.precision):
            first, shared = freight.items[0].measurement_id, len(freight.items) > 1
            found = await self._outcome(first, partial(self._prepare_freight, freight, platform, on_building))
            if isinstance(found, MeasurementResult) and shared and found.failure is not None:
                found = failed_result(first, *carried_failure(found.failure, found.detail))
            outcomes += [_for_measurement(found, item.measurement_id) for item in freight.items]
        return outcomes

    async def _doubled(
        self, item: BatchItem, platform: Platform, on_building: OnBuilding
    ) -> PreparedItem | MeasurementResult | None:
        """What is timed in situ by difference: two carriers for each kernel."""
        why = why_not_doubled(item)
        if why is not None:
            return failed_result(item.measurement_id, FailureCode.INVALID_WORKLOAD, why)
        return await self._outcome(item.measurement_id, partial(self._prepare_doubled, item, platform, on_building))

    async def _prepare_doubled(self, item: BatchItem, platform: Platform, on_building: OnBuilding) -> PreparedItem:
        once, twice = [await self._prepare_freight(each, platform, on_building) for each in doubled(item)]
        return replace(once, twice=twice)

    async def _prepare_freight(self, freight: Freight, platform: Platform, on_building: OnBuilding) -> PreparedItem:
        item = freight.items[0]
        assert isinstance(item.workload, KernelWorkload)  # as `why_not_carried` has seen
        key = [*freight.key, made_by(WORKLOADS), made_by(ENGINES)]
        model = await self._own_model(item.measurement_id, key, freight.build, on_building)
        side = _side(item.measurement_id, item.workload, item, platform)
        return replace(await self._opened_by(model, side), sites=freight.sites)

    async def _alone(
        self, item: BatchItem, platform: Platform, on_building: OnBuilding
    ) -> PreparedItem | MeasurementResult | None:
        return await self._outcome(item.measurement_id, lambda: self._prepare(item, platform, on_building))

    async def _outcome(
        self, measurement_id: int, prepare: Callable[[], Awaitable[PreparedItem]]
    ) -> PreparedItem | MeasurementResult | None:
        """None while the farm does not hand out its files."""
        subject = ""
        try:
            return await prepare()
        except Unusable as error:
            code, detail, subject = error.code, error.detail, error.subject
        except BenchfarmError as error:
            if isinstance(error, Unavailable) and not isinstance(error, DamagedFile):
                logger.warning("the farm does not hand out a file: %s", error.detail)
                return None
            code, detail = FailureCode.FILE_LOST, f"the farm's file cannot be had: {error.detail}"
        except OSError as error:
            code = FailureCode.DISK_FULL if is_disk_full(error) else FailureCode.RUNNER_DIED
            detail = f"its files could not be written: {error.strerror}"
        except Exception as error:  # boundary: a fault that cost nobody an attempt would come back for ever
            logger.exception("a measurement could not be prepared", extra={"measurement": measurement_id})
            code, detail = FailureCode.RUNNER_DIED, f"the agent could not prepare it: {error!r}"
        return failed_result(measurement_id, code, detail, subject)

    async def _prepare(self, item: BatchItem, platform: Platform, on_building: OnBuilding) -> PreparedItem:
        sides = [await self._prepared_side(side, on_building) for side in _sides(item, platform)]
        if not isinstance(item.workload, PairWorkload):
            return sides[0]
        a, b = sides
        precision, options = item.workload.b_precision, item.workload.b_options
        beside = PreparedBeside(
            b, None if precision is None else str(precision), None if options is None else dict(options)
        )
        return replace(a, beside=beside, uploaded=a.uploaded or b.uploaded)

    async def _prepared_side(self, side: _Side, on_building: OnBuilding) -> PreparedItem:
        why = why_not_opened(side.workload, side.platform)
        if why is not None:  # the farm asks for none; whoever asks hears it before a converter does
            raise Unusable(FailureCode.CONVERSION_FAILED, why)
        return await self._opened_by(await self._model(side, on_building), side)

    async def _opened_by(self, model: _Model, side: _Side) -> PreparedItem:
        """A graph and its reference, as the platform of `side` opens them."""
        await self._see(model.source, side.platform)
        source = await self._quantised(model.source, side.platform)
        twin = await self._twin(source, side.platform)
        derived = await self._converted(source, side.platform)
        artifact = source.artifact if derived is None else self._files.path(derived.sha256)
        return PreparedItem(
            measurement_id=side.measurement_id,
            artifact=artifact,
            artifact_sha256=artifact.name,
            inputs=source.inputs,
            reference=model.reference,
            max_relative_l2=side.max_relative_l2,
            uploaded=source.stranger,
            format=model.format if derived is None else derived.format,
            edges=source.edges if derived is None else derived.edges,
            twin=twin,
        )

    async def _quantised(self, source: Source, platform: Platform) -> Source:
        """The graph that a platform's artifact is made of: as it is, or its int8."""
        if not is_quantised(platform):
            return source
        stored = [int8_options(platform), activations(platform)]
        key = ["int8", made_by(ENGINES), source.artifact.name, source.inputs, *stored]
        made = await self._derived(key, lambda: self._conversions.quantised(source, platform))
        return replace(source, artifact=self._files.path(made.sha256), edges=made.edges)

    async def _twin(self, source: Source, platform: Platform) -> Path | None:
        """What ONNX Runtime makes of the quantised graph: another engine's int8 is held against that too."""
        if not is_quantised(platform) or platform.engine.name == "onnxruntime":
            return None

        async def compute() -> Made:
            content = await self._references.compute(
                source.artifact, source.inputs, edges=source.edges, stranger=source.stranger
            )
            return Made(content, "npz", None)

        key = ["twin", made_by(ENGINES), source.artifact.name, source.inputs, source.edges]
        return self._files.path((await self._derived(key, compute)).sha256)

    async def _converted(self, source: Source, platform: Platform) -> _Derived | None:
        """The engine's own file, None where it opens the graph itself."""
        if not is_converted(platform):
            return None
        engine = platform.engine
        made_for = [engine.name, engine.version, engine.options, platform.precision]
        key = ["converted", made_by(ENGINES), source.artifact.name, source.inputs, source.edges, *made_for]
        return await self._derived(key, lambda: self._conversions.converted(source, platform))

    async def _see(self, source: Source, platform: Platform) -> None:
        """Looks at what nothing is made of. Raises Unusable where its products are of another precision."""
        if is_opened_as_it_is(source, platform):
            key = ["seen", made_by(ENGINES), source.artifact.name, platform.engine.name, platform.precision]
            await self._derived(key, lambda: self._conversions.seen(source, platform))

    async def _derived(self, key: Sequence[object], make: Callable[[], Awaitable[Made]]) -> _Derived:
        known = self._files.noted(key, _Derived)
        if known is not None and await self._are_whole(known.sha256):
            return known
        made = await make()
        path = await asyncio.to_thread(self._files.put, made.content)
        derived = _Derived(sha256=path.name, format=made.format, edges=made.edges)
        self._files.note(key, derived)
        return derived

    async def _model(self, side: _Side, on_building: OnBuilding) -> _Model:
        if isinstance(side.workload, UploadedWorkload):
            return await self._fetched(side, side.workload)
        key = ["built", made_by(WORKLOADS), made_by(ENGINES), workload_id(side.workload)]
        return await self._own_model(side.measurement_id, key, partial(_built_workload, side.workload), on_building)

    async def _own_model(
        self, measurement_id: int, key: Sequence[object], make: Callable[[], OwnGraph], on_building: OnBuilding
    ) -> _Model:
        """A graph of ours with its reference, made where the cache does not have both."""
        built = await self._known(key) or await self._build(measurement_id, key, make, on_building)
        source = Source(self._files.path(built.artifact_sha256), _documents(built.inputs))
        return _Model(source, self._files.path(built.reference_sha256))

    async def _known(self, key: Sequence[object]) -> _Built | None:
        """What was built before, if its files are all there."""
        built = self._files.noted(key, _Built)
        if built is None or not await self._are_whole(built.artifact_sha256, built.reference_sha256):
            return None
        return built

    async def _are_whole(self, *sha256s: str) -> bool:
        """Whether files are there and undamaged; on the loop a large one would hold up every other board."""
        return await asyncio.to_thread(lambda: all(map(self._files.has, sha256s)))

    async def _build(
        self, measurement_id: int, key: Sequence[object], make: Callable[[], OwnGraph], on_building: OnBuilding
    ) -> _Built:
        async with self._building:  # one at a time: the interpreter would not run two at once anyway
            on_building(measurement_id)
            try:
                graph, inputs = await asyncio.to_thread(make)
            finally:
                on_building(None)
        artifact = await asyncio.to_thread(self._files.put, graph)  # the disk is waited for while the next is built
        content = await self._references.compute(artifact, _documents(inputs))
        reference = await asyncio.to_thread(self._files.put, content)
        built = _Built(artifact_sha256=artifact.name, reference_sha256=reference.name, inputs=inputs)
        self._files.note(key, built)
        return built

    async def _fetched(self, side: _Side, workload: UploadedWorkload) -> _Model:
        if side.file_sha256 is None or side.reference_sha256 is None:
            raise Unusable(FailureCode.INVALID_WORKLOAD, "the farm names no file or no reference for this upload")
        for sha256 in (side.file_sha256, side.reference_sha256):
            await self._fetch(sha256)
        source = Source(self._files.path(side.file_sha256), _documents(workload.inputs), stranger=True)
        return _Model(source, self._files.path(side.reference_sha256), workload.format)

    async def _fetch(self, sha256: str) -> None:
        if await self._are_whole(sha256):
            return
        part = self._files.folder / f".{secrets.token_hex(8)}.part"
        try:
            await self._farm.fetch(sha256, part, limit_bytes=self._file_limit_bytes)
            await asyncio.to_thread(self._files.take_in, part, sha256)
        finally:
            part.unlink(missing_ok=True)


def _built_workload(workload: AnySingle) -> OwnGraph:
    from benchfarm_workloads.artifacts import build  # brings onnx, which the agent's start does not wait for

    try:
        artifact = build(workload)
    except InvalidRequest as error:
        raise Unusable(FailureCode.INVALID_WORKLOAD, error.detail) from error
    return artifact.onnx_bytes, artifact.inputs


def _for_measurement(
    found: PreparedItem | MeasurementResult | None, measurement_id: int
) -> PreparedItem | MeasurementResult | None:
    """What became of a carrier, as one of its kernels has it."""
    if isinstance(found, PreparedItem):
        return replace(found, measurement_id=measurement_id)
    return None if found is None else found.model_copy(update={"measurement_id": measurement_id})


def _sides(item: BatchItem, platform: Platform) -> list[_Side]:
    """The one workload of a measurement, or both of a pair. Raises Unusable."""
    workload = item.workload
    if not isinstance(workload, PairWorkload):
        return [_side(item.measurement_id, workload, item, platform)]
    if item.beside is None:
        raise Unusable(FailureCode.INVALID_WORKLOAD, "the farm says nothing of the b side's files")
    return [
        _side(item.measurement_id, workload.a, item, platform),
        _side(item.measurement_id, workload.b, item.beside, _b_platform(workload, platform)),
    ]


def _side(measurement_id: int, workload: AnySingle, files: BatchItem | BesideFiles, platform: Platform) -> _Side:
    return _Side(measurement_id, workload, files.file_sha256, files.reference_sha256, files.max_relative_l2, platform)


def _b_platform(pair: PairWorkload, platform: Platform) -> Platform:
    options = platform.engine.options if pair.b_options is None else pair.b_options
    return platform.model_copy(
        update={
            "precision": pair.b_precision or platform.precision,
            "engine": platform.engine.model_copy(update={"options": options}),
        }
    )


def failed_result(measurement_id: int, code: FailureCode, detail: str, subject: str = "") -> MeasurementResult:
    """The typed failure of one measurement; subject: the operator that it is about."""
    return MeasurementResult(
        measurement_id=measurement_id,
        outcome="failed",
        failure=code,
        detail=detail[:300],
        subject=plain_subject(subject),
    )


def _documents(inputs: Sequence[InputSpec]) -> tuple[dict[str, Any], ...]:
    return tuple(spec.model_dump(mode="json") for spec in inputs)
