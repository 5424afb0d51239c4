"""Models made of models: a donor times a factor, a base times a correction, means and stacks of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field

from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import (
    MAX_LOG,
    Array,
    Arrays,
    Batch,
    Decoder,
    Meta,
    Model,
    Number,
    checked,
    damaged,
    milliseconds,
    under,
    within,
)
from benchfarm_predictor.ridge import PENALTIES, solve
from benchfarm_predictor.training_rows import checked_ms

MAX_MEMBERS: Final = 64


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
        predicted = np.stack([member.predict(batch) for member in self.members])
        mean: Floats = predicted.mean(axis=0)
        return mean

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
        logs = _logs(self.members, batch)
        return milliseconds(self.offset + logs @ np.array(self.weights), "log", 0.0)

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
