"""Refusals name the field as the caller wrote it, and what it may be."""

import time
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from benchfarm_core.jobs import JobRequest
from benchfarm_core.refusals import refusal_of

KERNEL = {"kind": "kernel", "type": "fc", "config": {"cin": 8, "cout": 8}}


def refused(**changes: Any) -> tuple[str, str]:
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate({"workloads": [KERNEL], **changes})
    found = refusal_of(caught.value.errors())
    return found.field, found.detail


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in KERNEL.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        (
            {"workloads": [KERNEL, without("kind")]},
            "workloads.1.kind",
            "it is missing; it can be kernel, model, architecture, upload, pair",
        ),
        (
            {"workloads": [{**KERNEL, "kind": "kernal"}]},
            "workloads.0.kind",
            "it cannot be 'kernal'; it can be kernel, model, architecture, upload, pair",
        ),
        (
            {"workloads": [{"kind": "pair", "a": KERNEL, "b": without("kind")}]},
            "workloads.0.b.kind",
            "it is missing; it can be kernel, model, architecture, upload",
        ),
        ({"workloads": [without("type")]}, "workloads.0.type", "Field required"),
        ({"workloads": [{"kind": "pair", "a": without("type"), "b": KERNEL}]}, "workloads.0.a.type", "Field required"),
        (
            {"workloads": [{**KERNEL, "config": {"cin": None}}]},
            "workloads.0.config.cin",
            "Input should be a valid integer, or: Input should be a valid string",
        ),
        (
            {"platforms": 5},
            "platforms",
            "it can be a list of platforms' ids, keys or aliases, or an object that filters them",
        ),
        ({"platforms": "host/x"}, "platforms", "it can be a list of"),
        ({"platforms": ["a", 5]}, "platforms.1", "Input should be a valid string"),
        ({"platforms": {"engin": ["ncnn"]}}, "platforms.engin", "Extra inputs are not permitted"),
        ({"platforms": {"engine": "ncnn"}}, "platforms.engine", "Input should be a valid tuple"),
        ({"platforms": {"precision": ["fp8"]}}, "platforms.precision.0", "Input should be 'fp32', 'fp16'"),
        ({"repeats": 0}, "repeats", "Input should be greater than or equal to 1"),
        ({"nothing": 1}, "nothing", "Extra inputs are not permitted"),
    ],
)
def test_a_refusal_names_the_field_and_what_it_may_be(changes: dict[str, Any], field: str, told: str) -> None:
    found, detail = refused(**changes)
    assert found == field
    assert detail.startswith(told), detail


def test_other_faults_are_counted_by_place() -> None:
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate({"workloads": [{**KERNEL, "config": {"cin": None}}], "repeats": 0})
    assert refusal_of(caught.value.errors()).others == 1


def test_what_is_right_is_taken_as_before() -> None:
    for platforms in (["a"], ("a",), {"engine": ["ncnn"]}, {}):
        request = JobRequest.model_validate({"workloads": [KERNEL], "platforms": platforms})
        assert JobRequest.model_validate_json(request.model_dump_json()) == request
        assert JobRequest.model_validate(request.model_dump()) == request


def test_a_fault_without_a_place_is_a_sentence() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("x")
    assert refusal_of(caught.value.errors()).sentence.startswith("Input should be a valid integer")


def test_twenty_thousand_faults_are_counted_in_a_moment() -> None:
    errors = [{"loc": ("workloads", at, "kernel", "type"), "type": "x", "msg": "no"} for at in range(20_000)]
    start_s = time.process_time()
    assert refusal_of(errors).others == 19_999
    assert time.process_time() - start_s < 5
