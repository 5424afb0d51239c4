"""A kernel by difference at the agent: two files, one visit, a failure of its own; simulated boards know it too."""

from collections.abc import Callable
from typing import Any

import pytest

from benchfarm_agent.freights import doubled, why_not_doubled
from benchfarm_agent.launch_requests import launch_request
from benchfarm_agent.runner_lines import read_lines
from benchfarm_agent.simulated_artifacts import SimulatedArtifacts
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import BatchItem, LeaseGrant
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MeasurementResult, Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import launch_median_ns
from benchfarm_core.result_checks import check_result
from benchfarm_core.workloads import KernelWorkload
from benchfarm_workloads.kernels import kernel_type
from tests.agent.conftest import canary_in
from tests.agent.simulated_boards import profile_with, simulated_board
from tests.agent.test_artifacts import cache_in, prepare
from tests.agent.test_conversions import platform
from tests.agent.test_simulated_boards import COMPUTE, QUIET, grant_for, launched, run_ms

KERNELS = (
    kernel_type("dwconv-bn-act").workload({"hw": 7, "cin": 32, "k": 3}),
    kernel_type("fc").workload({"cin": 64, "cout": 32}),
)
TOO_LARGE = kernel_type("resize").workload({"hw": 200, "cin": 8, "scale": 3})


def in_situ(*workloads: KernelWorkload, engine: str = "ncnn") -> LeaseGrant:
    """A lease over these kernels in situ on an engine without a profiler."""
    grant = grant_for(*workloads)
    items = [item.model_copy(update={"timing": Timing.IN_SITU}) for item in grant.items]
    spec = grant.platform.engine.model_copy(update={"name": engine})
    return grant.model_copy(update={"items": items, "platform": grant.platform.model_copy(update={"engine": spec})})


@pytest.fixture
def preparing(state: StateDir, running: Callable[[Any], Any]) -> Callable[..., tuple[Any, Any, Any]]:
    """Prepares items twice: what is ready, what failed, and whether the second time anything had to be made."""

    def make(items: list[BatchItem], where: Platform) -> tuple[Any, Any, Any]:
        async def both() -> Any:
            async with cache_in(state) as (cache, references):
                ready, failed = await prepare(cache, items, where)
                await references.close()
                assert await prepare(cache, items, where) == (ready, failed)
                return ready, failed, references.pid

        found: tuple[Any, Any, Any] = running(both())
        return found

    return make


@pytest.mark.parametrize("engine", ["ncnn", "litert"])
def test_each_kernel_has_two_files_and_one_visit(preparing: Any, state: StateDir, engine: str) -> None:
    grant = in_situ(*KERNELS)
    ready, failed, child = preparing(grant.items, platform(engine, "fp32"))
    assert (sorted(ready), failed, child) == ([1, 2], [], None)
    assert len({path for item in ready.values() for path in item.files}) == 8
    request = launch_request(grant, list(ready.values()), canary_in(state.cache))
    for visit in request["visits"]:
        number = visit["visit"]
        assert visit["sites"] == [{"name": "k0", "visit": number}]
        assert visit["twice"]["artifact"] != visit["artifact"]
        assert visit["twice"]["gates"][0]["reference"] != visit["gates"][0]["reference"]
        assert "beside" not in visit
        opened = {visit["artifact"], visit["twice"]["artifact"]}
        assert opened < {str(path) for path in ready[number].files}
        assert not ready[number].is_shared  # its failures are its own


def test_an_engine_with_a_profiler_keeps_its_carriers(preparing: Any) -> None:
    ready, _, _ = preparing(in_situ(*KERNELS).items, platform("onnxruntime", "fp32"))
    assert all(item.twice is None and item.is_shared for item in ready.values())


def test_a_kernel_without_neighbours_fails_alone_and_by_name(preparing: Any) -> None:
    items = in_situ(TOO_LARGE, KERNELS[0]).items
    ready, failed, _ = preparing(items, platform("ncnn", "fp32"))
    assert sorted(ready) == [2]
    assert [(one.measurement_id, one.failure) for one in failed] == [(1, FailureCode.INVALID_WORKLOAD)]
    assert "no layer of the catalogue" in failed[0].detail


def test_what_cannot_be_doubled_is_said_before() -> None:
    fine, large = in_situ(KERNELS[0], TOO_LARGE).items
    assert why_not_doubled(fine) is None
    assert why_not_doubled(large)
    newer = fine.model_copy(update={"workload": fine.workload.model_copy(update={"catalogue_version": 99})})
    assert "catalogue_version=99" in str(why_not_doubled(newer))
    once, twice = doubled(fine)
    assert once.key != twice.key
    assert (once.sites[0].measurement_id, twice.sites) == (1, ())
    assert once.build()[0] == doubled(fine)[0].build()[0] != twice.build()[0]


def test_simulated_boards_time_by_difference(running: Callable[[Any], Any]) -> None:
    board = simulated_board(profile_with(noise=QUIET, latency={"overhead_us": 0.0}))
    lines, _ = running(launched(board, in_situ(COMPUTE)))
    samples = read_lines(lines, visits=[1], launch_no=0).samples[1]
    result = MeasurementResult(measurement_id=1, outcome="ok", launches=(samples,))
    check_result(result, PROTOCOLS["kernel"], "difference")
    alone_ms = run_ms(simulated_board(profile_with(noise=QUIET, latency={"overhead_us": 0.0})), grant_for(COMPUTE))
    found_ns = launch_median_ns(samples)
    assert found_ns is not None
    assert found_ns / 1e6 == pytest.approx(alone_ms, rel=0.02)


def test_simulated_boards_refuse_what_has_no_neighbours(running: Callable[[Any], Any]) -> None:
    async def prepared() -> list[MeasurementResult]:
        grant = in_situ(TOO_LARGE)
        async with SimulatedArtifacts().prepared(grant.items, grant.platform) as (_, failed):
            return failed

    assert [one.failure for one in running(prepared())] == [FailureCode.INVALID_WORKLOAD]
