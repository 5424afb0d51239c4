"""What a profile says of a pair, on profiles as the engines wrote them."""

import pytest

from benchfarm_core.measurements import NodeSample
from benchfarm_core.operator_pairs import fused_by_profile, pair_request


def seen(*nodes: tuple[str, str]) -> list[NodeSample]:
    return [NodeSample(name=name, kind=kind, ns=1000) for name, kind in nodes]


IN, OUT = ("ReorderInput", "ReorderInput"), ("ReorderOutput", "ReorderOutput")


@pytest.mark.parametrize(
    ("pair", "nodes", "fused"),
    [
        # ONNX Runtime: a fused convolution is called as its activation; names are made up, conversions are nodes
        (("Conv", "Relu"), [IN, ("l1_nchwc", "Conv"), OUT], True),
        (("Conv", "MaxPool"), [IN, ("l0_nchwc", "Conv"), ("l1_nchwc", "MaxPool"), OUT], False),
        (("Conv", "HardSwish"), [("l0_nchwc", "Conv"), ("HardSigmoid_2", "HardSigmoid"), ("Mul_3", "Mul"), OUT], False),
        (("HardSwish", "Conv"), [("HardSigmoid_2", "HardSigmoid"), ("Mul_3", "Mul"), IN, ("l1_nchwc", "Conv")], False),
        (("Gemm", "Relu"), [("fused l0", "FusedGemm")], True),
        (("Add", "LayerNormalization"), [("SkipLayerNormalization", "SkipLayerNormalization")], True),
        (("Linear", "Relu"), [("reshape", "Reshape"), ("l0/matmul/x", "Gemm"), ("out", "Reshape")], True),
        (("Linear", "Gelu"), [("l0/matmul/x", "Gemm"), ("out", "Reshape"), ("Gelu", "Gelu")], False),
        (("Concat", "ChannelShuffle"), [("l0", "Concat"), ("l1/grouped", "Reshape"), ("l1/dealt", "Transpose")], False),
        # OpenVINO: a layout change is named after both of its sides
        (("Conv", "Add"), [("x_abcd_acdb_l0", "Reorder"), ("l0/a", "Convolution"), ("l0_a_b_l1", "Reorder")], True),
        (("ConvTranspose", "Relu"), [("Backprop_15", "ConvolutionBackpropData"), ("l1", "Relu")], False),
        (("Add", "Add"), [("l1", "Subgraph")], True),
        # MNN: whatever moves numbers is a raster, named after what takes them in
        (("Conv", "Relu"), [("l0_raster_0", "Raster"), ("l0", "Convolution"), ("l1__before_tr", "Raster")], True),
        (("Conv", "ChannelShuffle"), [("l0", "Convolution"), ("l1__before_tr", "Raster")], False),
        (("Concat", "Relu"), [("l1_raster_0", "Raster"), ("l1", "ReLU")], None),
        # 8 bits, and what cannot be told
        (("Conv", "Relu"), [("l0_q", "QuantizeLinear"), ("l0_quant", "QLinearConv"), ("z", "DequantizeLinear")], True),
        (("Linear", "Relu"), [("l0/x", "QGemm"), ("out", "Reshape"), ("l1/quantised", "QuantizeLinear")], True),
        (("Relu", "Add"), [("x", "DequantizeLinear"), ("l0/q", "QuantizeLinear"), ("l1", "QLinearAdd")], False),
        (("MaxPool", "Relu"), [("l0", "MaxPool"), ("l0/r", "DequantizeLinear"), ("l1/q", "QuantizeLinear")], False),
        (("Conv", "Relu"), [("a", "Conv"), ("b", "Relu")], None),
        (("Conv", "Relu"), [], None),
    ],
)
def test_a_pair_is_fused_where_one_of_the_two_has_no_node_of_its_own(pair, nodes, fused):
    assert fused_by_profile(pair, seen(*nodes)) is fused


def test_a_part_is_asked_for_by_its_recipe():
    request = pair_request(("Conv", "Relu"), "second")
    assert (request.name, request.config) == (
        "operator_pair",
        {"first": "Conv", "second": "Relu", "part": "second"},
    )
