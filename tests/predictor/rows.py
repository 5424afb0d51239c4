"""Kernels and whole models with latencies that follow from their costs, for tests of what learns from them."""

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.quantities import Quantities, quantities
from benchfarm_workloads.draws import draw

FAMILIES = ("conv-bn-act", "dwconv-bn-act", "fc", "add-act", "global-avgpool")


def drawn(type_name: str, count: int, seed: int = 0) -> Kernels:
    """Distinct valid configurations."""
    return Kernels.of_configs(type_name, draw(type_name, seed, count))


def costs(kernels: Kernels) -> Quantities:
    found = quantities(kernels)
    assert found is not None
    return found


def roofline_ms(kernels: Kernels) -> Floats:
    """5 us a call, 50 GFLOP/s and 10 GB/s, one after the other: additive, so that sums of it are exact."""
    found = costs(kernels)
    return 0.005 + found.flops / 5e7 + found.total_bytes / 1e7


def noisy(latency_ms: Floats, share: float, seed: int = 0) -> Floats:
    return latency_ms * np.exp(share * np.random.default_rng(seed).standard_normal(len(latency_ms)))


def architectures(count: int, seed: int = 0) -> list[list[CountedKernel]]:
    """Each of 5 to 14 different kernels of all families, some of them several times."""
    chance = np.random.default_rng(seed)
    pools = {name: draw(name, seed, 40) for name in FAMILIES}
    made = []
    for _ in range(count):
        kernels: list[CountedKernel] = [(name, pools[name][chance.integers(40)], 1) for name in FAMILIES]
        for _ in range(chance.integers(0, 10)):
            name = FAMILIES[chance.integers(len(FAMILIES))]
            kernels.append((name, pools[name][chance.integers(40)], int(chance.integers(1, 4))))
        made.append(kernels)
    return made


def whole_ms(lists: KernelLists) -> Floats:
    """The sum of the kernels."""
    return lists.sums(roofline_ms)


def code_of(error: InvalidRequest) -> str:
    return error.code
