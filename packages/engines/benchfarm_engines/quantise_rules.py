"""Which tensors of a graph take 8-bit steps, and which of them must take the same ones. Pure, on parsed ONNX.

The rule, the same for every engine:

- *Products* (Conv, ConvTranspose, Gemm, MatMul): int8 weights, one step per output channel, int32 bias.
- *Elementwise and mean* operators: each input and output has steps of its own, constant tensors too.
- *Movers* (pooling by maximum, concatenation, reshaping, ...): one set of steps for inputs and outputs, since
  nothing is computed and some engines can do nothing else.
- A product with what Softmax gives stays in fp32: most of its numbers are smaller than the steps that its largest
  one needs.
- Everything else (Softmax, normalisations, Erf, arithmetic with a constant number) is computed in fp32 between a
  dequantisation and a quantisation: its results lie in narrow or skewed ranges that 8 bits destroy, and no engine
  here has integer code for all of it. A chain of such operators stays in fp32 inside.
- What is one operator everywhere has no step inside: a product or sum and the Relu or Clip that alone reads it, a
  MatMul and the constant vector added to it.
- The graph's own fp32 inputs and outputs always take steps.

A graph whose products would all stay as they are is no int8 (``left_out``).
"""

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import onnx

from benchfarm_engines.products import OTHER_PRODUCTS, PRODUCTS

_ELEMENTWISE: Final = frozenset(
    "Add Sub Mul Relu Clip LeakyRelu Sigmoid HardSigmoid HardSwish Tanh AveragePool GlobalAveragePool "
    "ReduceMean".split()
)
_MOVERS: Final = frozenset(
    "MaxPool GlobalMaxPool Concat Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Pad Resize Identity "
    "DepthToSpace SpaceToDepth".split()
)
_ONE_DATA_INPUT: Final = frozenset("Clip ReduceMean Reshape Squeeze Unsqueeze Slice Split Pad Resize".split())
"""Their further inputs are bounds, shapes and axes."""

_JOINED: Final = frozenset({"Relu", "Clip"})
_JOINS: Final = PRODUCTS | {"Add"}

FIXED_RANGES: Final[Mapping[str, tuple[float, float]]] = {"Sigmoid": (0.0, 255 / 256)}
"""What an operator gives by its definition, so that nothing need be learnt; engines know these steps by heart."""


@dataclass(frozen=True)
class Plan:
    """tensors: those with steps, in graph order. groups: tensor to the first one whose steps it shares.

    constants: those with steps that are no weights of products.
    """

    tensors: tuple[str, ...]
    groups: Mapping[str, str]
    constants: tuple[str, ...]


def plan(graph: onnx.GraphProto, floats: frozenset[str]) -> Plan:
    """The plan for a graph; ``floats`` names its fp32 tensors that are no constants."""
    sizes = {each.name: math.prod(each.dims) for each in graph.initializer}
    edges = [each.name for each in (*graph.input, *graph.output)]
    inside = _inside_one(graph, sizes)
    uneven = _uneven(graph)
    integer = [node for node in graph.node if _is_integer(node, sizes) and not _is_product_with(uneven, node)]
    touched = [name for node in integer for name in (*data_inputs(node), *node.output)]
    wanted = [name for name in (*edges, *touched) if name in floats and name not in inside]
    addends = [name for node in integer if node.op_type not in PRODUCTS for name in _addends(node, inside, sizes)]
    return Plan(tuple(dict.fromkeys(wanted)), _groups(integer, set(wanted)), tuple(dict.fromkeys(addends)))


def left_out(graph: onnx.GraphProto, with_steps: Container[str]) -> onnx.NodeProto | None:
    """The first product of a graph none of whose products takes steps; those that the rule leaves in fp32 are none."""
    uneven = _uneven(graph)
    weights = {each.name for each in graph.initializer if len(each.dims) > 1}
    known = [node for node in graph.node if node.op_type in PRODUCTS | OTHER_PRODUCTS]
    products = [node for node in known if not _is_product_with(uneven, node)]
    if any(_takes_steps(node, with_steps, weights) for node in products):
        return None
    return next(iter(products), None)


def _takes_steps(node: onnx.NodeProto, with_steps: Container[str], weights: Container[str]) -> bool:
    if node.op_type not in PRODUCTS or node.input[0] not in with_steps:
        return False
    return node.input[1] in with_steps or node.input[1] in weights


def _uneven(graph: onnx.GraphProto) -> frozenset[str]:
    return frozenset(name for node in graph.node if node.op_type == "Softmax" for name in node.output)


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """The inputs that hold what is computed on: not bounds, shapes, weights or biases (a dynamic second factor is)."""
    if node.op_type in _ONE_DATA_INPUT:
        return list(node.input)[:1]
    return list(node.input)[:2] if node.op_type in PRODUCTS else list(node.input)


def _is_integer(node: onnx.NodeProto, sizes: Mapping[str, int]) -> bool:
    if node.op_type in PRODUCTS:
        return node.input[0] not in sizes
    constant = [sizes[name] for name in data_inputs(node) if name in sizes]
    if node.op_type in _MOVERS:
        return not constant
    return node.op_type in _ELEMENTWISE and all(size > 1 for size in constant)


def _is_product_with(uneven: frozenset[str], node: onnx.NodeProto) -> bool:
    return node.op_type in PRODUCTS and not uneven.isdisjoint(node.input)


def _addends(node: onnx.NodeProto, inside: set[str], sizes: Mapping[str, int]) -> list[str]:
    """Constant operands, but for the bias of a product that the addition is one with."""
    operands = data_inputs(node)
    return [] if inside.intersection(operands) else [name for name in operands if name in sizes]


def _inside_one(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> set[str]:
    """Tensors between two nodes that are one operator."""
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(each.name for each in graph.output)
    makers = {name: node.op_type for node in graph.node for name in node.output}
    return {
        name
        for node in graph.node
        for name in node.input
        if readers[name] == 1 and name in makers and _are_one(makers[name], node, sizes)
    }


def _are_one(maker: str, reader: onnx.NodeProto, sizes: Mapping[str, int]) -> bool:
    if reader.op_type in _JOINED:
        return maker in _JOINS
    return maker == "MatMul" and reader.op_type == "Add" and any(name in sizes for name in reader.input)


def _groups(integer: Iterable[onnx.NodeProto], wanted: set[str]) -> dict[str, str]:
    first = {name: name for name in wanted}

    def root(name: str) -> str:
        while first[name] != name:
            name = first[name]
        return name

    for node in integer:
        if node.op_type in _MOVERS:
            members = [name for name in (*data_inputs(node), *node.output) if name in wanted]
            for other in members[1:]:
                first[root(other)] = root(members[0])
    return {name: root(name) for name in wanted}
