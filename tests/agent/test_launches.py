"""A lease's launches against a runner that crashes, hangs, lies or runs out of something."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent import launches as launches_module
from benchfarm_agent.boards.interface import Conditions, LaunchOrder
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.launch_evidence import merged
from benchfarm_agent.launches import LeaseLaunches, shuffled
from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_core.agent_protocol import LaunchEvidence, LeaseGrant
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MS_MAX, MeasurementResult
from benchfarm_core.platforms import OperatingPoint
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import accepted_launches
from benchfarm_core.quiet_blocks import patience_ms as patience_of
from benchfarm_core.result_checks import check_result

Make = Callable[..., LeaseLaunches]
Run = Callable[[Any], Any]


def outcomes(results: list[MeasurementResult]) -> dict[int, str]:
    """Per measurement `ok` or its failure code."""
    for result in results:
        check_result(result, PROTOCOLS["kernel"])
    return {result.measurement_id: str(result.failure or "ok") for result in results}


def test_every_launch_visits_everything_once(launches: Make, running: Run) -> None:
    work = launches()
    running(work.run())
    results = work.results()
    assert outcomes(results) == dict.fromkeys(range(1, 6), "ok")
    assert all([launch.launch_no for launch in result.launches] == [0, 1, 2] for result in results)
    assert [evidence.launch_no for evidence in work.evidence] == [0, 1, 2]
    assert all(evidence.wall_ms > 0 and evidence.first_block_unix_s == 1.0 for evidence in work.evidence)
    began = [evidence.began_unix_s for evidence in work.evidence]
    assert began == sorted(began)


def noting_board() -> tuple[type[LocalBoard], list[bytes]]:
    """A kind of board that notes what its runners are asked, and its notes."""
    orders: list[bytes] = []

    class Noting(LocalBoard):
        def _request(self, order: LaunchOrder, scratch: Path) -> bytes:
            orders.append(super()._request(order, scratch))
            return orders[-1]

    return Noting, orders


@pytest.mark.parametrize("uploaded", [False, True])
def test_a_launch_with_an_upload_is_strict(
    local_board: Callable[..., LocalBoard],
    grant: Callable[..., LeaseGrant],
    running: Run,
    tmp_path: Path,
    uploaded: bool,
) -> None:
    noting, orders = noting_board()
    path = tmp_path / "file"
    items = [
        PreparedItem(number, path, "0" * 64, (), path, 1e-3, uploaded=uploaded and number == 2) for number in (1, 2)
    ]
    board = local_board(kind=noting)
    running(LeaseLaunches(board, grant(2), items, Canary(path, ()), lambda _: None).run())
    assert {json.loads(order)["limits"]["strict"] for order in orders} == {uploaded}


@pytest.mark.parametrize(
    ("faults", "asked"), [(["tells@all"], [True, False, False]), (["tells@1"], [True] * 3), ([], [True] * 3)]
)
def test_a_launch_asks_for_the_precision_until_all_have_told(
    local_board: Callable[..., LocalBoard],
    grant: Callable[..., LeaseGrant],
    running: Run,
    tmp_path: Path,
    faults: list[str],
    asked: list[bool],
) -> None:
    noting, orders = noting_board()
    path = tmp_path / "file"
    items = [PreparedItem(number, path, "0" * 64, (), path, 1e-3) for number in (1, 2)]
    work = LeaseLaunches(local_board(*faults, kind=noting), grant(2), items, Canary(path, ()), lambda _: None)
    running(work.run())
    assert [json.loads(order)["asks_precision"] for order in orders] == asked
    told = {result.measurement_id: result.effective_precision for result in work.results()}
    everybody = "tells@all" in faults
    assert told == {1: "fp32" if faults else None, 2: "fp32" if everybody else None}


@pytest.mark.parametrize(
    ("known_ns", "told"), [(None, [None, 1000, 1000]), (800, [800] * 3), (1200, [1200, 1000, 1000])]
)
def test_a_launch_waits_for_the_fastest_clock_that_history_or_lease_has_seen(
    local_board: Callable[..., LocalBoard],
    grant: Callable[..., LeaseGrant],
    running: Run,
    tmp_path: Path,
    known_ns: int | None,
    told: list[int | None],
) -> None:
    """The stand-in's SGEMM takes 1,000 ns."""
    noting, orders = noting_board()
    path = tmp_path / "file"
    items = [PreparedItem(number, path, "0" * 64, (), path, 1e-3) for number in (1, 2)]
    granted = grant(2).model_copy(update={"fastest_canary_ns": known_ns})
    running(LeaseLaunches(local_board(kind=noting), granted, items, Canary(path, ()), lambda _: None).run())
    assert [json.loads(order)["canaries"]["sgemm"].get("fastest_ns") for order in orders] == told
    assert {json.loads(order)["protocol"]["quiet_wait_ms"] for order in orders} == {PROTOCOLS["kernel"].quiet_wait_ms}


