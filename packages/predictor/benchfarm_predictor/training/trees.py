"""Trees, fitted by scikit-learn and turned into arrays at once."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from benchfarm_predictor.features import KernelFeatures, kernel_features
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.training.measured import Measured
from benchfarm_predictor.trees import Forest, Trees

EXTRA_TREES: Final = 50
EXTRA_FEATURES: Final = 0.5
"""Of all, drawn for each split: half the time of all of them, and as good."""
BOOSTED_TREES: Final = 100
LEARNING_RATE: Final = 0.1
CLIPPED: Final = 4.0
"""Boosting sees no target that is further from the median than so many times the median distance."""
FOREST_TREES: Final = 320
FOREST_DEPTH: Final = 70
FOREST_FEATURES: Final = 6


def extra_trees(features: KernelFeatures, kernels: Kernels, target: Floats, seed: int) -> Trees:
    """Extremely randomised trees on log targets, float64[n]."""
    from sklearn.ensemble import ExtraTreesRegressor

    fitted = ExtraTreesRegressor(EXTRA_TREES, min_samples_leaf=2, max_features=EXTRA_FEATURES, random_state=seed)
    fitted.fit(_narrow(features, kernels), target)
    return Trees(features, _forest(fitted.estimators_), combine="mean", compare="float32")


def boosted(features: KernelFeatures, kernels: Kernels, target: Floats, seed: int) -> Trees:
    """Boosted trees on log targets, float64[n]. Squares, since a robust loss costs ten times as much with so few rows;
    targets are clipped instead, so that a row with an algorithm of its own does not lead.
    """
    from sklearn.ensemble import GradientBoostingRegressor

    fitted = GradientBoostingRegressor(
        n_estimators=BOOSTED_TREES,
        learning_rate=LEARNING_RATE,
        max_depth=4,
        min_samples_leaf=3,
        subsample=0.7,
        max_features=0.5,
        init="zero",
        random_state=seed,
    )
    middle = float(np.median(target))
    bound = CLIPPED * float(np.median(np.abs(target - middle)))
    fitted.fit(_narrow(features, kernels), np.clip(target - middle, -bound, bound))
    forest = _forest(fitted.estimators_[:, 0], scale=LEARNING_RATE)
    return Trees(features, forest, combine="sum", base=middle, compare="float32")


def random_forest(measured: Measured, seed: int) -> Trees:
    """nn-Meter's predictor (MobiSys 2021): milliseconds from plain columns."""
    features = kernel_features(measured.kernels, "published")
    fitted = published_forest(measured, seed)
    return Trees(features, _forest(fitted.estimators_), target="ms", combine="mean", compare="float32")


def published_forest(measured: Measured, seed: int) -> Any:
    """scikit-learn's own forest, fitted as nn-Meter's builder fits it for a processor: it predicts float64[n] in ms
    from float32[n, d], the features `published`."""
    from sklearn.ensemble import RandomForestRegressor

    features = kernel_features(measured.kernels, "published")
    fitted = RandomForestRegressor(
        FOREST_TREES,
        max_depth=FOREST_DEPTH,
        max_features=min(FOREST_FEATURES, len(features.names)),
        random_state=seed,
    )
    return fitted.fit(_narrow(features, measured.kernels), measured.latency_ms)


def _narrow(features: KernelFeatures, kernels: Kernels) -> np.ndarray[Any, np.dtype[np.float32]]:
    """As scikit-learn would narrow them itself: its trees compare float32."""
    return features.matrix(kernels).astype(np.float32)


def _forest(fitted: Sequence[Any], scale: float = 1.0) -> Forest:
    """scikit-learn's trees one behind the other; a leaf's children are -1 there and itself here."""
    trees = [each.tree_ for each in fitted]
    counts = np.array([tree.node_count for tree in trees])
    roots = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
    offsets = np.repeat(roots, counts)
    feature = np.concatenate([tree.feature for tree in trees])
    left = np.concatenate([tree.children_left for tree in trees])
    right = np.concatenate([tree.children_right for tree in trees])
    own, is_leaf = np.arange(len(feature)), left < 0
    return Forest(
        feature=np.where(is_leaf, -1, feature).astype(np.int32),
        threshold=np.where(is_leaf, 0.0, np.concatenate([tree.threshold for tree in trees])),
        left=np.where(is_leaf, own, left + offsets).astype(np.int32),
        right=np.where(is_leaf, own, right + offsets).astype(np.int32),
        value=np.concatenate([tree.value[:, 0, 0] for tree in trees]) * scale,
        roots=roots,
    )
