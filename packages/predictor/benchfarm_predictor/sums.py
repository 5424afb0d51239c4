"""Whole-model features: sums over a kernel list per kernel family, of work, traffic, weights and counts.

They are additive, so that a ridge on them extrapolates; and since whole models are many kernels, their sums carry no
staircases that the ridge would miss: within one search space nothing that was tried did better from 80 models up.
What a whole model is made of, whatever its size, says the view `shares`: corrections learn from it, and it tells
which search space a model is like.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.elementary import Column, log2
from benchfarm_predictor.features import FEATURES_VERSION
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Batch, FeatureSpec
from benchfarm_predictor.quantities import Quantities, quantities
from benchfarm_predictor.tabled_lists import KERNELS, TabledLists

_FAMILY_OF: Final = {
    "dwconv-bn-act": "dwconv",
    "group-conv": "group-conv",
    "deconv-bn-act": "deconv",
    "fc": "fc",
    "linear": "linear",
    "matmul": "matmul",
    "attention": "attention",
    "patch-embed": "patch-embed",
    "se": "se",
    "maxpool": "pool",
    "avgpool": "pool",
    "global-avgpool": "mean",
    "reduce-mean": "mean",
    "layernorm": "token",
    "gelu": "token",
    "softmax": "token",
    "token-add": "token",
    "pos-embed": "token",
    "add-act": "element",
    "mul": "element",
    "act": "element",
    "concat": "movement",
    "split": "movement",
    "channel-shuffle": "movement",
    "resize": "movement",
}
FAMILIES: Final = ("conv1", "conv", *dict.fromkeys(_FAMILY_OF.values()), "foreign")
"""Plain convolutions are two families, by whether their window is one pixel; foreign types are only counted."""
_MEASURED: Final = {
    "mmacs": ("flops", 2e6),
    "count": ("count", 1.0),
    "activation_mb": ("activation_bytes", 1e6),
    "weight_mb": ("weight_bytes", 1e6),
}
"""Which whole number a feature is made of, and its unit."""
_MEASURES: Final = tuple(_MEASURED)
_MAXIMA: Final = {"resolution": "hw", "tokens": "seq"}
"""The largest value of a column."""
_DEPTHWISE_WINDOWS: Final = (3, 5, 7)
_SHAPES: Final = ("resolution", "resolution_squared", "tokens", "kernels")
SumView = Literal["plain", "shares"]
"""``plain``: the sums in their units. ``shares``: each family's part of every measure, in quarters, and sizes in
octaves, so that a distance means something: a quarter of the work is as far as twice the work."""
_QUARTERS: Final = 4.0
_NAMES: Final = (
    *(f"{family}_{measure}" for family in FAMILIES for measure in _MEASURES),
    *(f"dwconv_mmacs_k{k}" for k in _DEPTHWISE_WINDOWS),
    *_SHAPES,
)


@dataclass(frozen=True)
class SumFeatures:
    """Features of kernel lists: per family MMACs, count, MB of activations and of weights; resolution; kernels.

    The resolution is the largest height of an input among the kernels, ``tokens`` the longest sequence.
    """

    view: SumView = "plain"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the d features, in order; the same for all kernel lists."""
        return _NAMES if self.view == "plain" else _SHARE_NAMES

    def matrix(self, batch: Batch) -> Floats:
        """float64[n, d], read-only. Raises InvalidRequest, ``kernel_unknown``, for a batch of single kernels."""
        columns = self.columns(batch)  # a batch of single kernels is refused, whatever was made of it
        if self not in batch.matrices:
            matrix = np.empty((len(batch), len(columns)))
            for at, column in enumerate(columns):
                matrix[:, at] = column
            matrix.flags.writeable = False
            batch.matrices[self] = matrix
        return batch.matrices[self]

    def columns(self, batch: Batch) -> tuple[Column, ...]:
        """The d features one by one, which are computed alike for a model alone and among others. Raises as
        ``matrix``."""
        if not isinstance(batch, KernelLists):
            raise InvalidRequest(
                f"the predictor takes whole models, not kernels {batch.type[:40]}", code="kernel_unknown"
            )
        if self not in batch.made and self in batch.matrices:
            return tuple(batch.matrices[self].T)
        if self not in batch.made:
            batch.made[self] = self._made(batch)
        found: tuple[Column, ...] = batch.made[self]
        return found

    def spec(self) -> FeatureSpec:
        """How to make the same features again."""
        view = "" if self.view == "plain" else self.view
        return FeatureSpec(of="sums", version=FEATURES_VERSION, view=view, names=self.names)

    def _made(self, lists: KernelLists) -> tuple[Column, ...]:
        if self.view == "shares":
            return tuple(_shares(SumFeatures().columns(lists)).values())
        return _plain(raw_sums(lists))


def raw_sums(lists: KernelLists) -> Mapping[str, Column]:
    """Whole numbers, float64[n] each: FLOPs, kernels and bytes by family, and what ``_SHAPES`` names. Those that are 0
    everywhere may be missing."""
    if isinstance(lists, TabledLists):
        return lists.totals
    if raw_sums not in lists.made:
        lists.made[raw_sums] = _sums(lists)
    found: Mapping[str, Column] = lists.made[raw_sums]
    return found


