"""The check of uploads through the real limited child: what it finds, and how it says no."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import FunctionProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from benchfarm_core.errors import Unavailable
from benchfarm_core.workloads import IntsFill, NormalFill
from benchfarm_workloads.fills import filled
from benchfarm_workloads.inspection import REFERENCE_NAME, inspect_upload
from benchfarm_workloads.onnx_canary import build_canary
from benchfarm_workloads.verdicts import MAX_FLOPS, InspectionLimits, whole_flops
from tests.old_kernel import OLD_KERNEL
from tests.workloads.conftest import Inspect, refused

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def tensor(name: str, shape: Sequence[int | str | None] | None, dtype: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    *,
    weights: Sequence[TensorProto] = (),
    opset: int = 17,
    ir_version: int = 8,
    domains: Sequence[str] = (),
    functions: Sequence[FunctionProto] = (),
) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=list(weights))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=functions)
    return bytes(model.SerializeToString())


def relu(**changes: Any) -> bytes:
    arguments = {"inputs": [tensor("x", [1, 3])], "outputs": [tensor("y", [1, 3])]} | changes
    return model_of([helper.make_node("Relu", ["x"], ["y"])], **arguments)


def test_an_accepted_model_is_described_in_full(inspect: Inspect) -> None:
    content = build_canary()
    found = inspect(content)
    assert (found.format, found.opset, found.dims, found.outputs) == ("onnx", 17, {}, 1)
    assert [(spec.name, spec.dtype, spec.shape) for spec in found.inputs] == [("x", "float32", (1, 3, 96, 96))]
    assert found.inputs[0].fill == NormalFill(seed=0)
    weights = onnx.load_from_string(content).graph.initializer
    assert found.parameters == sum(numpy_helper.to_array(weight).size for weight in weights if weight.dims)
    assert found.flops is not None
    assert 15_000_000 < found.flops < 30_000_000
    assert found.reasons == ()
    first = found.graph.nodes[0]
    assert (first.op, first.attributes["strides"]) == ("Conv", (2, 2))
    assert found.graph.values[first.outputs[0]].shape == (1, 16, 48, 48)
    assert found.graph.values[first.inputs[1]].role == "weight"
    assert found.graph.values["x"].role == "input"


def test_the_child_is_confined(inspect: Inspect) -> None:
    assert {"rlimits", "no_new_privs"} <= set(inspect(relu()).confinement)


BARRED = (
    OLD_KERNEL
    + """
from pathlib import Path
from benchfarm_core.errors import BenchfarmError
from benchfarm_workloads.inspection import inspect_upload
try:
    inspect_upload(Path(sys.argv[1]), out_dir=Path(sys.argv[2]))
except BenchfarmError as error:
    print(type(error).__name__, error.code)
