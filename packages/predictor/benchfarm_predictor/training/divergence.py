"""How far a sampler's draws lie from the kernels that it imitates: LitePred's occupancy divergence, and what is missed.

LitePred (NSDI 2024) looks at two-dimensional maps, size x channels, one for each window and stride, smoothed by a box.
Its released numbers come from this formula, which is no proper divergence: maps are not normalised, and what of the
second map is empty counts as 1e-10. It is kept for comparison. ``missed_share`` says the same in plain terms.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchfarm_predictor.kernels import Floats
from benchfarm_workloads.columns import Config, Scalar

CELLS: Final = 49
"""Of a map along each side."""
SIZE_CELLS_PER_OCTAVE: Final = 5
BOX: Final = 11
STRIDE: Final = 5
SMALLEST: Final = 1e-10
WINDOWS: Final = range(1, 8)
STRIDES: Final = (1, 2)
_SIZES: Final = ("hw", "seq", "m")
_CHANNELS: Final = ("cin", "dim", "cin1", "heads", "k")


@dataclass(frozen=True, eq=False)
class Occupied:
    """n configurations as they lie on the maps: ``size``, ``channels``, ``window``, ``stride``, ``weight`` float64[n].

    Weights add up to 1.
    """

    size: Floats
    channels: Floats
    window: Floats
    stride: Floats
    weight: Floats

    @classmethod
    def of(cls, configs: Sequence[Config], shares: Sequence[float] | None = None) -> "Occupied":
        """Configurations of one kernel type; without ``shares`` each weighs the same.

        What has no ``hw`` is placed by its tokens or rows, what has no ``cin`` by its features; a type without windows
        or strides counts as 1.
        """
        size, channels = (_numbers(_first(config, names) for config in configs) for names in (_SIZES, _CHANNELS))
        window, stride = (_numbers(_number(config.get(name, 1)) for config in configs) for name in ("k", "s"))
        weights = np.full(len(configs), 1 / max(1, len(configs))) if shares is None else np.array(shares, np.float64)
        return cls(size, channels, window, stride, weights / weights.sum())


def occupancy_divergence(ours: Occupied, others: Occupied) -> float:
    """The divergence of ``ours`` from ``others`` as LitePred's released code computes it; 0 for the same."""
    total = 0.0
    for window in WINDOWS:
        for stride in STRIDES:
            p, weight = _smoothed(ours, window, stride)
            q, _ = _smoothed(others, window, stride)
            total += float(np.sum(p * np.log(p / q))) * weight
    return total


def missed_share(target: Occupied, draws: Occupied) -> float:
    """The share of ``target`` in whose neighbourhood (half an octave of size, one of channels) nothing was drawn.

    The neighbourhood is of the same window and stride.
    """
    drawn = set(_cells(draws))
    missed = 0.0
    for (window, stride, row, column), weight in zip(_cells(target), target.weight, strict=True):
        near = ((window, stride, row + r, column + c) for r in (-1, 0, 1) for c in (-1, 0, 1))
        missed += float(weight) if drawn.isdisjoint(near) else 0.0
    return missed


def _cells(placed: Occupied) -> list[tuple[int, int, int, int]]:
    rows = np.floor(np.log2(placed.size) * 4).astype(np.int64)
    columns = np.floor(np.log2(placed.channels) * 2).astype(np.int64)
    whole = (placed.window.astype(np.int64), placed.stride.astype(np.int64), rows, columns)
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in zip(*whole, strict=True)]


def _smoothed(placed: Occupied, window: int, stride: int) -> tuple[Floats, float]:
    """The smoothed map of one window and stride, and the weight that lies on it."""
    chosen = (placed.window == window) & (placed.stride == stride)
    size = np.ceil(np.log2(placed.size[chosen] + 1) * SIZE_CELLS_PER_OCTAVE).astype(np.int64)
    channels = np.ceil(np.log2(placed.channels[chosen] + 1)).astype(np.int64)
    rim = BOX // 2
    occupied = np.zeros((CELLS + 2 * rim, CELLS + 2 * rim))
    np.add.at(
        occupied, (np.minimum(size, CELLS - 1) + rim, np.minimum(channels, CELLS - 1) + rim), placed.weight[chosen]
    )
    boxes = np.lib.stride_tricks.sliding_window_view(occupied, (BOX, BOX))[::STRIDE, ::STRIDE]
    smoothed: Floats = boxes.sum(axis=(2, 3)) * (STRIDE / BOX) ** 2 + SMALLEST
    return smoothed, float(placed.weight[chosen].sum())


def _first(config: Config, names: Sequence[str]) -> float:
    return next((_number(config[name]) for name in names if name in config), 1.0)


def _numbers(values: Iterable[float]) -> Floats:
    return np.array(list(values), dtype=np.float64)


def _number(value: Scalar) -> float:
    return float(value) if isinstance(value, int) else 1.0