def test_a_lease_is_as_patient_as_its_launches_have_left_of_it(
    local_board: Callable[..., LocalBoard], grant: Callable[..., LeaseGrant], running: Run, tmp_path: Path
) -> None:
    noting, orders = noting_board()
    path = tmp_path / "file"
    items = [PreparedItem(number, path, "0" * 64, (), path, 1e-3) for number in (1, 2)]
    running(LeaseLaunches(local_board(kind=noting), grant(2), items, Canary(path, ()), lambda _: None).run())
    whole_ms = patience_of(PROTOCOLS["kernel"], 2, 0)
    told = [json.loads(order)["canaries"]["sgemm"]["patience_ms"] for order in orders]
    assert told == [whole_ms, whole_ms - 350, whole_ms - 700]


@pytest.mark.parametrize(("limit_ns", "launched"), [(None, 3), (1000, 3), (999, PROTOCOLS["kernel"].launches_max)])
def test_launches_go_on_while_uploads_never_met_the_clock_of_their_board(
    local_board: Callable[..., LocalBoard],
    grant: Callable[..., LeaseGrant],
    running: Run,
    tmp_path: Path,
    limit_ns: int | None,
    launched: int,
) -> None:
    """The stand-in's SGEMM takes 1,000 ns."""
    path = tmp_path / "file"
    items = [PreparedItem(number, path, "0" * 64, (), path, 1e-3, uploaded=True) for number in (1, 2)]
    granted = grant(2).model_copy(update={"slowest_canary_ns": limit_ns})
    work = LeaseLaunches(local_board(), granted, items, Canary(path, ()), lambda _: None)
    running(work.run())
    assert len(work.evidence) == launched
    assert outcomes(work.results()) == {1: "ok", 2: "ok"}


@pytest.mark.parametrize(("uploaded", "launched"), [(True, 3), (False, PROTOCOLS["kernel"].launches_max)])
def test_what_a_strangers_file_makes_of_its_canary_costs_the_others_no_launches(
    local_board: Callable[..., LocalBoard],
    grant: Callable[..., LeaseGrant],
    running: Run,
    tmp_path: Path,
    uploaded: bool,
    launched: int,
) -> None:
    """Beside uploads the farm holds each result to its own canaries: of a lease, that of the first is its clock."""
    path = tmp_path / "file"
    items = [PreparedItem(n, path, "0" * 64, (), path, 1e-3, uploaded=uploaded and n == 1) for n in (1, 2)]
    board = local_board("fast-points@1", "points@2")
    work = LeaseLaunches(board, grant(2), items, Canary(path, ()), lambda _: None)
    running(work.run())
    assert len(work.evidence) == launched
    assert outcomes(work.results()) == {1: "ok", 2: "ok"}


def test_a_result_of_a_pair_tells_both_precisions(launches: Make, running: Run) -> None:
    work = launches("tells-both@all", count=1, protocol=PROTOCOLS["compare"])
    running(work.run())
    [result] = work.results()
    assert (result.outcome, result.effective_precision, result.b_effective_precision) == ("ok", "fp32", "bf16")


