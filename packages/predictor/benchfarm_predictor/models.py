"""What every fitted model is: milliseconds from kernels or kernel lists, and arrays to and from a predictor file."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import Value
from benchfarm_predictor.elementary import exp
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels

Batch = Kernels | KernelLists
"""What models predict: configurations of one kernel type, or whole models as kernel lists."""
Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Meta = Mapping[str, Any]
"""JSON."""
Target = Literal["log", "ms"]
"""What a model's own output is: the natural logarithm of milliseconds, or milliseconds."""

SMALLEST_MS: Final = 1e-9
MAX_LOG: Final = 50.0
"""Beyond e^50 ms nothing is predicted: outputs stay finite, whatever a configuration asks for."""
_LARGEST_MS: Final = math.exp(MAX_LOG)
LARGEST_NUMBER: Final = 1e30
"""Of a file: so far from float64's bounds that no sum or product of features and weights reaches them."""
Number = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
"""A number in a file's JSON."""


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
            InvalidRequest: ``kernel_unknown`` when the batch is of another kernel type.
        """
        ...

    def spec(self) -> FeatureSpec:
        """How to make the same features again."""
        ...


class Model(Protocol):
    """A fitted model, of one of the kinds in ``registry``."""

    kind: ClassVar[str]

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms, positive and finite.

        Raises:
            InvalidRequest: ``kernel_unknown`` when the batch is of another kernel type than the model.
        """
        ...

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Arrays by name, and what else there is as JSON, ``kind`` among it."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: "Decoder") -> Self:
        """The inverse of ``to_arrays``.

        Raises:
            InvalidRequest: ``predictor_file_damaged``; ``predictor_file_foreign`` for features of another version.
        """
        ...


class Decoder(Protocol):
    """Makes the parts of a model that is read from a file: its features and the models it consists of."""

    def model(self, arrays: Arrays, meta: Meta) -> Model:
        """A model of any kind."""
        ...

    def features(self, spec: FeatureSpec) -> Features:
        """The features that were described. Raises InvalidRequest, ``predictor_file_foreign``, for another version."""
        ...

    def shared(self, number: int) -> Model:
        """A model that stands in several places of the file. Raises InvalidRequest, ``predictor_file_damaged``."""
        ...


def milliseconds(output: Floats, target: Target, floor_ms: float) -> Floats:
    """A model's own output in ms, from ``floor_ms`` to e^50; float64[n] to float64[n]."""
    values = exp(np.clip(output, -MAX_LOG, MAX_LOG)) if target == "log" else output
    return np.clip(values, max(floor_ms, SMALLEST_MS), _LARGEST_MS)


def damaged(detail: str) -> InvalidRequest:
    """The error of a file whose content cannot be what was written."""
    return InvalidRequest(f"the predictor file is damaged: {detail[:200]}", code="predictor_file_damaged")


V = TypeVar("V", bound=Value)


def checked(kind: type[V], meta: Meta) -> V:
    """JSON as a value. Raises InvalidRequest, ``predictor_file_damaged``."""
    try:
        return kind.model_validate(meta)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


def array(arrays: Arrays, name: str, dtype: type[np.generic], *shape: int | None) -> Array:
    """One array of that type and shape, None standing for any length; all within ``LARGEST_NUMBER``.

    Raises:
        InvalidRequest: ``predictor_file_damaged``.
    """
    found = arrays.get(name)
    if found is None:
        raise damaged(f"array {name} is missing")
    fits = len(shape) == found.ndim and all(want in (None, have) for want, have in zip(shape, found.shape, strict=True))
    if found.dtype != dtype or not fits:
        raise damaged(f"array {name} is {found.dtype}{list(found.shape)}")
    if not (np.abs(found) <= LARGEST_NUMBER).all():
        raise damaged(f"array {name} holds a number that is not finite, or far too large")
    return found


def within(arrays: Arrays, prefix: str) -> dict[str, Array]:
    """The arrays of one member: those whose names begin with ``prefix/``, without it."""
    return {name.removeprefix(f"{prefix}/"): found for name, found in arrays.items() if name.startswith(f"{prefix}/")}


def under(arrays: Arrays, prefix: str) -> dict[str, Array]:
    """The inverse of ``within``."""
    return {f"{prefix}/{name}": found for name, found in arrays.items()}


def scales(arrays: Arrays, d: int) -> Array:
    """The array ``scale``, float64[d], what features are divided by: none is zero or nearly so.

    Raises:
        InvalidRequest: ``predictor_file_damaged``.
    """
    found = array(arrays, "scale", np.float64, d)
    if (found < 1 / LARGEST_NUMBER).any():
        raise damaged("a scale is not positive")
    return found
