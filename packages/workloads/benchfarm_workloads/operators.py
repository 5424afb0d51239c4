"""A graph as operators: what one engine kernel may compute, each with the name of its family.

A family is the operator's name in ONNX, told apart where engines do (`DepthwiseConv`, `GroupConv`); all
families stand in `benchfarm_core/operator_families.py`. What exporters write as several operators, and every engine
and the catalogue take as one, is one operator here: `Swish`, `HardSwish`, `Gelu`, `Linear`, `SqueezeExcite`,
`ChannelShuffle`, `Attention`, `PatchEmbed`; a batch normalisation belongs to its convolution. Nothing is left out:
every node is in exactly one operator.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchfarm_workloads.layers import Layer
from benchfarm_workloads.verdicts import Graph, GraphNode, GraphValue

CONVOLUTIONS: Final = ("Conv", "DepthwiseConv", "GroupConv")
FREE: Final = frozenset({"Constant", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Families that compute nothing at inference: views of a tensor, and what an exporter leaves behind."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator. ``inputs``: values of other operators or of the graph, weights left out. ``nodes``: of the graph,
    in its order; ``layer``: of a generated network instead, whose activation is an operator of its own.
    ``handed_out``: an output is one of the model's, and so must exist whatever follows."""

    family: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[GraphNode, ...] = ()
    layer: Layer | None = None
    handed_out: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What its nodes are called."""
        return (self.layer.name,) if self.layer is not None else tuple(node.name for node in self.nodes)

    @property
    def ops(self) -> tuple[str, ...]:
        """The ONNX operators that it is written as."""
        return tuple(node.op for node in self.nodes) or (self.family,)


class GraphIndex:
    """Who makes and who uses each value of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.nodes
        self.values = graph.values
        self._numbers = graph.numbers
        self.makers = {name: at for at, node in enumerate(graph.nodes) for name in node.outputs if name}
        self._users: dict[str, list[int]] = defaultdict(list)
        for at, node in enumerate(graph.nodes):
            for name in node.inputs:
                self._users[name].append(at)

    def input(self, at: int, place: int) -> str:
        """The name of a node's input, empty where it has none there."""
        inputs = self.nodes[at].inputs
        return inputs[place] if place < len(inputs) else ""

    def maker(self, value: str, *ops: str) -> int | None:
        """The node that makes a value for one user alone, where it is one of these operators."""
        at = self.makers.get(value)
        return at if at is not None and self.nodes[at].op in ops and len(self._users[value]) == 1 else None

    def user(self, at: int | None, *ops: str) -> int | None:
        """The only user of a node's only output, where it is one of these operators."""
        if at is None or len(self.nodes[at].outputs) != 1:
            return None
        [output] = self.nodes[at].outputs
        users = self._users[output]
        if len(users) != 1 or self.is_output(output):
            return None
        return users[0] if self.nodes[users[0]].op in ops else None

    def is_output(self, value: str) -> bool:
        """Whether the graph hands it out."""
        found = self.values.get(value)
        return found is not None and found.role == "output"

    def is_weight(self, value: str) -> bool:
        """Whether it is stored in the model, as a weight or in a Constant operator."""
        at, found = self.makers.get(value), self.values.get(value)
        return self.nodes[at].op == "Constant" if at is not None else found is not None and found.role == "weight"

    def is_own(self, value: str) -> bool:
        """Whether nothing outside the model says what it holds: it is stored, maybe in 8 bits that are restored."""
        at = self.makers.get(value)
        if at is not None and self.nodes[at].op == "DequantizeLinear":
            return not any(self._is_given(name) for name in self.nodes[at].inputs)
        return not self._is_given(value)

    def _is_given(self, value: str) -> bool:
        found = self.values.get(value)
        known = value in self.makers or (found is not None and found.role != "weight")
        return known and not self.is_weight(value)

    def numbers(self, value: str) -> tuple[float, ...] | None:
        """The few numbers of a stored tensor; None of any other."""
        return self._numbers.get(value)

    def number(self, value: str) -> float | None:
        """The one number of a stored tensor."""
        found = self._numbers.get(value)
        return found[0] if found is not None and len(found) == 1 else None

    def factor(self, at: int) -> float | None:
        """What a Mul or a Div multiplies with, where that is one stored number."""
        left, right = (self.number(self.input(at, place)) for place in (0, 1))
        if self.nodes[at].op == "Div":
            return 1 / right if right else None
        return left if right is None else right

    def dtype(self, value: str) -> str | None:
        """The type of its elements, where it is known."""
        found = self.values.get(value)
        return None if found is None else found.dtype

    def shape(self, value: str) -> tuple[int, ...] | None:
        """Its dimensions, where all are known."""
        found: GraphValue | None = self.values.get(value)
        if found is None or found.shape is None or any(size < 0 for size in found.shape):
            return None
        return found.shape


