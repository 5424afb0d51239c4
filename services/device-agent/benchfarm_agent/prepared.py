"""Measurements whose files are on this machine: what launches need, and nothing of how it came to be."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchfarm_agent.freights import CarriedSite
from benchfarm_core.correctness import INT8_TWIN_LIMIT
from benchfarm_engines.conversion import ONNX


@dataclass(frozen=True)
class PreparedItem:
    """A measurement whose files are on this machine. `inputs` and `edges` as the runner contract has them.

    `uploaded`: the artefact is a stranger's, or made of a stranger's. `twin`: what ONNX Runtime makes of the same
    quantised graph, where the engine is another. `sites`: of a carrier its layers; every wanted kernel in it has an
    item of its own, and all of them the same files. `twice`: by difference, the carrier that holds the kernel twice.
    """

    measurement_id: int
    artifact: Path
    artifact_sha256: str
    inputs: tuple[dict[str, Any], ...]
    reference: Path
    max_relative_l2: float
    uploaded: bool = False
    format: str = ONNX
    edges: dict[str, Any] | None = None
    twin: Path | None = None
    beside: "PreparedBeside | None" = None
    sites: tuple[CarriedSite, ...] = ()
    twice: "PreparedItem | None" = None

    @property
    def is_in_situ(self) -> bool:
        """Whether a carrier runs in its visits, by a profiler or by difference."""
        return bool(self.sites) or self.twice is not None

    @property
    def files(self) -> tuple[Path, ...]:
        """All that a launch opens, those of a pair's b side and of a second carrier too."""
        files = tuple(path for path in (self.artifact, self.reference, self.twin) if path is not None)
        others = (None if self.beside is None else self.beside.item, self.twice)
        return files + tuple(path for other in others if other is not None for path in other.files)

    @property
    def is_shared(self) -> bool:
        """Whether its files hold several wanted kernels, so that their faults are not one measurement's alone."""
        return sum(site.measurement_id is not None for site in self.sites) > 1

    @property
    def gates(self) -> list[dict[str, Any]]:
        """What the outputs are held against, as the runner contract has it: the workload's own reference first."""
        limits = ((self.reference, self.max_relative_l2), (self.twin, INT8_TWIN_LIMIT))
        return [{"reference": str(path), "max_relative_l2": limit} for path, limit in limits if path is not None]


@dataclass(frozen=True)
class PreparedBeside:
    """The b side of a pair. precision, options: where they differ from the platform's, else None."""

    item: PreparedItem
    precision: str | None
    options: dict[str, Any] | None


@dataclass(frozen=True)
class Canary:
    """The MobileNet canary's file for one platform, as the runner contract has it."""

    artifact: Path
    inputs: tuple[dict[str, Any], ...]
    edges: dict[str, Any] | None = None