def _sums(lists: KernelLists) -> dict[str, Column]:
    if lists.blocks is None:
        return lists.kept(raw_sums, "", lambda: _own_sums(lists))
    blocks = lists.blocks
    added: dict[str, Column] = {}
    for name, values in raw_sums(blocks.lists).items():
        if isinstance(values, np.ndarray) and values.any():
            added[name] = (blocks.largest if name in _MAXIMA else blocks.added)(values)
    return {KERNELS: np.zeros(len(lists)), **added}


def _own_sums(lists: KernelLists) -> dict[str, Column]:
    sums: dict[str, Floats] = {}
    for entries in lists.by_type.values():
        for name, values in raw_values(entries.kernels).items():
            sums[name] = sums.get(name, 0.0) + lists.sums_of(entries, values)
        for name, values in raw_maxima(entries.kernels).items():
            largest = lists.maxima_of(entries, values)
            sums[name] = np.maximum(sums.get(name, largest), largest)
    return {**sums, KERNELS: lists.kernel_counts}


def _plain(raw: Mapping[str, Column]) -> tuple[Column, ...]:
    """In the order of ``_NAMES``."""
    found: list[Column] = [
        raw.get(f"{family}_{measure}", 0.0) / unit for family in FAMILIES for measure, unit in _MEASURED.values()
    ]
    found += [raw.get(f"dwconv_flops_k{k}", 0.0) / _MEASURED["mmacs"][1] for k in _DEPTHWISE_WINDOWS]
    resolution = raw.get("resolution", 0.0)
    return (*found, resolution, resolution * resolution, raw.get("tokens", 0.0), raw[KERNELS])


def families(kernels: Kernels) -> dict[str, Floats]:
    """To which of ``FAMILIES`` the kernels belong: 1 where a kernel does, else 0; float64[u] each."""
    one = np.ones(len(kernels))
    if not kernels.is_known:
        return {"foreign": one}
    if kernels.type == "conv-bn-act":
        is_one = (kernels.column("k") == 1).astype(np.float64)
        return {"conv1": is_one, "conv": one - is_one}
    return {_FAMILY_OF[kernels.type]: one}


def unseen_families(features: SumFeatures, means: Floats) -> frozenset[str]:
    """Families of which no whole model had a kernel, by the features' means over these models: float64[d]."""
    mean = dict(zip(features.names, means, strict=True))
    ending = "_count" if features.view == "plain" else "_count_share"
    return frozenset(family for family in FAMILIES if mean[f"{family}{ending}"] == 0)


def raw_values(kernels: Kernels) -> dict[str, Floats]:
    """What one type's kernels add to the sums: float64[u] each, whole numbers."""
    found = quantities(kernels)
    if found is None:
        return {"foreign_count": np.ones(len(kernels))}
    measures = {name: rule(found) for name, rule in _RULES.items()}
    parts = families(kernels)
    values = {f"{family}_{name}": each * part for family, part in parts.items() for name, each in measures.items()}
    if "dwconv" in parts:
        k = kernels.column("k")
        values |= {f"dwconv_flops_k{size}": measures["flops"] * (k == size) for size in _DEPTHWISE_WINDOWS}
    return values


def raw_maxima(kernels: Kernels) -> dict[str, Floats]:
    """Of which the largest counts: float64[u] each."""
    return {name: kernels.column(column) for name, column in _MAXIMA.items() if column in kernels.columns}


_RULES: Final[dict[str, Callable[[Quantities], Floats]]] = {
    "flops": lambda found: found.flops,
    "count": lambda found: np.ones_like(found.flops),
    "activation_bytes": lambda found: found.input_bytes + found.output_bytes,
    "weight_bytes": lambda found: found.weight_bytes,
}


def _shares(plain: Sequence[Column]) -> dict[str, Column]:
    """The view `shares` of the view `plain`, by name."""
    column = dict(zip(_NAMES, plain, strict=True))
    shares: dict[str, Column] = {}
    totals: dict[str, Column] = {}
    for measure in _MEASURES:
        parts = {name: column[name] for name in (f"{family}_{measure}" for family in FAMILIES)}
        totals[measure] = in_order(parts.values())
        shares |= {f"{name}_share": _share(part, totals[measure]) for name, part in parts.items()}
    for k in _DEPTHWISE_WINDOWS:
        shares[f"dwconv_k{k}_share"] = _share(column[f"dwconv_mmacs_k{k}"], column["dwconv_mmacs"])
    work, moved = totals["mmacs"], totals["activation_mb"]
    sizes = (
        ("mmacs", 1e3 * work),
        ("activation_mb", 1e3 * moved),
        ("weight_mb", 1e3 * totals["weight_mb"]),
        ("intensity", 1e3 * work / np.maximum(moved + totals["weight_mb"], 1e-9)),
        *((name, column[name]) for name in ("kernels", "resolution", "tokens")),
    )
    return shares | {f"log2_{name}": _octaves(values) for name, values in sizes}


def in_order(parts: Iterable[Column]) -> Column:
    """One after the other: what numpy adds up at once it may add in another order for one row than for many."""
    total: Column = 0.0
    for part in parts:
        total = total + part
    return total


def _share(part: Column, whole: Column) -> Column:
    if isinstance(part, float) and part == 0:
        return 0.0  # of every row
    return _QUARTERS * part / np.maximum(whole, 1e-12)


def _octaves(values: Column) -> Column:
    found = log2(np.maximum(values, 1))
    return found if found.ndim else float(found)


_SHARE_NAMES: Final = tuple(_shares([0.0] * len(_NAMES)))
