"""Tells a damaged ONNX file from one that never was ONNX, by the outermost layer of its bytes alone."""

from typing import Final

from benchfarm_core.errors import InvalidRequest

_VARINT: Final = 0
_BYTES: Final = 2
_FIELDS: Final = {
    1: _VARINT,  # ir_version
    2: _BYTES,  # producer_name
    3: _BYTES,  # producer_version
    4: _BYTES,  # domain
    5: _VARINT,  # model_version
    6: _BYTES,  # doc_string
    7: _BYTES,  # graph
    8: _BYTES,  # opset_import
    14: _BYTES,  # metadata_props
    20: _BYTES,  # training_info
    25: _BYTES,  # functions
    26: _BYTES,  # configuration
}
"""Field numbers and wire types of onnx.ModelProto."""

_OTHER_FORMATS: Final = (
    (0, b"PK\x03\x04", "a zip archive, as PyTorch and Keras save them"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)

_SAMPLE_BYTES: Final = 1024


def refuse_foreign(content: bytes) -> None:
    """Returns when the bytes are whole ONNX fields from end to end.

    Raises:
        InvalidRequest: ``not_onnx`` or ``truncated_model``.
    """
    if not content:
        raise _truncated("the file is empty")
    for offset, mark, description in _OTHER_FORMATS:
        if content[offset:].startswith(mark):
            raise _foreign(f"the file looks like {description}")
    if _is_text(content[:_SAMPLE_BYTES]):
        raise _foreign("the file holds text")
    if _FIELDS.get(content[0] >> 3) != content[0] & 7:
        raise _foreign("it does not start as ONNX does")
    seen = _walk(content)
    missing = [name for name, number in (("graph", 7), ("opset_import", 8)) if number not in seen]
    if missing:
        raise _truncated(f"the file ends before its {missing[0]}")


def _walk(content: bytes) -> set[int]:
    """The field numbers found, in one pass over the outermost layer."""
    seen: set[int] = set()
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        number, wire_type = tag >> 3, tag & 7
        if _FIELDS.get(number) != wire_type:
            raise _truncated(f"damaged at byte {position - 1}")
        value, position = _varint(content, position)
        if wire_type == _BYTES:
            position += value
            if position > len(content):
                raise _truncated(f"{position - len(content)} bytes are missing at its end")
        seen.add(number)
    return seen


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise _truncated("the file ends inside a field")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _truncated(f"damaged at byte {position}")


def _is_text(sample: bytes) -> bool:
    """True for text in UTF-8: a serialised model always has control bytes near its start."""
    if any(byte < 9 or 13 < byte < 32 for byte in sample):
        return False
    try:
        sample[:-4].decode("utf-8")  # the sample may end inside a character
    except UnicodeDecodeError:
        return False
    return True


def _foreign(what: str) -> InvalidRequest:
    return InvalidRequest(f"not an ONNX model: {what}; export the model to ONNX", code="not_onnx")


def _truncated(what: str) -> InvalidRequest:
    return InvalidRequest(f"damaged ONNX model: {what}; upload it again", code="truncated_model")
