"""Finds operators that LiteRT has as one where ONNX writes several. Works on graphs whose steps are folded."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

from benchfarm_engines.litert_graph import Graph, Node

FUSED: Final = "fused activation"
"""The attribute of a node that says which activation it ends with."""

LINEAR: Final = "linear layer"
"""MatMul with constant weights and the addition of a bias: inputs x, weight k x n, bias n."""

_END_WITH_ACTIVATIONS: Final = frozenset({"Conv", "Gemm", "MatMul", LINEAR, "Add", "Sub", "Mul", "Div"})
_TOLERANCE: Final = 1e-4


def fuse(graph: Graph) -> None:
    """Rewrites the graph in place; every tensor that is left keeps its meaning."""
    _fuse_gelus(graph)
    _fuse_hard_swishes(graph)
    _fuse_linear_layers(graph)
    _fuse_activations(graph)


def activation_of(graph: Graph, node: Node) -> str:
    """``Relu`` or ``Relu6`` for what can end another operator, else ""."""
    if node.op == "Relu":
        return "Relu"
    return "Relu6" if node.op == "Clip" and clip_bounds(graph, node) == (0.0, 6.0) else ""


def clip_bounds(graph: Graph, node: Node) -> tuple[float, float]:
    """The bounds of a Clip, infinite where it has none."""
    bounds = [float(node.attributes.get("min", -math.inf)), float(node.attributes.get("max", math.inf))]
    for place in (1, 2):
        if node.input(place) in graph.constants:
            bounds[place - 1] = float(graph.array(node.input(place)))
    return bounds[0], bounds[1]


def _scalar(graph: Graph, name: str) -> float:
    """A constant of one element, NaN for anything else."""
    if name not in graph.constants or graph.constants[name].size != 1:
        return math.nan
    return float(graph.array(name).ravel()[0])


def _is(value: float, wanted: float) -> bool:
    return abs(value - wanted) < _TOLERANCE * abs(wanted)


def _sole_reader(graph: Graph, name: str, op: str, readers: Counter[str]) -> Node | None:
    found = [node for node in graph.nodes if name in node.inputs]
    return found[0] if readers[name] == 1 and len(found) == 1 and found[0].op == op else None


def _replace(graph: Graph, last: Node, dropped: Iterable[Node], made: Node) -> None:
    """Puts ``made`` where ``last`` was and takes the others out."""
    gone = {id(node) for node in dropped}
    graph.nodes = [made if node is last else node for node in graph.nodes if id(node) not in gone or node is last]


def _other(node: Node, name: str) -> str:
    return node.inputs[1] if node.inputs[0] == name else node.inputs[0]


def _fuse_gelus(graph: Graph) -> None:
    """0.5 * x * (1 + erf(x / sqrt 2)), in any order of its factors."""
    for erf in [node for node in graph.nodes if node.op == "Erf"]:
        readers, makers = graph.readers(), graph.makers()
        scaling = makers.get(erf.inputs[0])
        if scaling is None or not _scales_by_root(graph, scaling):
            continue
        source = scaling.inputs[0] if scaling.inputs[0] not in graph.constants else scaling.inputs[1]
        shift = _sole_reader(graph, erf.outputs[0], "Add", readers)
        if shift is None or not _is(_scalar(graph, _other(shift, erf.outputs[0])), 1.0):
            continue
        products = _products(graph, shift.outputs[0], source, readers)
        if products:
            made = Node("Gelu", [source], products[-1].outputs)
            _replace(graph, products[-1], [scaling, erf, shift, *products], made)


def _scales_by_root(graph: Graph, node: Node) -> bool:
    if node.op == "Div":
        return _is(_scalar(graph, node.inputs[1]), 2**0.5)
    return node.op == "Mul" and any(_is(_scalar(graph, name), 2**-0.5) for name in node.inputs)


def _products(graph: Graph, name: str, source: str, readers: Counter[str]) -> list[Node]:
    """The one or two multiplications of ``name`` with ``source`` and with a half; empty if it is not that."""
    found: list[Node] = []
    missing = {"source", "half"}
    while missing:
        product = _sole_reader(graph, name, "Mul", readers)
        if product is None:
            return []
        other = _other(product, name)
        halved = graph.makers().get(other)
        if other == source:
            missing.discard("source")
        elif _is(_scalar(graph, other), 0.5):
            missing.discard("half")
        elif halved is not None and halved.op == "Mul" and _halves(graph, halved, source) and readers[other] == 1:
            found.append(halved)
            missing.clear()
        else:
            return []
        found.append(product)
        name = product.outputs[0]
    return found


def _halves(graph: Graph, node: Node, source: str) -> bool:
    return source in node.inputs and _is(_scalar(graph, _other(node, source)), 0.5)


def _fuse_hard_swishes(graph: Graph) -> None:
    """x * HardSigmoid(x) with the slope of 1/6."""
    for gate in [node for node in graph.nodes if node.op == "HardSigmoid" and is_sixth(node)]:
        product = _sole_reader(graph, gate.outputs[0], "Mul", graph.readers())
        if product is not None and _other(product, gate.outputs[0]) == gate.inputs[0]:
            _replace(graph, product, [gate], Node("HardSwish", [gate.inputs[0]], product.outputs))


def is_sixth(node: Node) -> bool:
    """Whether a HardSigmoid is the one of mobile networks: relu6(x + 3) / 6."""
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    return _is(alpha, 1 / 6) and _is(beta, 0.5)


def _fuse_linear_layers(graph: Graph) -> None:
    for product in [node for node in graph.nodes if node.op == "MatMul"]:
        weight = graph.constants.get(product.inputs[1])
        addition = _sole_reader(graph, product.outputs[0], "Add", graph.readers())
        if weight is None or weight.ndim != 2 or addition is None or product.inputs[0] in graph.constants:
            continue
        bias = _other(addition, product.outputs[0])
        if bias in graph.constants and graph.constants[bias].shape == weight.shape[1:]:
            made = Node(LINEAR, [*product.inputs, bias], addition.outputs)
            _replace(graph, addition, [product], made)


def _fuse_activations(graph: Graph) -> None:
    for last in list(graph.nodes):
        activation = activation_of(graph, last)
        if not activation:
            continue
        maker = graph.makers().get(last.inputs[0])
        if maker is None or maker.op not in _END_WITH_ACTIVATIONS or graph.readers()[last.inputs[0]] != 1:
            continue
        if FUSED not in maker.attributes:
            made = Node(maker.op, maker.inputs, last.outputs, maker.attributes | {FUSED: activation})
            _replace(graph, last, [maker], made)
