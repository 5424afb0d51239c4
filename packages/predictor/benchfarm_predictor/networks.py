"""Networks of fully connected layers, forward with numpy."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.models import Features, Target

Activation = Literal["none", "relu", "leaky_relu", "silu", "gelu", "tanh"]
"""`leaky_relu` has slope 0.3 below zero, as LitePred's network; `gelu` is the exact form."""


@dataclass(frozen=True, eq=False)
class Layer:
    """act(x w^T + b); ``weights`` float32[out, in] as torch's Linear has them, ``biases`` float32[out]."""

    weights: npt.NDArray[np.float32]
    biases: npt.NDArray[np.float32]
    activation: Activation = "none"


@dataclass(frozen=True, eq=False)
class Network:
    """Layers on (x - centre) / scale; the last layer has one output. ``centre`` and ``scale``: float64[d].

    Output o means ``target`` = o x output_scale + output_centre.
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
