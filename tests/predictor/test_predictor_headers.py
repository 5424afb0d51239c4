"""Core reads of a predictor file, without its arrays, what the predictor package wrote, and refuses the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.predictor_headers import MAX_JSON_BYTES, Header, Lineage, read_header
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.predictor_file import Predictor, read, write
from benchfarm_predictor.ridge import fit_ridge
from tests.predictor.rows import drawn, roofline_ms

HEADER = Header(
    kernel_type="fc",
    platform="sim-b/c0.t1.free/ncnn-1/fp32",
    lineage=Lineage(donors=("sim-a/c0.t1.free/ncnn-1/fp32",), data_hash="a" * 32, rule_version=6, code_version="0.1.0"),
)
KERNELS = drawn("fc", 20)
DATA = write(Predictor(HEADER, fit_ridge(kernel_features(KERNELS), KERNELS, roofline_ms(KERNELS)).model))
LENGTH = int.from_bytes(DATA[:8], "little")


def rewritten(**changes: Any) -> bytes:
    """The file with other things in our JSON."""
    outer = json.loads(DATA[8 : 8 + LENGTH])
    ours = json.loads(outer["__metadata__"]["benchfarm"]) | changes
    outer["__metadata__"]["benchfarm"] = json.dumps(ours)
    header = json.dumps(outer).encode()
    return len(header).to_bytes(8, "little") + header + DATA[8 + LENGTH :]


def code_of(data: bytes) -> str:
    with pytest.raises(InvalidRequest) as refused:
        read_header(data)
    return refused.value.code


def test_what_was_written_is_read_without_the_arrays() -> None:
    assert read_header(DATA) == HEADER == read(DATA).header
    assert read_header(DATA[: 8 + LENGTH]) == HEADER


def test_what_is_no_header_is_refused_as_the_whole_file_is() -> None:
    other = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    assert code_of(len(other).to_bytes(8, "little") + other) == "predictor_file_foreign"
    assert code_of(rewritten(format=3)) == "predictor_file_foreign"
    lineage = HEADER.lineage.model_dump(mode="json")
    whole = HEADER.model_dump()
    headers: list[object] = [None, [], {}, {"kernel_type": "fc"}, whole | {"lineage": lineage | {"x": 1}}]
    for header in headers:
        assert code_of(rewritten(header=header)) == "predictor_file_damaged", header
    for data in (b"", DATA[:7], DATA[:20], (MAX_JSON_BYTES + 1).to_bytes(8, "little") + DATA[8:], b"\0" * 99):
        assert code_of(data) == "predictor_file_damaged"
    deep = b"[" * 100_000
    assert code_of(len(deep).to_bytes(8, "little") + deep) == "predictor_file_damaged"


@given(st.integers(0, 8 + LENGTH - 1), st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(at: int, value: int) -> None:
    changed = DATA[:at] + bytes([value]) + DATA[at + 1 :]
    try:
        found: object = read_header(changed)
    except InvalidRequest as error:
        found = error.code
    assert isinstance(found, Header) or found in ("predictor_file_damaged", "predictor_file_foreign")
