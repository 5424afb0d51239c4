"""The graph of a .tflite file in the words of ONNX, by which the catalogue's kernels are known.

Images have their channels last in such files and first in the catalogue, weights are turned, an activation may be a
part of the operator before it, and a border an operator of its own. What has no word here keeps its own. Numbers in 8
bits stand for the real ones. Attention and layer normalisation are written as many operators and stay those.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from benchfarm_workloads.tensors import Dims
from benchfarm_workloads.verdicts import MAX_NAME, Attribute, Graph, GraphNode, GraphValue, Role, graph_name

_LAYOUTS: Final[dict[int, Dims]] = {4: (0, 3, 1, 2), 5: (0, 3, 4, 1, 2)}
"""By rank the file's axes in ONNX's order: an image, and one whose channels are in groups."""
_REAL: Final = {"int8", "uint8", "type 7"}
"""Types of numbers in steps; type 7 of the schema is int16."""
_SAME: Final = 0
_BOTH: Final = 2
_LOWEST: Final = -3e38
_ACTIVATIONS: Final[dict[int, tuple[str, tuple[float, ...]]]] = {
    1: ("Relu", ()),
    2: ("Clip", (-1.0, 1.0)),
    3: ("Clip", (0.0, 6.0)),
    4: ("Tanh", ()),
    5: ("Sign", ()),
}
"""By the schema's ActivationFunctionType: operator and limits."""
_NEVER_NEGATIVE: Final = frozenset({"RELU", "RELU6", "LOGISTIC"})


class Reworded(NamedTuple):
    """joined: values that the file keeps within one operator, so that no rule of an engine can part them."""

    graph: Graph
    joined: frozenset[str]


class _Unlike(Exception):
    """ONNX says it otherwise, or not at all: the operator keeps its own word."""


def in_onnx_words(graph: Graph) -> Reworded:
    """The same computation; every node of the result is called after the operators of the file that it stands for."""
    rewriting = _Rewriting(graph)
    for at, node in enumerate(graph.nodes):
        if at not in rewriting.absorbed:
            rewriting.reword(at, node)
    made = Graph(nodes=tuple(rewriting.nodes), values=rewriting.values, numbers=rewriting.numbers)
    return Reworded(made, frozenset(rewriting.joined))


