"""Corrections that stay where they were taught: no ratio beyond those that were seen, and none where nothing was.

A correction of a base is a ratio that was learnt on some whole models. Far from them a line through ratios leaves what
any of them was, and the base alone is the better guess. So the ratio is held within what was seen, and its logarithm
fades with the distance from the nearest search space that taught it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from benchfarm_core.values import Value
from benchfarm_predictor.elementary import Column, exp, log
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import (
    Array,
    Arrays,
    Batch,
    Decoder,
    Meta,
    Model,
    Number,
    array,
    checked,
    damaged,
    milliseconds,
    under,
    within,
)
from benchfarm_predictor.sums import SumFeatures, in_order

MAX_BOXES: Final = 64
SLACK: Final = 0.5
"""A box is wider than its rows by this share of what they span, on either side: a dozen rows do not reach the ends."""
LEAST_SLACK: Final = 0.1
"""In octaves and quarters: rows that are all the same do not say that no other is like them."""
HALF_APART: Final = 0.25
"""So far outside, in octaves and quarters, half of a correction's logarithm is left."""
SHARES: Final = SumFeatures("shares")
"""What boxes are told by. Files do not repeat its names: a ratio's own features say of which version they are."""
_RATE: Final = float(np.log(2.0)) / HALF_APART


class _BoundedMeta(Value):
    kind: Literal["bounded"] = "bounded"
    ratio: dict[str, Any]
    least: Number
    most: Number


@dataclass(frozen=True, eq=False)
class Boxes:
    """Where the whole models of some groups lie, by their ``SHARES``: ``low``, ``high`` float64[groups, d]."""

    low: Floats
    high: Floats

    @classmethod
    def around(cls, lists: KernelLists, groups: Sequence[str | None]) -> "Boxes":
        """A box around each group of rows, with some slack; ``groups``: of each of the n rows, at least one.

        Rows of no group are like nobody but themselves: each has a box of its own, as far as there is room for it.
        """
        x, labels = SHARES.matrix(lists), np.array([each or "" for each in groups])
        parts = [x[labels == name] for name in sorted(set(labels.tolist()) - {""})]
        alone = x[labels == ""][: MAX_BOXES - len(parts)]
        parts += [alone[at : at + 1] for at in range(len(alone))]
        low, high = np.stack([each.min(axis=0) for each in parts]), np.stack([each.max(axis=0) for each in parts])
        slack = LEAST_SLACK + SLACK * (high - low)
        return cls(low - slack, high + slack)

    def outside(self, batch: Batch) -> Floats:
        """How far each row lies outside the nearest box, in octaves and quarters: float64[n], 0 inside of one.

        Of equal boxes and the same batch the same array again. Raises InvalidRequest, ``kernel_unknown``, for single
        kernels.
        """
        if self._key not in batch.made:
            batch.made[self._key] = self._outside(batch)
        found: Floats = batch.made[self._key]
        return found

    @cached_property
    def _key(self) -> tuple[str, str]:
        """Boxes that are read from a file stand in it once for each correction, and are mostly the same ones."""
        return "boxes", sha256(self.low.tobytes() + self.high.tobytes()).hexdigest()

    def _outside(self, batch: Batch) -> Floats:
        columns = SHARES.columns(batch)
        nearest, left = np.full(len(batch), np.inf), np.arange(len(batch))
        for box in self._order(columns) if len(batch) else ():
            some = (
                columns if len(left) == len(batch) else [x[left] if isinstance(x, np.ndarray) else x for x in columns]
            )
            nearest[left] = np.minimum(nearest[left], self._squares(box, some))
            left = np.flatnonzero(nearest)  # what lies in a box is at 0, however many others there are
            if not len(left):
                break
        found: Floats = np.sqrt(nearest)
        return found

    def _squares(self, box: int, columns: Sequence[Column]) -> Floats:
        """Squared distances from one box, float64[n], or one number for all rows."""
        ends = zip(columns, self.low[box].tolist(), self.high[box].tolist(), strict=True)
        beside = (np.maximum(np.maximum(low - x, x - high), 0.0) for x, low, high in ends)
        return np.asarray(in_order(each * each for each in beside))

    def _order(self, columns: Sequence[Column]) -> list[int]:
        """The boxes, the nearest to the first row first: mostly a batch is of one space, and is done with that box."""
        first = np.array([x[0] if isinstance(x, np.ndarray) else x for x in columns])
        beside = np.maximum(np.maximum(self.low - first, first - self.high), 0.0)
        return [int(box) for box in np.argsort((beside**2).sum(axis=1), kind="stable")]

    def to_arrays(self) -> dict[str, Array]:
        """By name."""
        return {"low": self.low, "high": self.high}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The inverse. Raises InvalidRequest, ``predictor_file_damaged``."""
        low = array(arrays, "low", np.float64, None, len(SHARES.names))
        high = array(arrays, "high", np.float64, len(low), len(SHARES.names))
        if not 1 <= len(low) <= MAX_BOXES or (low > high).any():
            raise damaged("boxes are none, too many, or turned inside out")
        return cls(low, high)


@dataclass(frozen=True, eq=False)
class Bounded:
    """A ratio held within [least, most], in log; its logarithm halves with every ``HALF_APART`` outside the boxes.

    It is a correction: what it predicts "in ms" has no unit, and is 1 far from all that taught it.
    """

    kind: ClassVar[str] = "bounded"
    ratio: Model
    least: float
    most: float
    boxes: Boxes

    def predict(self, batch: Batch) -> Floats:
        """float64[n]. Raises InvalidRequest, ``kernel_unknown``, for single kernels."""
        low, high = exp(np.array([self.least, self.most])).tolist()
        found: Floats = np.minimum(np.maximum(self.ratio.predict(batch), low), high)
        outside = self.boxes.outside(batch)
        rows = np.flatnonzero(outside)
        if len(rows):
            found[rows] = exp(log(found[rows]) * exp(-_RATE * outside[rows]))
        return milliseconds(found, "ms", 0.0)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        own, ratio = self.ratio.to_arrays()
        arrays = under(own, "ratio") | under(self.boxes.to_arrays(), "boxes")
        meta = _BoundedMeta(ratio=ratio, least=self.least, most=self.most)
        return arrays, meta.model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_BoundedMeta, meta)
        if said.least > said.most:
            raise damaged("a ratio is held within nothing")
        boxes = Boxes.from_arrays(within(arrays, "boxes"))
        return cls(decoder.model(within(arrays, "ratio"), said.ratio), said.least, said.most, boxes)


def bounded(ratio: Model, boxes: Boxes, seen: Floats) -> Bounded:
    """A correction held within what it was fitted on; ``seen``: log ratios, float64[n], at least one. No correction at
    all is always within."""
    return Bounded(ratio, min(float(seen.min()), 0.0), max(float(seen.max()), 0.0), boxes)