"""
)
"""Inspects an upload on a kernel that has neither Landlock nor namespaces nor filters, as far as it can tell."""


def test_nothing_is_opened_where_no_cage_holds(tmp_path: Path) -> None:
    upload, out_dir = tmp_path / "upload.onnx", tmp_path / "out"
    upload.write_bytes(relu())
    out_dir.mkdir()
    argv = [sys.executable, "-c", BARRED, str(upload), str(out_dir)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["Unavailable", "inspection_unavailable"], done.stderr
    assert "network stay open" in done.stderr
    assert list(out_dir.iterdir()) == []


def test_the_reference_is_what_onnx_runtime_says(inspect: Inspect) -> None:
    content = build_canary()
    found = inspect(content)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    [expected] = session.run(None, {spec.name: filled(spec) for spec in found.inputs})
    with np.load(found.reference_path, allow_pickle=False) as reference:
        assert list(reference) == ["out0"]
        error = np.linalg.norm(reference["out0"] - expected) / np.linalg.norm(expected)
    assert error < 1e-5
    stored = found.reference_path.read_bytes()
    assert (hashlib.sha256(stored).hexdigest(), len(stored)) == (found.reference_sha256, found.reference_size_bytes)
    assert inspect(content).reference_sha256 == found.reference_sha256


def test_dims_are_bound_by_name_or_by_axis(inspect: Inspect) -> None:
    content = relu(inputs=[tensor("x", ["batch", None])], outputs=[tensor("y", ["batch", None])])
    found = inspect(content, dims={"batch": 2, "x[1]": 7})
    assert found.inputs[0].shape == (2, 7)
    assert found.graph.values["y"].shape == (2, 7)
    with np.load(found.reference_path, allow_pickle=False) as reference:
        assert reference["out0"].shape == (2, 7)


def test_several_outputs_keep_the_graph_order(inspect: Inspect) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["b"]), helper.make_node("Relu", ["x"], ["a"])]
    found = inspect(model_of(nodes, [tensor("x", [4])], [tensor("b", [4]), tensor("a", [4])]))
    values = filled(found.inputs[0])
    with np.load(found.reference_path, allow_pickle=False) as reference:
        np.testing.assert_array_equal(reference["out0"], -values)
        np.testing.assert_array_equal(reference["out1"], np.maximum(values, 0))


def test_integer_inputs_get_small_integers_and_a_note(inspect: Inspect) -> None:
    table = numpy_helper.from_array(np.ones((2, 8), np.float32), "table")
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    content = model_of(nodes, [tensor("ids", [1, 4], INT64)], [tensor("y", [1, 4, 8])], weights=[table])
    found = inspect(content)
    assert found.inputs[0].fill == IntsFill(below=2, seed=0)
    assert "'ids'" in found.reasons[0]
    chosen = inspect(content, fills={"ids": IntsFill(below=1, seed=5)})
    assert chosen.inputs[0].fill == IntsFill(below=1, seed=5)
    assert chosen.reasons == ()
    assert refused(inspect, content, fills={"ids": NormalFill()}).field == "fills"
    assert refused(inspect, content, fills={"idz": NormalFill()}).field == "fills"


def test_flops_of_the_counted_operators(inspect: Inspect) -> None:
    weight = numpy_helper.from_array(np.full((4, 5), 0.1, np.float32), "w")
    kernel = numpy_helper.from_array(np.full((2, 3, 2, 2), 0.1, np.float32), "k")
    nodes = [
        helper.make_node("ConvTranspose", ["image", "k"], ["up"], strides=[2, 2]),
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Gemm", ["x", "w"], ["y"], transA=0),
    ]
    outputs = [tensor("up", [1, 3, 6, 6]), tensor("product", [2, 5]), tensor("y", [2, 5])]
    content = model_of(nodes, [tensor("x", [2, 4]), tensor("image", [1, 2, 3, 3])], outputs, weights=[weight, kernel])
    assert inspect(content).flops == 2 * 18 * 12 + 2 * 10 * 4 * 2


def test_unknown_shapes_leave_flops_open(inspect: Inspect) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["numbers"], to=FLOAT),
        helper.make_node("Transpose", ["numbers"], ["turned"]),
        helper.make_node("MatMul", ["numbers", "turned"], ["y"]),
    ]
    found = inspect(model_of(nodes, [tensor("x", [3, 3])], [tensor("y", [2, 2])]))
    assert found.flops is None
    assert "no fixed shape" in found.reasons[0]


@pytest.mark.parametrize(
    ("counts", "whole", "why"),
    [
        ([], 0, ""),
        ([3, MAX_FLOPS - 3], MAX_FLOPS, ""),
        ([3, MAX_FLOPS - 2], None, "more than 10^18"),
        ([10**29, None], None, "1 counted operators have no fixed shape"),
    ],
)
def test_absurd_shapes_leave_flops_open(counts: list[int | None], whole: int | None, why: str) -> None:
    """A file may say what it likes of its inner shapes: beyond 64 bits nothing could be stored."""
    found, reasons = whole_flops(counts)
    assert found == whole
    assert why in "".join(reasons)
    assert bool(why) == bool(reasons)


def external_data_model() -> bytes:
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model_of(nodes, [tensor("x", [1, 3])], [tensor("y", [1, 3])], weights=[weight])


def hidden_external_data_model() -> bytes:
    """The same trick inside the branch of an If."""
    value = TensorProto(name="secret", data_type=FLOAT, dims=[3])
    value.external_data.add(key="location", value="/etc/hostname")
    branch = helper.make_graph([helper.make_node("Constant", [], ["b"], value=value)], "b", [], [tensor("b", [3])])
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    return model_of(nodes, [tensor("x", [], TensorProto.BOOL)], [tensor("y", [3])])


def custom_domain_model() -> bytes:
    nodes = [helper.make_node("Gelu", ["x"], ["y"], domain="com.example")]
    return model_of(nodes, [tensor("x", [1])], [tensor("y", [1])], domains=["com.example"])


def local_function_model() -> bytes:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("Twice", ["x"], ["y"], domain="own")]
    return model_of(nodes, [tensor("x", [1])], [tensor("y", [1])], domains=["own"], functions=[function])


def short_weight_model() -> bytes:
    weight = TensorProto(name="w", data_type=FLOAT, dims=[3, 3], raw_data=b"\0" * 8)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model_of(nodes, [tensor("x", [1, 3])], [tensor("y", [1, 3])], weights=[weight])


def one_operator(op: str, dtype: int = FLOAT, **attributes: Any) -> bytes:
    nodes = [helper.make_node(op, ["x"], ["y"], **attributes)]
    return model_of(nodes, [tensor("x", [1, 3], dtype)], [tensor("y", [1, 3], dtype)])


def scaled(factor: float) -> bytes:
    weight = numpy_helper.from_array(np.asarray(factor, np.float32), "w")
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    return model_of(nodes, [tensor("x", [1, 3])], [tensor("y", [1, 3])], weights=[weight])


def string_model() -> bytes:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return model_of(nodes, [tensor("x", [1], TensorProto.STRING)], [tensor("y", [1], TensorProto.STRING)])


REFUSALS = {
    "text": (b"import torch\nprint('hello')\n" * 50, "not_onnx", "text"),
    "json text": (b'{"model": [1, 2, 3]}', "not_onnx", "text"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not_onnx", "LFS"),
    "torch archive": (b"PK\x03\x04" + bytes(100), "not_onnx", "PyTorch"),
    "noise": (bytes(range(200, 256)) * 20, "not_onnx", "start"),
    "empty": (b"", "truncated_model", "empty"),
    "truncated": (build_canary()[:-5000], "truncated_model", "upload it again"),
    "short weight": (short_weight_model(), "truncated_model", "8 bytes, its shape needs 36"),
    "external data": (external_data_model(), "external_data", "'w'"),
    "external data in a branch": (hidden_external_data_model(), "external_data", "'secret'"),
    "custom domain": (custom_domain_model(), "unknown_operator", "'com.example'"),
    "local function": (local_function_model(), "unknown_operator", "inline"),
    "misspelt operator": (one_operator("Rellu"), "unknown_operator", "'Rellu'"),
    "operator too new": (one_operator("Gelu"), "unknown_operator", "opset 17"),
    "random operator": (one_operator("RandomNormalLike"), "random_operator", "RandomNormalLike"),
    "open dim": (relu(inputs=[tensor("x", ["n", 3])]), "unbound_dims", "dims={'n': 1}"),
    "nameless dim": (relu(inputs=[tensor("x", [None, 3])]), "unbound_dims", "'x[0]'"),
    "no such size": (
        relu(inputs=[tensor("x", [0, 3])]),
        "invalid_workload",
        "size 0 is impossible; export it with another",
    ),
    "negative size": (relu(inputs=[tensor("x", [3, -1])]), "invalid_workload", "axis 1: size -1 is impossible"),
    "no shape": (relu(inputs=[tensor("x", None)]), "unbound_dims", "no shape"),
    "old opset": (relu(opset=6), "unsupported_opset", "7 to 26"),
    "new opset": (relu(opset=99), "unsupported_opset", "opset 99"),
    "new file version": (relu(ir_version=99), "unsupported_opset", "IR version 99"),
    "strings": (string_model(), "unsupported_dtype", "'string'"),
    "complex": (one_operator("Identity", TensorProto.COMPLEX64), "unsupported_dtype", "complex64"),
    "infinite result": (scaled(np.inf), "invalid_workload", "Inf"),
    "nan result": (one_operator("Log"), "invalid_workload", "NaN"),
    "denormal result": (scaled(1e-40), "invalid_workload", "denormals"),
    "constant": (model_of([], [], [tensor("y", [1])]), "inspection_failed", "no operator"),
    "no output": (
        model_of([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", [1])], []),
        "invalid_workload",
        "output",
    ),
    "impossible shapes": (one_operator("Transpose", perm=[0, 1, 2]), "inspection_failed", "ONNX Runtime"),
}


@pytest.mark.parametrize(("content", "code", "hint"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_files_are_refused_with_their_own_code(inspect: Inspect, content: bytes, code: str, hint: str) -> None:
    error = refused(inspect, content)
    assert (error.code, hint in error.detail) == (code, True), error.detail


def test_too_many_nodes(inspect: Inspect) -> None:
    error = refused(inspect, build_canary(), limits=InspectionLimits(nodes=10))
    assert (error.code, "26 operators" in error.detail) == ("too_many_nodes", True)


def test_a_binding_that_fits_nothing_is_named(inspect: Inspect) -> None:
    error = refused(inspect, relu(), dims={"btach": 1})
    assert (error.code, error.field) == ("invalid_request", "dims")
    assert "'btach'" in error.detail
    assert refused(inspect, relu(), dims={"n": 0}).field == "dims"


def test_a_small_file_that_wants_much_memory(inspect: Inspect) -> None:
    shape = numpy_helper.from_array(np.asarray([1 << 20, 1 << 12], np.int64), "shape")
    nodes = [helper.make_node("Expand", ["x", "shape"], ["big"]), helper.make_node("ReduceSum", ["big"], ["y"])]
    error = refused(inspect, model_of(nodes, [tensor("x", [1, 1])], [tensor("y", [1, 1])], weights=[shape]))
    assert error.code == "model_too_large_for_inspection"


def test_outputs_and_inputs_have_limits(inspect: Inspect) -> None:
    content = relu(inputs=[tensor("x", ["n", 1000])], outputs=[tensor("y", ["n", 1000])])
    limits = InspectionLimits(reference_bytes=100_000)
    error = refused(inspect, content, dims={"n": 100}, limits=limits)
    assert (error.code, "outputs" in error.detail) == ("model_too_large_for_inspection", True)
    error = refused(inspect, content, dims={"n": 100}, limits=InspectionLimits(input_bytes=1000))
    assert (error.code, "inputs" in error.detail) == ("model_too_large_for_inspection", True)


def endless_model() -> bytes:
    """A loop of 2^62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Neg", ["v"], ["v2"])],
        "body",
        [tensor("i", [], INT64), tensor("c", [], TensorProto.BOOL), tensor("v", [1])],
        [tensor("c2", [], TensorProto.BOOL), tensor("v2", [1])],
    )
    rounds = numpy_helper.from_array(np.asarray(1 << 62, np.int64), "rounds")
    nodes = [helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body)]
    return model_of(nodes, [tensor("x", [1])], [tensor("y", [1])], weights=[rounds])


