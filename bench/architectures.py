"""Drawn architectures of three search spaces: what the sum of kernels is held against beside known models.

Figures whose models are called `mobile_v3-N`, `mobile_v2-N` and `resnet-N` are older: their networks were drawn by a
simpler reading of the same three spaces, whose widths, depths and windows differ here and there.
"""

from typing import Final

from benchfarm_workloads.layers import Network
from benchfarm_workloads.spaces import draws, space

FAMILIES: Final = ("ofa_mobilenet_v3", "proxylessnas", "ofa_resnet")


def draw_architectures(count: int, seed: int) -> dict[str, Network]:
    """`count` networks of each family; the same for the same seed on every machine."""
    return {
        f"{family}-{number}": space(family).network(architecture)
        for family in FAMILIES
        for number, architecture in enumerate(draws(family, str(seed), count))
    }
