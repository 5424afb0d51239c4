"""The file of the PyTorch engines: written and read without PyTorch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from onnx import TensorProto, helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import Engine, EngineFailure
from benchfarm_engines.sealed_file import seal, unseal
from benchfarm_engines.torch_file import FORMAT, unpack
from tests.engines.catalogue import KERNELS, MODELS, Graph, convert, drawn_kernels, normal, refusal, small_model
from tests.engines.conftest import conv_graph, graph
from tests.engines.test_engine_interface import one_node

TORCH = cast(Engine, SimpleNamespace(name="torch", options=()))  # what makes files needs no more of the engine
X = (normal([1, 4]),)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_type_has_a_file(name: str) -> None:
    for kernel in drawn_kernels(name, 2):
        made = convert(TORCH, kernel)
        read = unpack(made.content)
        assert made.format == FORMAT
        assert [each.shape for each in read.inputs] == [each.shape for each in kernel[1]]
        assert convert(TORCH, kernel).content == made.content


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_file(name: str) -> None:
    assert len(unpack(convert(TORCH, small_model(name)).content).operators) > 10


def test_weights_come_back_as_they_were() -> None:
    conv = conv_graph(8, 4)
    weights = unpack(convert(TORCH, (conv, (normal([1, 8, 4, 4]),))).content).weights
    wanted = np.random.default_rng(3).standard_normal((8, 8, 3, 3)).astype(np.float32) * 0.1
    assert np.array_equal(weights["w"], wanted)


def test_constants_become_weights() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("t", TensorProto.FLOAT, [2], [1, 2]))
    whole = helper.make_node("Constant", [], ["i"], value_ints=[3, 4])
    nodes = [constant, whole, helper.make_node("Add", ["x", "c"], ["y"])]
    read = unpack(convert(TORCH, (graph(nodes, {"x": [1, 2]}, ["y"]), (normal([1, 2]),))).content)
    assert [operator.kind for operator in read.operators] == ["Add"]
    assert (read.weights["c"].tolist(), read.weights["i"].tolist()) == ([1, 2], [3, 4])
    assert (read.weights["c"].dtype, read.weights["i"].dtype) == (np.float32, np.int64)


def test_half_precision_halves_the_edges_alone() -> None:
    conv: Graph = (conv_graph(8, 4), (normal([1, 8, 4, 4]),))
    whole, half = convert(TORCH, conv), convert(TORCH, conv, "fp16")
    assert whole.content == half.content
    assert whole.edges is not None
    assert half.edges is not None
    assert (whole.edges.inputs[0].dtype, half.edges.inputs[0].dtype) == ("float32", "float16")


@pytest.mark.parametrize(
    ("node", "subject", "word"),
    [
        (helper.make_node("Nope", ["x"], ["y"]), "Nope", "Nope"),
        (helper.make_node("Relu", ["x"], ["y"], domain="my.domain"), "Relu", "my.domain"),
        (helper.make_node("Conv", ["x", "x"], ["y"], auto_pad="SAME_UPPER"), "Conv", "auto_pad"),
        (helper.make_node("Resize", ["x"], ["y"], antialias=1), "Resize", "antialias"),
    ],
)
def test_what_cannot_be_held_is_named(node: Any, subject: str, word: str, tmp_path: Path) -> None:
    failure = refusal(TORCH, (graph([node], {"x": [1, 4]}, ["y"]), X), tmp_path)
    assert (failure.code, failure.subject) == (FailureCode.UNSUPPORTED_OPERATOR, subject)
    assert word in failure.detail


def test_an_old_opset_is_a_failed_conversion(tmp_path: Path) -> None:
    made = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    old = helper.make_model(made, opset_imports=[helper.make_opsetid("", 11)], ir_version=6).SerializeToString()
    assert refusal(TORCH, (old, X), tmp_path).code is FailureCode.CONVERSION_FAILED


def test_files_that_are_no_model_and_inputs_that_do_not_fit_are_invalid(tmp_path: Path) -> None:
    whole = conv_graph(32, 28)
    relu = one_node("Relu")
    for graph_and_inputs in (
        (b"hello, I am a text", X),
        (b"", X),
        (whole[: len(whole) // 2], X),
        (relu, (normal([1, 5]),)),
        (relu, (normal([1, 4], name="other"),)),
    ):
        assert refusal(TORCH, graph_and_inputs, tmp_path).code is FailureCode.INVALID_WORKLOAD


@pytest.mark.parametrize("damage", [b"", b"hello, I am a text", "cut", "flipped"])
def test_a_file_that_is_not_whole_is_refused(damage: bytes | str) -> None:
    whole = seal(b"body", {"key": [1]})
    assert (bytes(unseal(whole)[0]), unseal(whole)[1]) == (b"body", {"key": [1]})
    damaged = {"cut": whole[:-9], "flipped": b"B" + whole[1:]}[damage] if isinstance(damage, str) else damage
    with pytest.raises(EngineFailure) as caught:
        unseal(damaged)
    assert caught.value.code is FailureCode.INVALID_WORKLOAD
