"""Files of tables: safetensors with one JSON header that is signed, and that tells the hash of every array.

The header names the farm, the platform, the space and the version of the predictor. Whoever reads a table has the keys
of the farms that he believes; nothing of the file is used before its signature and all hashes were looked at.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from benchfarm_core import ed25519
from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.exports import MAX_TABLE_BYTES, TABLE_FORMAT, TableHead
from benchfarm_core.predictor_headers import LENGTH_BYTES, MAX_JSON_BYTES, METADATA_KEY, json_object
from benchfarm_core.values import Value, canonical_json
from benchfarm_predictor import predictor_file
from benchfarm_predictor.models import Array
from benchfarm_predictor.space_tables import MAX_BITS, WORD_BITS, Packed, SpaceTable
from benchfarm_workloads.spaces.every_block import MAX_BLOCKS

_PREDICTOR: Final = "predictor"
_METADATA: Final = "__metadata__"
_PLACE: Final = ("dtype", "shape", "data_offsets")
"""What a header tells of each array."""
_ALIGNED_BYTES: Final = 8
_MAX_WIDTH: Final = 64
_PAD: Final = -(2**31)
"""Behind the numbers of a block that has fewer than others."""

_Text = Annotated[str, Field(max_length=300)]


class _PackedMeta(Value):
    name: _Text
    word: int = Field(ge=0, lt=1000)
    shift: int = Field(ge=0, lt=WORD_BITS)
    bits: int = Field(ge=1, le=MAX_BITS)
    per: float = Field(gt=0)


class _ArrayMeta(Value):
    dtype: _Text
    shape: tuple[int, ...]
    sha256: _Text


class _Signed(Value):
    """What stands in the metadata: a text, JSON itself, and the signature over it."""

    key_id: _Text
    signature: _Text
    text: str


class _Content(Value):
    """The JSON of a file."""

    format: int
    kind: str
    head: TableHead
    slots: int = Field(ge=1, le=1000)
    packed: tuple[_PackedMeta, ...] = Field(max_length=1000)
    largest: tuple[_Text, ...] = Field(max_length=20)
    regions: tuple[tuple[int, ...], ...] = Field(max_length=1000)
    arrays: dict[str, _ArrayMeta] = Field(max_length=100)


def write(table: SpaceTable, head: TableHead, key_id: str, sign: Callable[[bytes], bytes]) -> bytes:
    """The file; ``sign`` makes the signature of the header by the key of that name.

    Raises:
        TooLarge: above ``MAX_TABLE_BYTES``.
    """
    arrays = _arrays(table)
    content = _Content(
        format=TABLE_FORMAT,
        kind="table",
        head=head,
        slots=table.slots,
        packed=tuple(
            _PackedMeta(name=each.name, word=each.word, shift=each.shift, bits=each.bits, per=each.per)
            for each in table.packed
        ),
        largest=tuple(table.largest),
        regions=table.regions,
        arrays={name: _meta(each) for name, each in arrays.items()},
    )
    text = canonical_json(content)
    signed = _Signed(key_id=key_id, signature=sign(text.encode()).hex(), text=text)
    data = _laid_out(bytes(save(arrays, {METADATA_KEY: canonical_json(signed)})), signed)
    if len(data) > MAX_TABLE_BYTES:
        raise TooLarge(f"the table takes {len(data)} bytes; at most {MAX_TABLE_BYTES}: name fewer genes", field="genes")
    return data


def read(data: bytes, keys: Mapping[str, str]) -> tuple[SpaceTable, TableHead]:
    """The table of a file; ``keys``: public keys by their ids, in hexadecimal digits.

    Raises:
        InvalidRequest: ``table_foreign`` where it is no table, one of another format or predictor code, or signed with
            no key of these; ``table_tampered`` where it is not what was signed.
    """
    content = _signed_content(data, keys)
    arrays = _checked_arrays(data, content)
    try:
        predictor = predictor_file.read(arrays.pop(_PREDICTOR).tobytes())
    except InvalidRequest as error:
        raise _foreign(f"its predictor cannot be read here: {error.detail}") from error
    blocks = tuple(tuple(n for n in row if n != _PAD) for row in arrays["blocks"].tolist())
    packed = tuple(Packed(each.name, each.word, each.shift, each.bits, each.per) for each in content.packed)
    largest = {name: arrays[f"largest/{name}"] for name in content.largest}
    table = SpaceTable(blocks, content.slots, predictor, packed, arrays["words"], largest, content.regions)
    return table, content.head


def _arrays(table: SpaceTable) -> dict[str, Array]:
    width = max(map(len, table.blocks))
    rows = [[*block, *[_PAD] * (width - len(block))] for block in table.blocks]
    arrays: dict[str, Array] = {
        "blocks": np.array(rows, dtype=np.int32),
        "words": np.ascontiguousarray(table.words),
        _PREDICTOR: np.frombuffer(predictor_file.write(table.predictor), dtype=np.uint8),
    }
    return arrays | {f"largest/{name}": np.ascontiguousarray(each) for name, each in table.largest.items()}


def _meta(found: Array) -> _ArrayMeta:
    digest = hashlib.sha256(found.tobytes()).hexdigest()
    return _ArrayMeta(dtype=str(found.dtype), shape=found.shape, sha256=digest)


def _signed_content(data: bytes, keys: Mapping[str, str]) -> _Content:
    """The JSON, after its signature was looked at. The header around it, which is not signed itself, must be as
    ``write`` has it, so that no byte of a table can be another."""
    if len(data) > MAX_TABLE_BYTES:
        raise _tampered(f"it has more than {MAX_TABLE_BYTES} bytes")
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if len(data) < LENGTH_BYTES or not 0 < length <= min(MAX_JSON_BYTES, len(data) - LENGTH_BYTES):
        raise _foreign("it is no safetensors file, or cut off")
    header = data[LENGTH_BYTES : LENGTH_BYTES + length]
    outer, signed = _signed(header)
    if signed.key_id not in keys:
        raise _foreign(f"it is signed with the key {signed.key_id[:40]}, which is not among those given")
    public_key, signature = _bytes(keys[signed.key_id]), _bytes(signed.signature)
    is_written = signature.hex() == signed.signature and header == _header(outer, signed)
    if not is_written or not ed25519.is_signed(public_key, _utf8(signed.text), signature):
        raise _tampered("its signature is not that of the key over its header")
    return _content(signed.text)


def _laid_out(data: bytes, signed: _Signed) -> bytes:
    """The file with its header in the one form that is read, whatever the library's is."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    header = _header(json_object(data[LENGTH_BYTES : LENGTH_BYTES + length]), signed)
    assert header is not None  # the library tells all of each array
    return len(header).to_bytes(LENGTH_BYTES, "little") + header + data[LENGTH_BYTES + length :]