def test_an_endless_model_runs_out_of_processor_time(inspect: Inspect) -> None:
    error = refused(inspect, endless_model(), limits=InspectionLimits(cpu_s=2))
    assert (error.code, "2 s of processor time" in error.detail) == ("inspection_timeout", True)


def test_an_endless_model_runs_out_of_wall_time(inspect: Inspect) -> None:
    assert refused(inspect, endless_model(), limits=InspectionLimits(wall_s=1.5)).code == "inspection_timeout"
    assert _children() == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGSEGV, "inspection_failed"),
        (signal.SIGRTMIN + 6, "inspection_failed"),  # has no name
        (signal.SIGKILL, "model_too_large_for_inspection"),
    ],
)
def test_a_child_that_dies_gives_a_clear_verdict(inspect: Inspect, number: int, code: str) -> None:
    killer = threading.Thread(target=_kill_the_child, args=(number,))
    killer.start()
    error = refused(inspect, endless_model())
    killer.join()
    assert error.code == code


def test_a_full_disk_is_no_fault_of_the_file(tmp_path: Path) -> None:
    """/dev/full has room for nothing, as a full disk has none."""
    out_dir, upload = tmp_path / "out", tmp_path / "upload.onnx"
    out_dir.mkdir()
    upload.write_bytes(relu())
    (out_dir / REFERENCE_NAME).symlink_to("/dev/full")
    with pytest.raises(Unavailable) as caught:
        inspect_upload(upload, out_dir=out_dir)
    assert caught.value.code == "disk_full"
    assert list(out_dir.iterdir()) == []


def _kill_the_child(number: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for pid in _children():
            os.kill(pid, number)
            return
        threading.Event().wait(0.01)


def _children() -> list[int]:
    """Inspection children of this process, the exec done."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile
        if parent == os.getpid() and b"inspect_child" in command:
            found.append(int(folder.name))
    return found
