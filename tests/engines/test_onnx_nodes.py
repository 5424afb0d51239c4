"""What ONNX Runtime's rewritten graphs are read by, held against the package that boards have not."""

from typing import Any

import onnx
import pytest
from onnx import helper

from benchfarm_engines.onnx_nodes import OnnxNode, computes_in_8_bits, nodes_of
from tests.engines.catalogue import MODELS, model


@pytest.mark.parametrize("name", MODELS)
def test_nodes_are_those_of_the_package(name: str) -> None:
    content, _ = model(name)
    nodes = onnx.load_from_string(content).graph.node
    assert nodes_of(content) == [OnnxNode(node.op_type, tuple(node.input), tuple(node.output)) for node in nodes]


@pytest.mark.parametrize("content", [b"\x3a\x7f", b"\x3a", b"\x3b", b"\xff\xff", b"\x08"])
def test_what_is_cut_short_is_no_graph(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|number"):
        nodes_of(content)


def test_a_file_without_a_graph_has_no_nodes() -> None:
    assert nodes_of(b"") == []
    assert nodes_of(helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()) == []


def node(kind: str, source: str, target: str) -> OnnxNode:
    return OnnxNode(kind, (source, "scale"), (target,))


STEP, BACK = "QuantizeLinear", "DequantizeLinear"


@pytest.mark.parametrize(
    ("kinds", "in_8_bits"),
    [
        (["QLinearConv"], True),
        ([STEP, "QLinearConv", BACK], True),
        ([STEP, "MatMulIntegerToFloat"], True),
        (["QLinearConv", BACK, "Conv"], True),
        ([BACK, "Conv", STEP], False),
        ([BACK, "FusedMatMul", STEP, "QLinearAdd"], False),
        (["MaxPool"], True),
        ([STEP, "MaxPool", BACK], True),
        (["QLinearAdd"], True),
        ([BACK, "Softmax", STEP], False),
        (["QLinearAdd", BACK, "Erf", STEP], False),
        ([BACK, STEP], False),
        ([], False),
    ],
)
def test_products_decide_and_without_any_all_operators(kinds: list[str], in_8_bits: bool) -> None:
    nodes: list[Any] = [node(kind, f"t{place}", f"t{place + 1}") for place, kind in enumerate(kinds)]
    assert computes_in_8_bits(nodes) is in_8_bits
