"""LiteRT's own files: the whole catalogue, the zoo, and the forms in which other exporters write the same."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from benchfarm_core.correctness import GATE_LIMITS, INT8_TWIN_LIMIT
from benchfarm_core.failures import FailureCode
from benchfarm_core.platforms import Precision
from benchfarm_engines.conversion import ConversionRequest, Converted
from benchfarm_engines.edges import Edges
from benchfarm_engines.engine import EngineFailure, OpenRequest, Session
from benchfarm_engines.engine_options import check_options
from benchfarm_engines.gate import relative_l2
from benchfarm_engines.inputs import make_inputs
from benchfarm_engines.launch_request import read_inputs
from benchfarm_engines.litert_convert import CONVERTER
from benchfarm_engines.litert_engine import ENGINE
from benchfarm_engines.litert_layout import IMAGE, regrouping
from benchfarm_engines.quantise import quantise
from benchfarm_engines.translation import to_artifact, to_workload
from benchfarm_engines.visit import artifact_inputs
from benchfarm_workloads.models import model_recipe
from benchfarm_workloads.onnx_kernels import build_kernel
from benchfarm_workloads.onnx_models import build_model
from tests.engines.catalogue import KERNELS, MODELS, Graph, drawn_kernels, model, reference

DELEGATES = ("xnnpack", "none")
FP32, INT8 = GATE_LIMITS[Precision.FP32], GATE_LIMITS[Precision.INT8]


def as_read(built: tuple[bytes, Any]) -> Graph:
    return built[0], read_inputs([each.model_dump(mode="json") for each in built[1]])


def converted(
    work: Graph, source: bytes | None = None, edges: Edges | None = None, precision: str = "fp32", **given: Any
) -> Converted:
    options = check_options(given, ENGINE.options)
    return CONVERTER.convert(ConversionRequest(source or work[0], precision, options, work[1], edges))


def opened(made: Converted, work: Graph, folder: Path, **changes: Any) -> Session:
    artifact = folder / "model.tflite"
    artifact.write_bytes(made.content)
    fields: dict[str, Any] = {"precision": "fp32", "threads": 1, "options": check_options({}, ENGINE.options)}
    return ENGINE.open(OpenRequest(artifact, artifact_inputs(work[1], made.edges), **{**fields, **changes}))


def answers(made: Converted, work: Graph, folder: Path, wanted: list[Any], **changes: Any) -> list[Any]:
    """After the third run: inputs are written once and have to survive."""
    session = opened(made, work, folder, **changes)
    try:
        for _ in range(3):
            session.run()
        assert made.edges is not None
        return to_workload(session.outputs(), made.edges.outputs, [each.shape for each in wanted])
    finally:
        session.close()


def distances(work: Graph, folder: Path) -> list[float]:
    wanted = reference(work)
    files = {each: converted(work, delegate=each) for each in DELEGATES}
    found = [answers(made, work, folder, wanted, options={"delegate": each}) for each, made in files.items()]
    return [relative_l2(each, wanted) for each in found]


def int8_distances(work: Graph, folder: Path, **options: Any) -> list[tuple[float, float]]:
    """From the reference in fp32, and from the same quantised graph in ONNX Runtime."""
    complete = check_options(options, ENGINE.options)
    source, edges = quantise(work[0], work[1], complete)
    wanted, arrays = reference(work), make_inputs(work[1])
    twin = ort.InferenceSession(source, providers=["CPUExecutionProvider"]).run(
        None, to_artifact(arrays, edges.inputs) if edges else arrays
    )
    twin = to_workload(twin, edges.outputs, [each.shape for each in wanted]) if edges else twin
    files = {each: converted(work, source, edges, "int8", delegate=each) for each in DELEGATES}
    fields = {"precision": "int8"}
    found = [answers(made, work, folder, wanted, options={"delegate": each}, **fields) for each, made in files.items()]
    return [(relative_l2(each, wanted), relative_l2(each, twin)) for each in found]


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_type_passes_the_gate_with_and_without_xnnpack(name: str, tmp_path: Path) -> None:
    for kernel in drawn_kernels(name, 2):
        assert max(distances(kernel, tmp_path)) < FP32


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_type_passes_both_gates_in_int8(name: str, tmp_path: Path) -> None:
    [kernel] = drawn_kernels(name, 1)
    for from_reference, from_twin in int8_distances(kernel, tmp_path):
        assert from_reference < INT8
        assert from_twin < INT8_TWIN_LIMIT


TRAPS: dict[str, tuple[str, dict[str, object]]] = {
    "a window that hangs over both ends": ("avgpool", {"hw": 5, "cin": 8, "k": 7, "s": 2}),
    "pixels by thirds": ("resize", {"hw": 55, "cin": 8, "scale": 3, "mode": "bilinear"}),
    "a mean with finer steps than its input": ("avgpool", {"hw": 28, "cin": 8, "k": 5, "s": 1}),
    "more images than one": ("dwconv-bn-act", {"hw": 15, "cin": 8, "k": 5, "s": 4, "act": "hswish", "batch": 3}),
}


@pytest.mark.parametrize("name", TRAPS)
def test_where_a_delegate_or_eight_bits_would_be_wrong(name: str, tmp_path: Path) -> None:
    work = as_read(build_kernel(*TRAPS[name]))
    assert max(distances(work, tmp_path)) < FP32
    for _, from_twin in int8_distances(work, tmp_path):
        assert from_twin < INT8_TWIN_LIMIT


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo_passes_the_gate_with_and_without_xnnpack(name: str, tmp_path: Path) -> None:
    recipe = model_recipe(name)
    small = {"hw": 96} if any(column.name == "hw" for column in recipe.columns) else {}
    assert max(distances(as_read(build_model(name, small)), tmp_path)) < FP32


def test_a_whole_network_passes_the_gate_in_int8(tmp_path: Path) -> None:
    """Squeezenet, the smallest: int8 of deeper ones is as noisy in ONNX Runtime."""
    assert max(distance for distance, _ in int8_distances(model("squeezenet"), tmp_path)) < INT8


def test_the_same_request_makes_the_same_bytes() -> None:
    [kernel] = drawn_kernels("attention", 1)
    assert converted(kernel).content == converted(kernel).content


def test_images_lie_with_their_channels_last() -> None:
    [kernel] = drawn_kernels("conv-bn-act", 1)
    edges = converted(kernel).edges
    assert edges is not None
    assert [each.axes for each in (*edges.inputs, *edges.outputs)] == [IMAGE, IMAGE]
    [tokens] = drawn_kernels("layernorm", 1)
    plain = converted(tokens).edges
    assert plain is not None
    assert [each.axes for each in (*plain.inputs, *plain.outputs)] == [(), ()]


def operators(content: bytes) -> list[str]:
    """Of the file, in order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.ModelT.InitFromPackedBuf(content)
    codes = [names[each.builtinCode] for each in model.operatorCodes]
    return [codes[each.opcodeIndex] for each in model.subgraphs[0].operators]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("channel-shuffle", ["RESHAPE", "TRANSPOSE", "RESHAPE"]),
        ("patch-embed", ["CONV_2D", "RESHAPE"]),
        ("gelu", ["GELU"]),
        ("linear", ["FULLY_CONNECTED"]),
        ("group-conv", ["CONV_2D"]),
        ("se", ["MEAN", "CONV_2D", "CONV_2D"]),
    ],
)
def test_kernels_are_written_as_litert_has_them(kernel: str, expected: list[str]) -> None:
    [drawn] = drawn_kernels(kernel, 1)
    assert operators(converted(drawn).content)[: len(expected)] == expected