@dataclass
class _Rewriting:
    """The new graph as far as it is written. absorbed: nodes of the file that others stand for, by the latter."""

    source: Graph
    nodes: list[GraphNode] = field(default_factory=list)
    joined: set[str] = field(default_factory=set)
    absorbed: set[int] = field(default_factory=set)
    _limits: dict[float, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = {name: _in_order(value) for name, value in self.source.values.items()}
        self.numbers = dict(self.source.numbers)
        self._makers = {name: at for at, node in enumerate(self.source.nodes) for name in node.outputs if name}
        self._uses = Counter(name for node in self.source.nodes for name in node.inputs)
        for at, node in enumerate(self.source.nodes):
            if _absorbs(node):
                self.absorbed.update(self._before(at))

    def _before(self, at: int) -> list[int]:
        """Nodes of the file that are a part of this one: a border, or the first half of a HardSigmoid."""
        node = self.source.nodes[at]
        return _border(self, node) if node.op in _WINDOWS else _gate(self, node)

    def reword(self, at: int, node: GraphNode) -> None:
        """Writes one node; as it is where nothing fits."""
        rule = _RULES.get(node.op)
        written = len(self.nodes)
        before = tuple(self.source.nodes[one] for one in (self._before(at) if _absorbs(node) else ()))
        try:
            if rule is None:
                raise _Unlike
            rule(self, _Site(node, before))
        except (_Unlike, IndexError, ValueError):
            del self.nodes[written:]
            self.nodes += [one.model_copy(update={"name": one.op}) for one in (*before, node)]

    def shape(self, name: str) -> Dims:
        """As the file has it. Raises _Unlike where it is open."""
        found = self.source.values.get(name)
        if found is None or found.shape is None or min(found.shape, default=1) < 0:
            raise _Unlike
        return found.shape

    def whole(self, name: str) -> tuple[int, ...]:
        """The whole numbers of a small stored tensor. Raises _Unlike where there are none."""
        found = self.source.numbers.get(name)
        if found is None:
            raise _Unlike
        return tuple(int(number) for number in found)

    def maker(self, name: str) -> GraphNode | None:
        """The node of the file that makes a value."""
        at = self._makers.get(name)
        return None if at is None else self.source.nodes[at]

    def only_maker(self, name: str, *ops: str) -> int | None:
        """The place of a value's maker, where it makes it for one reader alone and is one of these."""
        made, value = self.maker(name), self.source.values.get(name)
        is_inner = self._uses[name] == 1 and value is not None and value.role == "inner"
        return self._makers[name] if made is not None and is_inner and made.op in ops else None

    def value(self, name: str, shape: Dims, role: Role = "inner") -> str:
        """A new tensor; its name, which no other has."""
        wanted = found = graph_name(name)
        number = 0
        while found in self.values:
            number += 1
            found = graph_name(f"{wanted}~{number}")
        self.values[found] = GraphValue(role=role, dtype="float32", shape=shape)
        return found

    def turned(self, name: str, perm: Sequence[int]) -> str:
        """A weight whose axes ONNX has in another order."""
        shape = self.shape(name)
        if len(shape) != len(perm):
            raise _Unlike
        self.values[name] = self.values[name].model_copy(update={"shape": tuple(shape[axis] for axis in perm)})
        return name

    def limit(self, number: float) -> str:
        """A stored number."""
        if number not in self._limits:
            self._limits[number] = self.value(f"~{number:g}", (), "weight")
            self.numbers[self._limits[number]] = (number,)
        return self._limits[number]


def _in_order(value: GraphValue) -> GraphValue:
    """With the axes of images in ONNX's order, and real numbers for those in steps. Weights are turned by readers."""
    dtype = "float32" if value.dtype in _REAL else value.dtype
    order = None if value.shape is None or value.role == "weight" else _LAYOUTS.get(len(value.shape))
    shape = value.shape if order is None or value.shape is None else tuple(value.shape[axis] for axis in order)
    return value.model_copy(update={"dtype": dtype, "shape": shape})


@dataclass(frozen=True)
class _Site:
    """One node of the file on its way, with what comes before it and is a part of it."""

    node: GraphNode
    before: tuple[GraphNode, ...]

    @property
    def name(self) -> str:
        return " ".join(one.op for one in (*self.before, self.node))[:MAX_NAME]

    @property
    def outer(self) -> str:
        """The first input of all."""
        return (*self.before, self.node)[0].inputs[0]

    def option(self, name: str) -> int:
        """A field of the operator's options. Raises _Unlike for operators without them."""
        found = self.node.attributes.get(name)
        if not isinstance(found, int | float):
            raise _Unlike
        return int(found)


def _emit(
    made: _Rewriting,
    site: _Site,
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str] | None = None,
    /,
    **attributes: Attribute,
) -> None:
    found = tuple(site.node.outputs if outputs is None else outputs)
    made.nodes.append(GraphNode(op=op, name=site.name, inputs=tuple(inputs), outputs=found, attributes=attributes))


def _emit_ended(made: _Rewriting, site: _Site, op: str, inputs: Sequence[str], **attributes: Attribute) -> None:
    """An operator, and the activation that it ends with."""
    code = site.option("activation")
    if not code:
        _emit(made, site, op, inputs, **attributes)
        return
    if code not in _ACTIVATIONS:
        raise _Unlike
    [output] = site.node.outputs
    shape = made.values[output].shape
    linear = made.value(f"{output}~linear", () if shape is None else shape)
    made.joined.add(linear)
    act, limits = _ACTIVATIONS[code]
    _emit(made, site, op, inputs, [linear], **attributes)
    _emit(made, site, act, [linear, *map(made.limit, limits)])


def _strides(site: _Site) -> dict[str, Attribute]:
    return {"strides": (site.option("stride_h"), site.option("stride_w"))}


def _padding(made: _Rewriting, site: _Site, kernel: Dims) -> dict[str, Attribute]:
    """The border in the node's own words, or that of an operator before it."""
    if not site.before:
        return {"auto_pad": "SAME_UPPER" if site.option("padding") == _SAME else "VALID"}
    widths, sizes = made.whole(site.before[0].inputs[1])[2:6], made.shape(site.outer)[1:3]
    strides = site.option("stride_h"), site.option("stride_w")
    sides = [
        _even(*widths[2 * side : 2 * side + 2], size=sizes[side], k=kernel[side], s=strides[side]) for side in (0, 1)
    ]
    return {"pads": (*(less for less, _ in sides), *(more for _, more in sides))}


