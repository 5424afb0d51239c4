"""Trees as arrays, evaluated with numpy: what boosted trees and forests become when their training ends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import (
    Array,
    Arrays,
    Batch,
    Decoder,
    Features,
    FeatureSpec,
    Meta,
    Number,
    Target,
    array,
    checked,
    damaged,
    milliseconds,
)

Places = npt.NDArray[np.signedinteger[Any]]
Reals = npt.NDArray[np.floating[Any]]
LEAF: Final = -1
MAX_DEPTH: Final = 256
MAX_TREES: Final = 4096
MAX_FEATURES: Final = 2**15
"""A file holds the features' places in 16 bits."""
_CELLS: Final = 2_000_000
"""Rows x trees that are followed at once: some tens of megabytes."""


class Tree(NamedTuple):
    """One tree with nodes numbered from 0, the root, children behind their parent; a leaf's feature is -1.

    ``left`` and ``right`` of a leaf say nothing.
    """

    feature: npt.NDArray[Any]
    threshold: npt.NDArray[Any]
    left: npt.NDArray[Any]
    right: npt.NDArray[Any]
    value: npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Forest:
    """All nodes of all trees one behind the other; children stand behind their parent. Make one by ``of``.

    A row goes left where ``x[feature] <= threshold``. A leaf has ``feature`` -1 and its own number as both children.

    Attributes:
        feature: int32[nodes], the feature's place, -1 at a leaf; int16 as it is read from a file.
        threshold: float64[nodes]; float32 as it is read, where rows are compared in float32.
        left, right: int32[nodes], numbers of nodes in the whole forest (not in the tree).
        value: float64[nodes], meant at leaves only; float32 as it is read.
        roots: int32[trees].
    """

    feature: Places
    threshold: Reals
    left: Places
    right: Places
    value: Reals
    roots: Places

    @classmethod
    def of(cls, trees: Iterable[Tree]) -> "Forest":
        """One behind the other."""
        moved, roots, start = [], [], 0
        for tree in trees:
            moved.append(_moved(tree, start))
            roots.append(start)
            start += len(tree.feature)
        return cls(
            _one(np.int32, [tree.feature for tree in moved]),
            _one(np.float64, [tree.threshold for tree in moved]),
            _one(np.int32, [tree.left for tree in moved]),
            _one(np.int32, [tree.right for tree in moved]),
            _one(np.float64, [tree.value for tree in moved]),
            np.array(roots, dtype=np.int32),
        )

    @cached_property
    def depth(self) -> int:
        """Steps from a root to the farthest leaf. Raises ValueError above ``MAX_DEPTH``."""
        level, steps = np.unique(self.roots), 0
        while (inner := level[self.feature[level] != LEAF]).size:
            level = np.unique(np.concatenate([self.left[inner], self.right[inner]]))
            steps += 1
            if steps > MAX_DEPTH:
                raise ValueError(f"a tree is deeper than {MAX_DEPTH}")
        return steps

    def leaves(self, x: Floats) -> Reals:
        """The value of the leaf that each row reaches in each tree: float64[n, d] to [n, trees] of the values' type."""
        place = np.maximum(self.feature, 0)
        node = np.repeat(self.roots[None, :], len(x), axis=0)
        row = np.arange(len(x))[:, None]
        for _ in range(self.depth):
            goes_left = x[row, place[node]] <= self.threshold[node]
            node = np.where(goes_left, self.left[node], self.right[node])
        return self.value[node]


def _moved(tree: Tree, start: int) -> Tree:
    """The tree with its nodes numbered from ``start``, its leaves as ``Forest`` has them."""
    own = np.arange(start, start + len(tree.feature))
    feature = np.asarray(tree.feature)
    leaf = feature < 0
    left, right = (np.where(leaf, own, np.asarray(child) + start) for child in (tree.left, tree.right))
    return Tree(np.where(leaf, LEAF, feature), np.where(leaf, 0.0, tree.threshold), left, right, np.asarray(tree.value))


def _one(dtype: type[np.generic], parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype=dtype)


