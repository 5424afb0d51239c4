"""An ONNX graph as the ncnn writer sees it: operators, constants, shapes, and what is stored in 8 bits.

Quantise/dequantise pairs are taken out of the graph and kept as facts about tensors: ncnn has no such pairs, its
layers carry scales.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import ConversionRequest
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.onnx_source import read_source

Array = NDArray[Any]
Shape = tuple[int, ...]

_SHAPE_BYTES: Final = 4096
"""Longer constants are weights, never a shape."""

_SOFTMAX_CHANGED: Final = 13

INT8_STEPS: Final = 127
"""ncnn's int8 is symmetric: -127 to 127, zero is 0."""


@dataclass(eq=False)
class Operator:
    """One operator, in the words of ONNX or of a fusion that replaced several. opset: of its graph."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 0

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]


@dataclass(frozen=True)
class Int8Weight:
    """A weight as the quantised graph stores it. steps: int8. scale: one number, or several along axis."""

    steps: Array
    scale: Array
    axis: int


@dataclass
class SourceGraph:
    """Operators in the order of execution. scales: symmetric int8 step of a tensor's range, by tensor."""

    operators: list[Operator]
    constants: dict[str, Array]
    shapes: dict[str, Shape]
    inputs: list[str]
    outputs: list[str]
    scales: dict[str, float] = field(default_factory=dict)
    int8_weights: dict[str, Int8Weight] = field(default_factory=dict)

    def consumers(self, tensor: str) -> list[Operator]:
        """Who reads a tensor, once for every time; the graph's own outputs are not among them."""
        return [each for each in self.operators for name in each.inputs if name == tensor]

    def only_consumer(self, tensor: str) -> Operator | None:
        """The one operator that reads a tensor, None where there are others or the tensor is an output."""
        readers = self.consumers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def producer(self, tensor: str) -> Operator | None:
        """Who makes a tensor; None for inputs and constants."""
        return next((each for each in self.operators if tensor in each.outputs), None)

    def scalar(self, tensor: str) -> float | None:
        """A constant of one element."""
        value = self.constants.get(tensor)
        return float(value.reshape(())) if value is not None and value.size == 1 else None


def unsupported(operator: Operator | str, why: str, *, subject: str = "") -> EngineFailure:
    """The failure for what ncnn, or this writer, does not have."""
    kind = operator if isinstance(operator, str) else operator.kind
    return EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, f"{kind}: {why}", subject=subject or kind)


def read_graph(request: ConversionRequest) -> SourceGraph:
    """The graph with every dimension bound and without quantisation pairs. Raises EngineFailure."""
    model = read_source(_as_stored(request))
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
    graph = SourceGraph(
        operators=[_operator(node, opset) for node in model.graph.node if not _is_constant(node, constants)],
        constants=constants,
        shapes=_shapes(model),
        inputs=[spec.name for spec in request.inputs],
        outputs=[each.name for each in model.graph.output],
    )
    if opset < _SOFTMAX_CHANGED:
        _say_old_softmax(graph)
    _take_out_quantisation(graph)
    return graph


def _as_stored(request: ConversionRequest) -> ConversionRequest:
    """A quantised graph takes its inputs as its edges say, which keep the shapes."""
    if request.edges is None:
        return request
    pairs = zip(request.inputs, request.edges.inputs, strict=True)
    return replace(request, inputs=[replace(spec, dtype=edge.dtype) for spec, edge in pairs])


def _shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Sizes of all tensors; the weights' numbers are left out, they would be copied twice for nothing."""
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _SHAPE_BYTES:
            tensor.ClearField("raw_data")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"the graph's shapes do not fit: {error}") from error
    return {
        each.name: tuple(dim.dim_value for dim in each.type.tensor_type.shape.dim)
        for each in (*inferred.input, *inferred.value_info, *inferred.output)
        if all(dim.HasField("dim_value") for dim in each.type.tensor_type.shape.dim)
    }


def _say_old_softmax(graph: SourceGraph) -> None:
    """Before opset 13 a softmax ran over all axes from the given one on; of the last axis that is the same."""
    for operator in graph.operators:
        if operator.kind == "Softmax":
            axis, rank = int(operator.attributes.setdefault("axis", 1)), len(graph.shapes.get(operator.inputs[0], ()))
            if axis not in (-1, rank - 1):
                raise unsupported(operator, "more than the last axis")


def _is_constant(node: onnx.NodeProto, constants: dict[str, Array]) -> bool:
    """Whether a node only holds a tensor, which then is among the constants."""
    if node.op_type != "Constant":
        return False
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if "value" in attributes:
        constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
    else:
        [(_, value)] = attributes.items()
        constants[node.output[0]] = np.asarray(value)
    return True


def _operator(node: onnx.NodeProto, opset: int) -> Operator:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    texts = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
    return Operator(node.op_type, list(node.input), [name for name in node.output if name], texts, opset)


def _take_out_quantisation(graph: SourceGraph) -> None:
    """Tensors keep the names that they have before quantising; dequantised weights become constants."""
    alias: dict[str, str] = {}
    kept: list[Operator] = []
    for operator in graph.operators:
        source = operator.inputs[0] if operator.inputs else ""
        if operator.kind == "DequantizeLinear" and source in graph.constants:
            _keep_weight(graph, operator)
        elif operator.kind in ("QuantizeLinear", "DequantizeLinear"):
            alias[operator.output] = alias.get(source, source)
            graph.scales.setdefault(alias[operator.output], _symmetric_scale(graph, operator))
        else:
            operator.inputs = [alias.get(name, name) for name in operator.inputs]
            kept.append(operator)
    graph.operators = kept
    graph.outputs = [alias.get(name, name) for name in graph.outputs]


def _quantisation(graph: SourceGraph, operator: Operator) -> tuple[Array, Array]:
    """Scale and zero point."""
    if any(name not in graph.constants for name in operator.inputs[1:]):
        raise unsupported(operator, "scales that are no constants")
    scale = graph.constants[operator.inputs[1]]
    has_zero = len(operator.inputs) > 2 and operator.inputs[2]
    return scale, graph.constants[operator.inputs[2]] if has_zero else np.zeros(1, np.uint8)


def _symmetric_scale(graph: SourceGraph, operator: Operator) -> float:
    scale, zero = _quantisation(graph, operator)
    if scale.size != 1 or zero.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
        raise unsupported(operator, "activations in anything but one scale and 8 bits")
    limits, offset = np.iinfo(zero.dtype), int(zero.reshape(()))
    # the usual int8 leaves -128 to rounding: its range is as symmetric as ncnn's
    lowest = -INT8_STEPS if zero.dtype == np.int8 and offset == 0 else limits.min - offset
    return float(scale.reshape(())) * max(abs(lowest), limits.max - offset) / INT8_STEPS


def _keep_weight(graph: SourceGraph, operator: Operator) -> None:
    steps, (scale, zero) = graph.constants[operator.inputs[0]], _quantisation(graph, operator)
    axis = int(operator.attributes.get("axis", 1)) if scale.size > 1 else 0
    along = [1] * steps.ndim
    if scale.size > 1:
        along[axis] = scale.size
    offset = zero.reshape(along).astype(np.int32) if zero.size == scale.size else zero.astype(np.int32)
    values = (steps.astype(np.int32) - offset) * scale.reshape(along if scale.size > 1 else ())
    graph.constants[operator.output] = values.astype(np.float32)
    graph.shapes[operator.output] = steps.shape
    if steps.dtype == np.int8 and not zero.any():
        graph.int8_weights[operator.output] = Int8Weight(steps, scale.reshape(-1).astype(np.float32), axis)
