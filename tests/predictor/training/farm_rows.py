"""Rows as a farm would measure them on platforms that are made up: a latency law over real networks, noise by seed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np

from benchfarm_core.architectures import Architecture
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.predictors import CountedKernel, KernelRow, ModelRow, TrainingRows
from benchfarm_core.summaries import Grade
from benchfarm_core.values import digest
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload, workload_id
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_workloads.draws import draw
from benchfarm_workloads.fusing import DEFAULT_FUSIONS, FusionRules
from benchfarm_workloads.spaces import draws, kernels
from tests.predictor.rows import costs, noisy

MOBILE, RESNET, TOKENS = "ofa_mobilenet_v3", "ofa_resnet", "autoformer"
MEASURED_AT = datetime(2026, 11, 1, tzinfo=UTC)
NOISE = 0.01
CACHE_BYTES = 1_000_000
KEY = "made-up-{}/c0-3.t1.free/formula-1.0/fp32"


class Platform:
    """Each kernel type computes and moves at rates of its own, the faster the longer its dot products are; blocks of 8
    channels are computed whole; what does not fit into the cache moves at a third; each call costs something, and a
    model a little more than its kernels."""

    def __init__(self, seed: int = 0, likeness: "Platform | None" = None) -> None:
        self.seed, self.key = seed, KEY.format(seed)
        self.likeness = likeness

    def rates(self, type_name: str) -> Floats:
        """GFLOP/s and GB/s: of a platform like another one, up to 30 % from that one's times a factor."""
        chance = np.random.default_rng([self.seed, int(digest(type_name, length=8), 16)])
        if self.likeness is None:
            return np.array([40.0, 12.0]) * np.exp(chance.uniform(-0.7, 0.7, 2))
        return 0.6 * self.likeness.rates(type_name) * np.exp(chance.uniform(-0.3, 0.3, 2))

    def in_situ_ms(self, batch: Kernels) -> Floats:
        found, (gflops, gbytes) = costs(batch), self.rates(batch.type)
        blocks = np.ceil(found.width / 8) * 8 / found.width
        moved = found.total_bytes * np.where(found.total_bytes > CACHE_BYTES, 3.0, 1.0)
        start = 1 + 64 / found.depth if batch.type == "conv-bn-act" else 1.0
        latency_ms: Floats = 0.003 + found.flops * blocks * start / (1e6 * gflops) + moved / (1e6 * gbytes)
        return latency_ms

    def alone_ms(self, batch: Kernels) -> Floats:
        """Warm caches, but nothing laid out beforehand."""
        found = costs(batch)
        return 1.2 * self.in_situ_ms(batch) + found.input_bytes / 3e7

    def model_ms(self, lists: KernelLists) -> Floats:
        return 1.04 * lists.sums(self.in_situ_ms) + 0.05


@cache
def drawn(
    space: str, count: int, seed: str = "0", fused: bool = True
) -> tuple[tuple[Architecture, tuple[CountedKernel, ...]], ...]:
    """Architectures with their kernels, in an engine that fuses layers with their activations or fuses nothing; laying
    out the networks is what takes time."""
    rules = FusionRules() if fused else FusionRules(dict.fromkeys(DEFAULT_FUSIONS, False))
    return tuple((each, tuple(kernels(each, rules))) for each in draws(space, seed, count))


def model_rows(
    platform: Platform,
    space: str,
    count: int,
    *,
    start: int = 0,
    purpose: Purpose = Purpose.TRAIN,
    fused: bool = True,
    **changes: Any,
) -> list[ModelRow]:
    """Architectures ``start`` to ``start + count`` of a space's draws."""
    chosen = drawn(space, start + count, fused=fused)[start:]
    ids = [workload_id(ArchitectureWorkload(**dict(each))) for each, _ in chosen]
    latency_ms = platform.model_ms(KernelLists.of(each for _, each in chosen))
    found = []
    for at, (name, (_, counted)) in enumerate(zip(ids, chosen, strict=True)):
        values: dict[str, Any] = {
            "workload_id": name,
            "space": space,
            "kernels": counted,
            "unknown": (),
            "normalised_ms": _with_noise(latency_ms[at], name, platform.seed),
            "grade": Grade.A,
            "measured_at": MEASURED_AT,
            "purpose": purpose,
        }
        found.append(ModelRow(**values | changes))
    return found


def kernel_rows(
    platform: Platform, type_name: str, count: int, timing: Timing = Timing.ALONE, *, seed: int = 0, **changes: Any
) -> list[KernelRow]:
    """Drawn configurations of a type."""
    return rows_of_configs(platform, type_name, draw(type_name, seed, count), timing, **changes)


def rows_of_configs(
    platform: Platform, type_name: str, configs: Sequence[Mapping[str, Any]], timing: Timing, **changes: Any
) -> list[KernelRow]:
    batch = Kernels.of_configs(type_name, configs)
    latency_ms = platform.alone_ms(batch) if timing is Timing.ALONE else platform.in_situ_ms(batch)
    found = []
    for at, config in enumerate(configs):
        name = workload_id(KernelWorkload(catalogue_version=1, type=type_name, config=dict(config)))
        values: dict[str, Any] = {
            "workload_id": name,
            "kernel_type": type_name,
            "config": config,
            "timing": timing,
            "normalised_ms": _with_noise(latency_ms[at], name + timing, platform.seed),
            "grade": Grade.B,
            "measured_at": MEASURED_AT,
            "purpose": Purpose.TRAIN,
        }
        found.append(KernelRow(**values | changes))
    return found


def in_situ_rows(platform: Platform, space: str, architectures: int, per_type: int) -> list[KernelRow]:
    """Kernels of a space's networks, timed in situ: the first different ones of each type."""
    configs: dict[str, dict[str, Mapping[str, Any]]] = {}
    for _, counted in drawn(space, architectures):
        for type_name, config, _ in counted:
            configs.setdefault(type_name, {}).setdefault(digest(config), config)
    return [
        row
        for type_name, found in configs.items()
        for row in rows_of_configs(platform, type_name, list(found.values())[:per_type], Timing.IN_SITU)
    ]


def training_rows(
    platform: Platform, models: list[ModelRow] | None = None, kernels_of: list[KernelRow] | None = None
) -> TrainingRows:
    return TrainingRows(
        platform=platform.key,
        kernels=tuple(kernels_of or ()),
        models=tuple(models or ()),
        rule_version=6,
        data_hash=digest([row.workload_id for row in (*(kernels_of or ()), *(models or ()))]),
    )


def later(row: Any, hours: float, factor: float = 1.0, **changes: Any) -> Any:
    """The same workload measured again."""
    again = {"measured_at": row.measured_at + timedelta(hours=hours), "normalised_ms": row.normalised_ms * factor}
    return row.model_copy(update=again | changes)


def _with_noise(latency_ms: float, name: str, seed: int) -> float:
    return float(noisy(np.array([latency_ms]), NOISE, int(digest([name, seed], length=8), 16))[0])
