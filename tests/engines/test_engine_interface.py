"""What every engine must do. A new engine passes this by its name in the registry alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from benchfarm_core.correctness import GATE_LIMITS, NAMED_LIMITS
from benchfarm_core.failures import FailureCode
from benchfarm_core.platforms import EngineSpec, Precision
from benchfarm_engines.conversion import has_converter
from benchfarm_engines.engine import Engine, EngineFailure, EngineUnavailable, Session
from benchfarm_engines.engine_options import InvalidOption, Option, check_options
from benchfarm_engines.gate import check_outputs, load_reference, relative_l2
from benchfarm_engines.registry import engine_names, load_engine
from tests.engines.made_for import installed, opened

X = {"name": "x", "dtype": "float32", "shape": [1, 4], "fill": {"kind": "normal", "seed": 0}}


def limit(engine: Engine, precision: str = "fp32") -> float:
    """As `benchfarm_core.correctness` has it."""
    named = NAMED_LIMITS.get((engine.name, Precision(precision)))
    return GATE_LIMITS[Precision(precision)] if named is None else named


def made_precisions(engine: Engine) -> list[str]:
    """Those that files are made for."""
    return [precision for precision in engine.precisions() if precision != Precision.AS_GIVEN]


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
    return installed(request.param)


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    all_of_them: list[Session] = []
    yield all_of_them
    for session in all_of_them:
        session.close()


@pytest.mark.parametrize("name", ["conv", "small", "dynamic", "two"])
def test_results_pass_the_gate_in_every_precision(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], name: str
) -> None:
    for precision in made_precisions(engine):
        session = opened(engine, workloads[name], precision=precision)
        sessions.append(session)
        session.run()
        check_outputs(session.outputs(), load_reference(workloads[name].reference), limit(engine, precision))


def test_runs_repeat_and_outputs_are_copies(engine: Engine, workloads: dict[str, Any]) -> None:
    session = opened(engine, workloads["conv"])
    session.run()
    first = session.outputs()
    first[0][...] = 0
    session.run()
    again = session.outputs()
    session.close()
    assert relative_l2(again, load_reference(workloads["conv"].reference)) < limit(engine)


def test_two_sessions_live_side_by_side(engine: Engine, sessions: list[Session], workloads: dict[str, Any]) -> None:
    sessions.append(opened(engine, workloads["conv"], beside_another=True))
    sessions.append(opened(engine, workloads["small"]))
    for session, name in [*zip(sessions, ("conv", "small"), strict=True)] * 3:
        session.run()
        assert relative_l2(session.outputs(), load_reference(workloads[name].reference)) < limit(engine)


def test_precision_is_what_was_asked_for(engine: Engine, sessions: list[Session], workloads: dict[str, Any]) -> None:
    assert "fp32" in engine.precisions()
    for precision in made_precisions(engine):
        sessions.append(opened(engine, workloads["conv"], precision=precision))
        assert sessions[-1].computes_in() == precision


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_what_was_asked_for(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], threads: int
) -> None:
    sessions.append(opened(engine, workloads["conv"], threads=threads))
    assert sessions[-1].threads == threads


def test_a_cache_changes_nothing_but_the_time(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], tmp_path: Path
) -> None:
    outputs = []
    for _ in range(2):
        session = opened(engine, workloads["conv"], cache=tmp_path / "cache")
        sessions.append(session)
        session.run()
        outputs.append(session.outputs()[0])
    assert np.array_equal(outputs[0], outputs[1])
    assert session.threads == 1
    assert session.computes_in() == "fp32"


def test_a_damaged_cache_is_made_again(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], tmp_path: Path
) -> None:
    sessions.append(opened(engine, workloads["conv"], cache=tmp_path))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    sessions.append(opened(engine, workloads["conv"], cache=tmp_path))
    sessions[-1].run()
    assert relative_l2(sessions[-1].outputs(), load_reference(workloads["conv"].reference)) < limit(engine)


def test_a_cache_that_cannot_be_written_loses_nothing(
    engine: Engine, sessions: list[Session], workloads: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    sessions.append(opened(engine, workloads["conv"], cache=tmp_path / "file" / "cache"))
    sessions[-1].run()
    assert relative_l2(sessions[-1].outputs(), load_reference(workloads["conv"].reference)) < limit(engine)


def test_versions_and_names_fit_into_platform_keys(engine: Engine) -> None:
    EngineSpec(name=engine.name, version=engine.version(), options=check_options({}, engine.options))
    assert all(Precision(each) for each in engine.precisions())
    assert engine.formats
    assert ("onnx" in engine.formats) is not has_converter(engine.name)


def refusal(engine: Engine, workload: Any) -> EngineFailure:
    with pytest.raises(EngineFailure) as caught:
        opened(engine, workload).run()
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) <= 300
    assert str(workload.artifact) not in caught.value.detail
    return caught.value


def unfit(engine: Engine) -> set[FailureCode]:
    """A converter refuses in its own word what other engines refuse when they open it."""
    return {FailureCode.INVALID_WORKLOAD} | ({FailureCode.CONVERSION_FAILED} if has_converter(engine.name) else set())


def test_an_unknown_operator_has_its_own_code_and_is_named(engine: Engine, write_model: Any) -> None:
    for name, domain in (("Nope", ""), ("Foo", "my.domain")):
        workload = write_model(f"unknown-{name}", one_node(name, domain), [X])
        refused = refusal(engine, workload)
        assert (refused.code, refused.subject) == (FailureCode.UNSUPPORTED_OPERATOR, name)


def test_files_that_are_no_model_are_invalid(engine: Engine, write_model: Any, workloads: dict[str, Any]) -> None:
    whole = workloads["conv"].artifact.read_bytes()
    for name, content in (("text", b"hello, I am a text"), ("cut", whole[: len(whole) // 2]), ("empty", b"")):
        workload = write_model(name, content, [X])
        assert refusal(engine, workload).code in unfit(engine), name


@pytest.mark.parametrize("changed", [{"name": "other"}, {"dtype": "float64"}, {"shape": [1, 5]}])
def test_inputs_that_do_not_fit_are_invalid(engine: Engine, write_model: Any, changed: dict[str, Any]) -> None:
    workload = write_model("relu", one_node("Relu"), [{**X, **changed}])
    assert refusal(engine, workload).code in unfit(engine)


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
