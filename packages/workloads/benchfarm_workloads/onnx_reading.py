"""From a checked ONNX model to our own operator graph and its estimated cost."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import onnx

from benchfarm_workloads.onnx_inputs import DTYPES
from benchfarm_workloads.verdicts import (
    MAX_NUMBERS,
    Attribute,
    Graph,
    GraphNode,
    GraphValue,
    Role,
    cleaned,
    graph_name,
    whole_flops,
)

_UNCOUNTED: Final = frozenset({"Attention", "DeformConv", "DFT", "Einsum", "GRU", "If", "Loop", "LSTM", "RNN", "Scan"})
"""Operators that do real arithmetic beyond the counted four."""
_AXIS_CHANGED: Final = 13
"""The opset before which a Softmax that names no axis ran over all from the second one on."""


@dataclass(frozen=True, slots=True)
class Reading:
    """``flops`` counts Conv, ConvTranspose, Gemm and MatMul; None when one of them has no known shape, or
    an absurd one."""

    graph: Graph
    flops: int | None
    reasons: tuple[str, ...]


def read(model: onnx.ModelProto, weights: Mapping[str, onnx.ValueInfoProto]) -> Reading:
    """The graph of a model whose inputs are bound and whose large weights were stripped to ``weights``."""
    values = _values(model.graph, weights)
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=_AXIS_CHANGED)
    nodes = tuple(_node(node, opset) for node in model.graph.node)
    flops, why = whole_flops(_FLOPS[node.op](node, values) for node in nodes if node.op in _FLOPS)
    graph = Graph(nodes=nodes, values=values, numbers=_numbers(model.graph))
    return Reading(graph, flops, (*why, *_reasons(nodes, values)))


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes of inner values where they follow from the inputs; as it is where none does."""
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return model  # ONNX Runtime has the last word on whether the graph makes sense


