"""Drawn architectures of the search spaces of convolutional networks: what the sum of kernels is held against.

Figures whose models are called `mobile_v3-N`, `mobile_v2-N` and `resnet-N` are older: their networks were drawn by a
simpler reading of three of these spaces, whose widths, depths and windows differ here and there.
"""

from typing import Final

from benchfarm_workloads.layers import Network
from benchfarm_workloads.spaces import draws, space

FAMILIES: Final = ("ofa_mobilenet_v3", "proxylessnas", "ofa_resnet", "bignas", "fbnet_v3")


def draw_architectures(family: str, count: int, seed: int) -> dict[str, Network]:
    """`count` networks of a family by name; the same for the same seed on every machine."""
    drawn = draws(family, str(seed), count)
    return {f"{family}-{number}": space(family).network(one) for number, one in enumerate(drawn)}
