"""Simulated boards: the same for the same seed, as their profile wants them, and never taken for real ones."""

import asyncio
import json
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from benchfarm_agent.boards.interface import LaunchExit, LaunchOrder
from benchfarm_agent.boards.simulated import SimulatedBoard
from benchfarm_agent.launch_requests import launch_request
from benchfarm_agent.ports.interface import BoardUnreachable
from benchfarm_agent.runner_lines import LaunchRecord, read_lines
from benchfarm_agent.simulated_artifacts import CANARY, SimulatedArtifacts
from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.boards import BoardReport
from benchfarm_core.clock_proof import is_throttled, proof
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MeasurementResult
from benchfarm_core.platforms import ClockProof, OperatingPoint
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.protocols import PROTOCOLS, Protocol, in_situ
from benchfarm_core.quality import clean_blocks
from benchfarm_core.quiet_blocks import has_clock_points
from benchfarm_core.result_checks import check_result
from benchfarm_core.workloads import (
    ArchitectureWorkload,
    GeneratedModelWorkload,
    KernelWorkload,
    PairWorkload,
    UploadedWorkload,
)
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.models import ZOO_VERSION
from benchfarm_workloads.spaces import space
from tests.agent.conftest import grant_of, run
from tests.agent.simulated_boards import SteppedClock, profile_with, simulated_board

FAST = OperatingPoint(mode="pinned", cores=(7,), threads=1, freq_khz=(2_400_000,))
QUIET = {"block_sigma": 0.0, "launch_sigma": 0.0, "unit_sigma": 0.0, "disturbed_share": 0.0}
COMPUTE = kernel_type("conv-bn-act").workload(
    {"hw": 28, "cin": 256, "cout": 256, "k": 3, "s": 1, "batch": 1, "act": "none"}
)
TRAFFIC = kernel_type("add-act").workload({"hw": 56, "cin": 256, "batch": 1, "act": "none"})


def grant_for(*workloads: Any, point: OperatingPoint = FAST, protocol: Protocol = PROTOCOLS["kernel"]) -> LeaseGrant:
    """A lease over these workloads, measurements from 1 on."""
    grant = grant_of(len(workloads), protocol)
    items = [one.model_copy(update={"workload": w}) for one, w in zip(grant.items, workloads, strict=True)]
    platform = grant.platform.model_copy(update={"operating_point": point})
    return grant.model_copy(update={"items": items, "platform": platform})


async def launched(board: SimulatedBoard, grant: LeaseGrant) -> tuple[list[bytes], LaunchExit]:
    """One launch of a lease at its operating point."""
    lines: list[bytes] = []
    await board.prepare(grant.lease_token)
    await board.pin(grant.platform.operating_point)
    async with SimulatedArtifacts().prepared(grant.items, grant.platform) as (ready, failed):
        assert not failed
        request = launch_request(grant, list(ready.values()), CANARY)
        ended = await board.launch(LaunchOrder(request, (), silence_s=70.0, lines_max=1000), lines.append)
    return lines, ended


def record_of(board: SimulatedBoard, grant: LeaseGrant) -> tuple[LaunchRecord, LaunchExit]:
    lines, ended = run(launched(board, grant))
    return read_lines(lines, visits=[item.measurement_id for item in grant.items], launch_no=0), ended


def run_ms(board: SimulatedBoard, grant: LeaseGrant) -> float:
    """The median of one run of measurement 1."""
    samples = record_of(board, grant)[0].samples[1]
    return median(samples.blocks_ns) / samples.iterations / 1e6


