"""The header of a predictor file: what the file says of itself, read without its arrays.

A predictor file is safetensors: the length of a JSON object in eight bytes, that object, then arrays. The object's
metadata holds one text, JSON of ours. Whoever keeps files needs no more of them than this; whoever predicts reads all
of them in the predictor package.
"""

import json
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import Value

FORMAT_VERSION: Final = 2
"""Version 2 came with corrections that are held within what was seen, and with what widens far from all rows."""
READ_VERSIONS: Final = (1, 2)
"""What this code reads: all that version 1 holds, version 2 holds too."""
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""Of a predictor's file; most have 20 to 500 kB."""
MAX_JSON_BYTES: Final = 1024 * 1024
"""Of the safetensors header: names and places of arrays, and our JSON."""
METADATA_KEY: Final = "benchfarm"
LENGTH_BYTES: Final = 8

_Text = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


class Lineage(Value):
    """Where a predictor comes from: donors by platform key, a hash of its rows, summary rule, version of the code."""

    donors: tuple[_Text, ...] = Field(default=(), max_length=100)
    data_hash: _Text
    rule_version: int = Field(ge=0, lt=2**31)
    code_version: _Text


class Header(Value):
    """What a predictor is for. ``kernel_type``: one of the catalogue, a foreign one, or ``WHOLE_MODEL``."""

    kernel_type: _Text
    platform: _Text
    lineage: Lineage


def header_json(file: bytes) -> dict[str, Any]:
    """Our JSON in a predictor file, of this format; nothing in it is checked.

    Raises:
        InvalidRequest: ``predictor_file_damaged``, ``predictor_file_foreign``.
    """
    length = int.from_bytes(file[:LENGTH_BYTES], "little")
    if len(file) < LENGTH_BYTES or not 0 < length <= min(MAX_JSON_BYTES, len(file) - LENGTH_BYTES):
        raise _damaged("its header does not fit in it")
    metadata = json_object(file[LENGTH_BYTES : LENGTH_BYTES + length]).get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise _foreign("it is a safetensors file of something else")
    said = json_object(text.encode(errors="replace"))
    if type(said.get("format")) is not int or said["format"] not in READ_VERSIONS:
        raise _foreign(f"its format is version {said.get('format')!r:.20}, this code's is {FORMAT_VERSION}")
    return said


def read_header(file: bytes) -> Header:
    """What a predictor file is for and where it comes from. Raises as ``header_json``."""
    try:
        return Header.model_validate(header_json(file).get("header"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("header", *first["loc"]))
        raise _damaged(f"{where}: {first['msg']}") from error


def json_object(text: bytes) -> dict[str, Any]:
    """Raises InvalidRequest, ``predictor_file_damaged``, for what is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged("its header is no JSON") from error
    if not isinstance(found, dict):
        raise _damaged("its header is no JSON object")
    return found


def _damaged(detail: str) -> InvalidRequest:
    return InvalidRequest(f"the predictor file is damaged: {detail[:200]}", code="predictor_file_damaged")


def _foreign(detail: str) -> InvalidRequest:
    return InvalidRequest(f"the predictor file is foreign: {detail[:200]}", code="predictor_file_foreign")
