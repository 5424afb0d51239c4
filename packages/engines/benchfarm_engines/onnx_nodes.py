"""The nodes of an ONNX file, read without the package for it, which boards have not; what they tell of int8."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

_GRAPH: Final = 7
_NODE: Final = 1
_INPUT, _OUTPUT, _KIND = 1, 2, 4
"""Numbers of fields in ONNX's messages Model, Graph and Node."""
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5

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
    model = _fields(memoryview(content))
    graph = next((part for number, part in model if number == _GRAPH), memoryview(b""))
    return [_node(part) for number, part in _fields(graph) if number == _NODE]


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
    for number, part in _fields(content):
        if number in (_INPUT, _OUTPUT, _KIND):
            parts[number].append(str(part, "utf-8"))
    return OnnxNode("".join(parts[_KIND]), tuple(parts[_INPUT]), tuple(parts[_OUTPUT]))


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message that are texts, bytes or messages, each by its number."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _BYTES:
            size, at = _varint(content, at)
            if at + size > len(content):
                raise ValueError(f"the file ends within field {number}")
            yield number, content[at : at + size]
            at += size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"field {number} is of no kind that ONNX has")


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A whole number and where it ends."""
    value = shift = 0
    while at < len(content):
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("the file ends within a number")
