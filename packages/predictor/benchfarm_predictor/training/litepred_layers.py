"""The layers of LitePred's network as its authors released it (NSDI 2024), without what trains them."""

from typing import Final

from benchfarm_predictor.networks import Activation

WIDTHS: Final = (16, 32, 64, 128, 128, *(256,) * 7, 128, 64, 16, 1)
LEAKY_LAYERS: Final = (13, 14)
"""Counted from 1."""
SLOPE: Final = 0.3


def activation_of(layer: int) -> Activation:
    """What follows a layer, counted from 1."""
    if layer == len(WIDTHS):
        return "none"
    return "leaky_relu" if layer in LEAKY_LAYERS else "relu"
