"""Writes .tflite files for LiteRT from ONNX graphs, in fp32 or in int8; no TensorFlow.

Images lie with their channels last and weights are turned at conversion, so that nothing is left of the graph's own
order of axes but the edges. A graph with QuantizeLinear and DequantizeLinear becomes one whose tensors have 8-bit
steps; what LiteRT cannot compute in 8 bits is computed in fp32 between two conversions.
"""

from collections.abc import Callable
from typing import Final

from benchfarm_engines.conversion import ConversionRequest, Converted, Converter
from benchfarm_engines.edges import Edge, Edges
from benchfarm_engines.litert_fusion import LINEAR, fuse, is_sixth
from benchfarm_engines.litert_graph import Graph, Node, read_graph, with_shape
from benchfarm_engines.litert_layout import IMAGE, plain
from benchfarm_engines.litert_movers import MOVER_RULES
from benchfarm_engines.litert_operators import OPERATOR_RULES
from benchfarm_engines.litert_products import PRODUCT_RULES, multiplies_in_steps, weights_have_steps
from benchfarm_engines.litert_steps import DEQUANTISE, QUANTISE, fold_steps
from benchfarm_engines.litert_translation import Rule, Site, Translation, Value
from benchfarm_engines.litert_windows import WINDOW_RULES, pools_in_steps, samples_in_steps
from benchfarm_engines.litert_writer import Quant
from benchfarm_engines.onnx_source import unsupported

_FORMAT: Final = "tflite"
_RULES: Final[dict[str, Rule]] = {**OPERATOR_RULES, **PRODUCT_RULES, **WINDOW_RULES, **MOVER_RULES}
_ELEMENTWISE: Final = frozenset(
    "Relu Clip Sigmoid HardSigmoid HardSwish Tanh LeakyRelu Gelu Add Sub Mul Div Erf Neg Abs Sqrt".split()
)
_READS_PLAIN: Final = frozenset(("MatMul", "Softmax", "LayerNormalization", "Transpose", "Gather"))
_LOWEST: Final = -128


def _always(_site: Site) -> bool:
    return True


_FREELY: Final = (
    "Add Sub Mul Relu Clip Sigmoid Tanh Gelu HardSwish LeakyRelu MaxPool GlobalMaxPool GlobalAveragePool ReduceMean "
    "Concat Reshape Flatten Squeeze Unsqueeze Transpose Split Slice Gather Pad DepthToSpace SpaceToDepth "
    "Identity Dropout"
).split()
_IN_STEPS: Final[dict[str, Callable[[Site], bool]]] = {
    **dict.fromkeys(_FREELY, _always),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", LINEAR), weights_have_steps),
    "MatMul": multiplies_in_steps,
    "AveragePool": pools_in_steps,
    "Resize": samples_in_steps,
    "HardSigmoid": lambda site: is_sixth(site.node),
}
"""Operators that compute in 8 bits, each with the condition under which they do."""


class LiteRtConverter:
    """See ``conversion.Converter``."""

    def convert(self, request: ConversionRequest) -> Converted:
        """A .tflite file with its edges."""
        graph = read_graph(request)
        fold_steps(graph)
        fuse(graph)
        translation = Translation(graph, str(request.options["delegate"]))
        inputs = [_input(translation, name) for name in graph.inputs]
        for node in graph.nodes:
            _translate(translation, node)
        outputs = [_output(translation, name) for name in graph.outputs]
        content = translation.writer.to_bytes([each.tensor for each in inputs], [each.tensor for each in outputs])
        edges = [
            tuple(_edge(name, value) for name, value in zip(side, values, strict=True))
            for side, values in ((graph.inputs, inputs), (graph.outputs, outputs))
        ]
        return Converted(content, _FORMAT, Edges(*edges))


def _input(translation: Translation, name: str) -> Value:
    graph = translation.graph
    shape, quant = with_shape(graph, name), graph.quants.get(name)
    axes = IMAGE if len(shape) == len(IMAGE) and not _is_read_plain(graph, name) else plain(len(shape))
    dtype = "float32" if quant is None else "int8"
    number = translation.writer.tensor(Value(0, shape, axes).stored, dtype, name, quant)
    translation.values[name] = Value(number, shape, axes, quant)
    return translation.values[name]


def _is_read_plain(graph: Graph, name: str) -> bool:
    """Whether a four-dimensional tensor is no image: what reads it, or its elementwise results, works on last axes."""
    known = {name}
    for node in graph.nodes:  # in the order of execution
        if known.isdisjoint(node.inputs):
            continue
        if node.op in _READS_PLAIN:
            return True
        if node.op in _ELEMENTWISE:
            known.update(node.outputs)
    return False


def _translate(translation: Translation, node: Node) -> None:
    if node.op in (QUANTISE, DEQUANTISE):
        _convert_steps(translation, node)
        return
    rule = _RULES.get(node.op)
    if rule is None:
        raise unsupported(node.op, f"{node.op} cannot be written as .tflite")
    made = rule(Site(translation, node, _steps(translation, node)))
    for name, value in zip(node.outputs, made if isinstance(made, list) else [made], strict=False):
        translation.values[name] = _with_steps(translation, name, value)


def _convert_steps(translation: Translation, node: Node) -> None:
    source, result = translation.value(node.inputs[0]), node.outputs[0]
    quant = translation.graph.quants[result] if node.op == QUANTISE else None
    translation.values[result] = translation.real(source) if quant is None else translation.in_steps(source, quant)


def _steps(translation: Translation, node: Node) -> Quant | None:
    """The steps of the output where the node computes in 8 bits."""
    graph = translation.graph
    quant = graph.quants.get(node.outputs[0])
    moving = [name for name in node.inputs if name and name not in graph.constants]
    if quant is None or node.op not in _IN_STEPS or not moving:
        return None
    if any(translation.value(name).quant is None for name in moving):
        return None
    return quant if _IN_STEPS[node.op](Site(translation, node, quant)) else None


def _with_steps(translation: Translation, name: str, value: Value) -> Value:
    """The value in the graph's steps, or in those that LiteRT insists on where these cut nothing off.

    A lowest value of zero may stand for a Relu that was left out.
    """
    quant = translation.graph.quants.get(name)
    if quant is None or quant == value.quant:
        return value
    if value.quant is not None and (quant.zero_point != _LOWEST or value.quant.zero_point == _LOWEST):
        return value
    return translation.in_steps(value, quant)


def _output(translation: Translation, name: str) -> Value:
    """The output as an edge: an image with channels last or the workload's own order, in a tensor of its own."""
    value = translation.value(name)
    if value.axes != IMAGE or len(value.shape) != len(IMAGE):
        value = translation.ordered(value, plain(len(value.shape)))
    if name not in translation.graph.quants:
        value = translation.real(value)
    return translation.named(value, name)


def _edge(name: str, value: Value) -> Edge:
    axes = () if value.axes == plain(len(value.axes)) else value.axes
    if value.quant is None:
        return Edge(name, axes=axes)
    return Edge(name, "int8", axes, scale=value.quant.scale, zero_point=value.quant.zero_point)


CONVERTER: Final[Converter] = LiteRtConverter()
