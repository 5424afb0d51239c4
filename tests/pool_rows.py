"""Rows and pool files of farms that never were, for tests of the pool: times follow from costs, a seed and a spread."""

import math
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.pool_files import (
    POOL_FORMAT,
    PoolEntry,
    PoolManifest,
    packed_rows,
    read,
    write,
)
from benchfarm_core.pool_rows import pack
from benchfarm_core.predictors import KernelRow, ModelRow, TrainingRows
from benchfarm_core.quality import RULE_VERSION
from benchfarm_core.summaries import Grade
from benchfarm_core.workloads import Cost, workload_id
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.kernels import CATALOGUE_VERSION, kernel_type
from benchfarm_workloads.probes import ProbeSet, probe_set
from benchfarm_workloads.spaces import kernels, space

KEY = "host-elsewhere/c0.t1.free/onnxruntime-1.31.1/fp32"
BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC)
ORIGIN = "elsewhere-0123456789ab"


def cost_ms(cost: Cost, spread: float, chance: random.Random) -> float:
    """50 GFLOP/s and 10 GB/s, each time off by so much."""
    return (0.005 + cost.flops / 5e7 + cost.total_bytes / 1e7) * math.exp(spread * chance.gauss(0, 1))


def made_rows(
    key: str = KEY, *, spread: float = 0.0, seed: int = 0, slower: float = 1.0, probes: ProbeSet | None = None
) -> TrainingRows:
    """The whole probe set as it might have been measured."""
    probes = probes or probe_set()
    chance = random.Random(seed)
    found: list[KernelRow] = []
    models: list[ModelRow] = []
    for timing, wanted in ((Timing.ALONE, probes.kernels), (Timing.IN_SITU, probes.in_situ)):
        for one in wanted:
            ms = slower * cost_ms(kernel_type(one.type).cost(one.config), spread, chance)
            fields = {"workload_id": workload_id(one), "kernel_type": one.type, "config": one.config, "timing": timing}
            found.append(KernelRow.model_validate(fields | measured(ms, len(found))))
    for architecture in probes.architectures:
        ms = slower * cost_ms(space(architecture.space).cost(architecture), spread, chance)
        counted = tuple(kernels(architecture, FusionRules()))
        named: dict[str, Any] = {"workload_id": workload_id(architecture), "space": architecture.space}
        models.append(ModelRow(**named, kernels=counted, unknown=("Mystery",), **measured(ms, len(models))))
    return TrainingRows(
        platform=key,
        kernels=tuple(sorted(found, key=lambda row: (row.workload_id, row.timing))),
        models=tuple(sorted(models, key=lambda row: row.workload_id)),
        rule_version=RULE_VERSION,
        data_hash="0" * 32,
    )


def measured(ms: float, number: int) -> dict[str, Any]:
    moment = BEGAN + timedelta(seconds=number)
    return {"normalised_ms": ms, "grade": Grade.B, "measured_at": moment, "purpose": Purpose.PROBE}


def entry_of(rows: TrainingRows, **changes: Any) -> tuple[PoolEntry, bytes]:
    """An entry without predictors, and the part of its rows."""
    part, size_bytes = pack(rows, CATALOGUE_VERSION)
    fields: dict[str, Any] = {
        "origin": ORIGIN,
        "platform": parse_platform_key(rows.platform),
        "licence": "Apache-2.0",
        "source": "a lab elsewhere",
        "rows": packed_rows(rows, part, size_bytes),
        "predictors": (),
    }
    return PoolEntry.model_validate(fields | changes), part


def manifest_of(entries: Iterable[PoolEntry]) -> PoolManifest:
    return PoolManifest(format=POOL_FORMAT, farm="exporter", code_version="0.1.0", entries=tuple(entries))


def made_file(*every: TrainingRows, **changes: Any) -> bytes:
    """A pool file of another farm with an entry of each rows."""
    pairs = [entry_of(rows, **changes) for rows in every or (made_rows(),)]
    return write(manifest_of(entry for entry, _ in pairs), [part for _, part in pairs])


def of_another_farm(data: bytes, origin: str = ORIGIN) -> bytes:
    """The same pool file, as if another farm had measured all of it."""
    file = read(data)
    entries = [entry.model_copy(update={"origin": origin}) for entry in file.manifest.entries]
    return write(file.manifest.model_copy(update={"entries": tuple(entries)}), file.parts.values())
