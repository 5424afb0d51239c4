"""What a workload is really computed in, told by real engines: not every operator has the platform's precision."""

from collections.abc import Callable
from typing import Any

import pytest
from onnx import helper

from benchfarm_engines.conversion import has_converter
from benchfarm_engines.registry import load_engine
from tests.engines.conftest import PROTOCOL, Workload, conv_graph, graph, normal
from tests.engines.made_for import made_for

KINDS = ("conv", "maxpool", "softmax")
SAID = {
    # without a product ncnn is fp32 alone, others move 8-bit numbers as they are; for Softmax ONNX Runtime has a table
    ("onnxruntime", "int8"): {"conv": "int8", "maxpool": "int8", "softmax": "int8"},
    ("openvino", "int8"): {"conv": "int8", "maxpool": "int8", "softmax": "fp32"},
    ("litert", "int8"): {"conv": "int8", "maxpool": "int8", "softmax": "fp32"},
    ("ncnn", "int8"): {"conv": "int8", "maxpool": "fp32", "softmax": "fp32"},
    ("openvino", "bf16"): {"conv": "bf16", "maxpool": "fp32", "softmax": "fp32"},
    **{
        (engine, "fp32"): dict.fromkeys(KINDS, "fp32")
        for engine in ("onnxruntime", "openvino", "litert", "ncnn", "mnn")
    },
}


@pytest.fixture(scope="module")
def kernels(write_model: Callable[..., Workload], references: Callable[..., Any]) -> list[Workload]:
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    made = [
        write_model("told-conv", conv_graph(8, 8), [normal([1, 8, 8, 8])]),
        write_model("told-maxpool", graph([pool], {"x": [1, 8, 8, 8]}, ["y"]), [normal([1, 8, 8, 8])]),
        write_model(
            "told-softmax",
            graph([helper.make_node("Softmax", ["x"], ["y"])], {"x": [1, 64]}, ["y"]),
            [normal([1, 64])],
        ),
    ]
    answers = references([(each.artifact, each.inputs, each.reference) for each in made])
    assert [answer["ok"] for answer in answers] == [True] * len(made), answers
    return made


def quantised(engine: str, workload: Workload) -> dict[str, Any]:
    """What a visit has besides, for engines that open the quantised graph itself; the others' files are made later."""
    return {} if has_converter(engine) else made_for(load_engine(engine), workload, "int8").part_of_visit()


def told(launch: Any, engine: str, precision: str, wanted: list[Workload], canary: Workload, **changes: Any) -> Any:
    """The precision of each visit's `done` line."""
    of = quantised if precision == "int8" else lambda *_: {}
    visits = [one.visit(number, max_relative_l2=0.1) | of(engine, one) for number, one in enumerate(wanted)]
    model = {"artifact": str(canary.artifact), "inputs": canary.inputs} | of(engine, canary)
    canaries = {"sgemm": {"n": 64, "seed": 1}, "mobilenet": model}
    said = launch(visits, engine=engine, precision=precision, canaries=canaries, **changes)
    assert [line["outcome"] for line in said.done.values()] == ["ok"] * len(wanted), (said.lines, said.stderr)
    return [said.done[number].get("effective_precision") for number in range(len(wanted))]


@pytest.mark.parametrize(("engine", "precision"), SAID)
def test_each_kernel_tells_what_it_was_computed_in(
    launch: Any, workloads: dict[str, Workload], kernels: list[Workload], engine: str, precision: str
) -> None:
    if precision not in load_engine(engine).precisions():
        pytest.skip(f"this processor has no {precision}")
    found = told(launch, engine, precision, kernels, workloads["conv"], asks_precision=True)
    assert dict(zip(KINDS, found, strict=True)) == SAID[engine, precision]


@pytest.mark.parametrize(("engine", "precision"), [("ncnn", "int8"), ("openvino", "int8"), ("openvino", "bf16")])
def test_memory_tells_it_unasked(
    launch: Any, workloads: dict[str, Workload], kernels: list[Workload], engine: str, precision: str
) -> None:
    if precision not in load_engine(engine).precisions():
        pytest.skip(f"this processor has no {precision}")
    softmax, protocol = kernels[KINDS.index("softmax")], {**PROTOCOL, "purpose": "memory"}
    assert told(launch, engine, precision, [softmax], workloads["conv"], protocol=protocol) == ["fp32"]


def test_both_sides_of_a_pair_tell_it(launch: Any, workloads: dict[str, Workload], kernels: list[Workload]) -> None:
    """The same kernel in fp32 and in bf16: a convolution obeys, a pool has no such form."""
    if "bf16" not in load_engine("openvino").precisions():
        pytest.skip("this processor has no bf16")
    visits = []
    for number, one in enumerate(kernels[:2]):
        visit = one.visit(number, max_relative_l2=0.1)
        side = {key: value for key, value in visit.items() if key != "visit"} | {"opens_first": False}
        visits.append(visit | {"beside": side | {"precision": "bf16"}})
    said = launch(visits, engine="openvino", asks_precision=True)
    assert [line["outcome"] for line in said.done.values()] == ["ok"] * 2, (said.lines, said.stderr)
    found = [(line["effective_precision"], line["beside"]["effective_precision"]) for line in said.done.values()]
    assert found == [("fp32", "bf16"), ("fp32", "fp32")]
