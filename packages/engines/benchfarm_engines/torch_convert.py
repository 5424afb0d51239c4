"""ONNX to the file of the PyTorch engines; needs no PyTorch."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import ConversionRequest, Converted
from benchfarm_engines.edges import Edge, Edges
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.engine_options import Option
from benchfarm_engines.launch_request import InputSpec
from benchfarm_engines.onnx_source import dtype_name, read_source, unsupported
from benchfarm_engines.torch_file import FORMAT, OPERATORS, Array, Attribute, Graph, Input, Operator, pack

_OLDEST_OPSET: Final = 13
"""Before it Softmax had another meaning, and axes were attributes."""
_DTYPES: Final = frozenset("float32 float64 float16 int64 int32 int8 uint8 bool".split())
_EDGES: Final = {"fp32": "float32", "fp16": "float16"}


class TorchConverter:
    """Writes the graph as it is: what is folded and fused is PyTorch's own business.

    options: the engines', told here because a GPU is out of a converting child's reach.
    """

    options: tuple[Option, ...] = ()

    def convert(self, request: ConversionRequest) -> Converted:
        """fp32; for fp16 the same file, whose 32-bit inputs are given as 16-bit ones."""
        model = read_source(request)
        version = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
        if version < _OLDEST_OPSET:
            raise _failed(f"the model is of opset {version}; files for torch are made from {_OLDEST_OPSET} on")
        outputs = tuple(each.name for each in model.graph.output)
        graph = Graph(
            inputs=tuple(Input(spec.name, spec.dtype, spec.shape) for spec in request.inputs),
            outputs=outputs,
            operators=tuple(_operator(node) for node in model.graph.node if node.op_type != "Constant"),
            weights=_weights(model.graph),
        )
        edges = Edges(tuple(_edge(spec, request.precision) for spec in request.inputs), tuple(map(Edge, outputs)))
        return Converted(pack(graph), FORMAT, edges)


def _edge(spec: InputSpec, precision: str) -> Edge:
    return Edge(spec.name, _EDGES[precision] if spec.dtype == "float32" else spec.dtype)


def _operator(node: onnx.NodeProto) -> Operator:
    if node.op_type not in OPERATORS:
        raise unsupported(node.op_type, f"files for torch cannot hold the operator {node.op_type}")
    attributes = {each.name: _attribute(node, each) for each in node.attribute}
    for name in sorted(set(attributes) - set(OPERATORS[node.op_type])):
        if not _says_nothing(name, attributes[name]):
            raise unsupported(node.op_type, f"files for torch cannot hold {node.op_type} with {name}")
    return Operator(node.op_type, tuple(node.input), tuple(node.output), attributes)


def _says_nothing(name: str, value: Attribute) -> bool:
    """Whether an attribute that is not obeyed has its default, in the versions that spell defaults out."""
    return value in {"auto_pad": ("NOTSET",), "allowzero": (0,), "keepdims": (1,), "training_mode": (0,)}.get(name, ())


def _attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Attribute:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | float):
        return value
    if isinstance(value, Sequence) and all(isinstance(each, int | float) for each in value):
        return list(value)
    raise unsupported(node.op_type, f"files for torch cannot hold {node.op_type} with {attribute.name}")


def _weights(graph: onnx.GraphProto) -> dict[str, Array]:
    """Every weight, and what Constant operators give."""
    weights = {tensor.name: _array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            weights[node.output[0]] = _constant(node)
    return weights


def _constant(node: onnx.NodeProto) -> Array:
    attribute = node.attribute[0]
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _array(attribute.t)
    value = _attribute(node, attribute)
    if isinstance(value, str):
        raise unsupported("Constant", "files for torch cannot hold texts")
    return np.asarray(value, np.int64 if "int" in attribute.name else np.float32)


def _array(tensor: onnx.TensorProto) -> Array:
    if dtype_name(tensor.data_type) not in _DTYPES:
        raise _failed(f"weight {tensor.name} is {dtype_name(tensor.data_type)}")
    return numpy_helper.to_array(tensor)


def _failed(detail: str) -> EngineFailure:
    return EngineFailure(FailureCode.CONVERSION_FAILED, detail)


CONVERTER: Final = TorchConverter()
