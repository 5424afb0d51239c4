"""The parts of a .tflite file that say what it computes. Every offset and length is checked against the file's own end.

A flatbuffer is tables that point at each other, so a hostile one can be deep, circular or far larger than its bytes.
This reader follows five levels and no more, and counts what it reads.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.verdicts import MAX_NUMBERS, shown

IDENTIFIER: Final = b"TFL3"
"""At byte 4 of every TensorFlow Lite file."""
SCHEMA_VERSION: Final = 3
MAX_TENSORS_PER_OPERATOR: Final = 20
MAX_RANK_READ: Final = 64
MAX_NAME_BYTES: Final = 1000
MAX_SUBGRAPHS: Final = 100

_OLD_CODES_END: Final = 127
"""Operators from here on are told by the newer field alone."""
_NUMBERS: Final = {0: "f", 2: "i", 4: "q"}
"""How ``struct`` reads stored numbers, by the schema's TensorType: float32, int32, int64."""

_Field = tuple[int, str, int]
_WINDOW: Final[dict[str, _Field]] = {"padding": (0, "<b", 0), "stride_w": (1, "<i", 0), "stride_h": (2, "<i", 0)}
_OPTIONS: Final[dict[int, dict[str, _Field]]] = {
    1: {**_WINDOW, "activation": (3, "<b", 0), "dilation_w": (4, "<i", 1), "dilation_h": (5, "<i", 1)},
    2: {**_WINDOW, "activation": (4, "<b", 0), "dilation_w": (5, "<i", 1), "dilation_h": (6, "<i", 1)},
    5: {**_WINDOW, "filter_w": (3, "<i", 0), "filter_h": (4, "<i", 0), "activation": (5, "<b", 0)},
    8: {"activation": (0, "<b", 0), "weights_format": (1, "<b", 0)},
    9: {"beta": (0, "<f", 0)},
    10: {"axis": (0, "<i", 0), "activation": (1, "<b", 0)},
    **{of_two: {"activation": (0, "<b", 0)} for of_two in (11, 21, 28, 29)},
    15: {"align_corners": (2, "<b", 0), "half_pixel_centers": (3, "<b", 0)},
    27: {"keep_dims": (0, "<b", 0)},
    49: {**_WINDOW, "activation": (3, "<b", 0)},
    74: {"align_corners": (0, "<b", 0), "half_pixel_centers": (1, "<b", 0)},
    101: {"adj_x": (0, "<b", 0), "adj_y": (1, "<b", 0)},
    116: {"approximate": (0, "<b", 0)},
}
"""By the schema's BuiltinOptions the fields that say what is computed: slot, kind of ``struct`` and default."""


@dataclass(frozen=True)
class FileTensor:
    """shape: what the file says, -1 where open. is_weight: the file holds its values. numbers: those of small ones."""

    name: str
    type: int
    shape: tuple[int, ...]
    is_weight: bool
    numbers: tuple[float, ...] | None = None


@dataclass(frozen=True)
class FileOperator:
    """code: of the schema's BuiltinOperator. custom: the name of one outside it. options: by the names above."""

    code: int
    custom: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, float]