def graph_operators(graph: Graph) -> tuple[Operator, ...]:
    """The operators of a graph by the place of their last node: an order in which they can run."""
    index = GraphIndex(graph)
    found: dict[int, Operator] = {}
    taken: set[int] = set()
    for anchors, family, match in _COMPOSITES:
        for at, node in enumerate(graph.nodes):
            if node.op not in anchors or at in taken:
                continue
            parts = match(index, at)
            if parts is not None and not taken & set(parts):
                taken |= set(parts)
                found[max(parts)] = _operator(index, family or _family(index, node), sorted(parts))
    for at, node in enumerate(graph.nodes):
        if at not in taken:
            found[at] = _operator(index, _family(index, node), [at])
    return tuple(found[at] for at in sorted(found))


def _operator(index: GraphIndex, family: str, parts: Sequence[int]) -> Operator:
    nodes = tuple(index.nodes[at] for at in parts)
    made = {name for node in nodes for name in node.outputs}
    outer = (name for node in nodes for name in node.inputs if name and name not in made)
    inputs = tuple(dict.fromkeys(name for name in outer if not index.is_weight(name)))
    return Operator(family, inputs, nodes[-1].outputs, nodes, handed_out=any(map(index.is_output, made)))


def _family(index: GraphIndex, node: GraphNode) -> str:
    groups = node.attributes.get("group", 1)
    if node.op != "Conv" or groups == 1:
        return node.op
    weight = index.shape(node.inputs[1]) if len(node.inputs) > 1 else None
    is_depthwise = weight is not None and len(weight) > 1 and (weight[0], weight[1]) == (groups, 1)
    return "DepthwiseConv" if is_depthwise else "GroupConv"


Match = Callable[[GraphIndex, int], "list[int] | None"]


def _all(*parts: int | None) -> list[int] | None:
    known = [at for at in parts if at is not None]
    return known if len(known) == len(parts) else None


def _squeeze_excite(index: GraphIndex, at: int) -> list[int] | None:
    reduced = index.user(at, "Conv")
    middle = index.user(reduced, "Relu")
    expanded = index.user(middle, "Conv")
    gate = index.user(expanded, "HardSigmoid", "Sigmoid")
    scaled = index.user(gate, "Mul")
    if scaled is None or index.input(at, 0) not in index.nodes[scaled].inputs:
        return None
    return _all(at, reduced, middle, expanded, gate, scaled)


_HEADS_PERMS: Final = ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3), (0, 2, 1, 3))
"""How queries, keys and values are turned, and what was attended to is turned back."""


def _attention(index: GraphIndex, at: int) -> list[int] | None:
    """From the softmax back to the heads of queries and keys, and on to where the heads are joined."""
    scaled = index.maker(index.input(at, 0), "Mul", "Div")
    products = None if scaled is None else index.maker(index.input(scaled, 0), "MatMul")
    attended = index.user(at, "MatMul")
    joined = index.user(attended, "Transpose")
    dims = index.user(joined, "Reshape")
    if products is None or attended is None or index.nodes[at].attributes.get("axis", -1) not in (-1, 3):
        return None
    heads = [index.input(products, 0), index.input(products, 1), index.input(attended, 1)]
    turned = [*(index.maker(name, "Transpose") for name in heads), joined]
    perms = tuple(None if one is None else index.nodes[one].attributes.get("perm") for one in turned)
    if perms != _HEADS_PERMS or scaled is None or not _is_scaled(index, scaled, index.input(products, 0)):
        return None
    split = [None if one is None else index.maker(index.input(one, 0), "Reshape") for one in turned[:3]]
    return _all(*split, *turned, products, scaled, at, attended, dims)


def _is_scaled(index: GraphIndex, at: int, queries: str) -> bool:
    """Whether scores are divided by the root of the size of a head. queries: batch x heads x seq x size."""
    factor, dims = index.factor(at), index.shape(queries) or (0,)
    return factor is not None and _near(factor * math.sqrt(dims[-1]), 1)


def _patch_embed(index: GraphIndex, at: int) -> list[int] | None:
    node = index.nodes[at]
    if node.attributes.get("kernel_shape") != node.attributes.get("strides") or node.attributes.get("group", 1) != 1:
        return None
    flat = index.user(at, "Reshape", "Flatten")
    turned = index.user(flat, "Transpose")
    if turned is None or index.nodes[turned].attributes.get("perm") != (0, 2, 1):
        return None
    return _all(at, flat, turned)


def _channel_shuffle(index: GraphIndex, at: int) -> list[int] | None:
    if index.nodes[at].attributes.get("perm") != (0, 2, 1, 3, 4):
        return None
    return _all(index.maker(index.input(at, 0), "Reshape"), at, index.user(at, "Reshape"))


def _gelu(index: GraphIndex, at: int) -> list[int] | None:
    """x / sqrt(2), erf, + 1, and two products in either order, one of them with x."""
    scaled = index.maker(index.input(at, 0), "Div", "Mul")
    shifted = index.user(at, "Add")
    first = index.user(shifted, "Mul")
    second = index.user(first, "Mul")
    if scaled is None or shifted is None or first is None or second is None:
        return None
    [*source] = (name for name in index.nodes[scaled].inputs if index.number(name) is None)
    added = [index.number(name) for name in index.nodes[shifted].inputs]
    halves = [one for one in (first, second) if _near(index.factor(one), 0.5)]
    products = [one for one in (first, second) if len(source) == 1 and source[0] in index.nodes[one].inputs]
    is_gelu = _near(index.factor(scaled), 0.5**0.5) and any(_near(one, 1) for one in added)
    fits = len(halves) == len(products) == 1 and halves != products
    return _all(scaled, at, shifted, first, second) if is_gelu and fits else None


