"""Whole-model features: sums over a kernel list per kernel family, of work, traffic, weights and counts.

They are additive, so that a ridge on them extrapolates; and since whole models are many kernels, their sums carry no
staircases that the ridge would miss: within one search space nothing that was tried did better from 80 models up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

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

    @property
    def names(self) -> tuple[str, ...]:
        """Of the d features, in order; the same for all kernel lists."""
        return _NAMES

    def matrix(self, batch: Batch) -> Floats:
        """float64[n, d], read-only. Raises InvalidRequest, ``kernel_unknown``, for a batch of single kernels."""
        if not isinstance(batch, KernelLists):
            raise InvalidRequest(
                f"the predictor takes whole models, not kernels {batch.type[:40]}", code="kernel_unknown"
            )
        if self not in batch.matrices:
            sums = _sums(batch)
            none = np.zeros(len(batch))
            matrix = np.stack([sums.get(name, none) for name in _NAMES], axis=1)
            matrix.flags.writeable = False
            batch.matrices[self] = matrix
        return batch.matrices[self]

    def spec(self) -> FeatureSpec:
        """How to make the same features again."""
        return FeatureSpec(of="sums", version=FEATURES_VERSION, names=_NAMES)


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


def _values(kernels: Kernels) -> dict[str, Floats]:
    """What one type's kernels add to the sums: float64[u] each."""
    found, one = quantities(kernels), np.ones(len(kernels))
    if found is None:
        return {"foreign_count": one}
    measures = {name: rule(found) for name, rule in _RULES.items()}
    if kernels.type == "conv-bn-act":
        is_one = (kernels.column("k") == 1).astype(np.float64)
        parts = (("conv1", is_one), ("conv", 1 - is_one))
        return {f"{family}_{name}": values * part for family, part in parts for name, values in measures.items()}
    family = _FAMILY_OF[kernels.type]
    values = {f"{family}_{name}": values for name, values in measures.items()}
    if family == "dwconv":
        k = kernels.column("k")
        values |= {f"dwconv_mmacs_k{size}": measures["mmacs"] * (k == size) for size in _DEPTHWISE_WINDOWS}
    return values


_RULES: Final[dict[str, Callable[[Quantities], Floats]]] = {
    "mmacs": lambda found: found.flops / 2e6,
    "count": lambda found: np.ones_like(found.flops),
    "activation_mb": lambda found: (found.input_bytes + found.output_bytes) / 1e6,
    "weight_mb": lambda found: found.weight_bytes / 1e6,
}
