"""Engines with a profiler: each operator's time in each inference, and nothing left behind."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchfarm_engines.engine import Engine, EngineFailure, NodeTime, OpenRequest, ProfilingSession
from benchfarm_engines.engine_options import check_options
from benchfarm_engines.inputs import make_inputs
from benchfarm_engines.launch_request import read_inputs
from benchfarm_engines.profile_cost import cost_per_operator_ns, without_cost
from benchfarm_engines.profile_events import read_inferences
from benchfarm_engines.profile_means import MeanTime, between
from benchfarm_engines.registry import load_engine

PROFILING = ("onnxruntime", "openvino")
RUNS = 20


@pytest.fixture(params=PROFILING)
def engine(request: pytest.FixtureRequest) -> Engine:
    return load_engine(request.param)


@pytest.fixture
def opened(workloads: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    workload = workloads["conv"]

    def open_conv(engine: Engine, **changes: Any) -> Any:
        inputs = make_inputs(read_inputs(workload.inputs))
        options = check_options({}, engine.options)
        return engine.open(OpenRequest(workload.artifact, inputs, "fp32", 1, options, **{"profiled": True} | changes))

    return open_conv


def test_every_operator_of_every_inference_has_its_time(engine: Engine, opened: Callable[..., Any]) -> None:
    assert engine.profiles
    session: ProfilingSession = opened(engine)
    session.run()
    begun_ns = time.perf_counter_ns()
    inferences = session.profile(RUNS)
    wall_ns = time.perf_counter_ns() - begun_ns
    session.close()
    assert len(inferences) == RUNS
    names = {node.name for inference in inferences for node in inference}
    assert any(name.startswith(("c", "y")) or "Conv" in name for name in names), names
    assert all(node.ns >= 0 and node.kind for inference in inferences for node in inference)
    spent_ns = sum(node.ns for inference in inferences for node in inference)
    assert 0 < spent_ns < 1.2 * wall_ns  # a step of either clock more or less, never a multiple


def test_a_profile_leaves_no_file(engine: Engine, opened: Callable[..., Any], tmp_path: Path) -> None:
    asked, unasked = opened(engine), opened(engine)
    asked.run()
    asked.profile(2)
    unasked.run()
    asked.close()
    unasked.close()
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_tells_its_profile_once(opened: Callable[..., Any]) -> None:
    session = opened(load_engine("onnxruntime"))
    session.profile(3)
    with pytest.raises(EngineFailure, match="profiled already"):
        session.profile(3)
    session.close()


def test_openvino_names_what_it_has_fused(opened: Callable[..., Any]) -> None:
    session = opened(load_engine("openvino"))
    first = session.profile(2)[0]
    session.close()
    origins = [set(node.origins) for node in first if node.kind == "Convolution"]
    assert len(origins) == 1
    assert "y" in origins[0]


def test_a_profiled_model_is_cached_apart(opened: Callable[..., Any], tmp_path: Path) -> None:
    engine, cache = load_engine("openvino"), tmp_path / "cache"
    for profiled in (False, True, False, True):
        session = opened(engine, cache=cache, profiled=profiled)
        session.run()
        if profiled:
            assert sum(node.ns for node in session.profile(5)[0]) > 0
        session.close()
    assert len(list(cache.iterdir())) == 2


def event(cat: str, name: str, dur: int = 0, kind: str = "Conv") -> dict[str, Any]:
    return {"cat": cat, "name": name, "dur": dur, "args": {"op_name": kind}}


def test_events_are_split_into_inferences() -> None:
    events = [
        event("Session", "model_loading_array", 9),
        *(event("Node", "a_kernel_time", 5), event("Session", "model_run", 6)),
        *(event("Node", "a_kernel_time", 3), event("Node", "b_fence_before", 1), event("Node", "b_kernel_time", 2)),
        *(event("Session", "SequentialExecutor::Execute", 7), event("Session", "model_run", 8)),
    ]
    content = json.dumps(events).encode()
    assert read_inferences(content, 1) == [[NodeTime("a", "Conv", 3000), NodeTime("b", "Conv", 2000)]]
    assert len(read_inferences(content, 2)) == 2
    for unfit, runs in ((content, 3), (b"[", 1), (b'[{"cat": "Node"}]', 1), (b"7", 1)):
        with pytest.raises(EngineFailure):
            read_inferences(unfit, runs)


def test_a_mean_of_later_inferences_leaves_the_earlier_ones_out() -> None:
    after = [MeanTime("a", "Conv", 400.0, ("a", "b")), MeanTime("new", "Add", 10.0)]
    # two inferences of 1000 ns before, eight of 250 ns now: ten of 400 ns in the mean, less what was cut off
    found = between({"a": 1000.0}, 2, after, 8)
    assert found == [NodeTime("a", "Conv", 1250, ("a", "b")), NodeTime("new", "Add", 1012)]


def test_the_cost_of_profiling_is_the_same_for_every_operator() -> None:
    nodes = [NodeTime("a", "Conv", 9000), NodeTime("b", "Add", 3000), NodeTime("c", "Reshape", 1000)]
    cost_ns = cost_per_operator_ns(nodes, plain_ns=7000.0)
    assert cost_ns == 2000.0
    assert [node.ns for node in without_cost(nodes, cost_ns)] == [7000, 1000, 0]
    assert [node.ns for node in without_cost(nodes, -500.0)] == [9500, 3500, 1500]
    assert cost_per_operator_ns([], 1.0) == 0.0
