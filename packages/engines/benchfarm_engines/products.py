"""What the products of a graph are computed in: a platform's precision promises that of them, and of nothing else.

A product is an operator whose work is to multiply matrices or windows. Most engines bring every number to the
platform's precision; some compute in the types that the graph says, and most multiply 8-bit numbers where a graph is
quantised already. Here a graph is seen to be of the precision before a board spends time on it. Pure, on ONNX.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

import onnx
from google.protobuf.message import DecodeError

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.onnx_source import dtype_name

PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Those that int8 is made of."""
OTHER_PRODUCTS: Final = frozenset({"Attention", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"})
"""Those that stay as they are in int8."""
INTEGER_PRODUCTS: Final = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})

MOVERS: Final = frozenset({"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Those that only move numbers, or choose among them: engines do that to the 8-bit ones and restore them behind it."""
_MOVES_MAX: Final = 20

_TYPES: Final = onnx.TensorProto
EIGHT_BITS: Final = frozenset({_TYPES.INT8, _TYPES.UINT8})
OTHER_FLOATS: Final = frozenset({_TYPES.FLOAT16, _TYPES.BFLOAT16, _TYPES.DOUBLE})
_TAKEN: Final[Mapping[str, frozenset[int]]] = {"fp16": frozenset({_TYPES.FLOAT16})}
"""What a precision's products may be made of beside fp32. Products of integers count places: none promises them."""
_LARGE_BYTES: Final = 4096
"""Longer weights do not matter for types."""

_Types = dict[str, int]


class _Place(NamedTuple):
    """A node with the types of all tensors in its reach, and who makes them."""

    node: onnx.NodeProto
    types: Mapping[str, int]
    makers: Mapping[str, onnx.NodeProto]


def refuse_other_products(content: bytes, precision: str, *, keeps_types: bool) -> None:
    """Raises EngineFailure (precision_not_obeyed, the operator as its subject) for a graph with a product of others.

    keeps_types: whether the engine computes in the types that the graph says; it is then held to them. Bytes that are
    no ONNX pass: whoever reads them says so.
    """
    for place in _places(content):
        op = place.node.op_type
        if precision != "int8" and _is_in_8_bits(place):
            raise _refusal(place, precision, "8-bit numbers; int8 measures a quantised graph as it is")
        if keeps_types and op in PRODUCTS | OTHER_PRODUCTS:
            found = _type_of(place)
            if found in OTHER_FLOATS - _TAKEN.get(precision, frozenset()):
                raise _refusal(place, precision, dtype_name(found))


def multiplies_in_8_bits(content: bytes) -> bool:
    """Whether any product of a graph is of 8-bit numbers as it stands."""
    return any(_is_in_8_bits(place) for place in _places(content))


def refuse_without_8_bits(content: bytes) -> None:
    """Raises EngineFailure (precision_not_obeyed) for a graph that has products, none of them of 8-bit numbers."""
    known = PRODUCTS | OTHER_PRODUCTS | INTEGER_PRODUCTS
    products = [place for place in _places(content) if place.node.op_type in known]
    if products and not any(_is_in_8_bits(place) for place in products):
        raise _refusal(products[0], "int8", "other numbers than 8-bit ones, as every product of this graph")


def _places(content: bytes) -> Iterator[_Place]:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _LARGE_BYTES:
            tensor.ClearField("raw_data")
    with suppress(onnx.shape_inference.InferenceError, ValueError, RuntimeError):  # what is known without stays known
        model = onnx.shape_inference.infer_shapes(model)
    yield from _inside(model.graph, {}, {})


def _inside(graph: onnx.GraphProto, outer: _Types, outer_makers: dict[str, onnx.NodeProto]) -> Iterator[_Place]:
    """The nodes of a graph and of every body in it."""
    infos = (*graph.input, *graph.output, *graph.value_info)
    found = {info.name: info.type.tensor_type.elem_type for info in infos}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types = {**outer, **{name: each for name, each in found.items() if each}, **stored}
    makers = {**outer_makers, **{name: node for node in graph.node for name in node.output}}
    for node in graph.node:
        yield _Place(node, types, makers)
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _inside(body, types, makers)


def _type_of(place: _Place) -> int | None:
    """The type that a product multiplies; of one that nothing tells, another where the graph has others, else None."""
    for name in (*place.node.input, *place.node.output):
        if name in place.types:
            return place.types[name]
    return next(iter(OTHER_FLOATS.intersection(place.types.values())), None)


def _is_in_8_bits(place: _Place) -> bool:
    if place.node.op_type in INTEGER_PRODUCTS:
        return True
    return place.node.op_type in PRODUCTS and all(_is_restored(name, place) for name in place.node.input[:2])


def _is_restored(name: str, place: _Place) -> bool:
    """Whether a tensor was of 8 bits: engines multiply those, and take the steps into the result."""
    maker = place.makers.get(name)
    for _ in range(_MOVES_MAX):
        if maker is None or maker.op_type not in MOVERS or not maker.input:
            break
        maker = place.makers.get(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear" and place.types.get(maker.input[0]) in EIGHT_BITS


def _refusal(place: _Place, precision: str, what: str) -> EngineFailure:
    named = place.node.name or next(iter(place.node.output), "")
    detail = f"asked for {precision}, and {place.node.op_type} {named[:60]!r} multiplies {what}"
    return EngineFailure(FailureCode.PRECISION_NOT_OBEYED, detail, subject=place.node.op_type)
