"""Files for MNN: silent, the same each time, and made without a process, a socket or a trace elsewhere."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("_mnncengine", reason="MNN is not installed")

from onnx import TensorProto, helper, numpy_helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.launch import converting_argv, launch_environment
from benchfarm_engines.launch_request import InputSpec
from benchfarm_engines.mnn_engine import ENGINE
from tests.engines.catalogue import Graph, convert, distance_after, normal, refusal
from tests.engines.conftest import MEMORY_BYTES, conv_graph, graph
from tests.engines.test_engine_interface import one_node

X = (normal([1, 4]),)

TRAPPED = """
import ctypes, os, socket, subprocess, sys
from benchfarm_core import seccomp
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no new privileges, which the filter needs
seccomp._DENY = seccomp._KILL_PROCESS
assert seccomp.deny_system_calls(network=False)
deed, onnx_file = sys.argv[1:]
if deed == "socket":
    socket.socket()
if deed == "program":
    subprocess.run(["pip"])
import numpy as np
from benchfarm_engines.conversion import ConversionRequest
from benchfarm_engines.engine import OpenRequest
from benchfarm_engines.launch_request import InputSpec
from benchfarm_engines.mnn_convert import CONVERTER
from benchfarm_engines.mnn_engine import ENGINE
from pathlib import Path
spec = InputSpec("x", "float32", (1, 8, 4, 4), {"kind": "normal", "seed": 0})
made = CONVERTER.convert(ConversionRequest(Path(onnx_file).read_bytes(), "fp32", {}, (spec,)))
artifact = Path(os.environ["TMPDIR"], "m")
artifact.write_bytes(made.content)
session = ENGINE.open(OpenRequest(artifact, {"x": np.ones(spec.shape, np.float32)}, "fp32", 2, {}))
session.run()
session.close()
print("done")
"""


def trapped(deed: str, folder: Path) -> tuple[int, list[str], str]:
    """A child that dies by its first socket, program or process: its end, what it left behind, what it said."""
    places = {name: folder / deed / name for name in ("home", "scratch", "here", "bin")}
    for place in places.values():
        place.mkdir(parents=True)
    for name in ("pip", "pip3", "python", "sh"):
        trap = places["bin"] / name
        trap.write_text(f"#!/bin/sh\ntouch {places['home']}/started\n")
        trap.chmod(0o700)
    onnx_file = folder / "conv.onnx"
    onnx_file.write_bytes(conv_graph(8, 4))
    environment = {
        **launch_environment(str(places["scratch"])),
        "HOME": str(places["home"]),
        "PATH": str(places["bin"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    argv = [sys.executable, "-c", TRAPPED, deed, str(onnx_file)]
    done = subprocess.run(argv, env=environment, cwd=places["here"], capture_output=True, text=True, timeout=60)
    left = [f"{name}/{path.name}" for name in ("home", "scratch", "here") for path in places[name].iterdir()]
    return done.returncode, left, done.stdout + done.stderr


def test_neither_import_nor_conversion_starts_a_process_or_opens_a_socket(tmp_path: Path) -> None:
    code, left, said = trapped("convert", tmp_path)
    assert code == 0, said
    assert left == ["scratch/m"]


@pytest.mark.parametrize("deed", ["socket", "program"])
def test_the_trap_of_that_test_shuts(deed: str, tmp_path: Path) -> None:
    code, left, _ = trapped(deed, tmp_path)
    assert (code, left) == (-signal.SIGSYS, [])


def test_conversion_says_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refusal(ENGINE, (one_node("Nope"), X), tmp_path)
    capfd.readouterr()  # what the library said when it was imported, which may have waited in a buffer
    convert(ENGINE, (conv_graph(8, 4), (normal([1, 8, 4, 4]),)))
    refusal(ENGINE, (one_node("Nope"), X), tmp_path)
    os.write(1, b"still here")
    assert capfd.readouterr() == ("still here", "")


def test_the_same_model_gives_the_same_bytes() -> None:
    conv: Graph = (conv_graph(8, 4), (normal([1, 8, 4, 4]),))
    other: Graph = (conv_graph(8, 5), (normal([1, 8, 5, 5]),))
    assert convert(ENGINE, conv).content == convert(ENGINE, conv).content != convert(ENGINE, other).content


def test_open_dimensions_are_bound(tmp_path: Path) -> None:
    dynamic: Graph = (conv_graph(8, 8, "N"), (normal([2, 8, 8, 8]),))
    assert distance_after(2, ENGINE, dynamic, tmp_path) < 1e-2


def typed(shape: list[int], dtype: str, below: int) -> InputSpec:
    return InputSpec("x", dtype, tuple(shape), {"kind": "ints", "below": below, "seed": 1})


@pytest.mark.parametrize(
    ("spec", "element", "nodes"),
    [
        (typed([1, 8], "int64", 50), TensorProto.INT64, [helper.make_node("Gather", ["w", "x"], ["y"])]),
        (typed([1, 8], "int32", 50), TensorProto.INT32, [helper.make_node("Gather", ["w", "x"], ["y"])]),
        (typed([1, 8], "bool", 2), TensorProto.BOOL, [helper.make_node("Cast", ["x"], ["y"], to=1)]),
        (typed([1, 3, 8, 8], "uint8", 256), TensorProto.UINT8, [helper.make_node("Cast", ["x"], ["y"], to=1)]),
        (normal([]), TensorProto.FLOAT, [helper.make_node("Add", ["x", "w"], ["y"])]),
        (normal([1, 2, 3, 4, 5]), TensorProto.FLOAT, [helper.make_node("Neg", ["x"], ["y"])]),
    ],
)
def test_inputs_of_uploads_keep_their_meaning(spec: InputSpec, element: int, nodes: Any, tmp_path: Path) -> None:
    assert distance_after(3, ENGINE, (upload(nodes, spec, element, TensorProto.FLOAT), (spec,)), tmp_path) < 1e-6


@pytest.mark.parametrize(("dtype", "element"), [("float64", TensorProto.DOUBLE), ("int8", TensorProto.INT8)])
def test_inputs_of_other_types_are_a_failed_conversion(dtype: str, element: int, tmp_path: Path) -> None:
    spec = typed([1, 4], dtype, 9)
    failure = refusal(
        ENGINE, (upload([helper.make_node("Neg", ["x"], ["y"])], spec, element, element), (spec,)), tmp_path
    )
    assert failure.code is FailureCode.CONVERSION_FAILED
    assert dtype in failure.detail


def test_a_graph_that_mnn_cannot_prepare_is_a_failed_conversion(tmp_path: Path) -> None:
    spec = normal([4, 8])
    counted = upload([helper.make_node("NonZero", ["x"], ["y"])], spec, TensorProto.FLOAT, TensorProto.INT64)
    assert refusal(ENGINE, (counted, (spec,)), tmp_path).code is FailureCode.CONVERSION_FAILED


@pytest.mark.parametrize("opset", [9, 12, 17, 21])
def test_old_and_new_opsets_are_read(opset: int, tmp_path: Path) -> None:
    spec = normal([1, 4, 8, 8])
    content = upload([helper.make_node("Relu", ["x"], ["y"])], spec, TensorProto.FLOAT, TensorProto.FLOAT, opset=opset)
    assert distance_after(3, ENGINE, (content, (spec,)), tmp_path) == 0


def upload(nodes: Any, spec: InputSpec, element: int, gives: int, *, opset: int = 17) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", element, list(spec.shape))],
        [helper.make_tensor_value_info("y", gives, None)],
        [numpy_helper.from_array(np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", opset)]
    content: bytes = helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()
    return content


def test_an_operator_that_is_lacking_is_named(tmp_path: Path) -> None:
    for operator, domain in (("Nope", ""), ("Relu", "my.domain")):
        failure = refusal(ENGINE, (one_node(operator, domain), X), tmp_path)
        assert (failure.code, failure.subject) == (FailureCode.UNSUPPORTED_OPERATOR, operator)


def test_files_that_are_no_model_are_invalid(tmp_path: Path) -> None:
    whole = conv_graph(32, 28)
    for content in (b"hello, I am a text", b"", whole[: len(whole) // 2]):
        assert refusal(ENGINE, (content, X), tmp_path).code is FailureCode.INVALID_WORKLOAD


def test_inputs_that_do_not_fit_are_invalid(tmp_path: Path) -> None:
    double = replace(X[0], dtype="float64")
    for inputs in ((normal([1, 5]),), (normal([1, 4, 1]),), (normal([1, 4], name="other"),), (double,), ()):
        assert refusal(ENGINE, (one_node("Relu"), inputs), tmp_path).code is FailureCode.INVALID_WORKLOAD


def test_shapes_that_cannot_be_are_a_failed_conversion(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "z"], ["y"])
    impossible: Graph = (
        graph([node], {"x": [2, 3], "z": [4, 5]}, ["y"]),
        (normal([2, 3]), normal([4, 5], name="z")),
    )
    assert refusal(ENGINE, impossible, tmp_path).code is FailureCode.CONVERSION_FAILED


def test_the_converting_child_makes_it_in_its_cage(tmp_path: Path) -> None:
    conv: Graph = (conv_graph(8, 4), (normal([1, 8, 4, 4]),))
    folder = tmp_path / "child"
    folder.mkdir()
    questions = []
    for name, content in {"conv": conv[0], "nope": one_node("Nope")}.items():
        (tmp_path / name).write_bytes(content)
        shape = [1, 8, 4, 4] if name == "conv" else [1, 4]
        questions.append(
            {
                "engine": "mnn",
                "precision": "fp32",
                "options": {},
                "artifact": str(tmp_path / name),
                "inputs": [{"name": "x", "dtype": "float32", "shape": shape, "fill": {"kind": "normal", "seed": 0}}],
                "out": str(folder / f"{name}.mnn"),
            }
        )
    argv = converting_argv(
        memory_bytes=MEMORY_BYTES, cpu_s=60, readable=[str(tmp_path)], writable=[str(folder)], strict=True
    )
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    environment = launch_environment(str(folder))
    done = subprocess.run(argv, input=lines, env=environment, capture_output=True, text=True, timeout=60)
    made, refused = (json.loads(line) for line in done.stdout.splitlines())
    assert made["ok"], made
    assert (folder / "conv.mnn").read_bytes() == convert(ENGINE, conv).content
    assert (refused["code"], refused["subject"]) == ("unsupported_operator", "Nope")
    assert [path.name for path in folder.iterdir()] == ["conv.mnn"]