def _header(outer: Mapping[str, Any], signed: _Signed) -> bytes | None:
    """The one form of a header that holds these arrays: what is signed first, the arrays as they lie in the file, no
    blank between, spaces behind it to a multiple of eight bytes. None where it does not tell its arrays."""
    try:
        places = {name: {part: each[part] for part in _PLACE} for name, each in outer.items() if name != _METADATA}
        ordered = dict(sorted(places.items(), key=lambda one: one[1]["data_offsets"]))
        said = {_METADATA: {METADATA_KEY: canonical_json(signed)}, **ordered}
        text = json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (KeyError, TypeError, ValueError):
        return None
    return text + b" " * (-len(text) % _ALIGNED_BYTES)


def _signed(header: bytes) -> tuple[dict[str, Any], _Signed]:
    """The header, and of it one text in the metadata, so that the same table gives the same bytes."""
    try:
        outer = json_object(header)
        metadata = outer.get(_METADATA)
        text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
        return outer, _Signed.model_validate(json_object(_utf8(text)) if isinstance(text, str) else None)
    except (InvalidRequest, ValidationError) as error:
        raise _foreign("it is a file of something else") from error


def _content(text: str) -> _Content:
    said = json_object(text.encode())
    if said.get("format") != TABLE_FORMAT or said.get("kind") != "table":
        raise _foreign(f"its format is {said.get('format')!r:.20}, this code's is {TABLE_FORMAT}")
    try:
        return _Content.model_validate(said)
    except ValidationError as error:
        raise _foreign(f"its header is not understood: {error.errors()[0]['msg'][:100]}") from error


def _checked_arrays(data: bytes, content: _Content) -> dict[str, Array]:
    """The arrays, which are those that the header tells, of shapes that belong together."""
    try:
        arrays = dict(load(data))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _tampered(f"its arrays cannot be read: {error!r:.100}") from error
    if arrays.keys() != content.arrays.keys():
        raise _tampered("it holds other arrays than its header tells")
    for name, found in arrays.items():
        if _meta(found) != content.arrays[name]:
            raise _tampered(f"its array {name[:40]} is not the one that was signed")
    _check_shapes(arrays, content)
    return arrays


def _check_shapes(arrays: Mapping[str, Array], content: _Content) -> None:
    """What is signed was made by a farm that is believed; a table of other code is told as that."""
    wanted = {"blocks", "words", _PREDICTOR, *(f"largest/{name}" for name in content.largest)}
    if arrays.keys() != wanted:
        raise _foreign("it holds arrays that this code does not know")
    count, width = (*arrays["blocks"].shape, 0, 0)[:2]
    shapes = [arrays["words"].shape[:1], *(arrays[f"largest/{name}"].shape for name in content.largest)]
    fits = 0 < count <= MAX_BLOCKS and width <= _MAX_WIDTH and all(shape == (count + 1,) for shape in shapes)
    if not fits or any(each.word >= arrays["words"].shape[1] for each in content.packed):
        raise _foreign("its arrays do not belong together")


def _utf8(text: str) -> bytes:
    """Half a surrogate pair is none: with a question mark in its place another text would pass for what was signed."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _tampered("its header is no text") from error


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _tampered(detail: str) -> InvalidRequest:
    return InvalidRequest(f"the table is not what was signed: {detail[:300]}", code="table_tampered")


def _foreign(detail: str) -> InvalidRequest:
    return InvalidRequest(f"the table cannot be used here: {detail[:300]}", code="table_foreign")
