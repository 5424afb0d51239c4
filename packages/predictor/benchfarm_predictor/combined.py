"""Models made of models: a donor times a factor, a base times a correction, means and stacks of several, whose weights
may differ from region to region.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from benchfarm_core.values import Value
from benchfarm_predictor.bounded import HALF_APART, Boxes
from benchfarm_predictor.elementary import Column, exp, log
from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.models import (
    LARGEST_NUMBER,
    MAX_LOG,
    Array,
    Arrays,
    Batch,
    Decoder,
    Features,
    FeatureSpec,
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
from benchfarm_predictor.ridge import PENALTIES, solve
from benchfarm_predictor.sums import SumFeatures, in_order
from benchfarm_predictor.training_rows import checked_ms

MAX_MEMBERS: Final = 64
_BOXES: Final = "boxes"
MAX_PARTS: Final = 256
"""Of all regions together."""
MAX_WIDENING: Final = 1e6


class _ScaledMeta(Value):
    kind: Literal["scaled"] = "scaled"
    base: dict[str, Any]
    factor: Number = Field(gt=0)


class _ResidualMeta(Value):
    kind: Literal["residual"] = "residual"
    base: dict[str, Any]
    correction: dict[str, Any]


class _MeanMeta(Value):
    kind: Literal["mean"] = "mean"
    members: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=MAX_MEMBERS)


class _StackedMeta(Value):
    kind: Literal["stacked"] = "stacked"
    members: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=MAX_MEMBERS)
    weights: tuple[Number, ...]
    offset: Number


class _FartherMeta(Value):
    tried: Number = Field(gt=0)
    growth: Number = Field(ge=0)
    most: Number = Field(ge=0, le=MAX_LOG)


class _RegionalMeta(Value):
    kind: Literal["regional"] = "regional"
    members: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=MAX_PARTS)
    regions: tuple[Annotated[str, Field(max_length=60)], ...] = Field(max_length=MAX_MEMBERS)
    lent: int = Field(default=0, ge=0, le=MAX_MEMBERS)
    features: FeatureSpec
    farther: _FartherMeta | None = None


@dataclass(frozen=True, eq=False)
class Scaled:
    """factor x base: the base's shape at another speed."""

    kind: ClassVar[str] = "scaled"
    base: Model
    factor: float

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        return milliseconds(self.factor * self.base.predict(batch), "ms", 0.0)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        arrays, [base] = _joined((self.base,))
        return arrays, _ScaledMeta(base=base, factor=self.factor).model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_ScaledMeta, meta)
        [base] = _parts(arrays, (said.base,), decoder)
        return cls(base, said.factor)


@dataclass(frozen=True, eq=False)
class Residual:
    """base x correction. The correction was fitted on latency / base (target `log`: on its logarithm).

    A correction is a ratio: what it predicts "in ms" has no unit.
    """

    kind: ClassVar[str] = "residual"
    base: Model
    correction: Model

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        return milliseconds(self.base.predict(batch) * self.correction.predict(batch), "ms", 0.0)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        arrays, [base, correction] = _joined((self.base, self.correction))
        return arrays, _ResidualMeta(base=base, correction=correction).model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_ResidualMeta, meta)
        base, correction = _parts(arrays, (said.base, said.correction), decoder)
        return cls(base, correction)


@dataclass(frozen=True, eq=False)
class Mean:
    """The arithmetic mean of its members, in ms."""

    kind: ClassVar[str] = "mean"
    members: tuple[Model, ...]

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        total = in_order(member.predict(batch) for member in self.members)
        return np.asarray(total) / len(self.members)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        arrays, members = _joined(self.members)
        return arrays, _MeanMeta(members=members).model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        return cls(_parts(arrays, checked(_MeanMeta, meta).members, decoder))


@dataclass(frozen=True, eq=False)
class Stacked:
    """exp(offset) x product of member ^ weight: several donors at once. ``weights``: one for each member."""

    kind: ClassVar[str] = "stacked"
    members: tuple[Model, ...]
    weights: tuple[float, ...]
    offset: float

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        logs = (log(member.predict(batch)) * weight for member, weight in zip(self.members, self.weights, strict=True))
        return milliseconds(np.asarray(in_order(logs)) + self.offset, "log", 0.0)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        arrays, members = _joined(self.members)
        meta = _StackedMeta(members=members, weights=self.weights, offset=self.offset)
        return arrays, meta.model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_StackedMeta, meta)
        if len(said.weights) != len(said.members):
            raise damaged(f"{len(said.members)} members have {len(said.weights)} weights")
        return cls(_parts(arrays, said.members, decoder), said.weights, said.offset)


@dataclass(frozen=True, eq=False)
class Farther:
    """How intervals grow where whole models lie farther away than any that was tried.

    Attributes:
        boxes: where all rows lay that taught.
        tried: how far outside of the others', in octaves and quarters, the spaces lay that were held back.
        growth: what the logarithm of a width grows by with every further such distance: as much as it needed there.
        most: what it grows by at the most.
    """

    boxes: Boxes
    tried: float
    growth: float
    most: float

    def widening(self, outside: Floats) -> Floats:
        """Factors >= 1 of rows that lie so far outside the boxes: float64[n]."""
        return exp(np.minimum(self.growth * np.maximum(outside / self.tried - 1, 0.0), self.most))