def test_data_move_four_times_in_attention() -> None:
    [drawn] = drawn_kernels("attention", 1)
    assert operators(converted(drawn).content).count("TRANSPOSE") == 4


@pytest.mark.parametrize("edges", ["int8", "fp32"])
def test_int8_computes_in_int8_between_the_edges_that_were_asked_for(edges: str) -> None:
    [kernel] = drawn_kernels("maxpool", 1)
    source, given = quantise(kernel[0], kernel[1], check_options({"edges": edges}, ENGINE.options))
    made = converted(kernel, source, given, "int8")
    outside = ["DEQUANTIZE", "QUANTIZE"] if edges == "fp32" else []
    assert sorted(operators(made.content)) == sorted(["MAX_POOL_2D", *outside])
    assert made.edges is not None
    assert {each.dtype for each in (*made.edges.inputs, *made.edges.outputs)} == {
        "int8" if edges == "int8" else "float32"
    }


@pytest.mark.parametrize("name", ["softmax", "layernorm"])
def test_what_eight_bits_would_destroy_is_computed_in_fp32(name: str) -> None:
    [kernel] = drawn_kernels(name, 1)
    source, given = quantise(kernel[0], kernel[1], check_options({}, ENGINE.options))
    made = operators(converted(kernel, source, given, "int8").content)
    assert (made[0], made[-1]) == ("DEQUANTIZE", "QUANTIZE")


def test_steps_in_uint8_are_refused() -> None:
    [kernel] = drawn_kernels("fc", 1)
    source, _ = quantise(kernel[0], kernel[1], {"edges": "fp32", "calibration_seed": 0}, "uint8")
    with pytest.raises(EngineFailure, match="uint8") as caught:
        converted(kernel, source, None, "int8")
    assert caught.value.code is FailureCode.CONVERSION_FAILED


@pytest.mark.parametrize(
    ("source", "axes", "target", "before", "after"),
    [
        ((1, 6, 9, 8), IMAGE, (1, 6, 72), IMAGE, (0, 2, 1)),
        ((1, 6, 9, 8), IMAGE, (1, 432), (0, 1, 2, 3), (0, 1)),
        ((1, 6, 9, 8), IMAGE, (1, 2, 3, 9, 8), IMAGE, (0, 3, 4, 1, 2)),
        ((1, 3, 2, 9, 8), (0, 3, 4, 2, 1), (1, 6, 9, 8), (0, 3, 4, 1, 2), IMAGE),
        ((2, 3, 5, 4), (0, 2, 1, 3), (2, 3, 20), (0, 1, 2, 3), (0, 1, 2)),
        ((1, 6, 1, 1), IMAGE, (1, 6), IMAGE, (0, 1)),
    ],
)
def test_memory_moves_only_where_axes_that_join_lie_apart(
    source: Any, axes: Any, target: Any, before: Any, after: Any
) -> None:
    assert regrouping(source, axes, target) == (before, after)