def test_the_order_is_by_chance_but_repeatable() -> None:
    orders = [shuffled(range(20), "l_a", launch) for launch in range(3)]
    assert orders == [shuffled(range(19, -1, -1), "l_a", launch) for launch in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(20)) for order in orders)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("segfault", FailureCode.RUNNER_DIED),
        ("exit", FailureCode.RUNNER_DIED),
        ("bad-alloc", FailureCode.OUT_OF_MEMORY),
        ("no-space", FailureCode.DISK_FULL),
        ("garbage", FailureCode.RUNNER_GARBAGE),
        ("binary", FailureCode.RUNNER_GARBAGE),
        ("nan", FailureCode.RUNNER_GARBAGE),
        ("negative", FailureCode.RUNNER_GARBAGE),
        ("lengths", FailureCode.RUNNER_GARBAGE),
        ("stray-points", FailureCode.RUNNER_GARBAGE),
        ("other-visit", FailureCode.RUNNER_GARBAGE),
        ("done-float-id", FailureCode.RUNNER_GARBAGE),
        ("surrogate-detail", FailureCode.ENGINE_ERROR),
        ("huge-import-ms", FailureCode.RUNNER_GARBAGE),
        ("huge-shares", "ok"),
        ("starts-no-id", FailureCode.RUNNER_GARBAGE),
        ("starts-truth", FailureCode.RUNNER_GARBAGE),
        ("starts-other", FailureCode.RUNNER_GARBAGE),
        ("long-line", FailureCode.RUNNER_GARBAGE),
        ("flood", FailureCode.RUNNER_GARBAGE),
        ("refuse", FailureCode.UNSUPPORTED_OPERATOR),
    ],
)
def test_a_fault_takes_one_measurement_and_leaves_the_others(
    launches: Make, running: Run, fault: str, code: str
) -> None:
    work = launches(f"{fault}@3")
    running(work.run())
    assert outcomes(work.results()) == {1: "ok", 2: "ok", 3: code, 4: "ok", 5: "ok"}
    assert [evidence.launch_no for evidence in work.evidence] == [0, 1, 2]


def test_a_visit_done_twice_keeps_the_first_and_goes_on(launches: Make, running: Run) -> None:
    work = launches("twice@3")
    running(work.run())
    found = outcomes(work.results())
    assert {found[number] for number in (1, 2, 4, 5)} == {"ok"}


def test_noise_on_stderr_is_no_fault(launches: Make, running: Run) -> None:
    work = launches("stderr@2", count=3)
    running(work.run())
    assert set(outcomes(work.results()).values()) == {"ok"}


@pytest.mark.parametrize("fault", ["hang", "hang-in-child"])
def test_a_runner_that_says_nothing_is_ended(
    launches: Make, running: Run, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches_module, "GRACE_S", 0.2)
    protocol = PROTOCOLS["quick"].model_copy(update={"visit_timeout_s": 1})
    work = launches(f"{fault}@2", count=3, protocol=protocol)
    running(work.run())
    found = outcomes(work.results())
    assert found[2] in (FailureCode.TIMEOUT, FailureCode.RUNNER_DIED)
    assert found[1] == found[3] == "ok"


def test_an_engine_that_is_gone_fails_every_measurement_typed(launches: Make, running: Run) -> None:
    work = launches("engine-unavailable@ready")
    running(work.run())
    assert outcomes(work.results()) == dict.fromkeys(range(1, 6), "engine_unavailable")
    assert work.evidence == []


def test_an_engine_that_was_replaced_below_the_agent_measures_nothing(launches: Make, running: Run) -> None:
    work = launches("other-version@ready")
    running(work.run())
    assert outcomes(work.results()) == dict.fromkeys(range(1, 6), "engine_unavailable")
    assert "onnxruntime 2 ran where 1 is wanted" in work.results()[0].detail
    assert [evidence.engine_version for evidence in work.evidence] == ["2"]


class _Counting(LocalBoard):
    """A host whose throttle counter moves by one with each look in `jumps`, and which is lost after `looks`."""

    jumps: frozenset[int] = frozenset()
    looks = 99
    looked = -1
    count = 0

    async def evidence(self, point: OperatingPoint) -> Conditions:
        self.looked += 1
        if self.looked == self.looks:
            raise TransientDeviceError("unplugged")
        self.count += self.looked in self.jumps
        return Conditions(throttle_count=self.count)


