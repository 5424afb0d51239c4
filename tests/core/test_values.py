"""Identities are the same for the same meaning, in any order and process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchfarm_core.exports import ExportRequest, MissesReport
from benchfarm_core.latency import LatencyRequest, Pin
from benchfarm_core.refusals import refusal_of
from benchfarm_core.values import Value, canonical_json, digest, find_unkept
from benchfarm_core.workloads import (
    ArchitectureRequest,
    InputSpec,
    IntsFill,
    KernelRequest,
    KernelWorkload,
    NormalFill,
    UploadedWorkload,
    workload_id,
)

configs = st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(0, 4096), min_size=1, max_size=8)


@given(configs)
def test_the_order_of_columns_does_not_change_a_workload(config: dict[str, int | str]) -> None:
    turned = dict(reversed(list(config.items())))
    one = KernelWorkload(catalogue_version=1, type="conv-bn-act", config=config)
    other = KernelWorkload(catalogue_version=1, type="conv-bn-act", config=turned)
    assert workload_id(one) == workload_id(other)


@given(configs, configs)
def test_different_configurations_have_different_names(one: dict[str, int | str], other: dict[str, int | str]) -> None:
    names = {workload_id(KernelWorkload(catalogue_version=1, type="fc", config=config)) for config in (one, other)}
    assert len(names) == (1 if one == other else 2)


def test_the_canonical_form_is_pinned() -> None:
    """A changed canonical form would rename every stored workload."""
    assert canonical_json({"b": 1, "a": [True, None, "ä"]}) == '{"a":[true,null,"ä"],"b":1}'
    assert digest({"b": 1, "a": 2}) == "d3626ac30a87e6f7a6428233b3c68299"


def test_the_name_of_an_uploaded_workload_is_pinned() -> None:
    image = InputSpec(name="x", dtype="float32", shape=(1, 3), fill=NormalFill(seed=7))
    index = InputSpec(name="i", dtype="int64", shape=(1,), fill=IntsFill(below=5))
    workload = UploadedWorkload(sha256="a" * 64, dims={"n": 1}, inputs=(image, index))
    assert workload_id(workload) == "w_9b2a9ae00278d123124c4701dc3c0dc6"


@pytest.mark.parametrize("fill", [{"kind": "file", "sha256": "0" * 64}, {"kind": "zeros"}, {}])
def test_an_input_is_filled_by_a_seed_and_nothing_else(fill: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        InputSpec.model_validate({"name": "x", "dtype": "float32", "shape": (1,), "fill": fill})


def test_numbers_and_truths_are_not_taken_for_each_other() -> None:
    class Mixed(Value):
        count: int = 1
        limit_s: float | None = None
        urgent: bool = False

    for wrong, field in (({"count": False}, "count"), ({"limit_s": True}, "limit_s"), ({"urgent": 0}, "urgent")):
        with pytest.raises(ValidationError) as caught:
            Mixed.model_validate(wrong)
        assert [error["loc"] for error in caught.value.errors()] == [(field,)]
    assert Mixed.model_validate({"count": 2, "limit_s": 1, "urgent": True}).urgent


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
def test_what_postgres_keeps_in_no_json_is_found_wherever_it_stands(text: str) -> None:
    for value in (text, [text], {"a": {"b": [1, text]}}, {text: 1}, ["x", (None, {"y": text})]):
        assert find_unkept(value) == text
    assert find_unkept({"a": ["\\u0000", "\n\x1b", "\U0001f600", 1.5, None, True]}) is None


@pytest.mark.parametrize("truth", [True, False])
def test_a_truth_is_no_number_of_a_configuration(truth: bool) -> None:
    with pytest.raises(ValidationError, match="write a number"):
        KernelRequest.model_validate({"type": "fc", "config": {"cin": truth, "cout": 8}})
    assert KernelRequest.model_validate({"type": "fc", "config": {"cin": 1, "act": "relu"}}).config["cin"] == 1


MANY = {f"n{number}": None for number in range(5000)}
GENES = {"kind": "architecture", "space": "bert", "genes": MANY}
LISTED = {"kind": "kernel_list", "kernels": [{"type": "fc", "config": {}, **MANY}]}


@pytest.mark.parametrize(
    ("kind", "given", "place"),
    [
        (KernelRequest, {"type": "fc", "config": {}, **MANY}, ""),
        (KernelRequest, {"type": "fc", "config": MANY}, "config"),
        (ArchitectureRequest, GENES, "genes"),
        (ExportRequest, {"platform": "p", "space": "bert", "genes": MANY}, "genes"),
        (MissesReport, {"architectures": [MANY, MANY]}, "architectures.0"),
        (Pin, {"fusions": {**MANY, "one": None}}, "fusions"),
        (Pin, {"predictors": [None] * 10_000}, "predictors"),
        (ExportRequest, {"platform": "p", "space": "bert", "genes": {"hw": ["x"] * 5000}}, "genes.hw"),
        (LatencyRequest, {"platforms": [1] * 10_000, "items": [GENES]}, "platforms"),
        (LatencyRequest, {"platforms": ["p"], "items": [GENES] * 100}, "items.0.genes"),
        (LatencyRequest, {"platforms": ["p"], "items": [LISTED] * 100}, "items.0.kernels.0"),
        (LatencyRequest, {"platforms": ["p"], "items": [{"kind": "kernel"}] * 1000}, "items.0.type"),
        (
            LatencyRequest,
            {"platforms": ["p"], "items": [{"kind": "kernel_list", "kernels": [{}] * 2000}]},
            "items.0.kernels.0",
        ),
    ],
)
def test_what_is_wrong_a_thousand_times_is_told_a_few_times(
    kind: type[Value], given: dict[str, object], place: str
) -> None:
    """Each fault that is told takes a kilobyte, and a body may have millions."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(given)
    assert caught.value.error_count() <= 5
    assert refusal_of(caught.value.errors()).field.startswith(place)
