"""An ONNX graph as the LiteRT converter reads it: every shape known, constants and 8-bit steps set apart."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import ConversionRequest
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.litert_constants import settle
from benchfarm_engines.litert_writer import Quant
from benchfarm_engines.onnx_source import read_source

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


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
    nodes, shapes, constants = settle(model)
    outputs = [each.name for each in model.graph.output]
    graph = Graph([_node(each) for each in nodes], names, outputs, shapes, constants)
    _leave_out_copies(graph)
    return graph


def _with_own_types(request: ConversionRequest) -> ConversionRequest:
    """The request with the inputs as its own graph has them, where that is the quantised one."""
    if request.edges is None:
        return request
    pairs = zip(request.inputs, request.edges.inputs, strict=True)
    return replace(request, inputs=[replace(spec, name=edge.name, dtype=edge.dtype) for spec, edge in pairs])


def _node(node: onnx.NodeProto) -> Node:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            attributes[name] = value.decode("utf-8", "replace")
        elif isinstance(value, onnx.TensorProto):
            attributes[name] = numpy_helper.to_array(value)
    return Node(node.op_type, list(node.input), list(node.output), attributes)


def _leave_out_copies(graph: Graph) -> None:
    """What only hands a tensor on is left out, but for a graph's output."""
    same: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        node.inputs = [same.get(name, name) for name in node.inputs]
        if node.op in ("Identity", "Dropout") and node.outputs[0] not in graph.outputs:
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