def test_the_same_seed_gives_the_same_launches_and_another_seed_gives_others() -> None:
    grant = grant_of(20)
    runs = []
    for seed in (3, 3, 4):
        board = simulated_board(profile_with(), seed=seed)
        runs.append([run(launched(board, grant_for(*(i.workload for i in grant.items)))) for _ in range(3)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_units_of_one_model_differ_and_a_unit_stays_itself() -> None:
    times = [run_ms(simulated_board(profile_with(), number=number), grant_for(COMPUTE)) for number in (1, 2, 1)]
    assert times[0] == times[2]
    assert times[0] != times[1]


@pytest.mark.parametrize(("workload", "ratio"), [(COMPUTE, 2.0), (TRAFFIC, 1.0)])
def test_the_clock_helps_arithmetic_and_not_traffic(workload: Any, ratio: float) -> None:
    slow = FAST.model_copy(update={"freq_khz": (1_200_000,)})
    profile = profile_with(
        noise=QUIET, latency={"overhead_us": 0.0}, cluster=[
            {"cores": [6, 7], "freq_khz": [1_200_000, 2_400_000], "flops_per_cycle": 16.0}
        ],
    )  # fmt: skip
    board = simulated_board(profile)
    assert run_ms(board, grant_for(workload, point=slow)) / run_ms(board, grant_for(workload)) == pytest.approx(
        ratio, rel=1e-3
    )


def test_a_run_takes_what_the_roofline_says() -> None:
    kind = kernel_type(COMPUTE.type)
    seconds = kind.cost(COMPUTE.config).flops / (2.4e9 * 16)
    profile = profile_with(noise=QUIET, latency={"overhead_us": 100.0})
    assert run_ms(simulated_board(profile), grant_for(COMPUTE)) == pytest.approx(seconds * 1e3 + 0.1, rel=1e-3)


def test_threads_and_int8_are_faster() -> None:
    profile = profile_with(noise=QUIET)
    two = OperatingPoint(mode="pinned", cores=(6, 7), threads=2, freq_khz=(2_400_000,))
    one_ms = run_ms(simulated_board(profile), grant_for(COMPUTE))
    assert run_ms(simulated_board(profile), grant_for(COMPUTE, point=two)) < 0.6 * one_ms
    grant = grant_for(COMPUTE)
    int8 = grant.model_copy(update={"platform": grant.platform.model_copy(update={"precision": "int8"})})
    assert run_ms(simulated_board(profile), int8) < 0.6 * one_ms


def test_disturbed_blocks_are_longer_and_the_witness_sees_them() -> None:
    profile = profile_with(noise=QUIET | {"disturbed_share": 0.3})
    launches = record_of(simulated_board(profile), grant_for(*[COMPUTE] * 20))[0].samples.values()
    quiet_ns = min(ns for samples in launches for ns in samples.blocks_ns)
    for samples in launches:
        disturbed = [ns > quiet_ns for ns in samples.blocks_ns]
        assert disturbed == [count > 0 for count in samples.switches] == [ns > 0 for ns in samples.delays_ns]
    clean = [is_clean for samples in launches for is_clean in clean_blocks(samples)]
    assert 0.3 < clean.count(True) / len(clean) < 0.8


def test_drift_makes_a_board_slower_and_its_canary_with_it() -> None:
    clock = SteppedClock()
    board = simulated_board(profile_with(noise=QUIET | {"drift_per_hour": 0.1}), clock)
    [before] = record_of(board, grant_for(COMPUTE))[0].samples.values()
    clock.moment_s = 3600.0
    [after] = record_of(board, grant_for(COMPUTE))[0].samples.values()
    assert after.blocks_ns[0] / before.blocks_ns[0] == pytest.approx(1.1, rel=1e-3)
    assert after.canaries["sgemm"][0][1] / before.canaries["sgemm"][0][1] == pytest.approx(1.1, rel=1e-3)


@pytest.mark.parametrize("workload", [COMPUTE, TRAFFIC])
def test_blocks_of_a_visit_lie_between_clock_points(workload: Any) -> None:
    kernel = PROTOCOLS["kernel"]
    [pointed] = record_of(simulated_board(profile_with()), grant_for(workload))[0].samples.values()
    plain = grant_for(workload, protocol=in_situ(kernel))
    [bare] = record_of(simulated_board(profile_with()), plain)[0].samples.values()
    assert has_clock_points([pointed], kernel)
    places = [place for place, _ in pointed.canaries["sgemm"]]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, len(pointed.blocks_ns))
    assert bare.canaries["sgemm"][-1][0] < len(bare.blocks_ns), "none behind the last block without them"


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_every_protocol_gets_what_it_looks_at(protocol: str) -> None:
    wanted = PROTOCOLS[protocol]
    workload = PairWorkload(a=COMPUTE, b=TRAFFIC) if protocol == "compare" else COMPUTE
    record, _ = record_of(simulated_board(profile_with()), grant_for(workload, protocol=wanted))
    assert record.garbage is None
    result = MeasurementResult(measurement_id=1, outcome="ok", launches=(record.samples[1],))
    check_result(result, wanted)
    assert record.precisions == ({} if protocol == "compare" else {1: "fp32"})


def test_a_visit_takes_the_time_that_its_samples_say() -> None:
    clock = SteppedClock()
    record, ended = record_of(simulated_board(profile_with(), clock), grant_for(COMPUTE, TRAFFIC))
    timed_ms = sum(one.timed_ms + one.open_ms for one in record.samples.values())
    assert timed_ms + 250.0 < ended.wall_ms < 3 * timed_ms + 300.0
    assert clock.now_s() * 1000 == pytest.approx(ended.wall_ms)
    assert ended.ended_unix_s - ended.began_unix_s == pytest.approx(ended.wall_ms / 1000)


def test_a_fault_of_a_workload_meets_it_on_every_board_and_every_time() -> None:
    workloads = [item.workload for item in grant_of(60).items]
    profile = profile_with(failures={"unsupported_operator": 0.2, "engine_error": 0.1})
    outcomes = []
    for number in (1, 1, 2):
        record, _ = record_of(simulated_board(profile, number=number), grant_for(*workloads))
        outcomes.append({visit: failure.code for visit, failure in record.failures.items()})
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert set(outcomes[0].values()) == {FailureCode.UNSUPPORTED_OPERATOR, FailureCode.ENGINE_ERROR}
    assert 6 < len(outcomes[0]) < 36


def test_a_runner_dies_by_chance_and_not_always_with_the_same_workload() -> None:
    board = simulated_board(profile_with(failures={"runner_died": 0.2}))
    running = set()
    for _ in range(30):
        record, ended = record_of(board, grant_for(*[item.workload for item in grant_of(10).items]))
        assert (record.running is not None) == (ended.returncode != 0)
        running.add(record.running)
    assert len(running) > 3


def test_a_board_that_does_not_obey_is_not_pinned_and_a_free_one_needs_not() -> None:
    board = simulated_board(profile_with(failures={"pin_not_verified": 1.0}))
    with pytest.raises(TransientDeviceError, match="does not obey"):
        run(board.pin(FAST))
    run(board.pin(OperatingPoint(mode="free", cores=(7,), threads=1)))


def test_a_lost_board_is_away_for_as_long_as_its_profile_says() -> None:
    clock = SteppedClock()
    board = simulated_board(profile_with(failures={"board_lost": 1.0}, lost={"away_s": 30.0}), clock)

    async def lose() -> None:
        with pytest.raises(BoardUnreachable):
            await launched(board, grant_for(COMPUTE))
        await asyncio.wait_for(board.away(), timeout=1)
        with pytest.raises(BoardUnreachable):
            await board.prepare("l_" + "0" * 32)

    run(lose())
    with pytest.raises(TransientDeviceError, match="away"):
        board.come_back()
    clock.moment_s += 30.0
    board.come_back()
    run(board.prepare("l_" + "0" * 32))


def hot(clock: SteppedClock, **more: Any) -> SimulatedBoard:
    heat = {"idle_c": 30.0, "rise_c_per_busy_s": 5.0, "cool_s": 100.0, "gate_c": 60.0, "throttle_c": 80.0}
    return simulated_board(profile_with(noise=QUIET, heat=heat | more), clock)


def warm_up(board: SimulatedBoard, launches: int) -> LaunchExit:
    for _ in range(launches):
        _, ended = record_of(board, grant_for(*[COMPUTE] * 20))
    return ended


def test_a_busy_board_warms_up_throttles_and_says_so() -> None:
    board = hot(SteppedClock())
    cool = warm_up(board, 1)
    assert cool.clock is not None
    assert (is_throttled(cool.clock), proof(cool.clock)) == (False, ClockProof.VERIFIED)
    before = run(board.evidence(FAST))
    throttled = [ended.clock for ended in (warm_up(board, 1) for _ in range(12)) if ended.clock is not None]
    after = run(board.evidence(FAST))
    assert any(map(is_throttled, throttled))
    assert before.temperature_c is not None
    assert after.temperature_c is not None
    assert before.temperature_c < 70 < after.temperature_c
    assert (before.throttle_count, after.throttle_count) == (0, 1)
    assert after.freq_khz[0] == round(0.6 * 2_400_000)


def test_a_hot_board_takes_no_lease_until_it_has_cooled_down() -> None:
    clock = SteppedClock()
    board = hot(clock)
    assert run(board.gate(FAST)) is None
    warm_up(board, 8)
    assert "degrees are above 60" in str(run(board.gate(FAST)))
    clock.moment_s += 600.0
    assert run(board.gate(FAST)) is None
    assert run(board.evidence(FAST)).temperature_c == pytest.approx(30.0, abs=1.0)


def test_what_a_board_says_of_itself_cannot_be_taken_for_a_real_one() -> None:
    report = run(simulated_board(profile_with()).describe())
    assert (report.kind, report.marks) == ("simulated", ("simulated",))
    assert report.board_model.startswith("sim-")
    assert all((engine.version or "").endswith("-sim") for engine in report.engines)
    ways = {engine.name: in_situ_by(engine.name, "fp32") for engine in report.engines}
    assert {engine.name for engine in report.engines if engine.by_difference} == {
        name for name, way in ways.items() if way == "difference"
    }
    assert report == BoardReport.model_validate_json(report.model_dump_json())
    with pytest.raises(ValueError, match="begins with sim-"):
        BoardReport.model_validate(report.model_dump() | {"board_model": "phone"})


def test_agents_boards_are_boards_of_their_own_and_a_changed_profile_is_a_new_generation() -> None:
    from benchfarm_agent.boards.simulated import Unit

    def report(owner: str, **parts: Any) -> BoardReport:
        return run(SimulatedBoard(profile_with(**parts), Unit(owner, 1), SteppedClock()).describe())

    one, other, changed = report("a"), report("b"), report("a", noise={"unit_sigma": 0.1})
    assert (one.serial, one.hardware_id) != (other.serial, other.hardware_id)
    assert one.serial == changed.serial
    assert one.generation == other.generation != changed.generation


@pytest.mark.parametrize(
    ("workload", "code"),
    [
        (KernelWorkload(catalogue_version=99, type="fc", config={}), FailureCode.INVALID_WORKLOAD),
        (GeneratedModelWorkload(zoo_version=99, name="resnet18", config={}), FailureCode.INVALID_WORKLOAD),
        (ArchitectureWorkload(space="bert", space_version=1, genes={"layers": 99}), FailureCode.INVALID_WORKLOAD),
        (UploadedWorkload(sha256="0" * 64, format="tflite", dims={}, inputs=()), FailureCode.CONVERSION_FAILED),
    ],
)
def test_what_a_real_agent_could_not_prepare_fails_here_too(workload: Any, code: FailureCode) -> None:
    async def prepare() -> list[MeasurementResult]:
        grant = grant_for(workload)
        async with SimulatedArtifacts().prepared(grant.items, grant.platform) as (ready, failed):
            assert not ready
            return failed

    [failed] = run(prepare())
    assert failed.failure == code


def test_models_and_uploads_take_a_time_of_their_own(running: Callable[[Any], Any]) -> None:
    model = GeneratedModelWorkload(zoo_version=ZOO_VERSION, name="resnet18", config={})
    drawn = ArchitectureWorkload(**dict(space("fbnet_v3").draw("0")))
    uploads = [UploadedWorkload(sha256=digit * 64, dims={}, inputs=()) for digit in "12"]
    lines, _ = running(launched(simulated_board(profile_with(noise=QUIET)), grant_for(model, drawn, *uploads)))
    done = [json.loads(line) for line in lines if b'"done"' in line]
    times = [median(one["blocks_ns"]) / one["iterations"] for one in done]
    assert len(set(times)) == 4
    assert times[0] > 50e6  # 3.6 GFLOP at 38 GFLOPS
