"""Trees as arrays, evaluated with numpy: what boosted trees and forests become when their training ends."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from benchfarm_predictor.models import Features, Target

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Forest:
    """All nodes of all trees one behind the other; children stand behind their parent.

    A row goes left where ``x[feature] <= threshold``. A leaf has ``feature`` -1 and its own number as both children.

    Attributes:
        feature: int32[nodes], the feature's place, -1 at a leaf.
        threshold: float64[nodes].
        left, right: int32[nodes], numbers of nodes in the whole forest (not in the tree).
        value: float64[nodes], meant at leaves only.
        roots: int32[trees].
    """

    feature: Int32s
    threshold: npt.NDArray[np.float64]
    left: Int32s
    right: Int32s
    value: npt.NDArray[np.float64]
    roots: Int32s


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
