"""The converting child: real int8 graphs, and converters that misbehave, each with a typed answer."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchfarm_engines.answering import write_answer
from benchfarm_engines.converting import SEEN
from benchfarm_engines.launch import converting_argv, launch_environment
from tests.engines.conftest import MEMORY_BYTES

CONVERTER = '''
"""A converter that does one deed and then copies the graph."""
import errno, os, socket
from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import Converted
from benchfarm_engines.edges import Edge, Edges
from benchfarm_engines.engine import EngineFailure

class Hostile:
    def convert(self, request):
        deed = request.options["deed"]
        if deed == "reach":
            raise EngineFailure(FailureCode.CONVERSION_FAILED, "; ".join(reached()))
        if deed == "unsupported":
            raise EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, "no HardSwish here", subject="HardSwish")
        if deed == "trip":
            raise KeyError("a node without a name")
        if deed == "memory":
            bytearray(2**40)
        if deed in ("ENOSPC", "EAGAIN", "ENOMEM", "EFBIG"):
            raise OSError(getattr(errno, deed), deed, "/a/path/of/this/machine")
        if deed == "die":
            os.abort()
        print("chatter")
        edges = Edges((Edge("in", "int8", axes=(0, 2, 3, 1), scale=0.5),), (Edge("out"),))
        return Converted(b"made of " + request.onnx_bytes[:4], "hostile", edges)

def reached():
    for name, action in {{
        "token": lambda: open({token!r}).read(),
        "neighbour": lambda: open({neighbour!r}).read(),
        "network": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
        "program": lambda: os.execv("/bin/true", ["true"]),
    }}.items():
        try:
            action()
            yield name + " reached"
        except OSError:
            yield name + " refused"

CONVERTER = Hostile()
'''

ENGINE = """
from benchfarm_engines.engine_options import Option

class Hostile:
    name, formats = "hostile", ("hostile",)
    deeds = ("nothing", "reach", "unsupported", "trip", "memory", "die", "ENOSPC", "EAGAIN", "ENOMEM", "EFBIG")
    options = (Option("deed", "choice", "nothing", "what to do", choices=deeds),)

