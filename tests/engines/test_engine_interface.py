"""What every engine must do. A new engine passes this by its name in the registry alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import Engine, EngineFailure, EngineUnavailable, OpenRequest, Session
from benchfarm_engines.engine_options import InvalidOption, Option, check_options
from benchfarm_engines.gate import check_outputs, load_reference, relative_l2
from benchfarm_engines.inputs import make_inputs
from benchfarm_engines.launch_request import read_inputs
from benchfarm_engines.quantise import OPENED_AS_IT_IS, quantise
from benchfarm_engines.registry import engine_names, load_engine

GATE = {"fp32": 1e-3, "bf16": 3e-2, "int8": 5e-2}
X = {"name": "x", "dtype": "float32", "shape": [1, 4], "fill": {"kind": "normal", "seed": 0}}


def one_node(operator: str, domain: str = "") -> bytes:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return content


@pytest.fixture(params=engine_names())
def engine(request: pytest.FixtureRequest) -> Engine:
    return load_engine(request.param)


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    opened: list[Session] = []
    yield opened
    for session in opened:
        session.close()


def opening(engine: Engine, workload: Any, **changes: Any) -> OpenRequest:
    inputs = make_inputs(read_inputs(workload.inputs))
    fields = {"precision": "fp32", "threads": 1, "options": check_options({}, engine.options)}
    artifact = quantised(workload) if changes.get("precision") == "int8" else workload.artifact
    return OpenRequest(artifact, inputs, **{**fields, **changes})


def quantised(workload: Any) -> Path:
    """The workload's file in int8 that takes and gives fp32."""
    made: Path = workload.artifact.with_suffix(".int8.onnx")
    options: dict[str, bool | int | str] = {"edges": "fp32", "calibration_seed": 0}
    content, _ = quantise(workload.artifact.read_bytes(), read_inputs(workload.inputs), options, OPENED_AS_IT_IS)
    made.write_bytes(content)
    return made


@pytest.mark.parametrize("name", ["conv", "small", "dynamic", "two"])
def test_results_pass_the_gate_in_every_precision(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], name: str
) -> None:
    for precision in engine.precisions():
        session = engine.open(opening(engine, workloads[name], precision=precision))
        sessions.append(session)
        session.run()
        check_outputs(session.outputs(), load_reference(workloads[name].reference), GATE[precision])


def test_runs_repeat_and_outputs_are_copies(engine: Engine, workloads: dict[str, Any]) -> None:
    session = engine.open(opening(engine, workloads["conv"]))
    session.run()
    first = session.outputs()
    first[0][...] = 0
    session.run()
    again = session.outputs()
    session.close()
    assert relative_l2(again, load_reference(workloads["conv"].reference)) < 1e-3


def test_two_sessions_live_side_by_side(engine: Engine, sessions: list[Session], workloads: dict[str, Any]) -> None:
    sessions.append(engine.open(opening(engine, workloads["conv"], beside_another=True)))
    sessions.append(engine.open(opening(engine, workloads["small"])))
    for session, name in [*zip(sessions, ("conv", "small"), strict=True)] * 3:
        session.run()
        assert relative_l2(session.outputs(), load_reference(workloads[name].reference)) < 1e-3


def test_precision_is_what_was_asked_for(engine: Engine, sessions: list[Session], workloads: dict[str, Any]) -> None:
    assert "fp32" in engine.precisions()
    for precision in engine.precisions():
        sessions.append(engine.open(opening(engine, workloads["conv"], precision=precision)))
        assert sessions[-1].computes_in() == precision


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_what_was_asked_for(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], threads: int
) -> None:
    sessions.append(engine.open(opening(engine, workloads["conv"], threads=threads)))
    assert sessions[-1].threads == threads


def test_a_cache_changes_nothing_but_the_time(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], tmp_path: Path
) -> None:
    outputs = []
    for _ in range(2):
        session = engine.open(opening(engine, workloads["conv"], cache=tmp_path / "cache"))
        sessions.append(session)
        session.run()
        outputs.append(session.outputs()[0])
    assert np.array_equal(outputs[0], outputs[1])
    assert session.threads == 1
    assert session.computes_in() == "fp32"


def test_a_damaged_cache_is_made_again(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], tmp_path: Path
) -> None:
    sessions.append(engine.open(opening(engine, workloads["conv"], cache=tmp_path)))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    sessions.append(engine.open(opening(engine, workloads["conv"], cache=tmp_path)))
    sessions[-1].run()
    assert relative_l2(sessions[-1].outputs(), load_reference(workloads["conv"].reference)) < 1e-3


def test_a_cache_that_cannot_be_written_loses_nothing(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    sessions.append(engine.open(opening(engine, workloads["conv"], cache=tmp_path / "file" / "cache")))
    sessions[-1].run()
    assert relative_l2(sessions[-1].outputs(), load_reference(workloads["conv"].reference)) < 1e-3


def test_versions_and_names_fit_into_platform_keys(engine: Engine) -> None:
    from benchfarm_core.platforms import EngineSpec, Precision

    EngineSpec(name=engine.name, version=engine.version(), options=check_options({}, engine.options))
    assert all(Precision(each) for each in engine.precisions())
    assert "onnx" in engine.formats


def refusal(engine: Engine, workload: Any) -> EngineFailure:
    with pytest.raises(EngineFailure) as caught:
        engine.open(opening(engine, workload)).run()
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) <= 300
    assert str(workload.artifact) not in caught.value.detail
    return caught.value


def test_an_unknown_operator_has_its_own_code(engine: Engine, write_model: Any) -> None:
    for name, domain in (("Nope", ""), ("Foo", "my.domain")):
        workload = write_model(f"unknown-{name}", one_node(name, domain), [X])
        assert refusal(engine, workload).code is FailureCode.UNSUPPORTED_OPERATOR


def test_files_that_are_no_model_are_invalid(engine: Engine, write_model: Any, workloads: dict[str, Any]) -> None:
    whole = workloads["conv"].artifact.read_bytes()
    for name, content in (("text", b"hello, I am a text"), ("cut", whole[: len(whole) // 2]), ("empty", b"")):
        workload = write_model(name, content, [X])
        assert refusal(engine, workload).code is FailureCode.INVALID_WORKLOAD, name


@pytest.mark.parametrize("changed", [{"name": "other"}, {"dtype": "float64"}, {"shape": [1, 5]}])
def test_inputs_that_do_not_fit_are_invalid(engine: Engine, write_model: Any, changed: dict[str, Any]) -> None:
    workload = write_model("relu", one_node("Relu"), [{**X, **changed}])
    assert refusal(engine, workload).code is FailureCode.INVALID_WORKLOAD


def test_options_are_a_closed_set(engine: Engine) -> None:
    with pytest.raises(InvalidOption, match="no option 'path'"):
        check_options({"path": "/etc"}, engine.options)
    for option in engine.options:
        with pytest.raises(InvalidOption, match=option.name):
            check_options({option.name: "free text"}, engine.options)


def test_option_kinds_and_limits() -> None:
    known = (Option("depth", "number", 2, "how deep", low=1, high=4), Option("fast", "switch", False, "hurry"))
    assert check_options({"depth": 4}, known) == {"depth": 4, "fast": False}
    for bad in ({"depth": 5}, {"depth": True}, {"depth": "4"}, {"fast": 1}):
        with pytest.raises(InvalidOption):
            check_options(bad, known)


def test_an_engine_that_is_not_there_says_so() -> None:
    with pytest.raises(EngineUnavailable, match="there is no engine 'tvm'"):
        load_engine("tvm")
