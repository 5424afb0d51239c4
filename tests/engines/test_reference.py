"""The reference child: one process, many workloads, the same bytes each time."""

import hashlib
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchfarm_engines.launch import launch_environment, reference_argv


def scaled_model(factor: float) -> bytes:
    constant = numpy_helper.from_array(np.array([factor], dtype=np.float32), "factor")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [constant],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return content


X = [{"name": "x", "dtype": "float32", "shape": [1, 4], "fill": {"kind": "normal", "seed": 0}}]


def test_a_reference_is_what_its_hash_says(references: Any, workloads: dict[str, Any], tmp_path: Path) -> None:
    conv = workloads["conv"]
    again = conv.reference.with_name("again.npz")
    answers = references([(conv.artifact, conv.inputs, again)] * 2)
    assert answers[0] == answers[1]
    content = again.read_bytes()
    assert answers[0] == {
        "ok": True,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }
    assert content == conv.reference.read_bytes()
    with np.load(again) as archive:
        assert archive.files == ["out0"]
        assert archive["out0"].dtype == np.float32


def test_unfit_outputs_are_invalid_workloads(references: Any, write_model: Any) -> None:
    for name, factor, says in (("nan", math.nan, "NaN"), ("inf", math.inf, "Inf"), ("tiny", 1e-40, "denormal")):
        model = write_model(name, scaled_model(factor), X)
        (answer,) = references([(model.artifact, model.inputs, model.reference)])
        assert (answer["ok"], answer["code"]) == (False, "invalid_workload")
        assert says in answer["detail"]
        assert not model.reference.exists()


def test_it_lives_on_after_every_kind_of_bad_line(
    workloads: dict[str, Any], batch_folder: Path, tmp_path: Path
) -> None:
    conv = workloads["conv"]
    good = json.dumps({"artifact": str(conv.artifact), "inputs": conv.inputs, "out": str(batch_folder / "o.npz")})
    bad = [
        "not json",
        "[]",
        "{}",
        json.dumps({"artifact": "/nope", "inputs": [], "out": str(batch_folder / "n.npz")}),
        json.dumps({"artifact": str(conv.artifact), "inputs": conv.inputs, "out": str(tmp_path / "outside.npz")}),
        json.dumps({"artifact": str(conv.artifact), "inputs": [{"name": 1}], "out": str(batch_folder / "n.npz")}),
    ]
    argv = reference_argv(
        memory_bytes=3 * 1024**3, cpu_s=30, readable=[str(batch_folder)], writable=[str(batch_folder)]
    )
    done = subprocess.run(
        argv, input="\n".join([*bad, good]), env=launch_environment(str(tmp_path)), capture_output=True, text=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["ok"] for answer in answers] == [False] * len(bad) + [True], done.stderr
    assert all(answer["detail"] for answer in answers[:-1])
    assert not (tmp_path / "outside.npz").exists()


def test_limits_that_make_no_sense(tmp_path: Path) -> None:
    argv = [*reference_argv(memory_bytes=1, cpu_s=1, readable=[], writable=[])[:-1], "{}"]
    done = subprocess.run(argv, env=launch_environment(str(tmp_path)), capture_output=True, text=True, input="")
    assert done.returncode == 3
    assert json.loads(done.stdout)["code"] == "bad_request"