def counting_launches(make_board: Callable[..., LocalBoard], grant: LeaseGrant, folder: Path) -> LeaseLaunches:
    items = [PreparedItem(one.measurement_id, folder, "0" * 64, (), folder, 1e-3) for one in grant.items]
    return LeaseLaunches(make_board(kind=_Counting), grant, items, Canary(folder, ()), lambda _: None)


def test_a_launch_in_which_the_host_slowed_itself_down_is_made_again(
    local_board: Callable[..., LocalBoard], grant: Callable[..., LeaseGrant], running: Run, tmp_path: Path
) -> None:
    work = counting_launches(local_board, grant(2), tmp_path)
    assert isinstance(work.board, _Counting)
    work.board.jumps = frozenset({3})  # behind the second launch
    running(work.run())
    assert [evidence.throttled for evidence in work.evidence] == [False, True, False, False]
    clocks = {one.launch_no: one.clock for one in work.evidence if one.clock is not None}
    assert {number: clock.throttle_events for number, clock in clocks.items()} == {1: 1}
    for result in work.results():
        accepted = accepted_launches(result.launches, clocks, PROTOCOLS["kernel"])
        assert not isinstance(accepted, FailureCode)
        assert [launch.launch_no for launch in accepted] == [0, 2, 3]


def test_what_a_launch_found_stays_when_the_board_is_lost_right_behind_it(
    local_board: Callable[..., LocalBoard], grant: Callable[..., LeaseGrant], running: Run, tmp_path: Path
) -> None:
    work = counting_launches(local_board, grant(2), tmp_path)
    assert isinstance(work.board, _Counting)
    work.board.looks = 5  # behind the third launch

    async def lose() -> None:
        with pytest.raises(TransientDeviceError):
            await work.run()
        work.lose_board("unplugged")

    running(lose())
    assert outcomes(work.results()) == {1: "ok", 2: "ok"}
    assert [evidence.launch_no for evidence in work.evidence] == [0, 1, 2]


@pytest.mark.parametrize(
    ("fault", "code"),
    [("segfault", "runner_died"), ("garbage", "runner_garbage"), ("huge-import-ms", "runner_garbage")],
)
def test_a_runner_that_never_gets_ready_is_given_up(launches: Make, running: Run, fault: str, code: str) -> None:
    work = launches(f"{fault}@ready")
    running(work.run())
    assert outcomes(work.results()) == dict.fromkeys(range(1, 6), code)


def test_times_that_a_runner_claims_add_up_to_what_evidence_can_carry(launches: Make, running: Run) -> None:
    work = launches("huge-shares@all")
    running(work.run())
    assert set(outcomes(work.results()).values()) == {"ok"}
    whole = merged(work.evidence)
    assert LaunchEvidence.model_validate(whole[0].model_dump()).timed_ms == work.evidence[0].timed_ms == MS_MAX


@pytest.mark.parametrize(("told", "kept"), [([None, 0.01, 0.02], 0.02), ([0.01], 0.01), ([None, None], None)])
def test_the_farthest_twin_of_a_launch_is_that_of_all_its_processes(
    launches: Make, running: Run, told: list[float | None], kept: float | None
) -> None:
    work = launches()
    running(work.run())
    parts = [work.evidence[0].model_copy(update={"twin_relative_l2": one}) for one in told]
    assert [one.twin_relative_l2 for one in merged(parts)] == [kept]


def test_every_visit_crashing_ends_the_lease(launches: Make, running: Run) -> None:
    work = launches("segfault@all", count=4)
    running(work.run())
    assert outcomes(work.results()) == dict.fromkeys(range(1, 5), "runner_died")


def test_more_launches_only_where_the_interval_is_wide(launches: Make, running: Run) -> None:
    protocol = PROTOCOLS["kernel"].model_copy(update={"launches_max": 5, "half_width_target": 0.01})
    work = launches("wide@2", count=6, protocol=protocol)
    running(work.run())
    counts = {result.measurement_id: len(result.launches) for result in work.results()}
    assert {counts[number] for number in (1, 3, 4, 5, 6)} == {3}
    assert counts[2] in (3, 5)  # 3 when chance never put it first


