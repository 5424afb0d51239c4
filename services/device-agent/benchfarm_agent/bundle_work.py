"""What a bundle carries beside its order: prepared measurements, by the names of their files within it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_core.measurements import MeasurementResult
from benchfarm_core.values import Value

WORK_FILE: Final = "work.json"
FILES: Final = "files"
"""The folder of artifacts and references, each named by its hash."""


class BundledCanary(Value):
    """The canary's file, as `Canary` has it."""

    artifact: str
    inputs: tuple[dict[str, Any], ...]
    edges: dict[str, Any] | None


class BundledItem(Value):
    """One measurement's files, as `PreparedItem` has them."""

    number: int
    artifact: str
    inputs: tuple[dict[str, Any], ...]
    reference: str
    max_relative_l2: float
    format: str
    edges: dict[str, Any] | None
    twin: str | None


class BundledWork(Value):
    """All that is measured; `failed` could not be prepared, which is an outcome too."""

    canary: BundledCanary | None
    items: tuple[BundledItem, ...]
    failed: tuple[MeasurementResult, ...]


def bundled(items: Iterable[PreparedItem], canary: Canary | None, failed: Iterable[MeasurementResult]) -> BundledWork:
    """Prepared measurements as a bundle carries them."""
    return BundledWork(
        canary=None
        if canary is None
        else BundledCanary(artifact=canary.artifact.name, inputs=canary.inputs, edges=canary.edges),
        items=tuple(_bundled_item(item) for item in items),
        failed=tuple(failed),
    )


def _bundled_item(item: PreparedItem) -> BundledItem:
    return BundledItem(
        number=item.measurement_id,
        artifact=item.artifact.name,
        inputs=item.inputs,
        reference=item.reference.name,
        max_relative_l2=item.max_relative_l2,
        format=item.format,
        edges=item.edges,
        twin=None if item.twin is None else item.twin.name,
    )


def unbundled_item(item: BundledItem, files: Path) -> PreparedItem:
    """The same with its files where the bundle lies unpacked."""
    return PreparedItem(
        measurement_id=item.number,
        artifact=files / item.artifact,
        artifact_sha256=item.artifact,
        inputs=item.inputs,
        reference=files / item.reference,
        max_relative_l2=item.max_relative_l2,
        format=item.format,
        edges=item.edges,
        twin=None if item.twin is None else files / item.twin,
    )


def unbundled_canary(canary: BundledCanary, files: Path) -> Canary:
    """The canary with its file where the bundle lies unpacked."""
    return Canary(files / canary.artifact, canary.inputs, canary.edges)