def _even(less: int, more: int, *, size: int, k: int, s: int) -> tuple[int, int]:
    """A border as wide at its end as at its beginning where that makes no window more: none reaches so far."""
    reach = [(size + less + after - k) // s for after in (more, less)] if s > 0 else [0, 1]
    return (less, less) if more < less and reach[0] == reach[1] else (less, more)


def _convolution(made: _Rewriting, site: _Site) -> None:
    weight = site.node.inputs[1]
    channels = made.shape(site.outer)[3]
    out, *_, of_each = made.shape(weight)
    is_depthwise = site.node.op == "DEPTHWISE_CONV_2D"
    if not is_depthwise and (of_each == 0 or channels % of_each or out % (channels // of_each)):
        raise _Unlike
    kernel = made.shape(weight)[1:3]
    attributes = _strides(site) | _padding(made, site, kernel) | {"kernel_shape": kernel}
    attributes["group"] = channels if is_depthwise else channels // of_each
    attributes["dilations"] = (site.option("dilation_h"), site.option("dilation_w"))
    turned = made.turned(weight, (3, 0, 1, 2) if is_depthwise else (0, 3, 1, 2))
    _emit_ended(made, site, "Conv", [site.outer, turned, *site.node.inputs[2:]], **attributes)


def _deconvolution(made: _Rewriting, site: _Site) -> None:
    _, weight, x, *bias = site.node.inputs
    sizes, out, kernel = made.shape(x)[1:3], made.shape(site.node.outputs[0])[1:3], made.shape(weight)[1:3]
    strides = site.option("stride_h"), site.option("stride_w")
    cut = [(size - 1) * s + k - to for size, s, k, to in zip(sizes, strides, kernel, out, strict=True)]
    if min(cut) < 0 or (site.option("padding") != _SAME and any(cut)):
        raise _Unlike
    less = [one // 2 for one in cut]
    pads = (*less, *(one - low for one, low in zip(cut, less, strict=True)))
    turned = made.turned(weight, (3, 0, 1, 2))
    _emit_ended(made, site, "ConvTranspose", [x, turned, *bias], strides=strides, pads=pads)


def _pool(op: str) -> "_Rule":
    def rule(made: _Rewriting, site: _Site) -> None:
        kernel = site.option("filter_h"), site.option("filter_w")
        padding = _padding(made, site, kernel)
        _emit_ended(made, site, op, [site.outer], kernel_shape=kernel, **_strides(site), **padding)

    return rule


def _connected(made: _Rewriting, site: _Site) -> None:
    """Rows of features as one Gemm; of more dimensions as a product and a sum."""
    x, weight, *bias = site.node.inputs
    bias = [name for name in bias if name]
    (cout, cin), out = made.shape(weight), made.shape(site.node.outputs[0])
    if site.option("weights_format"):
        raise _Unlike
    if len(out) == _BOTH:
        rows = (math.prod(out[:-1]), cin)
        if made.shape(x) != rows:
            flat = made.value(f"{x}~rows", rows)
            _emit(made, site, "Reshape", [x], [flat])
            x = flat
        _emit_ended(made, site, "Gemm", [x, weight, *bias], transB=1)
        return
    turned = made.turned(weight, (1, 0))
    if not bias:
        _emit_ended(made, site, "MatMul", [x, turned])
        return
    product = made.value(f"{site.node.outputs[0]}~product", (*out[:-1], cout))
    made.joined.add(product)
    _emit(made, site, "MatMul", [x, turned], [product])
    _emit_ended(made, site, "Add", [product, *bias])


def _products(made: _Rewriting, site: _Site) -> None:
    if site.option("adj_x") or site.option("adj_y"):
        raise _Unlike
    _emit(made, site, "MatMul", site.node.inputs)


def _of_two(op: str) -> "_Rule":
    def rule(made: _Rewriting, site: _Site) -> None:
        _emit_ended(made, site, op, site.node.inputs)

    return rule


def _product(made: _Rewriting, site: _Site) -> None:
    if site.before:
        source = [name for name in site.before[0].inputs if name not in made.source.numbers]
        _emit(made, site, "HardSigmoid", source, alpha=1 / 6, beta=0.5)
    else:
        _emit_ended(made, site, "Mul", site.node.inputs)


def _plain(op: str) -> "_Rule":
    def rule(made: _Rewriting, site: _Site) -> None:
        _emit(made, site, op, site.node.inputs[:1])

    return rule


def _bounded(low: float, high: float) -> "_Rule":
    def rule(made: _Rewriting, site: _Site) -> None:
        _emit(made, site, "Clip", [site.node.inputs[0], made.limit(low), made.limit(high)])

    return rule


def _gelu(made: _Rewriting, site: _Site) -> None:
    approximate = "tanh" if site.option("approximate") else "none"
    _emit(made, site, "Gelu", site.node.inputs, approximate=approximate)


def _softmax(made: _Rewriting, site: _Site) -> None:
    rank = len(made.shape(site.node.inputs[0]))
    if site.node.attributes.get("beta") != 1:
        raise _Unlike
    _emit(made, site, "Softmax", site.node.inputs, axis=_axis(-1, rank))


def _axis(axis: int, rank: int) -> int:
    """Where an axis of the file stands in ONNX's order."""
    if not -rank <= axis < rank:
        raise _Unlike
    return _LAYOUTS.get(rank, tuple(range(rank))).index(axis % rank)


def _mean(made: _Rewriting, site: _Site) -> None:
    x, axes = site.node.inputs
    shape, [output] = made.shape(x), site.node.outputs
    gone = sorted(_axis(axis, len(shape)) for axis in made.whole(axes))
    if len(shape) != 4 or gone != [2, 3]:
        _emit(made, site, "ReduceMean", [x], axes=tuple(gone), keepdims=site.option("keep_dims"))
    elif site.option("keep_dims"):
        _emit(made, site, "GlobalAveragePool", [x])
    else:
        pooled = made.value(f"{output}~pooled", (shape[0], shape[3], 1, 1))
        made.joined.add(pooled)
        _emit(made, site, "GlobalAveragePool", [x], [pooled])
        _emit(made, site, "Reshape", [pooled])


def _joined(made: _Rewriting, site: _Site) -> None:
    rank = len(made.shape(site.node.outputs[0]))
    _emit_ended(made, site, "Concat", site.node.inputs, axis=_axis(site.option("axis"), rank))


def _split(made: _Rewriting, site: _Site) -> None:
    axis, x = site.node.inputs
    [place] = made.whole(axis)
    _emit(made, site, "Split", [x], axis=_axis(place, len(made.shape(x))))


def _transposed(made: _Rewriting, site: _Site) -> None:
    x, order = site.node.inputs
    perm = made.whole(order)
    layout = _LAYOUTS.get(len(perm), tuple(range(len(perm))))
    _emit(made, site, "Transpose", [x], perm=tuple(layout.index(perm[axis]) for axis in layout))


def _reshaped(made: _Rewriting, site: _Site) -> None:
    """The same memory. Patches in a row are turned in ONNX's order, where channels come first."""
    x, [output] = site.node.inputs[0], site.node.outputs
    before, after = made.shape(x), made.shape(output)
    if not _are_patches(made, x) or after != (before[0], before[1] * before[2], before[3]):
        _emit(made, site, "Reshape", [x])
        return
    batch, pixels, channels = after
    flat = made.value(f"{output}~maps", (batch, channels, pixels))
    made.joined.add(flat)
    _emit(made, site, "Reshape", [x], [flat])
    _emit(made, site, "Transpose", [flat], perm=(0, 2, 1))


def _are_patches(made: _Rewriting, name: str) -> bool:
    """Whether a convolution makes it whose windows lie side by side."""
    at = made.only_maker(name, "CONV_2D")
    if at is None:
        return False
    node = made.source.nodes[at]
    sides, strides = made.shape(node.inputs[1])[1:3], (node.attributes.get("stride_h"), node.attributes.get("stride_w"))
    return sides == strides and min(sides) > 1 and node.attributes.get("activation") == 0


def _resized(made: _Rewriting, site: _Site) -> None:
    nearest = site.node.op == "RESIZE_NEAREST_NEIGHBOR"
    corners, centred = site.option("align_corners"), site.option("half_pixel_centers")
    places = "align_corners" if corners else "half_pixel" if centred else "asymmetric"
    mode: dict[str, Attribute] = {"mode": "nearest", "nearest_mode": "floor"} if nearest else {"mode": "linear"}
    x, sizes = site.node.inputs
    _emit(made, site, "Resize", [x, "", "", sizes], coordinate_transformation_mode=places, **mode)


def _border(made: _Rewriting, node: GraphNode) -> list[int]:
    """The operator that lays the border around an image for this window alone, where it can be its own."""
    at = made.only_maker(node.inputs[0], "PAD", "PADV2") if node.inputs else None
    if at is None or node.attributes.get("padding") == _SAME:
        return []
    pad = made.source.nodes[at]
    widths = made.source.numbers.get(pad.inputs[1]) if len(pad.inputs) > 1 else None
    if widths is None or len(widths) != 8 or any((*widths[:2], *widths[6:])):
        return []
    fits = _never_wins(made, pad) if node.op == "MAX_POOL_2D" else pad.op == "PAD"
    return [at] if fits else []


def _never_wins(made: _Rewriting, pad: GraphNode) -> bool:
    """Whether a border is below every number of the image: a maximum does not see it."""
    if pad.op == "PADV2":
        fill = made.source.numbers.get(pad.inputs[2], ()) if len(pad.inputs) > _BOTH else ()
        return len(fill) == 1 and fill[0] < _LOWEST
    maker = made.maker(pad.inputs[0])
    joined = maker is not None and maker.op == "CONCATENATION" and not maker.attributes.get("activation")
    makers = [made.maker(name) for name in maker.inputs] if maker is not None and joined else [maker]
    return all(
        one is not None and (one.op in _NEVER_NEGATIVE or one.attributes.get("activation") in (1, 3)) for one in makers
    )


def _gate(made: _Rewriting, node: GraphNode) -> list[int]:
    """relu6(x + 3) before a product with 1/6: together they are a HardSigmoid."""
    if not _has_number(made, node, 1 / 6) or node.attributes.get("activation"):
        return []
    [bounded] = [name for name in node.inputs if name not in made.source.numbers] or [""]
    apart = made.only_maker(bounded, "RELU6")
    parts = [] if apart is None else [apart]
    added = made.only_maker(bounded if apart is None else "".join(made.source.nodes[apart].inputs[:1]), "ADD")
    if added is None or not _has_number(made, made.source.nodes[added], 3):
        return []
    bounds = made.source.nodes[added].attributes.get("activation")
    return [added, *parts] if bounds == (3 if apart is None else 0) else []


def _has_number(made: _Rewriting, node: GraphNode, wanted: float) -> bool:
    """Whether a stored number is one of its two inputs; in 8 bits numbers are not told."""
    found = [made.source.numbers.get(name) for name in node.inputs]
    return (
        len(found) == _BOTH
        and found.count(None) == 1
        and any(one is not None and len(one) == 1 and math.isclose(one[0], wanted, rel_tol=2e-3) for one in found)
    )


_Rule = Callable[[_Rewriting, _Site], None]
_WINDOWS: Final = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D"})
_RULES: Final[Mapping[str, _Rule]] = {
    "ADD": _of_two("Add"),
    "AVERAGE_POOL_2D": _pool("AveragePool"),
    "BATCH_MATMUL": _products,
    "CONCATENATION": _joined,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "DEQUANTIZE": _plain("DequantizeLinear"),
    "DIV": _of_two("Div"),
    "EXPAND_DIMS": _plain("Reshape"),
    "FULLY_CONNECTED": _connected,
    "GELU": _gelu,
    "HARD_SWISH": _plain("HardSwish"),
    "LOGISTIC": _plain("Sigmoid"),
    "MAX_POOL_2D": _pool("MaxPool"),
    "MEAN": _mean,
    "MUL": _product,
    "QUANTIZE": _plain("QuantizeLinear"),
    "RELU": _plain("Relu"),
    "RELU6": _bounded(0, 6),
    "RELU_N1_TO_1": _bounded(-1, 1),
    "RESHAPE": _reshaped,
    "RESIZE_BILINEAR": _resized,
    "RESIZE_NEAREST_NEIGHBOR": _resized,
    "SOFTMAX": _softmax,
    "SPLIT": _split,
    "SQUEEZE": _plain("Reshape"),
    "SUB": _of_two("Sub"),
    "TANH": _plain("Tanh"),
    "TRANSPOSE": _transposed,
    "TRANSPOSE_CONV": _deconvolution,
}
"""By the file's operator."""
REWORDED: Final = frozenset(_RULES)


def _absorbs(node: GraphNode) -> bool:
    return node.op in _WINDOWS or node.op == "MUL"
