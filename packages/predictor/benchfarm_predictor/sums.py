"""Whole-model features: sums over a kernel list per kernel family, of work, traffic, weights and counts.

They are additive, so that a ridge on them extrapolates; and since whole models are many kernels, their sums carry no
staircases that the ridge would miss: within one search space nothing that was tried did better from 80 models up.
What a whole model is made of, whatever its size, says the view `shares`: corrections learn from it, and it tells
which search space a model is like.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.features import FEATURES_VERSION
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Batch, FeatureSpec
from benchfarm_predictor.quantities import Quantities, quantities

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
_MEASURES: Final = ("mmacs", "count", "activation_mb", "weight_mb")
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
        if not isinstance(batch, KernelLists):
            raise InvalidRequest(
                f"the predictor takes whole models, not kernels {batch.type[:40]}", code="kernel_unknown"
            )
        if self not in batch.matrices:
            matrix = self._made(batch)
            matrix.flags.writeable = False
            batch.matrices[self] = matrix
        return batch.matrices[self]

    def spec(self) -> FeatureSpec:
        """How to make the same features again."""
        view = "" if self.view == "plain" else self.view
        return FeatureSpec(of="sums", version=FEATURES_VERSION, view=view, names=self.names)

    def _made(self, lists: KernelLists) -> Floats:
        if self.view == "shares":
            return np.stack(list(_shares(SumFeatures().matrix(lists)).values()), axis=1)
        sums = _sums(lists)
        none = np.zeros(len(lists))
        return np.stack([sums.get(name, none) for name in _NAMES], axis=1)


def _sums(lists: KernelLists) -> dict[str, Floats]:
    """The features that are not 0 everywhere, float64[n] each."""
    sums: dict[str, Floats] = {}
    for entries in lists.by_type.values():
        kernels = entries.kernels
        for name, values in _values(kernels).items():
            sums[name] = sums.get(name, 0.0) + lists.sums_of(entries, values)
        for name, column in (("resolution", "hw"), ("tokens", "seq")):
            if column in kernels.columns:
                largest = lists.maxima_of(entries, kernels.column(column))
                sums[name] = np.maximum(sums.get(name, largest), largest)
    if "resolution" in sums:
        sums["resolution_squared"] = sums["resolution"] ** 2
    return {**sums, "kernels": lists.kernel_counts}


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


def _values(kernels: Kernels) -> dict[str, Floats]:
    """What one type's kernels add to the sums: float64[u] each."""
    found = quantities(kernels)
    if found is None:
        return {"foreign_count": np.ones(len(kernels))}
    measures = {name: rule(found) for name, rule in _RULES.items()}
    parts = families(kernels)
    values = {f"{family}_{name}": each * part for family, part in parts.items() for name, each in measures.items()}
    if "dwconv" in parts:
        k = kernels.column("k")
        values |= {f"dwconv_mmacs_k{size}": measures["mmacs"] * (k == size) for size in _DEPTHWISE_WINDOWS}
    return values


_RULES: Final[dict[str, Callable[[Quantities], Floats]]] = {
    "mmacs": lambda found: found.flops / 2e6,
    "count": lambda found: np.ones_like(found.flops),
    "activation_mb": lambda found: (found.input_bytes + found.output_bytes) / 1e6,
    "weight_mb": lambda found: found.weight_bytes / 1e6,
}


def _shares(plain: Floats) -> dict[str, Floats]:
    """The view `shares` of the view `plain`, float64[n, d]: float64[n] by name."""
    column = {name: plain[:, at] for at, name in enumerate(_NAMES)}
    shares: dict[str, Floats] = {}
    totals: dict[str, Floats] = {}
    for measure in _MEASURES:
        parts = {name: column[name] for name in (f"{family}_{measure}" for family in FAMILIES)}
        totals[measure] = np.sum(list(parts.values()), axis=0)
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
    return shares | {f"log2_{name}": np.log2(np.maximum(values, 1)) for name, values in sizes}


def _share(part: Floats, whole: Floats) -> Floats:
    return _QUARTERS * part / np.maximum(whole, 1e-12)


_SHARE_NAMES: Final = tuple(_shares(np.zeros((0, len(_NAMES)))))
