"""Structural checks of an uploaded ONNX model: each refuses with its own code and says what to do."""

import math
from collections.abc import Iterator
from typing import Final

import onnx
from google.protobuf.message import DecodeError

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.onnx_wire import refuse_foreign
from benchfarm_workloads.verdicts import MAX_NAME, shown

OPSETS: Final = range(7, 27)
"""What every reader of the farm takes; ONNX Runtime's own list ends at 26."""

MAX_IR_VERSION: Final = 13

_STANDARD_DOMAINS: Final = ("", "ai.onnx")
_RANDOM_OPERATORS: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_KEPT_ELEMENTS: Final = 4096
"""Weights up to this size stay in the skeleton: shapes may be computed from them."""


def parse(content: bytes) -> onnx.ModelProto:
    """The model, when the bytes are ONNX.

    Raises:
        InvalidRequest: ``not_onnx`` or ``truncated_model``.
    """
    refuse_foreign(content)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise InvalidRequest(
            "damaged ONNX model: its graph cannot be decoded; upload it again", code="truncated_model"
        ) from None
    return model


def check(model: onnx.ModelProto, *, max_nodes: int) -> int:
    """All structural checks; returns the opset version.

    Raises:
        InvalidRequest: ``external_data``, ``too_many_nodes``, ``unsupported_opset``, ``unknown_operator``,
            ``random_operator`` or ``truncated_model``.
    """
    _refuse_garbled_names(model)
    _refuse_external_data(model)
    _refuse_many_nodes(model, max_nodes)
    opset = _opset(model)
    _refuse_unknown_operators(model, opset)
    for graph in graphs(model):
        for tensor in graph.initializer:
            _refuse_wrong_size(tensor)
    return opset


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and every body of a control-flow operator inside it."""
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)


def strip_weights(model: onnx.ModelProto) -> None:
    """Turns large weights of the main graph into inputs: shapes stay, the memory is given back."""
    graph = model.graph
    declared = {value.name for value in graph.input}
    kept = []
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _KEPT_ELEMENTS:
            kept.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    graph.ClearField("initializer")
    graph.initializer.extend(copies)


def _refuse_garbled_names(model: onnx.ModelProto) -> None:
    """protobuf hands out a text that is no UTF-8 as bytes, and nothing behind this line expects that."""
    for graph in graphs(model):
        if not all(isinstance(name, str) for name in _names(graph)):
            raise InvalidRequest("damaged ONNX model: a name in it is no text; upload it again", code="truncated_model")


def _names(graph: onnx.GraphProto) -> Iterator[object]:
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        yield from (attribute.t.name for attribute in node.attribute)
    yield from (tensor.name for tensor in graph.initializer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dimension.dim_param for dimension in value.type.tensor_type.shape.dim)


def _refuse_external_data(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise InvalidRequest(
                f"tensor {shown(tensor.name)} keeps its data in another file; save the model in one file "
                "(onnx.save_model(model, path, save_as_external_data=False))",
                code="external_data",
            )


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in the file, wherever the format allows one."""
    nodes = [node for function in model.functions for node in function.node]
    for graph in graphs(model):
        nodes.extend(graph.node)
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _refuse_many_nodes(model: onnx.ModelProto, limit: int) -> None:
    count = sum(len(graph.node) for graph in graphs(model))
    if count > limit:
        raise InvalidRequest(
            f"the graph has {count} operators, the limit is {limit}; simplify it (constant folding) or split it",
            code="too_many_nodes",
        )
    if count == 0:
        raise InvalidRequest("the graph has no operator: there is nothing to measure", code="inspection_failed")


def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _STANDARD_DOMAINS]
    if len(set(versions)) != 1:
        raise InvalidRequest("the model must import the standard operator set exactly once", code="unsupported_opset")
    if versions[0] not in OPSETS:
        raise InvalidRequest(
            f"opset {versions[0]} is outside {OPSETS.start} to {OPSETS.stop - 1}; convert the model with "
            "onnx.version_converter or export it with another opset",
            code="unsupported_opset",
        )
    if not 3 <= model.ir_version <= MAX_IR_VERSION:
        raise InvalidRequest(
            f"IR version {model.ir_version} is outside 3 to {MAX_IR_VERSION}; save the model with another onnx release",
            code="unsupported_opset",
        )
    return int(versions[0])


def _refuse_unknown_operators(model: onnx.ModelProto, opset: int) -> None:
    if model.functions:
        names = ", ".join(shown(function.name) for function in model.functions[:5])
        raise InvalidRequest(
            f"the model brings its own functions ({names}); inline them (onnx.inliner.inline_local_functions)",
            code="unknown_operator",
        )
    for graph in graphs(model):
        for node in graph.node:
            _refuse_unknown_operator(node, opset)


def _refuse_unknown_operator(node: onnx.NodeProto, opset: int) -> None:
    if node.domain not in _STANDARD_DOMAINS:
        raise InvalidRequest(
            f"operator {shown(node.op_type)} of domain {shown(node.domain)} is outside the ONNX standard set; "
            "export the model with standard operators only",
            code="unknown_operator",
        )
    if not onnx.defs.has(node.op_type, opset, ""):
        raise InvalidRequest(
            f"operator {shown(node.op_type)} is not in opset {opset}; check its name or export with a newer opset",
            code="unknown_operator",
        )
    if node.op_type in _RANDOM_OPERATORS:
        raise InvalidRequest(
            f"operator {node.op_type} draws random numbers, so its result cannot be checked; "
            "replace it by a constant or an input",
            code="random_operator",
        )


def _refuse_wrong_size(tensor: onnx.TensorProto) -> None:
    """A weight whose bytes do not fit its shape: engines differ in what they then read."""
    if any(size < 0 for size in tensor.dims) or len(tensor.name) > MAX_NAME * 5:
        raise InvalidRequest(f"weight {shown(tensor.name)} has an impossible shape", code="truncated_model")
    if not tensor.HasField("raw_data"):
        return  # typed fields: onnx.checker compares them
    item_bits = _ITEM_BITS.get(tensor.data_type)
    if item_bits is None:
        return  # ONNX Runtime decides about types beyond the common ones
    needed = math.ceil(math.prod(tensor.dims) * item_bits / 8)
    if len(tensor.raw_data) != needed:
        raise InvalidRequest(
            f"weight {shown(tensor.name)} holds {len(tensor.raw_data)} bytes, its shape needs {needed}; "
            "export the model again",
            code="truncated_model",
        )


_ITEM_BITS: Final[dict[int, int]] = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.INT64: 64,
}
