"""Graphs for ONNX Runtime on an NVIDIA GPU: as they are for fp32, in 16-bit numbers for fp16."""

from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from benchfarm_engines.conversion import ONNX, ConversionRequest, Converted, Converter
from benchfarm_engines.edges import Edge, Edges
from benchfarm_engines.engine_options import Option
from benchfarm_engines.launch_request import InputSpec
from benchfarm_engines.onnx_source import read_source, unsupported

_FLOAT: Final = onnx.TensorProto.FLOAT
_HALF: Final = onnx.TensorProto.FLOAT16
_KEEPS_32_BITS: Final = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that the standard wants in 32 bits whatever the operator computes in: regions and scales."""
_WITH_BODIES: Final = frozenset({"If", "Loop", "Scan"})


class OnnxRuntimeCudaConverter:
    """The GPU provider computes in the types of the graph, so fp16 is a matter of the graph.

    options: the engine's, told here because a GPU is out of a converting child's reach.
    """

    options: tuple[Option, ...] = ()

    def convert(self, request: ConversionRequest) -> Converted:
        """ONNX with every dimension bound; for fp16 its edges take 16-bit numbers in place of 32-bit ones."""
        model = read_source(request)
        if request.precision == "fp16":
            _halve(model.graph)
        edges = Edges(
            tuple(_edge(spec, request.precision) for spec in request.inputs),
            tuple(Edge(each.name) for each in model.graph.output),
        )
        return Converted(bytes(model.SerializeToString(deterministic=True)), ONNX, edges)


def _edge(spec: InputSpec, precision: str) -> Edge:
    return Edge(spec.name, "float16" if (precision, spec.dtype) == ("fp16", "float32") else spec.dtype)


def _halve(graph: onnx.GraphProto) -> None:
    """Every 32-bit number of the graph in 16 bits: inputs, outputs, weights, constants and casts."""
    kept = {
        node.input[position]
        for node in graph.node
        for position in _KEEPS_32_BITS.get(node.op_type, ())
        if position < len(node.input)
    }
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _halve_tensor(tensor)
    del graph.value_info[:]
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type == _FLOAT:
            info.type.tensor_type.elem_type = _HALF
    for node in graph.node:
        if node.op_type in _WITH_BODIES:
            raise unsupported(node.op_type, f"graphs with {node.op_type} are not made in fp16")
        if not kept & set(node.output):
            _halve_attributes(node)


def _halve_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _halve_tensor(attribute.t)
        elif (node.op_type, attribute.name) == ("Cast", "to") and attribute.i == _FLOAT:
            attribute.i = _HALF
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            value = np.asarray(onnx.helper.get_attribute_value(attribute), np.float16)
            attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(value)))


def _halve_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type != _FLOAT:
        return
    limits = np.finfo(np.float16)
    values = np.clip(numpy_helper.to_array(tensor), limits.min, limits.max).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


CONVERTER: Final[Converter] = OnnxRuntimeCudaConverter()
