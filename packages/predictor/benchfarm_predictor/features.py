"""Features of kernels: sizes, costs and the staircases that blocks and tiles of engines cut into latency.

Engines work in lanes of 4 to 64 channels and in tiles of pixels, so that latency is flat between multiples and jumps
behind them (or zigzags: a remainder may take a slower path). Logarithms alone cannot show that; remainders, paddings
and tile counts can.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Final, Literal

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernels import Floats, Kernels, catalogue_columns, is_text
from benchfarm_predictor.models import Batch, FeatureSpec
from benchfarm_predictor.quantities import Quantities, quantities

FEATURES_VERSION: Final = 1
"""Of names and formulas in ``features``, ``quantities`` and ``sums``; a file of another version is refused."""

ANY: Final = "*"
"""Instead of a kernel type: `general` features of whatever type of the catalogue."""

View = Literal["full", "quadratic", "lines", "published", "general"]
"""Which features.

- ``full``: everything in logarithms, with remainders, paddings and tiles: for trees and networks.
- ``quadratic``: logarithms of sizes and costs, their products two by two, paddings, flags: for a ridge, target `log`.
- ``lines``: work, padded work, traffic and weights in plain units: for a ridge, target `ms`; it extrapolates.
- ``published``: the configuration as it is, then MMACs and millions of parameters, as LitePred's network sees it.
- ``general``: costs and shapes that every catalogue type has, without its own columns: for kernels that have no model.

A foreign kernel type has generic features of its columns instead, in logarithms or plain as the view has it.
"""

STEPS: Final = (4, 8, 16, 32, 64)
"""Lanes and blocks of channels."""
SIDE_STEPS: Final = (4, 6, 8, 14)
"""Tiles of pixels: Winograd's outputs, and sides that models have."""
TILES: Final = ((8, 16), (64, 64), (128, 128))
"""Rows x width of one block of a matrix product: vector units, then GPUs."""
WINDOWS: Final = (1, 3, 5, 7)

Feature = tuple[str, Floats]