@dataclass(frozen=True, eq=False)
class Regional:
    """A stack whose weights are those of the region that a row lies in; elsewhere it has others still.

    Whole models of one search space are alike in what they are made of, so that each space is a region. What is right
    within one may be wrong in the next, and what is best where rows are is not what is best where none are.

    Attributes:
        weights: float64[r + 1, members], of each of r regions and of elsewhere; ``offsets``: float64[r + 1].
        features: what regions are told by.
        centres, scales: float64[r, d]; ``radii``: float64[r]. A row lies in the region to which it is nearest by root
            mean square over (features - centre) / scale, in radii, and in none beyond 1.
        widenings: float64[r + 1], factors >= 1 by which intervals grow there.
        lent: how many regions, the last ones, hold no row: donors alone know them.
        farther: how intervals grow beyond what was tried elsewhere; None in files of format version 1.
    """

    kind: ClassVar[str] = "regional"
    members: tuple[Model, ...]
    weights: Floats
    offsets: Floats
    regions: tuple[str, ...]
    features: Features
    centres: Floats
    scales: Floats
    radii: Floats
    widenings: Floats
    lent: int = 0
    farther: Farther | None = None

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        place = self.places(batch)
        if len(place) and (place == place[0]).all():
            return milliseconds(self._within_one(batch, int(place[0])), "log", 0.0)
        logs, powers = self.offsets[place], self.weights[place]
        taken: dict[bytes, Batch] = {}
        for at, member in enumerate(self.members):
            rows = np.flatnonzero(powers[:, at])
            if len(rows):
                # most members are of one region alone
                key = (self.weights[:, at] != 0).tobytes()
                if key not in taken:
                    taken[key] = batch if len(rows) == len(place) else _with_features(batch, rows)
                logs[rows] += powers[rows, at] * log(member.predict(taken[key]))
        return milliseconds(logs, "log", 0.0)

    def _within_one(self, batch: Batch, region: int) -> Floats:
        """The logarithms of rows that all lie in one region: float64[n]."""
        logs = np.full(len(batch), self.offsets[region])
        for member, power in zip(self.members, self.weights[region].tolist(), strict=True):
            if power != 0:
                logs += power * log(member.predict(batch))
        return logs

    def places(self, batch: Batch) -> Ints:
        """int64[n]: the number of each row's region; r for elsewhere. For the same batch the same array again."""
        if self not in batch.made:
            batch.made[self] = self._places(batch)
        found: Ints = batch.made[self]
        return found

    def _places(self, batch: Batch) -> Ints:
        columns = _columns(self.features, batch)
        nearest = np.full(len(batch), len(self.radii), dtype=np.int64)
        least = np.full(len(batch), np.nextafter(1.0, 2.0))
        reaches = self.scales * self.radii[:, None] * np.sqrt(max(len(columns), 1))
        for region, (centre, reach) in enumerate(zip(self.centres.tolist(), reaches.tolist(), strict=True)):
            parts = ((each - at) / far for each, at, far in zip(columns, centre, reach, strict=True))
            apart = in_order(part * part for part in parts)
            nearest = np.where(apart < least, region, nearest)
            least = np.minimum(apart, least)
        return nearest

    def is_sampled(self, places: Ints) -> npt.NDArray[np.bool_]:
        """Whether there were rows of the regions with these numbers, as ``places`` has them: bool[n]. Of what lies
        elsewhere, or in a lent region, nothing was calibrated: there widenings are rules."""
        is_sampled: npt.NDArray[np.bool_] = places < len(self.regions) - self.lent
        return is_sampled

    def widening(self, batch: Batch) -> Floats:
        """By how much the interval of each row grows: float64[n], factors >= 1.

        Elsewhere it is what the farthest space that was held back needed. Whole models that lie farther away than that
        one get more, its logarithm in proportion to the distance: nothing was tried there. A region reaches farther
        than its rows; who lies there, but beside all boxes, is of another space, and its interval passes into that of
        elsewhere.
        """
        places = self.places(batch)
        found: Floats = self.widenings[places]
        if self.farther is None:
            return found
        outside = self.farther.boxes.outside(batch)
        if not outside.any():
            return found
        is_strange = places == len(self.regions)
        found = np.where(is_strange, found * self.farther.widening(outside), found)
        wider = np.maximum(self.widenings[-1] / found, 1.0)
        passed = exp(np.minimum(outside / HALF_APART, 1.0) * log(wider))
        return np.where(self.is_sampled(places), found * passed, found)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        arrays, members = _joined(self.members)
        arrays |= {name: getattr(self, name) for name in ("weights", "offsets", "centres", "scales", "radii")}
        arrays["widenings"] = self.widenings
        farther = None
        if self.farther is not None:
            arrays |= under(self.farther.boxes.to_arrays(), _BOXES)
            farther = _FartherMeta(tried=self.farther.tried, growth=self.farther.growth, most=self.farther.most)
        meta = _RegionalMeta(
            members=members, regions=self.regions, lent=self.lent, features=self.features.spec(), farther=farther
        )
        return arrays, meta.model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_RegionalMeta, meta)
        features = decoder.features(said.features)
        count, d, members = len(said.regions), len(features.names), len(said.members)
        weights = array(arrays, "weights", np.float64, count + 1, members)
        offsets, widenings = (array(arrays, name, np.float64, count + 1) for name in ("offsets", "widenings"))
        centres, lengths = (array(arrays, name, np.float64, count, d) for name in ("centres", "scales"))
        radii = array(arrays, "radii", np.float64, count)
        if (lengths < 1 / LARGEST_NUMBER).any() or (radii < 1 / LARGEST_NUMBER).any():
            raise damaged("a region's size is not positive")
        if ((widenings < 1) | (widenings > MAX_WIDENING)).any():
            raise damaged("a region narrows its intervals")
        if said.lent > count:
            raise damaged(f"of {count} regions {said.lent} are lent")
        parts = _parts(arrays, said.members, decoder)
        found = cls(parts, weights, offsets, said.regions, features, centres, lengths, radii, widenings, said.lent)
        if said.farther is None:
            return found
        boxes, farther = Boxes.from_arrays(within(arrays, _BOXES)), said.farther
        return replace(found, farther=Farther(boxes, farther.tried, farther.growth, farther.most))


