"""The nodes of an ONNX file, read without the package for it, which boards have not; what they tell of int8."""

from collections import defaultdict
from collections.abc import Collection
from typing import Final, NamedTuple

from benchfarm_engines.onnx_fields import fields, messages

_GRAPH: Final = 7
_NODE: Final = 1
_INPUT, _OUTPUT, _KIND = 1, 2, 4
"""Numbers of fields in ONNX's messages Model, Graph and Node."""

_PRODUCTS: Final = ("Conv", "Gemm", "MatMul", "Attention")
_IN_8_BITS: Final = ("QLinear", "QGemm", "QAttention", "DynamicQuantize", "ConvInteger", "MatMulInteger")
_STEPS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})


class OnnxNode(NamedTuple):
    """One node: its operator and the tensors that it reads and gives."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def nodes_of(content: bytes) -> list[OnnxNode]:
    """The nodes of a file's main graph, in its order. Raises ValueError for what is cut short or no such file."""
    graph = next(messages(memoryview(content), _GRAPH), memoryview(b""))
    return [_node(node) for node in messages(graph, _NODE)]


def computes_in_8_bits(nodes: Collection[OnnxNode]) -> bool:
    """Whether a rewritten graph multiplies 8-bit numbers anywhere; of one without products, whether no operator reads
    numbers that were restored from 8 bits. `nodes` are those of a graph that was quantised."""
    products = [node.kind for node in nodes if any(sign in node.kind for sign in _PRODUCTS)]
    if products:
        return any(kind.startswith(_IN_8_BITS) for kind in products)
    computing = [node for node in nodes if node.kind not in _STEPS]
    restored = {name for node in nodes if node.kind == "DequantizeLinear" for name in node.outputs}
    return bool(computing) and restored.isdisjoint(name for node in computing for name in node.inputs)


def _node(content: memoryview) -> OnnxNode:
    parts: dict[int, list[str]] = defaultdict(list)
    for each in fields(content):
        if each.number in (_INPUT, _OUTPUT, _KIND) and each.content is not None:
            parts[each.number].append(str(each.content, "utf-8"))
    return OnnxNode("".join(parts[_KIND]), tuple(parts[_INPUT]), tuple(parts[_OUTPUT]))
