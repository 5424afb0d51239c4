"""What every fitted model is: milliseconds from kernels or kernel lists, and arrays to and from a predictor file."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from benchfarm_core.values import Value
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels

Batch = Kernels | KernelLists
"""What models predict: configurations of one kernel type, or whole models as kernel lists."""
Arrays = Mapping[str, npt.NDArray[Any]]
Target = Literal["log", "ms"]
"""What a model's own output is: the natural logarithm of milliseconds, or milliseconds."""


class FeatureSpec(Value):
    """What a file says of its features: how to make them, and their names, which must be those of this code."""

    of: Literal["kernel", "sums"]
    version: int
    type: str = ""
    columns: tuple[str, ...] = ()
    view: str = ""
    names: tuple[str, ...]


class Features(Protocol):
    """Numbers of each row."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the d features, in order."""
        ...

    def matrix(self, batch: Batch) -> Floats:
        """float64[n, d], all finite.

        Raises:
            InvalidRequest: the batch is of another kernel type, or lacks a column.
        """
        ...

    def spec(self) -> FeatureSpec:
        """How to make the same features again."""
        ...


class Model(Protocol):
    """A fitted model. Kinds: `ridge trees network scaled residual mean stacked kernel_sum` (see `registry`)."""

    kind: ClassVar[str]

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms, positive and finite.

        Raises:
            InvalidRequest: the batch is of another kernel type than the model.
        """
        ...

    def to_arrays(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays by name, and what else there is as JSON, ``kind`` among it."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Mapping[str, Any], decoder: "Decoder") -> Self:
        """The inverse of ``to_arrays``.

        Raises:
            InvalidRequest: ``predictor_file_damaged``.
        """
        ...


class Decoder(Protocol):
    """Makes the parts of a model that is read from a file: its features and the models it consists of."""

    def model(self, arrays: Arrays, meta: Mapping[str, Any]) -> Model:
        """A model of any kind."""
        ...

    def features(self, spec: FeatureSpec) -> Features:
        """The features that were described. Raises InvalidRequest, ``predictor_file_foreign``, for another version."""
        ...


def milliseconds(output: Floats, target: Target, floor_ms: float) -> Floats:
    """A model's own output in ms, never below ``floor_ms``; float64[n] to float64[n]."""
    values = np.exp(np.clip(output, -50.0, 50.0)) if target == "log" else output
    return np.maximum(values, floor_ms)