@dataclass(frozen=True)
class FileGraph:
    """Tensor numbers in inputs and outputs are inside ``tensors``; an operator's may also be -1, for one left out."""

    tensors: tuple[FileTensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[FileOperator, ...]


def read_file(content: bytes, *, max_nodes: int) -> tuple[FileGraph, ...]:
    """The graphs of a model: the main one first, bodies of control flow after it.

    Raises:
        InvalidRequest: ``not_tflite``, ``truncated_model``, ``external_data``, ``unsupported_opset`` for another
            schema, or ``too_many_nodes``.
    """
    if content[4:8] != IDENTIFIER:
        raise InvalidRequest("the file has no TFL3 at byte 4, as TensorFlow Lite files do", code="not_tflite")
    try:
        return _graphs(_Table(content, _whole(content, "<I", 0)), max_nodes)
    except struct.error:
        raise _damaged("an offset leads out of it") from None


def _graphs(model: "_Table", max_nodes: int) -> tuple[FileGraph, ...]:
    version = model.number(0, "<I", 0)
    if version != SCHEMA_VERSION:
        raise InvalidRequest(
            f"schema version {version}; LiteRT reads version {SCHEMA_VERSION}", code="unsupported_opset"
        )
    if model.tables(9, 1):
        raise InvalidRequest(
            "the model keeps its weights in another file; convert it again with weights inside", code="external_data"
        )
    codes = [_code(each) for each in model.tables(1, max_nodes)]
    buffers = model.tables(4, _most_tensors(max_nodes))
    graphs = tuple(_graph(each, codes, buffers, max_nodes) for each in model.tables(2, MAX_SUBGRAPHS))
    count = sum(len(graph.operators) for graph in graphs)
    if count > max_nodes:
        raise _too_many(count, "operators", max_nodes)
    if not graphs or not graphs[0].operators:
        raise InvalidRequest("the graph has no operator: there is nothing to measure", code="inspection_failed")
    return graphs


def _most_tensors(max_nodes: int) -> int:
    return MAX_TENSORS_PER_OPERATOR * max_nodes


def _graph(table: "_Table", codes: list[tuple[int, str]], buffers: list["_Table"], max_nodes: int) -> FileGraph:
    most = _most_tensors(max_nodes)
    tensors = tuple(_tensor(each, buffers) for each in table.tables(0, most))
    inside = range(len(tensors))
    edges = [table.whole_numbers(slot, most) for slot in (1, 2)]
    operators = tuple(_operator(each, codes) for each in table.tables(3, max_nodes))
    read = {number for each in operators for number in (*each.inputs, *each.outputs)} - {-1}
    if not all(number in inside for number in (*edges[0], *edges[1], *read)):
        raise _damaged("an operator names a tensor that it does not have")
    return FileGraph(tensors, edges[0], edges[1], operators)


def _code(table: "_Table") -> tuple[int, str]:
    old, new = table.number(0, "<b", 0), table.number(3, "<i", 0)
    return (new if old in (0, _OLD_CODES_END) or new > _OLD_CODES_END else old), table.text(1)


def _is_filled(table: "_Table") -> bool:
    return table.length(0, 1) > 0 or table.number(2, "<Q", 0) > 0


def _tensor(table: "_Table", buffers: list["_Table"]) -> FileTensor:
    shape = table.whole_numbers(7, MAX_RANK_READ) or table.whole_numbers(0, MAX_RANK_READ)
    number = table.number(2, "<I", 0)
    if number >= max(len(buffers), 1):
        raise _damaged("a tensor names a buffer that it does not have")
    if any(size < -1 for size in shape):
        raise InvalidRequest(f"tensor {shown(table.text(3))} has an impossible shape", code="truncated_model")
    buffer = buffers[number] if buffers else None
    if buffer is None or not _is_filled(buffer):
        return FileTensor(table.text(3), table.number(1, "<b", 0), shape, is_weight=False)
    kind = table.number(1, "<b", 0)
    return FileTensor(table.text(3), kind, shape, is_weight=True, numbers=_numbers(buffer, kind, shape))


def _numbers(buffer: "_Table", kind: int, shape: tuple[int, ...]) -> tuple[float, ...] | None:
    """What a buffer of few numbers holds; None where they are many, of another type or not finite."""
    count = math.prod(shape)
    if kind not in _NUMBERS or not 0 < count <= MAX_NUMBERS:
        return None
    layout = f"<{count}{_NUMBERS[kind]}"
    content = buffer.content(0, struct.calcsize(layout))
    found = struct.unpack(layout, content) if content else ()
    return found if found and all(map(math.isfinite, found)) else None


def _operator(table: "_Table", codes: list[tuple[int, str]]) -> FileOperator:
    index = table.number(0, "<I", 0)
    if index >= len(codes):
        raise _damaged("an operator names a code that it does not have")
    inputs, outputs = (table.whole_numbers(slot, 4096) for slot in (1, 2))
    return FileOperator(*codes[index], inputs, outputs, _options(table))


def _options(table: "_Table") -> dict[str, float]:
    """The fields that are known; where the file leaves the options out, those have their defaults."""
    known, options = _OPTIONS.get(table.number(3, "<B", 0), {}), table.inner(4)
    read = {
        name: default if options is None else options.number(slot, kind, default)
        for name, (slot, kind, default) in known.items()
    }
    return {name: value for name, value in read.items() if math.isfinite(value)}


class _Table:
    """One table of a flatbuffer. Reading outside the file raises struct.error; an absent field has its default."""

    def __init__(self, content: bytes, position: int) -> None:
        self._content = content
        self._position = position
        self._fields = position - _whole(content, "<i", position)
        if self._fields < 0:
            raise _damaged("an offset leads out of it")
        self._fields_bytes = _whole(content, "<H", self._fields)

    def number(self, slot: int, kind: str, default: int) -> int:
        """The scalar in a slot. kind: of ``struct``."""
        place = self._place(slot)
        return default if place is None else _whole(self._content, kind, place)

    def inner(self, slot: int) -> "_Table | None":
        """The table that a slot points at; None where there is none."""
        place = self._place(slot)
        return None if place is None else _Table(self._content, place + _whole(self._content, "<I", place))

    def content(self, slot: int, length: int) -> bytes:
        """The bytes in a slot, where there are exactly so many."""
        start, found = self._vector(slot, 1)
        return self._content[start : start + length] if found == length else b""

    def length(self, slot: int, item_bytes: int) -> int:
        """How many items the vector in a slot has; 0 where there is none. All of them lie inside the file."""
        return self._vector(slot, item_bytes)[1]

    def text(self, slot: int) -> str:
        """The text in a slot, cut; what is no UTF-8 in it is replaced."""
        start, length = self._vector(slot, 1)
        return self._content[start : start + min(length, MAX_NAME_BYTES)].decode("utf-8", "replace")

    def whole_numbers(self, slot: int, most: int) -> tuple[int, ...]:
        """The int32 vector in a slot."""
        start, length = self._vector(slot, 4)
        if length > most:
            raise _too_many(length, "numbers in one list", most)
        return struct.unpack_from(f"<{length}i", self._content, start) if length else ()

    def tables(self, slot: int, most: int) -> "list[_Table]":
        """The tables that the vector in a slot points at."""
        start, length = self._vector(slot, 4)
        if length > most:
            raise _too_many(length, "entries in one list", most)
        places = range(start, start + 4 * length, 4)
        return [_Table(self._content, place + _whole(self._content, "<I", place)) for place in places]

    def _place(self, slot: int) -> int | None:
        entry = 4 + 2 * slot
        if entry + 2 > self._fields_bytes:
            return None
        offset = _whole(self._content, "<H", self._fields + entry)
        return self._position + offset if offset else None

    def _vector(self, slot: int, item_bytes: int) -> tuple[int, int]:
        """Where a vector's items start, and how many there are."""
        place = self._place(slot)
        if place is None:
            return 0, 0
        place += _whole(self._content, "<I", place)
        length = _whole(self._content, "<I", place)
        if place + 4 + length * item_bytes > len(self._content):
            raise _damaged("a list in it is longer than the file")
        return place + 4, length


def _whole(content: bytes, kind: str, place: int) -> int:
    number: int = struct.unpack_from(kind, content, place)[0]
    return number


def _damaged(why: str) -> InvalidRequest:
    return InvalidRequest(f"damaged TensorFlow Lite file: {why}; upload it again", code="truncated_model")


def _too_many(count: int, what: str, limit: int) -> InvalidRequest:
    return InvalidRequest(f"the file has {count} {what}, the limit is {limit}; split the model", code="too_many_nodes")