@dataclass(frozen=True)
class KernelFeatures:
    """Features of one kernel type, or of ``ANY``. Make them by ``kernel_features`` or ``general_features``.

    Attributes:
        columns: those of ``Kernels.columns``; what a batch has beyond them is left aside, what it lacks is 0 (never a
            catalogue column: ``Kernels`` has them all).
        only: some of the view's names, in this order; None: all.
    """

    type: str
    columns: tuple[str, ...]
    view: View = "full"
    only: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the d features, in order."""
        return _names(self.type, self.columns, self.view) if self.only is None else self.only

    def matrix(self, batch: Batch) -> Floats:
        """float64[n, d], all finite, read-only; of a whole view the same array again for the same batch.

        Raises:
            InvalidRequest: ``kernel_unknown`` when the batch is of another kernel type.
        """
        if not isinstance(batch, Kernels) or self.type not in (batch.type, ANY):
            found = batch.type if isinstance(batch, Kernels) else "whole models"
            raise InvalidRequest(f"the predictor knows kernels {self.type}, not {found[:40]}", code="kernel_unknown")
        if self.only is not None:
            return self._selected(batch, self.only)
        if self not in batch.matrices:
            batch.matrices[self] = self._made(batch)
        return batch.matrices[self]

    def spec(self) -> FeatureSpec:
        """How to make the same features again."""
        return FeatureSpec(
            of="kernel",
            version=FEATURES_VERSION,
            type=self.type,
            columns=self.columns,
            view=self.view,
            names=self.names,
        )

    def select(self, names: Iterable[str]) -> "KernelFeatures":
        """Some of these features, in that order. Raises KeyError."""
        only = tuple(names)
        missing = [name for name in only if name not in self.names]
        if missing:
            raise KeyError(missing[0])
        return replace(self, only=only)

    def _selected(self, kernels: Kernels, only: tuple[str, ...]) -> Floats:
        """Made anew each time: a file may select thousands of times, and a batch keeps what is made of it."""
        whole = replace(self, only=None)
        places = {name: at for at, name in enumerate(whole.names)}
        matrix: Floats = whole.matrix(kernels)[:, [places[name] for name in only]]
        matrix.flags.writeable = False
        return matrix

    def _made(self, kernels: Kernels) -> Floats:
        found = [values for _, values in _features(self.type, self.columns, self.view, kernels)]
        matrix = np.stack(found, axis=1) if found else np.zeros((len(kernels), 0))
        matrix.flags.writeable = False
        return matrix


def kernel_features(kernels: Kernels, view: View = "full") -> KernelFeatures:
    """The features of that kernel type and those columns."""
    return KernelFeatures(kernels.type, kernels.columns, view)


def general_features() -> KernelFeatures:
    """Features that kernels of every catalogue type have."""
    return KernelFeatures(ANY, (), "general")


@lru_cache(maxsize=512)
def _names(type_name: str, columns: tuple[str, ...], view: View) -> tuple[str, ...]:
    if type_name == ANY:
        return tuple(name for name, _ in _features(ANY, (), view, Kernels.of_configs("act", [])))
    return tuple(name for name, _ in _features(type_name, columns, view, Kernels.of_rows(type_name, columns, [])))


def _features(type_name: str, columns: tuple[str, ...], view: View, kernels: Kernels) -> list[Feature]:
    """Names and float64[n] each of one view."""
    quantity = quantities(kernels)
    if quantity is None:
        if type_name == ANY:
            raise InvalidRequest(f"the costs of {kernels.type[:40]} are not known", code="kernel_unknown")
        return _foreign(kernels, columns, view)
    if view == "general":
        return _general(quantity)
    own = {column.name for column in catalogue_columns(type_name)}
    extra = [name for name in columns if name not in own]
    return [*_VIEWS[view](kernels, quantity), *_foreign(kernels, tuple(extra), view, product=False)]


def _full(kernels: Kernels, quantity: Quantities) -> list[Feature]:
    return [
        *_sizes(kernels),
        *_words(kernels),
        *_windows(kernels),
        *_costs(quantity),
        *(feature for name, values in _axes(kernels, quantity) for feature in _stairs(name, values)),
        *((f"side_mod{step}", _remainder(quantity.side, step)) for step in SIDE_STEPS),
        *((f"side_pad{step}", _padding(quantity.side, step)) for step in (4, 6)),
        *((f"rows_pad{step}", _padding(quantity.rows, step)) for step in (8, 64)),
        *((f"depth_pad{step}", _padding(quantity.depth, step)) for step in (8, 32)),
        *((f"log2_tiles{rows}x{width}", _tiles(quantity, rows, width)) for rows, width in TILES),
    ]


def _quadratic(kernels: Kernels, quantity: Quantities) -> list[Feature]:
    linear = [*_sizes(kernels), *_costs(quantity)[:5]]
    axes = _axes(kernels, quantity)
    return [
        *linear,
        *_products(linear),
        *_words(kernels),
        *_windows(kernels),
        *((f"{name}_pad{step}", _padding(values, step)) for name, values in axes for step in STEPS),
        *((f"side_pad{step}", _padding(quantity.side, step)) for step in (4, 6)),
    ]


def _lines(kernels: Kernels, quantity: Quantities) -> list[Feature]:
    mmacs = quantity.flops / 2e6
    return [
        ("mmacs", mmacs),
        *((f"mmacs_pad{step}", mmacs * 2 ** _padding(quantity.width, step)) for step in STEPS),
        *((f"mmacs_{name}", mmacs * flag) for name, flag in _windows(kernels)),
        *((f"mmacs_{name}", mmacs * flag) for name, flag in _words(kernels)),
        ("input_mb", quantity.input_bytes / 1e6),
        ("output_mb", quantity.output_bytes / 1e6),
        *((f"output_mb_{name}", quantity.output_bytes / 1e6 * flag) for name, flag in _words(kernels)),
        ("weight_mb", quantity.weight_bytes / 1e6),
        ("rows_k", quantity.rows / 1e3),
        ("width_k", quantity.width / 1e3),
    ]


def _published(kernels: Kernels, quantity: Quantities) -> list[Feature]:
    """LitePred's released extractor: FLOPs of convolutions are (hw/s)^2 per parameter, bias included."""
    columns = [column for column in catalogue_columns(kernels.type) if not is_text(column)]
    raw = [(column.name, kernels.column(column.name)) for column in columns]
    mmacs = quantity.flops / 2e6
    if kernels.type in ("conv-bn-act", "dwconv-bn-act"):
        mmacs = (kernels.column("hw") / np.maximum(kernels.column("s"), 1)) ** 2 * quantity.parameters / 1e6
    if kernels.type == "dwconv-bn-act":
        raw.insert(2, ("cout", kernels.column("cin")))
    return [*raw, ("mmacs", mmacs), ("m_parameters", quantity.parameters / 1e6)]


def _general(quantity: Quantities) -> list[Feature]:
    shapes = (("width", quantity.width), ("depth", quantity.depth), ("side", quantity.side))
    return [
        *_costs(quantity),
        *((f"log2_{name}", _log2(values)) for name, values in shapes),
        *((f"width_pad{step}", _padding(quantity.width, step)) for step in (8, 16, 32)),
    ]


