"""The check of .tflite uploads through the real limited child."""

import io
import random
import struct
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import IntsFill, NormalFill
from benchfarm_engines.litert_writer import Quant, TfliteWriter
from benchfarm_workloads import inspect_child
from benchfarm_workloads.fills import filled
from benchfarm_workloads.tflite_file import read_file
from benchfarm_workloads.tflite_reference import REFERENCE_FLOPS_MAX, ReferenceRun, by_reference_kernels
from benchfarm_workloads.verdicts import InspectionLimits, InspectionRequest
from tests.engines.catalogue import drawn_kernels
from tests.engines.test_litert_convert import converted
from tests.workloads.conftest import Inspect, refused

Code = schema.BuiltinOperator


def relu(code: int = Code.RELU, name: str = "x", dtype: str = "float32") -> bytes:
    writer = TfliteWriter()
    x, y = writer.tensor((1, 4), dtype, name), writer.tensor((1, 4), dtype, "y")
    writer.operator(code, [x], [y])
    return writer.to_bytes([x], [y])


def dense(*, quantised: bool = False) -> bytes:
    """1 x 8 times 4 x 8, with a bias."""
    writer, generator = TfliteWriter(), np.random.default_rng(0)
    dtype, steps = ("int8", Quant((0.05,), 3)) if quantised else ("float32", None)
    weights = generator.integers(-90, 90, (4, 8)).astype(dtype)
    bias = np.arange(4).astype("int32" if quantised else "float32")
    x, y = writer.tensor((1, 8), dtype, "x", steps), writer.tensor((1, 4), dtype, "y", Quant((9.0,)) if steps else None)
    w = writer.constant(weights, Quant((0.02,)) if quantised else None)
    b = writer.constant(bias, Quant((0.001,)) if quantised else None)
    writer.operator(Code.FULLY_CONNECTED, [x, w, b], [y], schema.FullyConnectedOptionsT())
    return writer.to_bytes([x], [y])


def _constants(content: bytes) -> tuple[Any, Any]:
    """The weights and the bias of `dense`, quantised."""
    model = schema.ModelT.InitFromPackedBuf(content)
    held = [bytes(model.buffers[one.buffer].data) for one in model.subgraphs[0].tensors if one.buffer]
    return np.frombuffer(held[0], np.int8), np.frombuffer(held[1], np.int32)


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content)
    change(model)
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def open_first_dimension(model: Any) -> None:
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = [-1, 4]


def test_a_file_is_known_by_its_bytes_and_described_in_full(inspect: Inspect) -> None:
    found = inspect(dense())
    assert (found.format, found.opset, found.dims, found.outputs) == ("tflite", 3, {}, 1)
    assert [(one.name, one.dtype, one.shape, one.fill) for one in found.inputs] == [
        ("x", "float32", (1, 8), NormalFill(seed=0))
    ]
    assert (found.flops, found.parameters, found.reasons) == (2 * 4 * 8, 4 * 8 + 4, ())
    [node] = found.graph.nodes
    assert (node.op, node.inputs[0], node.outputs) == ("FULLY_CONNECTED", "x", ("y",))
    assert [found.graph.values[name].role for name in (*node.inputs, "y")] == ["input", "weight", "weight", "output"]
    assert found.graph.values[node.inputs[1]].shape == (4, 8)
    assert {"rlimits", "no_new_privs"} <= set(found.confinement)


def test_the_reference_of_int8_is_the_files_own_run_in_plain_kernels(inspect: Inspect) -> None:
    content = dense(quantised=True)
    found = inspect(content)
    [given] = found.inputs
    assert (given.dtype, given.fill) == ("int8", IntsFill(below=128))
    assert found.reasons == ("input 'x' is filled with integers below 128; give its fill if the model sees others",)
    weights, bias = _constants(content)
    real = (filled(given).astype(float) - 3) * 0.05 @ (weights.reshape(4, 8).T * 0.02) + bias * 0.001
    with np.load(found.reference_path, allow_pickle=False) as reference:
        assert reference["out0"].dtype == np.int8
        np.testing.assert_allclose(reference["out0"] * 9.0, np.clip(real, -128 * 9, 127 * 9), atol=9.0)


def test_the_reference_is_of_the_reference_kernels_where_they_are_fast_enough(inspect: Inspect) -> None:
    content = dense()
    inputs = inspect(content).inputs
    plain = ReferenceRun(content, inputs)
    assert by_reference_kernels(plain, content, inputs, REFERENCE_FLOPS_MAX) is not plain
    assert by_reference_kernels(plain, content, inputs, REFERENCE_FLOPS_MAX + 1) is plain
    assert by_reference_kernels(plain, content, inputs, None) is plain
    damaged = content[:100]
    assert by_reference_kernels(plain, damaged, inputs, 0) is plain


