"""A sealed file: a body, a JSON document about it, and a checksum over both at the end.

Converters write it, engines read it. The body comes first, so that a reader that knows the body's format and nothing
of ours still takes the file. Native readers trust what they read: a damaged file must be refused before they see it.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any, Final

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure

_MAGIC: Final = b"BFSEAL1\n"
_LENGTH: Final = struct.Struct("<Q")
_TAIL_BYTES: Final = _LENGTH.size + hashlib.sha256().digest_size + len(_MAGIC)


def seal(body: bytes, document: Mapping[str, Any]) -> bytes:
    """The file's bytes: body, document, the document's length, SHA-256 of all that, magic."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    content = body + text + _LENGTH.pack(len(text))
    return content + hashlib.sha256(content).digest() + _MAGIC


def unseal(content: bytes) -> tuple[memoryview, Any]:
    """The body and the document of a whole file. Raises EngineFailure (invalid_workload)."""
    end = len(content) - _TAIL_BYTES
    if end < 0 or not content.endswith(_MAGIC):
        raise EngineFailure(FailureCode.INVALID_WORKLOAD, "the file was not made by this farm's converter, or is cut")
    whole = memoryview(content)
    digest_at = end + _LENGTH.size
    if hashlib.sha256(whole[:digest_at]).digest() != content[digest_at : -len(_MAGIC)]:
        raise EngineFailure(FailureCode.INVALID_WORKLOAD, "the file is damaged: its checksum does not fit")
    begin = end - _LENGTH.unpack(whole[end:digest_at])[0]
    return whole[:begin], json.loads(content[begin:end])