def _near(number: float | None, wanted: float) -> bool:
    """Equal but for the rounding of 16-bit numbers."""
    return number is not None and math.isclose(number, wanted, rel_tol=2e-3)


def is_hard_sigmoid(node: GraphNode) -> bool:
    """Whether a HardSigmoid is x / 6 + 1/2, which networks mean, and not ONNX's own x / 5 + 1/2."""
    return _near(_coefficient(node, "alpha", 0.2), 1 / 6) and _near(_coefficient(node, "beta", 0.5), 0.5)


def _coefficient(node: GraphNode, name: str, default: float) -> float | None:
    found = node.attributes.get(name, default)
    return found if isinstance(found, int | float) else None


def _gated(index: GraphIndex, at: int) -> list[int] | None:
    """x times a sigmoid of x."""
    product = index.user(at, "Mul")
    if product is None or index.input(at, 0) not in index.nodes[product].inputs:
        return None
    return [at, product] if index.nodes[at].op == "Sigmoid" or is_hard_sigmoid(index.nodes[at]) else None


def _linear(index: GraphIndex, at: int) -> list[int] | None:
    """A product with a weight, and a bias."""
    added = index.user(at, "Add")
    if added is None or not index.is_weight(index.input(at, 1)):
        return None
    biases = [name for name in index.nodes[added].inputs if index.is_weight(name)]
    return [at, added] if biases and len(index.shape(biases[0]) or (0, 0)) == 1 else None


def _normalised(index: GraphIndex, at: int) -> list[int] | None:
    """With numbers that are stored: in training they are computed from the batch."""
    norm = index.user(at, "BatchNormalization")
    if norm is None:
        return None
    node = index.nodes[norm]
    trains = node.attributes.get("training_mode", 0) != 0 or any(node.outputs[1:])
    stored = node.inputs[:1] == index.nodes[at].outputs and all(map(index.is_own, node.inputs[1:]))
    return [at, norm] if stored and not trains else None


_COMPOSITES: Final[tuple[tuple[tuple[str, ...], str, Match], ...]] = (
    (("GlobalAveragePool",), "SqueezeExcite", _squeeze_excite),
    (("Softmax",), "Attention", _attention),
    (("Conv",), "PatchEmbed", _patch_embed),
    (("Transpose",), "ChannelShuffle", _channel_shuffle),
    (("Erf",), "Gelu", _gelu),
    (("Sigmoid",), "Swish", _gated),
    (("HardSigmoid",), "HardSwish", _gated),
    (("MatMul",), "Linear", _linear),
    (("Conv", "ConvTranspose"), "", _normalised),
)
"""What starts the search for a composite, its family (empty: that of the node), and the search. The first that fits
has its nodes."""

ACTIVATION_FAMILIES: Final = {
    "relu": "Relu",
    "relu6": "Clip",
    "hswish": "HardSwish",
    "sigmoid": "Sigmoid",
    "swish": "Swish",
    "gelu": "Gelu",
}
TYPE_FAMILIES: Final = {
    "conv-bn-act": "Conv",
    "dwconv-bn-act": "DepthwiseConv",
    "group-conv": "GroupConv",
    "deconv-bn-act": "ConvTranspose",
    "fc": "Gemm",
    "linear": "Linear",
    "add-act": "Add",
    "token-add": "Add",
    "pos-embed": "Add",
    "maxpool": "MaxPool",
    "avgpool": "AveragePool",
    "global-avgpool": "GlobalAveragePool",
    "se": "SqueezeExcite",
    "concat": "Concat",
    "mul": "Mul",
    "split": "Split",
    "channel-shuffle": "ChannelShuffle",
    "resize": "Resize",
    "matmul": "MatMul",
    "attention": "Attention",
    "layernorm": "LayerNormalization",
    "gelu": "Gelu",
    "softmax": "Softmax",
    "reduce-mean": "ReduceMean",
    "patch-embed": "PatchEmbed",
}
"""The family of what a kernel type does before its activation."""


def layer_operators(layers: Sequence[Layer]) -> Iterator[Operator]:
    """The operators of a generated network: each layer, and apart from it the activation that it ends with."""
    for layer in layers:
        act = str(layer.config.get("act", "none"))
        if layer.type == "act":
            yield Operator(ACTIVATION_FAMILIES[act], layer.sources, layer.outputs, layer=layer)
        elif act == "none":
            yield Operator(TYPE_FAMILIES[layer.type], layer.sources, layer.outputs, layer=layer)
        else:
            linear = f"{layer.name}/linear"
            yield Operator(TYPE_FAMILIES[layer.type], layer.sources, (linear,), layer=layer)
            yield Operator(ACTIVATION_FAMILIES[act], (linear,), layer.outputs, layer=layer)