def test_a_converted_kernel_runs_as_it_was_measured(inspect: Inspect) -> None:
    [drawn] = drawn_kernels("conv-bn-act", 1)
    found = inspect(converted(drawn).content)
    assert "CONV_2D" in {node.op for node in found.graph.nodes}
    assert found.flops is not None
    assert found.flops > 0


def test_an_open_dimension_is_bound_by_its_place(inspect: Inspect) -> None:
    content = changed(relu(), open_first_dimension)
    error = refused(inspect, content)
    assert (error.code, error.field) == ("unbound_dims", "dims")
    found = inspect(content, dims={"x[0]": 3})
    assert found.inputs[0].shape == (3, 4)
    assert found.graph.values["y"].shape == (3, 4)
    assert refused(inspect, content, dims={"x[0]": 3, "n": 1}).code == "invalid_request"


def _external(model: Any) -> None:
    model.externalBuffers = [schema.ExternalBufferT()]


def _wordy(model: Any) -> None:
    model.subgraphs[0].tensors[0].type = schema.TensorType.STRING


def _lost(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = [7]


def _empty(model: Any) -> None:
    model.subgraphs[0].tensors[0].shape = [0, 4]


def _newer(model: Any) -> None:
    model.version = 4


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (relu()[:200], "truncated_model"),
        (relu()[:8], "truncated_model"),
        (changed(relu(), _external), "external_data"),
        (changed(relu(), _wordy), "unsupported_dtype"),
        (changed(relu(), _lost), "truncated_model"),
        (changed(relu(), _newer), "unsupported_opset"),
        (changed(relu(), _empty), "invalid_workload"),
        (relu(name=""), "inspection_failed"),
        (relu(Code.RANDOM_UNIFORM), "random_operator"),
        (relu(Code.CUSTOM), "unknown_operator"),
        (relu(Code.NON_MAX_SUPPRESSION_V4), "unknown_operator"),
        (relu(Code.LOG, dtype="float32"), "invalid_workload"),
    ],
)
def test_what_cannot_be_measured_says_why(content: bytes, code: str) -> None:
    request = InspectionRequest(
        model_descriptor=0, reference_descriptor=0, format="tflite", dims={}, fills={}, limits=InspectionLimits()
    )
    with pytest.raises(InvalidRequest) as caught:
        inspect_child._inspect_tflite(content, request, io.BytesIO(), ())
    assert caught.value.code == code


def test_a_file_is_what_it_is_named(inspect: Inspect) -> None:
    assert refused(inspect, relu(), named="onnx").code == "not_onnx"
    assert refused(inspect, b"hello", named="tflite").code == "not_tflite"
    assert inspect(relu(), named="tflite").format == "tflite"


def test_the_operator_hears_what_is_missing(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.modules['ai_edge_litert'] = None; from benchfarm_workloads.inspect_child import main"
    launch = subprocess.Popen

    def without(argv: list[str], **more: Any) -> Any:
        return launch([argv[0], "-I", "-c", f"{program}; sys.exit(main())"], **more)

    monkeypatch.setattr(subprocess, "Popen", without)
    error = refused(inspect, relu())
    assert error.code == "format_unavailable"
    assert "ai-edge-litert" in error.detail


TYPED = {
    *("truncated_model", "not_tflite", "unsupported_opset", "external_data", "too_many_nodes", "inspection_failed"),
    *("unsupported_dtype", "unknown_operator", "unbound_dims", "invalid_workload", "model_too_large_for_inspection"),
}


def test_damaged_bytes_are_read_or_refused() -> None:
    """Our reader alone, on damage everywhere: it never raises anything else."""
    content, chance = dense(), random.Random(5)
    outcomes = []
    for number in range(2000):
        damaged = bytearray(content[: chance.randrange(8, len(content) + 1)] if number % 3 == 0 else content)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(8, max(9, len(damaged)))
            if place + 4 <= len(damaged):
                struct.pack_into("<I", damaged, place, chance.choice((0, 1, 2**31, 2**32 - 1, chance.getrandbits(32))))
        outcomes.append(_outcome(lambda content: read_file(content, max_nodes=100), bytes(damaged)))
    assert {*outcomes} <= TYPED | {"read"}
    assert 100 < outcomes.count("read") < 1900


def test_damaged_files_never_take_the_parent_with_them(inspect: Inspect) -> None:
    """LiteRT's own reading of them, in the cage."""
    content, chance = dense(), random.Random(6)
    outcomes = []
    for _ in range(4):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[chance.randrange(8, len(damaged))] ^= 1 << chance.randrange(8)
        outcomes.append(_outcome(inspect, bytes(damaged)))
    assert {*outcomes} <= TYPED | {"read"}


def _outcome(read: Callable[[bytes], object], content: bytes) -> str:
    try:
        read(content)
    except InvalidRequest as error:
        return error.code
    return "read"
