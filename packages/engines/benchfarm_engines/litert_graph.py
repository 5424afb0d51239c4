"""An ONNX graph as the LiteRT converter reads it: every shape known, constants and 8-bit steps set apart."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import ConversionRequest
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.litert_writer import Quant
from benchfarm_engines.onnx_source import read_source

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

_SMALL: Final = 256
"""Constants of at most this many elements may be shapes, and take part in shape inference with their values."""


@dataclass
class Node:
    """One operator. inputs: "" where one is left out. attributes: as Python values, tensors as arrays."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    def input(self, place: int) -> str:
        """The name of an input, "" where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""


@dataclass
class Graph:
    """Nodes in the order of execution.

    shapes: of every tensor, as the workload has it. constants: by name; integers where ``quants`` has their steps.
    quants: 8-bit steps of the tensors that have them.
    """

    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    shapes: dict[str, Shape]
    constants: dict[str, Array]
    quants: dict[str, Quant] = field(default_factory=dict)

    def readers(self) -> Counter[str]:
        """How often each tensor is read, once more for the graph's outputs."""
        read = Counter(name for node in self.nodes for name in node.inputs if name)
        read.update(self.outputs)
        return read

    def makers(self) -> dict[str, Node]:
        """The node that makes each tensor."""
        return {name: node for node in self.nodes for name in node.outputs}

    def array(self, name: str) -> Array:
        """A constant's real values."""
        values, quant = self.constants[name], self.quants.get(name)
        if quant is None:
            return values
        along = [-1 if axis == quant.axis else 1 for axis in range(values.ndim)]
        scales = np.array(quant.scales, dtype=np.float32)
        steps = values.astype(np.float32) - np.float32(quant.zero_point)
        return steps * (scales.reshape(along) if scales.size > 1 else scales[0])


def read_graph(request: ConversionRequest) -> Graph:
    """The request's graph, its inputs in the order of the workload's.

    Raises EngineFailure (invalid_workload, unsupported_operator, conversion_failed).
    """
    names = [edge.name for edge in request.edges.inputs] if request.edges else [spec.name for spec in request.inputs]
    model = read_source(_with_own_types(request))
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    graph = Graph(
        [_node(each) for each in model.graph.node],
        names,
        [each.name for each in model.graph.output],
        _inferred(model, constants) | {name: values.shape for name, values in constants.items()},
        constants,
    )
    _take_constants(graph)
    return graph


def _with_own_types(request: ConversionRequest) -> ConversionRequest:
    """The request with the inputs as its own graph has them, where that is the quantised one."""
    if request.edges is None:
        return request
    pairs = zip(request.inputs, request.edges.inputs, strict=True)
    return replace(request, inputs=[replace(spec, name=edge.name, dtype=edge.dtype) for spec, edge in pairs])


def _inferred(model: onnx.ModelProto, constants: Mapping[str, Array]) -> dict[str, Shape]:
    """Shapes by name, inferred on a copy without the weights."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(each for each in model.graph.input if each.name not in constants)
    for each in model.graph.initializer:
        if constants[each.name].size <= _SMALL:
            bare.graph.initializer.append(each)
        else:
            bare.graph.input.append(helper.make_tensor_value_info(each.name, each.data_type, each.dims))
    bare.graph.output.extend(onnx.ValueInfoProto(name=each.name) for each in model.graph.output)
    try:
        known = shape_inference.infer_shapes(bare, data_prop=True).graph
    except (RuntimeError, ValueError, TypeError) as error:  # its own errors derive from RuntimeError
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"shapes cannot be inferred: {error}") from error
    return {each.name: _shape(each) for each in (*known.input, *known.value_info, *known.output)}


def _shape(value: onnx.ValueInfoProto) -> Shape:
    """-1 for sizes that inference did not find; whoever needs them refuses."""
    dims = value.type.tensor_type.shape.dim
    return tuple(each.dim_value if each.HasField("dim_value") else -1 for each in dims)


def _node(node: onnx.NodeProto) -> Node:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            attributes[name] = value.decode("utf-8", "replace")
        elif isinstance(value, onnx.TensorProto):
            attributes[name] = numpy_helper.to_array(value)
    return Node(node.op_type, list(node.input), list(node.output), attributes)


def _take_constants(graph: Graph) -> None:
    """Constant nodes become constants, and what only hands a tensor on is left out."""
    same: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        node.inputs = [same.get(name, name) for name in node.inputs]
        if node.op == "Constant" and "value" in node.attributes:
            graph.constants[node.outputs[0]] = node.attributes["value"]
            graph.shapes[node.outputs[0]] = node.attributes["value"].shape
        elif node.op in ("Identity", "Dropout") and node.outputs[0] not in graph.outputs:
            same[node.outputs[0]] = node.inputs[0]
        else:
            kept.append(node)
    graph.nodes = kept


def with_shape(graph: Graph, name: str) -> Shape:
    """A tensor's shape. Raises EngineFailure (conversion_failed) where it depends on the data."""
    shape = graph.shapes.get(name)
    if shape is None or -1 in shape:
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"the shape of {name[:60]!r} is not known before a run")
    return shape
