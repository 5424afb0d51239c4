"""A small writer of ONNX graphs: seeded weights, deterministic bytes, no checker in the way."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET: Final = 17
"""HardSwish needs 14; every engine of the farm reads 17."""

IR_VERSION: Final = 8

Weights = NDArray[np.float32]
Attribute = int | float | str | list[int]


class OnnxGraph:
    """Collects nodes and weights; ``to_bytes`` writes the same bytes for the same calls and seed.

    Weights are uniform with He's variance (2 / fan-in), so that activations keep their scale through any
    depth; biases are uniform in +-0.1. No value is near the denormal range.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="benchfarm")
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self._graph = self._model.graph
        self._graph.name = name
        # SFC64 is numpy's fastest generator; a uniform draw costs a third of a normal one
        self._rng = np.random.Generator(np.random.SFC64(seed))
        self.gain = 1.0
        """What the weights that come next are multiplied with."""

    def input(self, name: str, shape: Sequence[int]) -> str:
        """Declares a float32 input and returns its name."""
        self._graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, name: str, shape: Sequence[int]) -> None:
        """Declares a float32 output."""
        self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def weight(self, name: str, shape: tuple[int, ...], *, fan_in: int) -> str:
        """Adds a He-scaled weight of ``shape``; ``fan_in`` is the number of inputs of one output element."""
        return self._initializer(name, self._uniform(shape, self.gain * (6.0 / fan_in) ** 0.5))

    def bias(self, name: str, size: int) -> str:
        """Adds a bias of ``size`` elements."""
        return self._initializer(name, self._uniform((size,), 0.1))

    def scale(self, name: str, size: int) -> str:
        """Adds a normalisation's scale of ``size`` elements, 1 +- 0.1."""
        return self._initializer(name, self._uniform((size,), 0.1) + np.float32(1))

    def embedding(self, name: str, shape: tuple[int, ...]) -> str:
        """Adds learned vectors of ``shape``, small beside what they are added to."""
        return self._initializer(name, self._uniform(shape, 0.1))

    def constant(self, name: str, value: float) -> str:
        """Adds a float32 scalar."""
        return self._initializer(name, np.asarray(value, dtype=np.float32))

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Adds a list of int64: a shape, or sizes."""
        tensor = onnx.TensorProto(name=name, data_type=TensorProto.INT64, dims=[len(values)])
        tensor.raw_data = np.asarray(values, dtype="<i8").tobytes()
        self._graph.initializer.append(tensor)
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Attribute) -> str:
        """Adds an operator with one output and returns that output's name."""
        self.many_outputs(op, inputs, output, [output], **attributes)
        return output

    def many_outputs(
        self, op: str, inputs: Sequence[str], name: str, outputs: Sequence[str], **attributes: Attribute
    ) -> None:
        """Adds an operator called ``name`` with several outputs."""
        node = onnx.NodeProto(op_type=op, name=name, input=inputs, output=outputs)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._graph.node.append(node)

    def to_bytes(self) -> bytes:
        """The serialised model."""
        return bytes(self._model.SerializeToString(deterministic=True))

    def _uniform(self, shape: tuple[int, ...], bound: float) -> Weights:
        values = self._rng.random(shape, dtype=np.float32)
        values -= np.float32(0.5)
        values *= np.float32(2 * bound)
        return values

    def _initializer(self, name: str, values: Weights) -> str:
        tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
        tensor.raw_data = values.astype("<f4", copy=False).tobytes()
        self._graph.initializer.append(tensor)
        return name