@dataclass(frozen=True, eq=False)
class StackedFit:
    """A fitted stack, its penalty, and per row what it predicts when that row is left out: float64[n] in ms."""

    model: Stacked
    penalty: float
    left_out_ms: Floats


def fit_scaled(base: Model, batch: Batch, latency_ms: Floats) -> Scaled:
    """The factor is exp(median of log ratios): half of the rows lie above, whatever the outliers.

    Raises:
        InvalidRequest: ``training_rows_invalid``: no row, or a latency that is no positive number.
    """
    measured = checked_ms(latency_ms, len(batch))
    return Scaled(base, float(np.exp(np.median(np.log(measured / base.predict(batch))))))


def fit_stacked(members: Sequence[Model], batch: Batch, latency_ms: Floats) -> StackedFit:
    """Weights by ridge in log space, shrunk towards equal ones that sum to 1, the penalty by leave-one-out.

    With the strongest penalty this is the members' geometric mean times a factor.

    Raises:
        InvalidRequest: ``training_rows_invalid``: fewer than 2 rows, or a latency that is no positive number.
    """
    measured = checked_ms(latency_ms, len(batch), least=2)
    x, equal = _logs(members, batch), 1 / len(members)
    rest = np.log(measured) - equal * x.sum(axis=1)
    solved = solve(x, rest, np.ones_like(measured))
    found = []
    for penalty in (*PENALTIES, 1e6):
        left_out = np.exp(np.clip(np.log(measured) - rest + solved.left_out(penalty), -MAX_LOG, MAX_LOG))
        found.append((float(np.mean(np.abs(left_out / measured - 1))), penalty, left_out))
    _, penalty, left_out_ms = min(found, key=lambda each: each[0])
    weights, offset = solved.weights(penalty)
    model = Stacked(tuple(members), tuple(float(equal + weight) for weight in weights), offset)
    return StackedFit(model, penalty, left_out_ms)


def _columns(features: Features, batch: Batch) -> Sequence[Column]:
    """The features one by one."""
    return features.columns(batch) if isinstance(features, SumFeatures) else [*features.matrix(batch).T]


def _with_features(batch: Batch, rows: Ints) -> Batch:
    """Some of the rows, with the features that were made of them."""
    some = batch.take(rows)
    some.matrices.update({of: matrix[rows] for of, matrix in batch.matrices.items()})
    for of, made in batch.made.items():
        if isinstance(of, SumFeatures):
            some.made[of] = tuple(each if isinstance(each, float) else each[rows] for each in made)
    return some


def _logs(members: Sequence[Model], batch: Batch) -> Floats:
    """float64[n, members]."""
    return np.log(np.stack([member.predict(batch) for member in members], axis=1))


def _joined(members: Sequence[Model]) -> tuple[dict[str, Array], tuple[dict[str, Any], ...]]:
    """The arrays of all members under their numbers, and their JSON."""
    arrays: dict[str, Array] = {}
    metas = []
    for number, member in enumerate(members):
        own, meta = member.to_arrays()
        arrays |= under(own, str(number))
        metas.append(meta)
    return arrays, tuple(metas)


def _parts(arrays: Arrays, metas: Sequence[Meta], decoder: Decoder) -> tuple[Model, ...]:
    """The inverse of ``_joined``."""
    return tuple(decoder.model(within(arrays, str(number)), meta) for number, meta in enumerate(metas))
