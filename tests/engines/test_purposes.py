"""The protocols memory and profile, with the real runner and engines."""

from typing import Any

import pytest

from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import CanaryGolden, summarise
from benchfarm_core.summaries import Summary
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
def test_a_profile_names_operators_and_their_sum_is_the_block(
    launch: Any, workloads: dict[str, Any], engine: str
) -> None:
    said = launch([workloads["conv"].visit(4)], engine=engine, protocol={**PROTOCOL, "purpose": "profile"})
    found = samples(said.done[4])
    assert found.nodes, said.stderr
    assert any("onv" in node.kind for node in found.nodes), found.nodes
    assert min(found.blocks_ns) <= sum(node.ns for node in found.nodes) * 1.5
    assert found.memory is None


def test_a_purpose_that_does_not_exist_is_a_bad_request(launch: Any, workloads: dict[str, Any]) -> None:
    said = launch([workloads["conv"].visit(4)], protocol={**PROTOCOL, "purpose": "energy"})
    assert said.lines[0]["code"] == "bad_request"
    assert "purpose" in said.lines[0]["detail"]
