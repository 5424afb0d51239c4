"""From a graph to the tensors and operators of a .tflite file: what every operator's rule works with.

Tensors are *values* here: a place in the file, the workload's shape, the order of axes in memory (``litert_layout``)
and the 8-bit steps, if any. A rule asks its ``Site`` for inputs in the order it needs and emits operators.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.litert_fusion import FUSED
from benchfarm_engines.litert_graph import Graph, Node, Shape, with_shape
from benchfarm_engines.litert_layout import IMAGE, Axes, extended, plain, same_memory, stored
from benchfarm_engines.litert_writer import Quant, TfliteWriter

Array = np.ndarray[Any, Any]
Code = schema.BuiltinOperator
Activation = schema.ActivationFunctionType

_ACTIVATIONS: Final = {"": Activation.NONE, "Relu": Activation.RELU, "Relu6": Activation.RELU6}
_INT8_LIMITS: Final = (-128, 127)


@dataclass(frozen=True)
class Value:
    """A tensor of the file. shape: the workload's; axes: the order in memory."""

    tensor: int
    shape: Shape
    axes: Axes
    quant: Quant | None = None

    @property
    def stored(self) -> Shape:
        """The shape in memory."""
        return stored(self.shape, self.axes)


@dataclass
class Translation:
    """The file as far as it is written; values by the names of the graph's tensors."""

    graph: Graph
    delegate: str
    writer: TfliteWriter = field(default_factory=TfliteWriter)
    values: dict[str, Value] = field(default_factory=dict)
    _made: dict[tuple[Any, ...], Value] = field(default_factory=dict)
    _unshaped: dict[int, Value] = field(default_factory=dict)

    def emit(
        self,
        code: int,
        inputs: Sequence[Value | int],
        shape: Shape,
        axes: Axes,
        options: Any = None,
        quant: Quant | None = None,
    ) -> Value:
        """An operator with one output, which is int8 where ``quant`` is given."""
        [value] = self.emit_many(code, inputs, [shape], axes, options, quant)
        return value

    def emit_many(
        self,
        code: int,
        inputs: Sequence[Value | int],
        shapes: Sequence[Shape],
        axes: Axes,
        options: Any = None,
        quant: Quant | None = None,
    ) -> list[Value]:
        """An operator with an output of each shape."""
        dtype = "float32" if quant is None else "int8"
        values = [
            Value(self.writer.tensor(stored(shape, axes), dtype, quant=quant), shape, axes, quant) for shape in shapes
        ]
        numbers = [each.tensor if isinstance(each, Value) else each for each in inputs]
        self.writer.operator(code, numbers, [each.tensor for each in values], options)
        return values

    def integers(self, numbers: Sequence[int]) -> int:
        """A constant of int32, as shapes and axes are given."""
        return self.writer.constant(np.array(numbers, dtype=np.int32))

    def constant(self, values: Array, quant: Quant | None = None) -> Value:
        """A constant as it lies in memory: fp32, or integers with their steps."""
        return Value(self.writer.constant(values, quant), values.shape, plain(values.ndim), quant)

    def value(self, name: str) -> Value:
        """The graph's tensor; a constant is written in fp32."""
        if name not in self.values:
            if name not in self.graph.constants:
                raise EngineFailure(FailureCode.CONVERSION_FAILED, f"nothing makes tensor {name[:60]!r}")
            self.values[name] = self.constant(self.graph.array(name).astype(np.float32))
        return self.values[name]

    def real(self, value: Value) -> Value:
        """The value in fp32."""
        if value.quant is None:
            return value
        return self._once(("real", value.tensor), lambda: self.emit(Code.DEQUANTIZE, [value], value.shape, value.axes))

    def in_steps(self, value: Value, quant: Quant) -> Value:
        """The value in these 8-bit steps."""
        if value.quant == quant:
            return value
        return self._once(
            ("steps", value.tensor, quant),
            lambda: self.emit(Code.QUANTIZE, [value], value.shape, value.axes, None, quant),
        )

    def ordered(self, value: Value, axes: Axes) -> Value:
        """The value with its axes in this order in memory."""
        if value.axes == axes:
            return value
        if same_memory(value.shape, value.axes, axes):
            return self.reread(value, value.shape, axes)
        perm = [value.axes.index(axis) for axis in axes]
        return self._once(
            ("ordered", value.tensor, axes),
            lambda: self.emit(
                Code.TRANSPOSE, [value, self.integers(perm)], value.shape, axes, schema.TransposeOptionsT(), value.quant
            ),
        )

    def reread(self, value: Value, shape: Shape, axes: Axes) -> Value:
        """The same memory under another shape."""
        source = self._unshaped.get(value.tensor, value)
        if stored(shape, axes) == source.stored:
            return Value(source.tensor, shape, axes, value.quant)
        return self._once(("reread", source.tensor, shape, axes), lambda: self._reshaped(source, shape, axes))

    def named(self, value: Value, name: str) -> Value:
        """The value in a tensor of this name, which nothing else is called."""
        if self.writer.name_of(value.tensor) or self.writer.is_constant(value.tensor):
            sizes = self.integers(value.stored)
            options = schema.ReshapeOptionsT(newShape=list(value.stored))
            value = self.emit(Code.RESHAPE, [value, sizes], value.shape, value.axes, options, value.quant)
        self.writer.rename(value.tensor, name)
        return value

    def _reshaped(self, source: Value, shape: Shape, axes: Axes) -> Value:
        sizes = list(stored(shape, axes))
        options = schema.ReshapeOptionsT(newShape=sizes)
        made = self.emit(Code.RESHAPE, [source, self.integers(sizes)], shape, axes, options, source.quant)
        self._unshaped[made.tensor] = source
        return made

    def _once(self, key: tuple[Any, ...], make: Callable[[], Value]) -> Value:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class Site:
    """One node on its way into the file. quant: the steps of its output where it computes in 8 bits, else None."""

    translation: Translation
    node: Node
    quant: Quant | None

    @property
    def graph(self) -> Graph:
        """The graph of the node."""
        return self.translation.graph

    @property
    def shape(self) -> Shape:
        """The workload's shape of the first output."""
        return with_shape(self.graph, self.node.outputs[0])

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute of the node."""
        return self.node.attributes.get(name, default)

    def input(self, place: int = 0) -> Value:
        """An input in fp32, or in 8 bits where the node computes in them."""
        value = self.translation.value(self.node.input(place))
        return value if self.quant is not None else self.translation.real(value)

    def image(self, place: int = 0) -> Value:
        """A four-dimensional input with its channels last."""
        value = self.input(place)
        if len(value.shape) != len(IMAGE):
            raise self.unsupported(f"a tensor of shape {list(value.shape)} is no image")
        return self.translation.ordered(value, IMAGE)

    def is_constant(self, place: int) -> bool:
        """Whether an input is known at conversion."""
        return self.node.input(place) in self.graph.constants

    def array(self, place: int) -> Array:
        """The real values of a constant input. Raises EngineFailure (unsupported_operator) for a dynamic one."""
        name = self.node.input(place)
        if name not in self.graph.constants:
            raise self.unsupported(f"input {place} depends on the data")
        return self.graph.array(name)

    def integers(self, place: int, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Axes, sizes and the like: an attribute in old operator sets, a constant input in newer ones."""
        if self.node.input(place):
            return [int(each) for each in np.atleast_1d(self.array(place))]
        given = self.node.attributes.get(name, default)
        if given is None:
            raise self.unsupported(f"it has no {name}")
        return [int(each) for each in np.atleast_1d(np.asarray(given))]

    def axis(self, default: int) -> int:
        """The attribute ``axis``, not negative."""
        return int(self.attribute("axis", default)) % max(len(self.input().shape), 1)

    def activation(self) -> int:
        """The activation that the operator ends with, for its options."""
        return int(_ACTIVATIONS[self.attribute(FUSED, "")])

    def emit(
        self,
        code: int,
        inputs: Sequence[Value | int],
        axes: Axes,
        options: Any = None,
        *,
        shape: Shape | None = None,
        quant: Quant | None = None,
    ) -> Value:
        """An operator; its output has the node's shape and steps, or others. ``quant`` counts in 8 bits alone."""
        steps = None if self.quant is None else quant or self.quant
        return self.translation.emit(code, inputs, self.shape if shape is None else shape, axes, options, steps)

    def ended(self, value: Value) -> Value:
        """The activation that the node ends with, as an operator of its own."""
        ends = self.attribute(FUSED, "")
        if not ends:
            return value
        return self.emit(Code.RELU if ends == "Relu" else Code.RELU6, [value], value.axes)

    def number(self, real: float, quant: Quant | None = None) -> Value:
        """A constant of one element; it broadcasts against anything."""
        return self.spread(np.array([real], dtype=np.float32), quant)

    def spread(self, values: Array, quant: Quant | None = None) -> Value:
        """A constant in fp32, or in 8 bits where the node computes in them: in ``quant``, or around its own zero."""
        if self.quant is None:
            return self.translation.constant(np.ascontiguousarray(values, dtype=np.float32))
        steps = quant or Quant((float(np.abs(values).max()) / _INT8_LIMITS[1] or 1.0,))
        whole = np.clip(np.rint(values / steps.scale) + steps.zero_point, *_INT8_LIMITS).astype(np.int8)
        return self.translation.constant(whole, steps)

    def aligned(self, places: Sequence[int]) -> tuple[list[Value], Axes]:
        """Inputs that broadcast against each other, in one order of axes; constants in any that they need."""
        rank = len(self.shape)
        moving = [self.input(place) for place in places if not self.is_constant(place)]
        full = max(moving, key=lambda value: (len(value.shape) == rank, np.prod(value.shape)))
        axes = extended(full.axes, rank)
        return [self._aligned(place, axes) for place in places], axes

    def _aligned(self, place: int, axes: Axes) -> Value:
        if self.is_constant(place):
            values = self.array(place)
            values = values.reshape((1,) * (len(axes) - values.ndim) + values.shape).transpose(axes)
            while values.ndim > 1 and values.shape[0] == 1:
                values = values[0]
            return self.spread(values)
        value = self.input(place)
        if value.axes == axes[-len(value.axes) :] and len(value.axes) == len(axes):
            return value
        missing = len(axes) - len(value.axes)
        if extended(value.axes, len(axes)) == axes:
            return value  # leading axes of size 1 need not be written
        wide = (1,) * missing + value.shape
        widened = self.translation.reread(value, wide, extended(value.axes, len(axes)))
        return self.translation.ordered(widened, axes)

    def unsupported(self, detail: str) -> EngineFailure:
        """The operator in a form that cannot be written."""
        return EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, f"{self.node.op}: {detail}", subject=self.node.op)


Rule = Callable[[Site], "Value | list[Value]"]
"""Writes one node; the values are its outputs in order."""