def weight_infos(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    """Name, type and shape of every weight of the main graph."""
    return {
        tensor.name: onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
    }


def parameters(model: onnx.ModelProto) -> int:
    """Elements of all floating-point weights with at least one dimension, bodies of control flow left out.

    A weight may stand among the initializers or in a Constant operator.
    """
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    quantised = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return sum(
        math.prod(tensor.dims)
        for _, tensor in _stored(model.graph)
        if tensor.dims and tensor.data_type in (*floats, *quantised)
    )


def _stored(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """What the file stores, by the names of values."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant":
            tensors = [_held(attribute) for attribute in node.attribute]
            yield from ((node.output[0], tensor) for tensor in tensors if tensor is not None and node.output)


def _held(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    """The numbers of a Constant operator in any of its spellings, texts left out."""
    floats, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    match attribute.name:
        case "value":
            return attribute.t
        case "value_float":
            return onnx.helper.make_tensor("", floats, [], [attribute.f])
        case "value_floats":
            return onnx.helper.make_tensor("", floats, [len(attribute.floats)], attribute.floats)
        case "value_int":
            return onnx.helper.make_tensor("", whole, [], [attribute.i])
        case "value_ints":
            return onnx.helper.make_tensor("", whole, [len(attribute.ints)], attribute.ints)
    return None


def _numbers(graph: onnx.GraphProto) -> dict[str, tuple[float, ...]]:
    found = ((name, _small(tensor)) for name, tensor in _stored(graph))
    return {graph_name(name): numbers for name, numbers in found if numbers is not None}


def _small(tensor: onnx.TensorProto) -> tuple[float, ...] | None:
    if tensor.data_type not in DTYPES or math.prod(tensor.dims) > MAX_NUMBERS:
        return None
    try:
        values = onnx.numpy_helper.to_array(tensor).ravel().tolist()
    except ValueError:
        return None  # fewer bytes than its shape needs: ONNX Runtime has the last word
    finite = len(values) <= MAX_NUMBERS and all(map(math.isfinite, values))
    return tuple(map(float, values)) if finite else None


def _values(graph: onnx.GraphProto, weights: Mapping[str, onnx.ValueInfoProto]) -> dict[str, GraphValue]:
    values: dict[str, GraphValue] = {}
    roles: tuple[tuple[Role, Iterable[onnx.ValueInfoProto]], ...] = (
        ("inner", graph.value_info),
        ("output", graph.output),
        ("input", graph.input),
        ("weight", weights.values()),  # last: stripped weights stand among the inputs
    )
    for role, infos in roles:
        for info in infos:
            tensor_type = info.type.tensor_type
            values[graph_name(info.name)] = GraphValue(
                role=role, dtype=_dtype(tensor_type.elem_type), shape=_shape(tensor_type)
            )
    return values


def _dtype(number: int) -> str:
    if number in DTYPES:
        return DTYPES[number]
    known = number in onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(number).lower() if known else "unknown"


def _shape(tensor_type: onnx.TypeProto.Tensor) -> tuple[int, ...] | None:
    if not tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor_type.shape.dim[:64])


def _node(node: onnx.NodeProto, opset: int) -> GraphNode:
    attributes = {graph_name(attribute.name): _attribute(attribute) for attribute in node.attribute[:32]}
    if node.op_type == "Softmax" and opset < _AXIS_CHANGED:
        attributes.setdefault("axis", 1)
    return GraphNode(
        op=node.op_type,
        name=graph_name(node.name),
        inputs=tuple(graph_name(name) for name in node.input),
        outputs=tuple(graph_name(name) for name in node.output),
        attributes=attributes,
    )


def _attribute(attribute: onnx.AttributeProto) -> Attribute:
    kinds = onnx.AttributeProto
    match attribute.type:
        case kinds.INT:
            return int(attribute.i)
        case kinds.FLOAT:
            return _finite(attribute.f)
        case kinds.STRING:
            return cleaned(attribute.s.decode("utf-8", "replace"), 64)
        case kinds.INTS:
            return tuple(attribute.ints[:16])
        case kinds.FLOATS:
            return tuple(_finite(value) for value in attribute.floats[:16])
        case kinds.STRINGS:
            return tuple(cleaned(value.decode("utf-8", "replace"), 64) for value in attribute.strings[:16])
        case kinds.TENSOR:
            return f"tensor {_dtype(attribute.t.data_type)} {list(attribute.t.dims[:8])}"
    return str(kinds.AttributeType.Name(attribute.type)).lower()


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


Shapes = Mapping[str, GraphValue]


def _known(values: Shapes, name: str) -> tuple[int, ...] | None:
    value = values.get(name)
    if value is None or value.shape is None or any(size < 0 for size in value.shape):
        return None
    return value.shape


def _conv_flops(node: GraphNode, values: Shapes) -> int | None:
    """Each output element is a dot product over one filter."""
    weight, output = _known(values, node.inputs[1]), _known(values, node.outputs[0])
    if weight is None or output is None:
        return None
    return 2 * math.prod(output) * math.prod(weight[1:])


def _conv_transpose_flops(node: GraphNode, values: Shapes) -> int | None:
    """Each input element is spread over one filter."""
    source, weight = _known(values, node.inputs[0]), _known(values, node.inputs[1])
    if source is None or weight is None:
        return None
    return 2 * math.prod(source) * math.prod(weight[1:])


def _gemm_flops(node: GraphNode, values: Shapes) -> int | None:
    """n x m outputs, each a dot product over the shared axis."""
    first, output = _known(values, node.inputs[0]), _known(values, node.outputs[0])
    if first is None or output is None or len(first) != 2:
        return None
    return 2 * math.prod(output) * first[0 if node.attributes.get("transA") == 1 else 1]


def _matmul_flops(node: GraphNode, values: Shapes) -> int | None:
    first, output = _known(values, node.inputs[0]), _known(values, node.outputs[0])
    if first is None or output is None or not first:
        return None
    return 2 * math.prod(output) * first[-1]


_FLOPS: Final[dict[str, Callable[[GraphNode, Shapes], int | None]]] = {
    "Conv": _conv_flops,
    "ConvTranspose": _conv_transpose_flops,
    "Gemm": _gemm_flops,
    "MatMul": _matmul_flops,
}


def _reasons(nodes: tuple[GraphNode, ...], values: Shapes) -> list[str]:
    reasons = []
    uncounted = Counter(node.op for node in nodes if node.op in _UNCOUNTED)
    if uncounted:
        names = ", ".join(f"{count} {op}" for op, count in sorted(uncounted.items()))
        reasons.append(f"flops leave out: {names}")
    shapeless = sum(any(_known(values, name) is None for name in node.outputs if name) for node in nodes)
    if shapeless:
        reasons.append(f"{shapeless} of {len(nodes)} operators have an output without a fixed shape")
    return reasons