class _TreesMeta(Value):
    kind: Literal["trees"] = "trees"
    features: FeatureSpec
    target: Target
    combine: Literal["sum", "mean"]
    base: Number
    compare: Literal["float32", "float64"]
    floor_ms: Number


@dataclass(frozen=True, eq=False)
class Trees:
    """base + sum (boosting) or mean (forest) of the trees' leaves, as ``target`` says in ms or log ms.

    ``compare``: float32 where the trees were grown on float32 features (scikit-learn's forests), else float64
    (LightGBM).
    """

    kind: ClassVar[str] = "trees"
    features: Features
    forest: Forest
    target: Target = "log"
    combine: Literal["sum", "mean"] = "sum"
    base: float = 0.0
    compare: Literal["float32", "float64"] = "float64"
    floor_ms: float = 1e-6

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        return milliseconds(self.base + self.output(self.features.matrix(batch)), self.target, self.floor_ms)

    def output(self, x: Floats) -> Floats:
        """Sum or mean of the leaves: float64[n, d] to float64[n]."""
        seen = x.astype(np.float32).astype(np.float64) if self.compare == "float32" else x
        count = max(len(self.forest.roots), 1)
        at_once = max(_CELLS // count, 1)
        parts = [
            self.forest.leaves(seen[at : at + at_once]).sum(axis=1, dtype=np.float64)
            for at in range(0, len(seen), at_once)
        ]
        total = np.concatenate(parts) if parts else np.zeros(0)
        return total / count if self.combine == "mean" else total

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says. Leaves are rounded to float32."""
        meta = _TreesMeta(
            features=self.features.spec(),
            target=self.target,
            combine=self.combine,
            base=self.base,
            compare=self.compare,
            floor_ms=self.floor_ms,
        )
        return _narrowed(self.forest, self.compare), meta.model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_TreesMeta, meta)
        features = decoder.features(said.features)
        forest = _checked_forest(arrays, len(features.names), said.compare)
        return cls(features, forest, said.target, said.combine, said.base, said.compare, said.floor_ms)


def _narrowed(forest: Forest, compare: str) -> dict[str, Array]:
    """The arrays in two thirds of their bytes, which predictors also keep in memory."""
    if forest.feature.max(initial=LEAF) >= MAX_FEATURES:
        raise ValueError(f"trees on more than {MAX_FEATURES} features")
    return {
        "feature": forest.feature.astype(np.int16),
        "threshold": _rounded_down(forest.threshold) if compare == "float32" else forest.threshold,
        "left": forest.left.astype(np.int32),
        "right": forest.right.astype(np.int32),
        "value": forest.value.astype(np.float32),
        "roots": forest.roots.astype(np.int32),
    }


def _rounded_down(threshold: Reals) -> npt.NDArray[np.float32]:
    """The largest float32 that is not above: the same float32 rows go left."""
    nearest = threshold.astype(np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest > threshold, below, nearest)


def _checked_forest(arrays: Arrays, d: int, compare: str) -> Forest:
    """A forest whose every way ends at a leaf. Raises InvalidRequest, ``predictor_file_damaged``."""
    feature = array(arrays, "feature", np.int16, None)
    nodes = len(feature)
    left, right = array(arrays, "left", np.int32, nodes), array(arrays, "right", np.int32, nodes)
    threshold = array(arrays, "threshold", np.float32 if compare == "float32" else np.float64, nodes)
    value = array(arrays, "value", np.float32, nodes)
    roots = array(arrays, "roots", np.int32, None)
    if len(roots) > MAX_TREES:
        raise damaged(f"a forest has {len(roots)} trees; at most {MAX_TREES}")
    own, leaf = np.arange(nodes), feature == LEAF
    if ((feature < LEAF) | (feature >= d)).any() or ((roots < 0) | (roots >= nodes)).any():
        raise damaged("a tree names a feature or a node that does not exist")
    for child in (left, right):
        if (child >= nodes).any() or (np.where(leaf, child != own, child <= own)).any():
            raise damaged("a tree's nodes are not in order")
    forest = Forest(feature, threshold, left, right, value, roots)
    try:
        _ = forest.depth
    except ValueError as error:
        raise damaged(str(error)) from error
    return forest
