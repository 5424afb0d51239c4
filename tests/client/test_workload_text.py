"""What a person types becomes a request, or an error that shows the word that does not fit."""

import pytest

from benchfarm import GeneratedModelRequest, InvalidRequest, KernelRequest
from benchfarm.durations import duration_text, parse_duration_s
from benchfarm.workload_text import parse_generated_model, parse_kernel, parse_labels, parse_numbers


def test_a_kernel() -> None:
    parsed = parse_kernel("conv-bn-act hw=56 cin=64 act=relu  k=3")
    assert parsed == KernelRequest(type="conv-bn-act", config={"hw": 56, "cin": 64, "act": "relu", "k": 3})


def test_a_generated_model() -> None:
    assert parse_generated_model("mobilenet_v2") == GeneratedModelRequest(name="mobilenet_v2")
    assert parse_generated_model("mobilenet_v2 hw=160").config == {"hw": 160}
    assert parse_generated_model("mobilenet_v2 hw=" + "9" * 30).config == {"hw": "9" * 30}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "names no kernel"),
        ("hw=3", "names no kernel"),
        ("fc cin", "'cin'"),
        ("fc cin=", "'cin='"),
        ("fc =3", "'=3'"),
        ("fc cin=1 cin=2", "twice"),
        ("x" * 41, "type"),
    ],
)
def test_what_is_no_kernel(text: str, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        parse_kernel(text)


def test_numbers_by_name() -> None:
    assert parse_numbers(["batch=1", "input[0]=3"], field="dims") == {"batch": 1, "input[0]": 3}


@pytest.mark.parametrize(
    "texts", [["batch"], ["=1"], ["batch=x"], ["batch=-1"], ["batch=²"], ["a=1", "a=2"], ["a=" + "9" * 5000]]
)
def test_what_is_no_number(texts: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_numbers(texts, field="dims")
    assert caught.value.field == "dims"


def test_labels() -> None:
    assert parse_labels(["run=a=b", "empty="]) == {"run": "a=b", "empty": ""}
    with pytest.raises(InvalidRequest):
        parse_labels(["nothing"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), (" 30d ", 2_592_000)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration_s(text, field="timeout_s") == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1.5h", "1h30m", "1 h", "1w", "٣", "9999999999"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_duration_s(text, field="timeout_s")


def test_durations_for_people() -> None:
    shown = [duration_text(seconds) for seconds in (0.44, 9.99, 40, 61, 3600 * 26 + 300)]
    assert shown == ["0.4 s", "10.0 s", "40 s", "1 min 1 s", "26 h 5 min"]
