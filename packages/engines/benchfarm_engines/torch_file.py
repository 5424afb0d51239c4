"""The file that PyTorch engines read: an operator graph as JSON in front of raw weights, sealed.

Not PyTorch's own format, which is a pickle: opening one runs whatever code a stranger put in it. Standard library and
numpy only, because a board reads it and the agent's host, which writes it, has no PyTorch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchfarm_engines.sealed_file import seal, unseal

FORMAT: Final = "torch_graph"

Array = np.ndarray[Any, Any]
Attribute = int | float | str | list[int] | list[float]

_ALIGNMENT_BYTES: Final = 64

_WINDOW: Final = ("kernel_shape", "strides", "pads", "dilations")

OPERATORS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        "Abs Add Ceil Div Erf Exp Expand Floor GlobalAveragePool HardSwish Identity Log MatMul Max Min Mul Neg Pow "
        "PRelu Reciprocal Relu Sigmoid Slice Softplus Sqrt Squeeze Sub Tanh Unsqueeze".split(),
        (),
    ),
    "AveragePool": (*_WINDOW, "ceil_mode", "count_include_pad"),
    "BatchNormalization": ("epsilon",),
    "Cast": ("to",),
    "Clip": (),
    "Concat": ("axis",),
    "Conv": (*_WINDOW, "group"),
    "ConvTranspose": (*_WINDOW, "group", "output_padding"),
    "Elu": ("alpha",),
    "Flatten": ("axis",),
    "Gather": ("axis",),
    "Gelu": ("approximate",),
    "Gemm": ("alpha", "beta", "transA", "transB"),
    "HardSigmoid": ("alpha", "beta"),
    "LayerNormalization": ("axis", "epsilon", "stash_type"),
    "LeakyRelu": ("alpha",),
    "LogSoftmax": ("axis",),
    "MaxPool": (*_WINDOW, "ceil_mode"),
    "ReduceMean": ("axes", "keepdims"),
    "Reshape": (),
    "Resize": ("coordinate_transformation_mode", "mode", "nearest_mode"),
    "Shape": (),
    "Softmax": ("axis",),
    "Split": ("axis",),
    "Transpose": ("perm",),
}
"""The operators that the engines build, with the attributes that they obey; ``torch_operators`` builds them."""


@dataclass(frozen=True)
class Operator:
    """One operator of an ONNX graph of opset 13 or later; an input "" is absent."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True)
class Input:
    """One input: numpy's name of its type, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """Operators in the order of execution, with every value by name."""

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    operators: tuple[Operator, ...]
    weights: Mapping[str, Array]


def pack(graph: Graph) -> bytes:
    """The file's bytes; the same for the same graph."""
    body, places = bytearray(), []
    for name, array in graph.weights.items():
        body.extend(bytes(-len(body) % _ALIGNMENT_BYTES))
        places.append([name, array.dtype.name, list(array.shape), len(body)])
        body.extend(np.ascontiguousarray(array).tobytes())
    return seal(
        bytes(body),
        {
            "inputs": [[each.name, each.dtype, list(each.shape)] for each in graph.inputs],
            "outputs": list(graph.outputs),
            "operators": [
                [each.kind, list(each.inputs), list(each.outputs), dict(each.attributes)] for each in graph.operators
            ],
            "weights": places,
        },
    )


def unpack(content: bytes) -> Graph:
    """The graph of a file; its weights share the file's memory. Raises EngineFailure (invalid_workload)."""
    body, document = unseal(content)
    return Graph(
        inputs=tuple(Input(name, dtype, tuple(shape)) for name, dtype, shape in document["inputs"]),
        outputs=tuple(document["outputs"]),
        operators=tuple(
            Operator(kind, tuple(inputs), tuple(outputs), attributes)
            for kind, inputs, outputs, attributes in document["operators"]
        ),
        weights=_weights(body, document["weights"]),
    )


def _weights(body: memoryview, places: Sequence[Any]) -> dict[str, Array]:
    weights: dict[str, Array] = {}
    for name, dtype, shape, offset in places:
        count = int(np.prod(shape, dtype=np.int64))
        weights[name] = np.frombuffer(body, dtype=dtype, count=count, offset=offset).reshape(shape)
    return weights