def test_contended_launches_are_replaced_and_all_are_reported(launches: Make, running: Run) -> None:
    visits: list[int] = []
    work = launches("contended@2", count=3, on_running=lambda number: visits.append(number) if number else None)
    running(work.run())
    counts = {result.measurement_id: len(result.launches) for result in work.results()}
    assert counts == {1: 3, 2: PROTOCOLS["kernel"].launches_max, 3: 3}
    assert visits[9:] == [2] * (PROTOCOLS["kernel"].launches_max - 3)
    assert [evidence.launch_no for evidence in work.evidence] == list(range(PROTOCOLS["kernel"].launches_max))


def test_beside_others_on_a_shared_host_nothing_is_launched_again_for_them(launches: Make, running: Run) -> None:
    """What it is would be contended in the next launch too: the farm takes these as they are."""
    work = launches("contended@2", count=3, board_model="shared-host-test")
    running(work.run())
    results = work.results()
    assert {result.measurement_id: len(result.launches) for result in results} == {1: 3, 2: 3, 3: 3}
    (contended,) = (result for result in results if result.measurement_id == 2)
    assert any(any(one.switches) or any(one.delays_ns) for one in contended.launches), "recorded as it was seen"


@pytest.mark.parametrize(
    ("later", "outcome"),
    [
        ("segfault", "ok"),
        ("no-space", "ok"),
        ("engine-unavailable", "ok"),
        ("garbage", "runner_garbage"),
        ("refuse", "unsupported_operator"),
    ],
)
def test_what_is_lost_while_confirming_takes_nothing_back_but_a_fault_of_the_workload_does(
    launches: Make, running: Run, later: str, outcome: str
) -> None:
    work = launches(f"then-{later}@2", count=3)
    running(work.run())
    results = work.results()
    assert outcomes(results) == {1: "ok", 2: outcome, 3: "ok"}
    assert {len(result.launches) for result in results if result.outcome == "ok"} == {3}


def test_an_early_end_leaves_what_was_contended_wanted(launches: Make, running: Run) -> None:
    work: LeaseLaunches
    begun: list[int] = []

    def stop_in_the_fourth_launch(measurement_id: int | None) -> None:
        if measurement_id is not None:
            begun.append(measurement_id)
        if len(begun) == 7:
            work.finish_early()

    work = launches("contended@2", count=2, on_running=stop_in_the_fourth_launch)
    running(work.run())
    assert outcomes(work.results()) == {1: "ok"}


def test_what_nobody_wants_any_more_is_left_out(launches: Make, running: Run) -> None:
    seen: list[int | None] = []
    work = launches(count=3, on_running=seen.append)
    work.drop([2])
    running(work.run())
    assert sorted(outcomes(work.results())) == [1, 3]
    assert 2 not in seen


def test_what_runs_is_known_in_time(launches: Make, running: Run) -> None:
    seen: list[int | None] = []
    work = launches(count=2, protocol=PROTOCOLS["quick"], on_running=seen.append)
    running(work.run())
    assert [one for one in seen if one is not None] == shuffled([1, 2], "l_" + "5a" * 16, 0)
    assert seen[-1] is None


def test_finishing_early_keeps_only_complete_measurements(launches: Make, running: Run) -> None:
    work: LeaseLaunches
    started = 0

    def stop_in_the_second_launch(measurement_id: int | None) -> None:
        nonlocal started
        started += measurement_id is not None
        if started == 4:
            work.finish_early()

    work = launches(count=3, on_running=stop_in_the_second_launch)
    running(work.run())
    assert len(work.evidence) == 2
    assert work.results() == []


def test_stopping_the_board_ends_a_launch_at_once(
    launches: Make, running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = launches("hang@2", count=2, protocol=PROTOCOLS["quick"])

    async def stop_soon() -> None:
        task = asyncio.create_task(work.run())
        while not work.evidence and not task.done():
            await asyncio.sleep(0.05)
            work.finish_early()
            await work.board.stop()
        await task

    running(stop_soon())
    assert 2 not in outcomes(work.results())
