"""Binds the open dimensions of an ONNX file's inputs to a workload's sizes, in the file's bytes.

An engine that is to know them beforehand would have to open the file once to learn their names, and pay for that in
memory and time which it then tells of the model; and a dimension without a name could not be bound at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Optional, Union

from benchfarm_engines.in_step import in_step
from benchfarm_engines.onnx_fields import BYTES, fields, messages, varint

_GRAPH: Final = 7
_INPUT: Final = 11
_NAME, _TYPE = 1, 2
_TENSOR: Final = 1
_SHAPE: Final = 2
_DIMENSION: Final = 1
_SIZE, _LABEL = 1, 2
"""Numbers of fields in ONNX's messages Model, Graph, ValueInfo, Type, Tensor, TensorShape and Dimension."""

_Pieces = list[Union[memoryview, bytes]]  # noqa: UP007 evaluated, which Python 3.9 on a board cannot do with |
_Edit = Callable[[memoryview], Optional[_Pieces]]  # noqa: UP045 as above
"""What a message becomes, in pieces; None where it stays as it is."""


def with_sizes(content: bytes, shapes: Mapping[str, Sequence[int]]) -> bytes:
    """The file with every open dimension of its inputs bound; the very same bytes where none is open.

    shapes: of the inputs, by name. An input that does not fit its shape stays as it is, and so does a file that cannot
    be read: what is wrong with them says the engine.
    """
    try:
        bound = _edited(memoryview(content), _GRAPH, partial(_graph, shapes))
    except ValueError:
        return content
    return content if bound is None else b"".join(bound)


def _graph(shapes: Mapping[str, Sequence[int]], graph: memoryview) -> _Pieces | None:
    return _edited(graph, _INPUT, partial(_input, shapes))


def _input(shapes: Mapping[str, Sequence[int]], value: memoryview) -> _Pieces | None:
    name = next((str(each, "utf-8") for each in messages(value, _NAME)), "")
    if name not in shapes:
        return None
    bind = partial(_shape, shapes[name])
    return _edited(value, _TYPE, lambda kind: _edited(kind, _TENSOR, lambda tensor: _edited(tensor, _SHAPE, bind)))


def _shape(sizes: Sequence[int], shape: memoryview) -> _Pieces | None:
    open_ones = [_is_open(dimension) for dimension in messages(shape, _DIMENSION)]
    if len(open_ones) != len(sizes):
        return None
    left = iter(list(in_step(open_ones, sizes)))
    return _edited(shape, _DIMENSION, lambda dimension: _dimension(dimension, *next(left)))


def _is_open(dimension: memoryview) -> bool:
    """A dimension has a size or a label, the later one of both, or neither."""
    said = [each.number for each in fields(dimension) if each.number in (_SIZE, _LABEL)]
    return not said or said[-1] != _SIZE


def _dimension(dimension: memoryview, is_open: bool, size: int) -> _Pieces | None:
    return [dimension, varint(_SIZE << 3), varint(size)] if is_open else None


def _edited(message: memoryview, number: int, edit: _Edit) -> _Pieces | None:
    """A message with all fields of one number edited; None where none of them changes. Raises ValueError."""
    pieces: _Pieces = []
    kept_from = 0
    for each in fields(message):
        became = edit(each.content) if each.number == number and each.content is not None else None
        if became is not None:
            length = varint(sum(len(piece) for piece in became))
            pieces += [message[kept_from : each.begin], varint(number << 3 | BYTES), length, *became]
            kept_from = each.end
    return [*pieces, message[kept_from:]] if pieces else None
