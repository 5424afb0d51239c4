"""Small real models, their references made by the reference child, and launches of the real runner."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchfarm_engines.conversion import has_converter
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.launch import launch_environment, reference_argv, runner_argv
from benchfarm_engines.registry import load_engine
from tests.engines.made_for import made_for

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests open engines in this process

MEMORY_BYTES = 3 * 1024**3
CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture(scope="module", autouse=True)
def no_mode_stays() -> Iterator[None]:
    """A process with a session of PyTorch's infers for good; here other tests train in the same one."""
    yield
    session = sys.modules.get("benchfarm_engines.torch_session")
    if session is not None and session._infer_for_good.cache_info().currsize:
        session._infer_for_good().__exit__(None, None, None)
        session._infer_for_good.cache_clear()


def normal(shape: list[int], *, name: str = "x", seed: int = 0) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": shape, "fill": {"kind": "normal", "seed": seed}}


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: list[str],
    constants: dict[str, np.ndarray] | None = None,
) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString()
    return content


def conv_graph(channels: int, hw: int, batch: int | str = 1) -> bytes:
    weights = np.random.default_rng(3).standard_normal((channels, channels, 3, 3)).astype(np.float32) * 0.1
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    return graph(nodes, {"x": [batch, channels, hw, hw]}, ["y"], {"w": weights})


@dataclass(frozen=True)
class Workload:
    artifact: Path
    inputs: list[dict[str, Any]]
    reference: Path

    def visit(self, number: int, *, max_relative_l2: float = 1e-3, **changes: Any) -> dict[str, Any]:
        return {
            "visit": number,
            "artifact": str(self.artifact),
            "format": "onnx",
            "inputs": self.inputs,
            "gates": [{"reference": str(self.reference), "max_relative_l2": max_relative_l2}],
            **changes,
        }


@pytest.fixture(scope="session")
def batch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch")


@pytest.fixture(scope="session")
def write_model(batch_folder: Path) -> Callable[[str, bytes, list[dict[str, Any]]], Workload]:
    def write(name: str, content: bytes, inputs: list[dict[str, Any]]) -> Workload:
        artifact = batch_folder / f"{name}.onnx"
        artifact.write_bytes(content)
        return Workload(artifact, inputs, batch_folder / f"{name}.npz")

    return write


@pytest.fixture(scope="session")
def workloads(batch_folder: Path, write_model: Callable[..., Workload]) -> dict[str, Workload]:
    """conv: about 0.1 ms; small: a few us; dynamic: its batch is bound by the input; two: two outputs."""
    two = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    made = {
        "conv": write_model("conv", conv_graph(32, 28), [normal([1, 32, 28, 28])]),
        "small": write_model("small", conv_graph(8, 4), [normal([1, 8, 4, 4], seed=5)]),
        "dynamic": write_model("dynamic", conv_graph(8, 8, "N"), [normal([2, 8, 8, 8])]),
        "two": write_model("two", graph(two, {"x": [3, 5]}, ["y", "z"]), [normal([3, 5])]),
    }
    answers = answers_of_reference_child(
        [(each.artifact, each.inputs, each.reference) for each in made.values()], batch_folder
    )
    assert [answer["ok"] for answer in answers] == [True] * len(made), answers
    return made


def answers_of_reference_child(
    tasks: list[tuple[Path, Any, Path]], folder: Path, edges: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The answers of a real reference child; edges: of every artifact."""
    argv = reference_argv(memory_bytes=MEMORY_BYTES, cpu_s=60, readable=[str(folder)], writable=[str(folder)])
    questions = [{"artifact": str(a), "inputs": i, "out": str(o), "edges": edges} for a, i, o in tasks]
    lines = [json.dumps(question) + "\n" for question in questions]
    scratch = folder / "reference-home"
    scratch.mkdir(exist_ok=True)
    done = subprocess.run(
        argv, input="".join(lines), env=launch_environment(str(scratch)), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not list(scratch.iterdir())
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def references(batch_folder: Path) -> Callable[..., list[dict[str, Any]]]:
    return lambda tasks, edges=None: answers_of_reference_child(tasks, batch_folder, edges)


@dataclass(frozen=True)
class Launch:
    """What a runner said. lines: everything in order; done: the `done` lines by visit."""

    returncode: int
    lines: list[dict[str, Any]]
    stderr: str
    home: Path

    @property
    def done(self) -> dict[int, dict[str, Any]]:
        return {line["visit"]: line for line in self.lines if line["event"] == "done"}


@pytest.fixture
def launch(tmp_path: Path, batch_folder: Path, workloads: dict[str, Workload]) -> Callable[..., Launch]:
    """Runs the real runner; keyword arguments replace parts of the request."""
    home = tmp_path / "home"
    home.mkdir()

    def run(
        visits: list[dict[str, Any]],
        *,
        argv: list[str] | None = None,
        environment: dict[str, str] | None = None,
        **changes: Any,
    ) -> Launch:
        request = as_engine_opens(launch_request(visits, batch_folder, home, workloads["conv"]) | changes)
        done = subprocess.run(
            argv or runner_argv(),
            input=json.dumps(request),
            env=environment or launch_environment(str(home)),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Launch(done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr, home)

    return run


PROTOCOL = {
    "block_min_us": 200,
    "visit_ms": 8,
    "blocks_min": 5,
    "blocks_max": 100,
    "warmup_min_runs": 30,  # the fastest of these sets the block length, also beside noisy neighbours
    "warmup_min_ms": 1,
    "canary_every_ms": 3,
    "visit_timeout_s": 20,
}


def launch_request(visits: list[dict[str, Any]], folder: Path, home: Path, canary: Workload) -> dict[str, Any]:
    return {
        "contract": 2,
        "engine": "onnxruntime",
        "precision": "fp32",
        "threads": 1,
        "cores": CORES[-1:],
        "options": {},
        "limits": limits(folder, home),
        "protocol": PROTOCOL,
        "canaries": {
            "sgemm": {"n": 64, "seed": 1},
            "mobilenet": {"artifact": str(canary.artifact), "inputs": canary.inputs},
        },
        "visits": visits,
    }


def as_engine_opens(request: dict[str, Any]) -> dict[str, Any]:
    """The request with files of the engine's own, where it has such; what cannot be made stays as it was."""
    if not has_converter(request["engine"]):
        return request
    canaries = {**request["canaries"], "mobilenet": _converted(request, request["canaries"]["mobilenet"])}
    return {**request, "canaries": canaries, "visits": [_both_converted(request, visit) for visit in request["visits"]]}


def _both_converted(request: dict[str, Any], visit: dict[str, Any]) -> dict[str, Any]:
    """By difference a visit has a second file."""
    twice = {"twice": _converted(request, visit["twice"])} if "twice" in visit else {}
    return _converted(request, visit) | twice


def _converted(request: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    try:
        workload = Workload(Path(part["artifact"]), part["inputs"], Path())
        return part | made_for(load_engine(request["engine"]), workload, request["precision"]).part_of_visit()
    except EngineFailure:
        return part


def limits(folder: Path, home: Path, memory_bytes: int = MEMORY_BYTES) -> dict[str, Any]:
    return {
        "memory_bytes": memory_bytes,
        "cpu_s": 60,
        "readable": [str(folder)],
        "writable": [str(home)],
        "network": False,
        "uid": None,
        "gid": None,
    }
