"""The precision of a platform promises what products are computed in: graphs of another one are refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import keeps_types
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.engine_options import OptionValue
from benchfarm_engines.launch_request import InputSpec, read_inputs
from benchfarm_engines.products import refuse_other_products
from benchfarm_engines.quantise import quantise
from benchfarm_engines.registry import load_engine
from tests.engines.conftest import Workload, conv_graph, graph, normal
from tests.engines.made_for import opened

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
INT8: dict[str, OptionValue] = {"edges": "int8", "calibration_seed": 0}
FP32: dict[str, OptionValue] = {"edges": "fp32", "calibration_seed": 0}
SPECS = read_inputs([normal([8, 8])])
WEIGHT = np.random.default_rng(5).standard_normal((8, 8))


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=output, **attributes)


def typed(dtype: int, *, edge: int = FLOAT) -> bytes:
    """x times w in a type, whatever the graph takes and gives."""
    array = WEIGHT.astype(helper.tensor_dtype_to_np_dtype(dtype))
    casts = [node("Cast", ["x"], "inside", to=dtype), node("Cast", ["m"], "y", to=edge)]
    made = helper.make_graph(
        [casts[0], node("MatMul", ["inside", "w"], "m"), casts[1]],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [8, 8])],
        [helper.make_tensor_value_info("y", edge, [8, 8])],
        [numpy_helper.from_array(array, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString())


def branching(dtype: int = FLOAT) -> bytes:
    """A product in one branch, of a tensor and a weight around it."""
    branches = {
        "then_branch": [
            node("Cast", ["x"], "a", to=dtype),
            node("MatMul", ["a", "w"], "b"),
            node("Cast", ["b"], "t", to=1),
        ],
        "else_branch": [node("Neg", ["x"], "t")],
    }
    bodies = {
        name: helper.make_graph(nodes, name, [], [helper.make_tensor_value_info("t", FLOAT, [8, 8])])
        for name, nodes in branches.items()
    }
    nodes = [node("ReduceMax", ["x"], "top", keepdims=0), node("Greater", ["top", "zero"], "c")]
    array = WEIGHT.astype(helper.tensor_dtype_to_np_dtype(dtype))
    weights = {"zero": np.array(0, np.float32), "w": array}
    return graph([*nodes, node("If", ["c"], "i", **bodies), node("Relu", ["i"], "y")], {"x": [8, 8]}, ["y"], weights)


def refused(content: bytes, precision: str = "fp32", *, kept: bool = True) -> EngineFailure:
    with pytest.raises(EngineFailure) as caught:
        refuse_other_products(content, precision, keeps_types=kept)
    return caught.value


def refused_int8(
    content: bytes, specs: Sequence[InputSpec] = SPECS, options: dict[str, OptionValue] = INT8
) -> tuple[FailureCode, str]:
    with pytest.raises(EngineFailure) as caught:
        quantise(content, specs, options)
    return caught.value.code, caught.value.subject


@pytest.mark.parametrize("dtype", [HALF, DOUBLE])
def test_a_product_of_another_type_is_refused_by_its_operator(dtype: int) -> None:
    failure = refused(typed(dtype))
    assert (failure.code, failure.subject) == (FailureCode.PRECISION_NOT_OBEYED, "MatMul")
    assert "asked for fp32, and MatMul 'm' multiplies " in failure.detail
    assert refused_int8(typed(dtype)) == (FailureCode.PRECISION_NOT_OBEYED, "MatMul")
    refuse_other_products(typed(dtype), "fp32", keeps_types=False)


def test_products_that_count_places_are_of_any_precision() -> None:
    """Indices are integers; beside them the graph multiplies what its precision says."""
    weights: dict[str, np.ndarray[Any, Any]] = {"w": WEIGHT.astype(np.float32), "strides": np.ones((8, 1), np.int64)}
    weights.update(one=np.array(0, np.int64), to=np.array([2, 8], np.int64))
    nodes = [
        node("Expand", ["one", "to"], "e"),
        node("MatMul", ["e", "strides"], "places"),
        node("MatMul", ["x", "w"], "m"),
        node("Gather", ["m", "places"], "y"),
    ]
    content = graph(nodes, {"x": [8, 8]}, ["y"], weights)
    for precision in ("fp32", "fp16", "bf16"):
        refuse_other_products(content, precision, keeps_types=True)
    assert quantise(content, SPECS, INT8)[1] is not None
    assert refused_int8(typed(TensorProto.INT32)) == (FailureCode.PRECISION_NOT_OBEYED, "MatMul")


def test_a_product_in_a_body_counts() -> None:
    refuse_other_products(branching(), "fp32", keeps_types=True)
    assert refused(branching(DOUBLE)).subject == "MatMul"


def test_what_is_no_product_may_be_of_any_type() -> None:
    nodes = [node("Cast", ["x"], "d", to=DOUBLE), node("Exp", ["d"], "e"), node("Cast", ["e"], "f", to=FLOAT)]
    content = graph([*nodes, node("MatMul", ["f", "f"], "y")], {"x": [8, 8]}, ["y"])
    refuse_other_products(content, "fp32", keeps_types=True)
    assert quantise(content, SPECS, INT8)[1] is not None


def test_fp16_takes_what_becomes_16_bits() -> None:
    refuse_other_products(typed(HALF), "fp16", keeps_types=True)
    refuse_other_products(typed(FLOAT), "fp16", keeps_types=True)
    assert refused(typed(DOUBLE), "fp16").subject == "MatMul"


def test_other_operators_that_multiply_are_held_to_it_too() -> None:
    weights = {"w": np.ones((1, 8, 8), np.float64), "r": np.ones((1, 8, 2), np.float64)}
    nodes = [node("Cast", ["x"], "d", to=DOUBLE), helper.make_node("LSTM", ["d", "w", "r"], ["y"], hidden_size=2)]
    content = graph(nodes, {"x": [3, 1, 8]}, ["y"], weights)
    assert refused(content).subject == "LSTM"
    assert refused_int8(content)[1] == "LSTM"


def test_a_graph_that_is_quantised_is_for_int8_alone_and_stays_as_it_is() -> None:
    specs = read_inputs([normal([1, 8, 6, 6])])
    for options, other in ((FP32, INT8), (INT8, FP32)):
        content, _ = quantise(conv_graph(8, 6), specs, options)
        for precision in ("fp32", "bf16", "fp16"):
            assert refused(content, precision, kept=False).subject == "Conv"
        assert quantise(content, specs, options) == (content, None)
        assert refused_int8(content, specs, other)[0] is FailureCode.CONVERSION_FAILED


def test_weights_among_the_inputs_of_a_quantised_graph_are_no_edges() -> None:
    specs = read_inputs([normal([1, 8, 6, 6])])
    model = onnx.load_from_string(quantise(conv_graph(8, 6), specs, INT8)[0])
    stored = model.graph.initializer
    model.graph.input.extend(helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in stored)
    content = bytes(model.SerializeToString())
    assert quantise(content, specs, INT8) == (content, None)


def test_weights_that_are_stored_in_8_bits_are_multiplied_in_fp32() -> None:
    weights: dict[str, np.ndarray[Any, Any]] = {"q": np.ones((8, 8), np.int8), "s": np.array(0.1, np.float32)}
    nodes = [node("DequantizeLinear", ["q", "s"], "w"), node("MatMul", ["x", "w"], "y")]
    refuse_other_products(graph(nodes, {"x": [8, 8]}, ["y"], weights), "fp32", keeps_types=True)


def test_a_graph_with_quantised_tensors_and_no_product_in_8_bits_is_no_int8() -> None:
    weights: dict[str, np.ndarray[Any, Any]] = {"q": np.ones((8, 8), np.int8), "s": np.array(0.1, np.float32)}
    stored = [node("DequantizeLinear", ["q", "s"], "w"), node("MatMul", ["x", "w"], "y")]
    seen = [node("QuantizeLinear", ["x", "s"], "a"), node("DequantizeLinear", ["a", "s"], "b")]
    product = node("MatMul", ["x", "f"], "m")
    for nodes in (stored, [*seen, product, node("Add", ["b", "m"], "y")]):
        weights["f"] = WEIGHT.astype(np.float32)
        content = graph(nodes, {"x": [8, 8]}, ["y"], weights)
        for options in (FP32, INT8):
            assert refused_int8(content, SPECS, options) == (FailureCode.PRECISION_NOT_OBEYED, "MatMul")


def test_a_quantised_graph_may_be_old_and_have_bodies() -> None:
    def quantised(opset: int, last: onnx.NodeProto) -> bytes:
        weights: dict[str, np.ndarray[Any, Any]] = {"q": np.ones((8, 8), np.int8), "s": np.array(0.1, np.float32)}
        weights.update(z=np.array(0, np.int8), top=np.array(True))
        restored = [node("DequantizeLinear", ["q", "s", "z"], "w"), node("QuantizeLinear", ["x", "s", "z"], "a")]
        products = [node("DequantizeLinear", ["a", "s", "z"], "b"), node("MatMul", ["b", "w"], "m"), last]
        made = onnx.load_from_string(graph([*restored, *products], {"x": [8, 8]}, ["y"], weights))
        made.opset_import[0].version = opset
        return bytes(made.SerializeToString())

    taken = [helper.make_tensor_value_info("t", FLOAT, [8, 8])]
    body = helper.make_graph([node("Neg", ["m"], "t")], "either", [], taken)
    branch = node("If", ["top"], "y", then_branch=body, else_branch=body)
    for content in (quantised(10, node("Relu", ["m"], "y")), quantised(17, branch)):
        assert quantise(content, SPECS, FP32) == (content, None)
        assert refused_int8(content, SPECS, INT8)[0] is FailureCode.CONVERSION_FAILED


@pytest.mark.parametrize(
    "moved",
    [
        [node("Transpose", ["w"], "v")],
        [node("Identity", ["w"], "i"), node("Reshape", ["i", "shape"], "v")],
    ],
)
def test_8_bit_numbers_that_are_moved_behind_their_restoring_are_8_bit_numbers(moved: list[onnx.NodeProto]) -> None:
    """As exporters write a dense layer: its weight is restored, then transposed."""
    weights: dict[str, np.ndarray[Any, Any]] = {"q": np.ones((8, 8), np.int8), "s": np.array(0.1, np.float32)}
    weights |= {"shape": np.array([8, 8]), "f": WEIGHT.astype(np.float32)}
    restored = [node("DequantizeLinear", ["q", "s"], "w"), *moved]
    seen = [node("QuantizeLinear", ["x", "s"], "a"), node("DequantizeLinear", ["a", "s"], "b")]
    content = graph([*restored, *seen, node("MatMul", ["b", "v"], "y")], {"x": [8, 8]}, ["y"], weights)
    assert refused(content, kept=False).subject == "MatMul"
    assert quantise(content, SPECS, FP32) == (content, None)
    added = [node("Add", ["w", "f"], "v"), *seen, node("MatMul", ["b", "v"], "y")]
    refuse_other_products(graph([restored[0], *added], {"x": [8, 8]}, ["y"], weights), "fp32", keeps_types=True)


def test_edges_of_other_floats_are_no_8_bits() -> None:
    specs = read_inputs([normal([1, 8, 6, 6])])
    model = onnx.load_from_string(quantise(conv_graph(8, 6), specs, FP32)[0])
    for edge in (*model.graph.input, *model.graph.output):
        edge.type.tensor_type.elem_type = HALF
    [first] = [one for one in model.graph.node if model.graph.input[0].name in one.input]
    first.input[0] = "inside"
    model.graph.node.insert(0, node("Cast", [model.graph.input[0].name], "inside", to=FLOAT))
    [last] = [one for one in model.graph.node if model.graph.output[0].name in one.output]
    last.output[0] = "outside"
    model.graph.node.append(node("Cast", ["outside"], model.graph.output[0].name, to=HALF))
    content = bytes(model.SerializeToString())
    assert quantise(content, specs, FP32) == (content, None)
    assert refused_int8(content, specs, INT8)[0] is FailureCode.CONVERSION_FAILED


def test_products_of_integers_are_for_int8_alone() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w"], "m"),
        node("Cast", ["m"], "y", to=FLOAT),
    ]
    content = graph(nodes, {"x": [8, 8]}, ["y"], {"w": np.ones((8, 8), np.uint8)})
    assert refused(content, kept=False).subject == "MatMulInteger"
    assert quantise(content, SPECS, FP32) == (content, None)


@pytest.mark.parametrize(
    ("nodes", "subject"),
    [
        ([node("MatMul", ["w", "x"], "y")], "MatMul"),
        ([node("Einsum", ["x", "w"], "y", equation="ij,jk->ik")], "Einsum"),
        ([node("MatMul", ["w", "x"], "m"), node("MatMul", ["m", "w"], "y")], ""),
        ([node("Softmax", ["x"], "s"), node("MatMul", ["s", "w"], "y")], ""),
        ([node("MatMul", ["x", "x"], "y")], ""),
        ([node("Relu", ["x"], "y")], ""),
    ],
)
def test_a_graph_none_of_whose_products_takes_8_bits_is_no_int8(nodes: list[onnx.NodeProto], subject: str) -> None:
    content = graph(nodes, {"x": [8, 8]}, ["y"], {"w": WEIGHT.astype(np.float32)})
    if subject:
        assert refused_int8(content) == (FailureCode.PRECISION_NOT_OBEYED, subject)
    else:
        assert quantise(content, SPECS, INT8)[1] is not None


def test_a_graph_with_bodies_is_refused_in_int8_by_the_operator_that_has_them() -> None:
    assert refused_int8(branching()) == (FailureCode.UNSUPPORTED_OPERATOR, "If")


@pytest.mark.parametrize("dtype", [HALF, DOUBLE])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "litert", "ncnn", "mnn"])
def test_engines_that_are_trusted_with_a_graph_of_other_types_compute_in_fp32(
    engine: str, dtype: int, tmp_path: Path
) -> None:
    """What they give lies between the numbers that the graph's own type has."""
    content = typed(dtype, edge=DOUBLE if dtype == DOUBLE else FLOAT)
    try:
        found = _computed(engine, content, tmp_path)
    except EngineFailure as failure:
        assert failure.code in (FailureCode.UNSUPPORTED_OPERATOR, FailureCode.CONVERSION_FAILED)  # noqa: PT017
        return
    narrower = np.float16 if dtype == HALF else np.float32
    is_narrow = bool((found.astype(narrower) == found).all())
    computes_in_it = is_narrow if dtype == HALF else not is_narrow
    assert computes_in_it <= keeps_types(engine)


def _computed(name: str, content: bytes, folder: Path) -> np.ndarray[Any, Any]:
    artifact, reference = folder / "model.onnx", folder / "reference.npz"
    artifact.write_bytes(content)
    np.savez(reference, out0=np.zeros((8, 8)))
    session = opened(load_engine(name), Workload(artifact, [normal([8, 8])], reference))
    session.run()
    [found] = session.outputs()
    session.close()
    return np.asarray(found)