_VIEWS: Final[dict[str, Callable[[Kernels, Quantities], list[Feature]]]] = {
    "full": _full,
    "quadratic": _quadratic,
    "lines": _lines,
    "published": _published,
}


def _foreign(kernels: Kernels, columns: tuple[str, ...], view: View, *, product: bool = True) -> list[Feature]:
    """Generic features of columns whose meaning nobody knows."""
    none = np.zeros(len(kernels))
    values = [(name, kernels.column(name) if name in kernels.columns else none) for name in columns]
    whole = np.ones(len(kernels))
    for _, each in values:
        whole = whole * np.maximum(np.abs(each), 1)
    if view in ("lines", "published"):
        return [*values, *([("product_m", whole / 1e6)] if product else [])]
    logs = [(f"log2_{name}", _log2(np.abs(each) + 1)) for name, each in values]
    steps = [(f"{name}_mod{step}", _remainder(each, step)) for name, each in values for step in STEPS]
    products = _products(logs) if view == "quadratic" else []
    return [*logs, *steps, *products, *([("log2_product", np.log2(whole))] if product else [])]


def _sizes(kernels: Kernels) -> list[Feature]:
    columns = [column.name for column in catalogue_columns(kernels.type) if not is_text(column)]
    return [(f"log2_{name}", _log2(kernels.column(name))) for name in columns]


def _words(kernels: Kernels) -> list[Feature]:
    """A flag for each choice but the first."""
    return [
        (f"{column.name}_{choice}", (kernels.column(column.name) == place).astype(np.float64))
        for column in catalogue_columns(kernels.type)
        if is_text(column)
        for place, choice in enumerate(column.choices)
        if place > 0
    ]


def _windows(kernels: Kernels) -> list[Feature]:
    """Flags of windows and strides that engines have code of their own for; 3 x 3 at stride 1 is Winograd's."""
    if "hw" not in kernels.columns or not {"k", "s"} <= set(kernels.columns):
        return []
    k, s = kernels.column("k"), kernels.column("s")
    flags = [*((f"k_is_{size}", k == size) for size in WINDOWS), ("s_is_1", s == 1), ("winograd", (k == 3) & (s == 1))]
    return [(name, flag.astype(np.float64)) for name, flag in flags]


def _costs(quantity: Quantities) -> list[Feature]:
    """The first five are the smooth ones that ``quadratic`` multiplies."""
    flops, total = _log2(quantity.flops + 1), _log2(quantity.total_bytes)
    return [
        ("log2_flops", flops),
        ("log2_parameters", _log2(quantity.parameters + 1)),
        ("log2_input_bytes", _log2(quantity.input_bytes)),
        ("log2_output_bytes", _log2(quantity.output_bytes)),
        ("log2_total_bytes", total),
        ("log2_intensity", flops - total),
        ("log2_rows", _log2(quantity.rows)),
    ]


def _axes(kernels: Kernels, quantity: Quantities) -> list[Feature]:
    """What engines cut into lanes: output channels, and input channels where they are others."""
    axes = [("width", quantity.width)]
    others = [name for name in ("cin", "cmid", "head_dim") if name in kernels.columns]
    is_width = kernels.type not in ("conv-bn-act", "group-conv", "deconv-bn-act", "fc", "linear", "patch-embed")
    return axes + [(name, kernels.column(name)) for name in others if not (name == "cin" and is_width)]


def _stairs(name: str, values: Floats) -> list[Feature]:
    return [
        *((f"{name}_mod{step}", _remainder(values, step)) for step in STEPS),
        *((f"{name}_pad{step}", _padding(values, step)) for step in STEPS),
    ]


def _products(features: list[Feature]) -> list[Feature]:
    return [
        (f"{first}*{second}", one * other)
        for (first, one), (second, other) in combinations_with_replacement(features, 2)
    ]


def _remainder(values: Floats, step: int) -> Floats:
    """What is left above the last multiple, as a share of the step: in [0, 1)."""
    return np.mod(values, step) / step


def _padding(values: Floats, step: int) -> Floats:
    """log2 of how much larger the next multiple is: 0 at a multiple."""
    whole = np.maximum(values, 1)
    return np.log2(np.ceil(whole / step) * step / whole)


def _tiles(quantity: Quantities, rows: int, width: int) -> Floats:
    return _log2(np.ceil(quantity.rows / rows) * np.ceil(quantity.width / width))


def _log2(values: Floats) -> Floats:
    """0 below 1: no size is."""
    return np.log2(np.maximum(values, 1))
