"""The parent believes nothing of the child that it cannot check."""

import signal

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads import inspection
from benchfarm_workloads.verdicts import MAX_VERDICT_BYTES, InspectionLimits, cleaned

LIMITS = InspectionLimits()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"{}",
        b'{"verdict": "accepted"}',
        b'{"verdict": "refused", "code": "disk_full", "detail": "x"}',
        b'{"verdict": "refused", "code": "not_onnx", "detail": "' + b"x" * 501 + b'"}',
        b'{"verdict": "accepted", "opset": 17, "inputs": [], "outputs": 1, "flops": NaN}',
        b" " * (MAX_VERDICT_BYTES + 1),
    ],
)
def test_a_bad_answer_is_a_failed_inspection(answer: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        inspection._judge(0, answer, "", LIMITS)
    assert caught.value.code == "inspection_failed"


def test_a_refusal_is_passed_on_as_one_line() -> None:
    answer = b'{"verdict": "refused", "code": "not_onnx", "detail": "a\\u0000b\\nc", "field": null}'
    with pytest.raises(InvalidRequest) as caught:
        inspection._judge(0, answer, "", LIMITS)
    assert (caught.value.code, caught.value.detail) == ("not_onnx", "a b c")


@pytest.mark.parametrize(
    ("ending", "complaints", "code"),
    [
        (None, "", "inspection_timeout"),
        (-signal.SIGXCPU, "", "inspection_timeout"),
        (-signal.SIGKILL, "", "model_too_large_for_inspection"),
        (-signal.SIGABRT, "terminate called: std::bad_alloc", "model_too_large_for_inspection"),
        (-signal.SIGABRT, "assertion", "inspection_failed"),
        (-signal.SIGSEGV, "", "inspection_failed"),
        (1, "Traceback (most recent call last)", "inspection_failed"),
    ],
)
def test_every_ending_has_a_code(ending: int | None, complaints: str, code: str) -> None:
    error = inspection._ended(ending, complaints, LIMITS)
    assert error.code == code
    assert "Traceback" not in error.detail


def test_cleaned_texts_are_short_and_printable() -> None:
    assert cleaned("a\x1b[31m\tb\n" + "c" * 600).isprintable()
    assert len(cleaned("c" * 600)) == 500
