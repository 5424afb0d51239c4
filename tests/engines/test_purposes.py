"""The protocols memory and profile, with the real runner and engines."""

from typing import Any, cast

import pytest

from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CanaryGolden, summarise
from benchfarm_core.summaries import Summary
from benchfarm_engines.engine import NodeTime
from benchfarm_engines.profile_visit import node_medians, undisturbed
from benchfarm_engines.run_watch import RunWatch, Step
from benchfarm_engines.witness import Reading, Witness
from tests.engines.conftest import PROTOCOL

ENGINES = ("onnxruntime", "openvino")


def samples(line: dict[str, Any]) -> LaunchSamples:
    assert line["outcome"] == "ok", line
    known = {name: line[name] for name in LaunchSamples.model_fields if name in line}
    return LaunchSamples.model_validate({**known, "launch_no": 0})


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_is_that_of_the_one_workload(launch: Any, workloads: dict[str, Any], engine: str) -> None:
    said = launch([workloads["conv"].visit(4)], engine=engine, protocol={**PROTOCOL, "purpose": "memory"})
    found = samples(said.done[4])
    memory = found.memory
    assert memory is not None, said.stderr
    assert 10_000_000 < memory.base_pss_bytes < memory.loaded_pss_bytes <= memory.peak_pss_bytes
    assert memory.peak_pss_bytes <= memory.peak_rss_bytes + memory.base_pss_bytes
    assert found.canaries == {}
    assert sum(found.blocks_ns) / 1e6 == pytest.approx(found.open_ms + found.first_ms)
    launches = [found.model_copy(update={"launch_no": n, "delays_ns": (0,), "switches": (0,)}) for n in range(3)]
    summary = summarise(launches, protocol=PROTOCOLS["memory"], golden=CanaryGolden(), clock_proof=ClockProof.UNPINNED)
    assert isinstance(summary, Summary)
    assert summary.peak_pss_bytes == memory.peak_pss_bytes
    assert summary.model_pss_bytes == memory.peak_pss_bytes - memory.base_pss_bytes
    assert summary.normalised_ms is None


def test_a_larger_model_takes_more_memory(launch: Any, write_model: Any, references: Any) -> None:
    import numpy as np
    from onnx import helper

    from tests.engines.conftest import graph, normal

    weights = np.ones((4096, 4096), dtype=np.float32) / 4096
    content = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 4096]}, ["y"], {"w": weights})
    large = write_model("large", content, [normal([1, 4096])])
    assert references([(large.artifact, large.inputs, large.reference)])[0]["ok"]
    said = launch([large.visit(1)], protocol={**PROTOCOL, "purpose": "memory"})
    memory = samples(said.done[1]).memory
    assert memory is not None
    assert memory.peak_pss_bytes - memory.base_pss_bytes >= weights.nbytes


@pytest.mark.parametrize("engine", ENGINES)
def test_an_open_dimension_takes_no_memory_of_its_own(
    launch: Any, write_model: Any, references: Any, engine: str
) -> None:
    """A second session, opened to learn the dimension's name, took 38 % more than the same file with a fixed one."""
    import numpy as np
    from onnx import helper

    from tests.engines.conftest import graph, normal

    weights = np.ones((4096, 4096), dtype=np.float32) / 4096
    taken = {}
    for name, batch in (("fixed", 2), ("named", "N"), ("unnamed", None)):
        content = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [batch, 4096]}, ["y"], {"w": weights})
        each = write_model(f"{name}-{engine}", content, [normal([2, 4096])])
        assert references([(each.artifact, each.inputs, each.reference)])[0]["ok"]
        said = launch([each.visit(1)], engine=engine, protocol={**PROTOCOL, "purpose": "memory"})
        memory = samples(said.done[1]).memory
        assert memory is not None
        taken[name] = memory.peak_pss_bytes - memory.base_pss_bytes
    assert max(taken.values()) < 1.1 * taken["fixed"], taken


@pytest.mark.parametrize("engine", ENGINES)
def test_a_profile_names_operators_and_their_sum_is_the_block(
    launch: Any, workloads: dict[str, Any], engine: str
) -> None:
    said = launch([workloads["conv"].visit(4)], engine=engine, protocol={**PROTOCOL, "purpose": "profile"})
    found = samples(said.done[4])
    assert found.nodes, said.stderr
    assert any("onv" in node.kind for node in found.nodes), found.nodes
    assert min(found.blocks_ns) <= sum(node.ns for node in found.nodes) * 1.5
    assert found.memory is None
    assert len(found.blocks_ns) == len(found.delays_ns) == len(found.switches)
    end = said.lines[-1]
    assert 0 < said.done[4]["canary_ms"] == pytest.approx(end["canary_ms"])
    assert said.done[4]["open_ms"] == pytest.approx(end["open_ms"])
    assert end["first_block_unix_s"] > 0


def test_operators_of_one_name_are_one_row_with_their_sum() -> None:
    inference = [NodeTime("a", "Conv", 5), NodeTime("b", "Relu", 7), NodeTime("a", "Conv", 3)]
    rows = node_medians([inference] * 3)
    assert [(row["name"], row["ns"]) for row in rows] == [("a", 8), ("b", 7)]


def test_operators_are_told_of_undisturbed_inferences() -> None:
    calm, disturbed = Step(0, 0, disturbed=False), Step(50_000, 1, disturbed=True)
    seen = [[NodeTime("a", "Conv", ns)] for ns in (5, 90, 80)]
    assert undisturbed(seen, [calm, disturbed, disturbed]) == seen[:1]
    assert undisturbed(seen, [disturbed] * 3) == seen


class Pushed:
    """A witness whose every second reading is one switch further."""

    def __init__(self) -> None:
        self.readings = 0

    def read(self) -> Reading:
        self.readings += 1
        return Reading(0, self.readings // 2)


def test_what_the_witness_saw_is_each_runs_own() -> None:
    watch = RunWatch(cast(Witness, Pushed()))
    assert [watch.mark() for _ in range(5)] == [False] * 5
    assert [step.switches for step in watch.steps] == [1, 0, 1, 0]
    assert watch.undisturbed == 2


def test_a_purpose_that_does_not_exist_is_a_bad_request(launch: Any, workloads: dict[str, Any]) -> None:
    said = launch([workloads["conv"].visit(4)], protocol={**PROTOCOL, "purpose": "energy"})
    assert said.lines[0]["code"] == "bad_request"
    assert "purpose" in said.lines[0]["detail"]
