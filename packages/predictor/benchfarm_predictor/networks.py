"""Networks of fully connected layers, forward with numpy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import erf
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from benchfarm_core.values import Value
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import (
    LARGEST_NUMBER,
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
    scales,
)

Activation = Literal["none", "relu", "leaky_relu", "silu", "gelu", "tanh"]
"""`leaky_relu` has slope 0.3 below zero, as LitePred's network; `gelu` is the exact form."""
LEAKY_SLOPE: Final = 0.3
MAX_LAYERS: Final = 64
MAX_WIDTH: Final = 4096
"""Outputs of one layer."""
_CELLS: Final = 500_000
"""Rows x width that are computed at once: some tens of megabytes."""


@dataclass(frozen=True, eq=False)
class Layer:
    """act(x w^T + b); ``weights`` float32[out, in] as torch's Linear has them, ``biases`` float32[out]."""

    weights: npt.NDArray[np.float32]
    biases: npt.NDArray[np.float32]
    activation: Activation = "none"


class _NetworkMeta(Value):
    kind: Literal["network"] = "network"
    features: FeatureSpec
    activations: tuple[Activation, ...] = Field(min_length=1, max_length=MAX_LAYERS)
    target: Target
    output_centre: Number
    output_scale: Number
    floor_ms: Number


@dataclass(frozen=True, eq=False)
class Network:
    """Layers on (x - centre) / scale; the last layer has one output. ``centre`` and ``scale``: float64[d].

    Output o means ``target`` = o x output_scale + output_centre. Weights are kept in float32, sums are in float64.
    """

    kind: ClassVar[str] = "network"
    features: Features
    layers: tuple[Layer, ...]
    centre: Floats
    scale: Floats
    target: Target = "log"
    output_centre: float = 0.0
    output_scale: float = 1.0
    floor_ms: float = 1e-6

    def predict(self, batch: Batch) -> Floats:
        """float64[n] in ms."""
        output = self.output(self.features.matrix(batch)) * self.output_scale + self.output_centre
        return milliseconds(output, self.target, self.floor_ms)

    def output(self, x: Floats) -> Floats:
        """The last layer's output: float64[n, d] to float64[n], held within ``LARGEST_NUMBER``."""
        weights = [layer.weights.T.astype(np.float64) for layer in self.layers]
        at_once = max(_CELLS // max(len(self.centre), *(len(layer.weights) for layer in self.layers)), 1)
        output = np.empty(len(x))
        for start in range(0, len(x), at_once):
            part = slice(start, start + at_once)
            output[part] = self._forward((x[part] - self.centre) / self.scale, weights)
        return np.clip(np.nan_to_num(output), -LARGEST_NUMBER, LARGEST_NUMBER)

    def _forward(self, values: Floats, weights: Sequence[Floats]) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            for layer, each in zip(self.layers, weights, strict=True):
                values = _ACTIVATIONS[layer.activation](values @ each + layer.biases)
        return values[:, 0]

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """As ``Model`` says."""
        meta = _NetworkMeta(
            features=self.features.spec(),
            activations=tuple(layer.activation for layer in self.layers),
            target=self.target,
            output_centre=self.output_centre,
            output_scale=self.output_scale,
            floor_ms=self.floor_ms,
        )
        arrays: dict[str, Array] = {"centre": self.centre, "scale": self.scale}
        for number, layer in enumerate(self.layers):
            arrays |= {f"weights{number}": layer.weights, f"biases{number}": layer.biases}
        return arrays, meta.model_dump(mode="json")

    @classmethod
    def from_arrays(cls, arrays: Arrays, meta: Meta, decoder: Decoder) -> Self:
        """As ``Model`` says."""
        said = checked(_NetworkMeta, meta)
        features = decoder.features(said.features)
        taken = len(features.names)
        centre, scale = array(arrays, "centre", np.float64, taken), scales(arrays, taken)
        layers = []
        for number, activation in enumerate(said.activations):
            weights = array(arrays, f"weights{number}", np.float32, None, taken)
            taken = len(weights)
            if taken > MAX_WIDTH:
                raise damaged(f"a layer has {taken} outputs; at most {MAX_WIDTH}")
            layers.append(Layer(weights, array(arrays, f"biases{number}", np.float32, taken), activation))
        if taken != 1:
            raise damaged(f"a network ends in {taken} outputs instead of one")
        numbers = (said.output_centre, said.output_scale, said.floor_ms)
        return cls(features, tuple(layers), centre, scale, said.target, *numbers)


def _gelu(x: Floats) -> Floats:
    erfs: Floats = _ERF(x / np.sqrt(2))
    return 0.5 * x * (1 + erfs)


_ERF: Final = np.vectorize(erf, otypes=[np.float64])
_ACTIVATIONS: Final[dict[str, Callable[[Floats], Floats]]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, LEAKY_SLOPE * x),
    "silu": lambda x: x / (1 + np.exp(-np.clip(x, -700, 700))),
    "gelu": _gelu,
    "tanh": np.tanh,
}
