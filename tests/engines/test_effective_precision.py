"""What a workload is really computed in, told by real engines: not every operator has the platform's precision."""

from collections.abc import Callable
from typing import Any

import pytest
from onnx import helper

from benchfarm_engines.registry import load_engine
from tests.engines.conftest import PROTOCOL, Workload, conv_graph, graph, normal

KINDS = ("conv", "maxpool", "softmax")
SAID = {
    # no product: ncnn has fp32 alone, the others move 8-bit numbers as they are. Softmax is fp32 in all of them
    ("onnxruntime", "int8"): {"conv": "int8", "maxpool": "int8", "softmax": "fp32"},
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


@pytest.mark.parametrize(("engine", "precision"), SAID)
def test_each_kernel_tells_what_it_was_computed_in(
    launch: Any, kernels: list[Workload], engine: str, precision: str
) -> None:
    if precision not in load_engine(engine).precisions():
        pytest.skip(f"this processor has no {precision}")
    visits = [one.visit(number, max_relative_l2=0.1) for number, one in enumerate(kernels)]
    done = launch(visits, engine=engine, precision=precision, asks_precision=True).done
    assert [line["outcome"] for line in done.values()] == ["ok"] * len(KINDS), done
    told = {KINDS[number]: line["effective_precision"] for number, line in done.items()}
    assert told == SAID[engine, precision]


@pytest.mark.parametrize("engine", ["ncnn", "onnxruntime"])
def test_memory_tells_it_unasked(launch: Any, kernels: list[Workload], engine: str) -> None:
    softmax = kernels[KINDS.index("softmax")].visit(0, max_relative_l2=0.1)
    line = launch([softmax], engine=engine, precision="int8", protocol={**PROTOCOL, "purpose": "memory"}).done[0]
    assert (line["outcome"], line["effective_precision"]) == ("ok", "fp32")