ENGINE = Hostile()
"""

START = """
import sys
sys.path.append({folder!r})
import benchfarm_engines
benchfarm_engines.__path__.append({folder!r})
from benchfarm_engines import registry
registry._MODULES["hostile"] = "benchfarm_engines.hostile_engine"
from benchfarm_engines.answering import serve
from benchfarm_engines.converting import _answer
sys.exit(serve(sys.argv[1:], _answer))
"""


def asked(argv: list[str], questions: list[dict[str, Any]], home: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        argv,
        input="".join(json.dumps(question) + "\n" for question in questions),
        env=launch_environment(str(home)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return [json.loads(line) for line in done.stdout.splitlines()] or [{"died": done.returncode, "said": done.stderr}]


@pytest.fixture
def hostile(tmp_path: Path, batch_folder: Path, workloads: dict[str, Any]) -> Any:
    """Asks a child with a hostile converter to do each deed in turn."""
    folder = tmp_path / "engine"
    folder.mkdir()
    token, neighbour = tmp_path / "token", tmp_path / "other.onnx"
    for secret in (token, neighbour):
        secret.write_text("secret")
    converter = CONVERTER.format(token=str(token), neighbour=str(neighbour))
    (folder / "hostile_convert.py").write_text(converter)
    (folder / "hostile_engine.py").write_text(ENGINE)
    out = tmp_path / "out"
    out.mkdir()

    def ask(*deeds: str) -> list[dict[str, Any]]:
        conv = workloads["conv"]
        limits = json.loads(
            converting_argv(
                memory_bytes=MEMORY_BYTES, cpu_s=30, readable=[str(conv.artifact)], writable=[str(out)], strict=True
            )[-1]
        )
        argv = [sys.executable, "-I", "-c", START.format(folder=str(folder)), json.dumps(limits)]
        questions = [
            {
                "engine": "hostile",
                "precision": "fp32",
                "options": {"deed": deed},
                "artifact": str(conv.artifact),
                "inputs": conv.inputs,
                "out": str(out / f"{number}"),
            }
            for number, deed in enumerate(deeds)
        ]
        return asked(argv, questions, out)

    return ask


def test_a_converted_file_comes_with_its_edges(hostile: Any, tmp_path: Path) -> None:
    (answer,) = hostile("nothing")
    content = (tmp_path / "out" / "0").read_bytes()
    assert content.startswith(b"made of ")
    assert (answer["ok"], answer["format"], answer["size_bytes"]) == (True, "hostile", len(content))
    assert answer["sha256"] == hashlib.sha256(content).hexdigest()
    assert answer["edges"]["inputs"][0] | {"shape": []} == {
        "name": "in",
        "dtype": "int8",
        "axes": [0, 2, 3, 1],
        "shape": [],
        "scale": 0.5,
        "zero_point": 0,
    }
    assert answer["convert_ms"] > 0


def test_every_failure_is_typed_and_the_child_lives_on(hostile: Any) -> None:
    answers = hostile("unsupported", "trip", "memory", "undreamt", "nothing")
    codes = [answer.get("code") for answer in answers]
    assert codes == ["unsupported_operator", "conversion_failed", "out_of_memory", "bad_request", None]
    assert answers[0]["subject"] == "HardSwish"
    assert "KeyError" in answers[1]["detail"]
    assert answers[4]["ok"]


def test_what_the_machine_lacks_is_no_fault_of_the_graph(hostile: Any) -> None:
    answers = hostile("ENOSPC", "EAGAIN", "ENOMEM", "EFBIG", "nothing")
    codes = [answer.get("code") for answer in answers]
    assert codes == ["disk_full", "runner_died", "runner_died", "conversion_failed", None]
    assert not any("/a/path" in answer.get("detail", "") for answer in answers)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "taken"
    out.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_answer(out, b"made")
    assert list(tmp_path.iterdir()) == [out]


def test_a_converter_that_dies_takes_the_child_with_it_and_no_half_file(hostile: Any, tmp_path: Path) -> None:
    assert hostile("die")[0]["died"] == -6
    assert not (tmp_path / "out" / "0").exists()


def test_a_converter_reaches_neither_tokens_nor_neighbours_nor_the_network(hostile: Any) -> None:
    (answer,) = hostile("reach")
    assert answer["detail"].split("; ") == [f"{one} refused" for one in ("token", "neighbour", "network", "program")]


def test_int8_is_made_of_any_graph_with_its_edges(workloads: dict[str, Any], batch_folder: Path) -> None:
    conv, out = workloads["conv"], batch_folder / "conv.int8"
    question = {
        "engine": None,
        "precision": "int8",
        "options": {"edges": "int8"},
        "artifact": str(conv.artifact),
        "inputs": conv.inputs,
        "out": str(out),
    }
    argv = converting_argv(
        memory_bytes=MEMORY_BYTES, cpu_s=30, readable=[str(batch_folder)], writable=[str(batch_folder)]
    )
    other = {**question, "options": {"edges": "fp32"}, "out": str(batch_folder / "conv.fp32")}
    wrong = {**question, "options": {"edges": "none"}}
    answer, with_fp32_edges, refused = asked(argv, [question, other, wrong], batch_folder)
    assert (answer["ok"], answer["format"]) == (True, "onnx")
    graph = onnx.load_model_from_string(out.read_bytes()).graph
    assert "DequantizeLinear" in {node.op_type for node in graph.node}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT8
    assert [edge["dtype"] for edge in answer["edges"]["inputs"]] == ["int8"]
    assert with_fp32_edges["edges"] is None
    assert refused["code"] == "bad_request"


def test_the_reference_of_an_int8_graph_is_in_the_workloads_own_numbers(
    workloads: dict[str, Any], batch_folder: Path, references: Any
) -> None:
    conv, quantised, out = workloads["conv"], batch_folder / "conv.qdq", batch_folder / "conv.twin.npz"
    question = {
        "engine": None,
        "precision": "int8",
        "options": {},
        "artifact": str(conv.artifact),
        "inputs": conv.inputs,
        "out": str(quantised),
    }
    argv = converting_argv(
        memory_bytes=MEMORY_BYTES, cpu_s=30, readable=[str(batch_folder)], writable=[str(batch_folder)]
    )
    (answer,) = asked(argv, [question], batch_folder)
    (said,) = references([(quantised, conv.inputs, out)], edges=answer["edges"])
    assert said["ok"], said
    with np.load(out) as twin, np.load(conv.reference) as reference:
        assert twin["out0"].shape == reference["out0"].shape
        away = np.linalg.norm(twin["out0"] - reference["out0"]) / np.linalg.norm(reference["out0"])
    assert 1e-4 < away < 5e-2


def test_a_graph_that_an_engine_opens_itself_is_looked_at(workloads: dict[str, Any], batch_folder: Path) -> None:
    conv, double = workloads["conv"], batch_folder / "double.onnx"
    double.write_bytes(as_double(conv.artifact.read_bytes()))
    question = {"engine": None, "precision": "fp32", "options": {}, "inputs": conv.inputs}
    asked_of = [
        {**question, "artifact": str(path), "opened_by": engine, "out": str(batch_folder / f"seen.{number}")}
        for number, (path, engine) in enumerate(
            [(conv.artifact, "onnxruntime"), (double, "onnxruntime"), (double, "openvino")]
        )
    ]
    argv = converting_argv(
        memory_bytes=MEMORY_BYTES, cpu_s=30, readable=[str(batch_folder)], writable=[str(batch_folder)]
    )
    fit, refused, brought = asked(argv, asked_of, batch_folder)
    assert (fit["ok"], brought["ok"]) == (True, True)
    assert (batch_folder / "seen.0").read_bytes() == SEEN
    assert (refused["code"], refused["subject"]) == ("precision_not_obeyed", "Conv")


def test_no_converter_is_given_a_graph_of_another_precision(workloads: dict[str, Any], batch_folder: Path) -> None:
    """LiteRT's would make of a quantised graph what multiplies 8-bit numbers, and call it fp32."""
    conv, quantised, out = workloads["conv"], batch_folder / "conv.given", batch_folder / "conv.given.tflite"
    argv = converting_argv(
        memory_bytes=MEMORY_BYTES, cpu_s=30, readable=[str(batch_folder)], writable=[str(batch_folder)]
    )
    steps = {"engine": None, "precision": "int8", "options": {"edges": "fp32"}, "inputs": conv.inputs}
    file = {"engine": "litert", "options": {}, "inputs": conv.inputs, "artifact": str(quantised), "out": str(out)}
    made, refused, taken = asked(
        argv,
        [
            {**steps, "artifact": str(conv.artifact), "out": str(quantised)},
            {**file, "precision": "fp32"},
            {**file, "precision": "int8", "options": {"edges": "fp32"}},
        ],
        batch_folder,
    )
    assert (made["ok"], taken["ok"]) == (True, True)
    assert (refused["code"], refused["subject"]) == ("precision_not_obeyed", "Conv")


def as_double(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float64), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return bytes(model.SerializeToString())
