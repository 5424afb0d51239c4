"""The outermost look at uploaded bytes never fails in another way than by refusing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.onnx_canary import build_canary
from benchfarm_workloads.onnx_checks import check, parse

CANARY = build_canary()


def test_a_whole_file_parses() -> None:
    assert check(parse(CANARY), max_nodes=1000) == 17


@given(st.integers(0, len(CANARY) - 1))
def test_every_cut_is_called_truncated(length: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(CANARY[:length])
    assert caught.value.code == "truncated_model"


@given(st.binary(max_size=200), st.integers(0, len(CANARY) - 1))
def test_damage_is_refused_or_harmless(noise: bytes, position: int) -> None:
    damaged = CANARY[:position] + noise + CANARY[position + len(noise) :]
    assert outcome(damaged) in {
        "accepted",
        "not_onnx",
        "truncated_model",
        "unknown_operator",
        "external_data",
        "unsupported_opset",
        "inspection_failed",
    }


def outcome(content: bytes) -> str:
    try:
        check(parse(content), max_nodes=1000)
    except InvalidRequest as refusal:
        return refusal.code
    return "accepted"


@given(st.text())
def test_text_is_never_onnx(text: str) -> None:
    content = text.encode("utf-8", "replace")
    with pytest.raises(InvalidRequest) as caught:
        parse(content)
    assert caught.value.code in {"not_onnx", "truncated_model"}
