"""The fields of ONNX's messages, read off the bytes without the package for them, which boards have not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

_VARINT, _EIGHT_BYTES, BYTES, _FOUR_BYTES = 0, 1, 2, 5
"""How a field is written: a whole number, 8 bytes, texts with bytes and messages, 4 bytes."""
_SIZES: Final = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_VARINT_BYTES_MAX: Final = 10


class Field(NamedTuple):
    """One field of a message: its number, and where it begins and ends there.

    content: of a text, of bytes or of a message, without what says how long it is; None of any other field.
    """

    number: int
    begin: int
    end: int
    content: memoryview | None


def fields(message: memoryview) -> Iterator[Field]:
    """All of them, in the order of the file. Raises ValueError for what is cut short or no message of ONNX's."""
    at = 0
    while at < len(message):
        begin, content = at, None
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == BYTES:
            size, at = _varint(message, at)
            content, at = message[at : at + size], at + size
        elif kind in _SIZES:
            at += _SIZES[kind]
        else:
            raise ValueError(f"field {number} is of no kind that ONNX has")
        if at > len(message):
            raise ValueError(f"the file ends within field {number}")
        yield Field(number, begin, at, content)


def messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """What the texts, bytes or messages of one number hold. Raises ValueError as `fields` does."""
    return (each.content for each in fields(message) if each.number == number and each.content is not None)


def varint(value: int) -> bytes:
    """A whole number that is not negative, as fields hold it."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number and where it ends."""
    value = 0
    for place, byte in enumerate(message[at : at + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("the file ends within a number, or holds one that is none")
