"""Carriers at the agent: packed, prepared as a platform opens them, visited once, and blamed together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.boards.interface import LaunchOrder
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.freights import INT8_SITES, CarriedSite, carried_failure, freights, why_not_carried
from benchfarm_agent.launches import LeaseLaunches
from benchfarm_agent.prepared import PreparedItem
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import BatchItem, LeaseGrant
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MeasurementResult, Timing
from benchfarm_core.platforms import Platform, Precision
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.result_checks import check_result
from tests.agent.conftest import canary_in, grant_of
from tests.agent.test_artifacts import PLATFORM, Starved, cache_in, prepare

SITES = (CarriedSite("a0", None), *(CarriedSite(f"k{number}", number) for number in (1, 2, 3)))


def in_situ(count: int) -> list[BatchItem]:
    return [item.model_copy(update={"timing": Timing.IN_SITU}) for item in grant_of(count).items]


def outcomes(results: list[MeasurementResult]) -> dict[int, str]:
    for result in results:
        check_result(result, PROTOCOLS["kernel"])
    return {result.measurement_id: str(result.failure or "ok") for result in results}


def test_kernels_share_carriers_but_what_has_failed_before() -> None:
    items = in_situ(6)
    items[2] = items[2].model_copy(update={"apart": True})
    shared, own = freights(items)
    assert [item.measurement_id for item in shared.items] == [1, 2, 4, 5, 6]
    assert [item.measurement_id for item in own.items] == [3]
    for freight in (shared, own):
        sites = {site.measurement_id: site.name for site in freight.sites if site.measurement_id is not None}
        assert set(sites) == {item.measurement_id for item in freight.items}
        assert len({site.name for site in freight.sites}) == len(freight.sites) > len(sites)
        assert freight.build()[0] == freight.build()[0]
    assert shared.key != own.key
    assert freights([]) == []


def test_int8_carriers_are_short() -> None:
    items = in_situ(INT8_SITES + 1)
    sizes = [len(freight.items) for freight in freights(items, Precision.INT8)]
    assert sum(sizes) == len(items)
    assert max(sizes) <= INT8_SITES < len(freights(items)[0].items)


def test_what_cannot_be_packed_is_said_before() -> None:
    item = in_situ(1)[0]
    newer = item.model_copy(update={"workload": item.workload.model_copy(update={"catalogue_version": 99})})
    broken = item.model_copy(update={"workload": item.workload.model_copy(update={"config": {"hw": 0}})})
    assert why_not_carried(item) is None
    assert "catalogue_version=99" in str(why_not_carried(newer))
    assert why_not_carried(broken)


@pytest.mark.parametrize("change", [{}, {"precision": Precision.INT8}])
def test_a_carrier_is_prepared_once_for_all_its_kernels(
    state: StateDir, running: Callable[[Any], Any], change: dict[str, Any]
) -> None:
    items, alone = in_situ(5), grant_of(6).items[5]
    items[1] = items[1].model_copy(update={"workload": items[1].workload.model_copy(update={"catalogue_version": 99})})
    platform: Platform = PLATFORM.model_copy(update=change)

    async def both() -> Any:
        async with cache_in(state) as (cache, references):
            first = await prepare(cache, [*items, alone], platform)
            await references.close()
            return first, await prepare(cache, [*items, alone], platform), references.pid

    (ready, failed), again, child = running(both())
    assert again == (ready, failed)
    assert child is None
    assert [(one.measurement_id, one.failure) for one in failed] == [(2, FailureCode.INVALID_WORKLOAD)]
    carried = [ready[number] for number in (1, 3, 4, 5)]
    assert len({item.files for item in carried}) == 1
    assert [item.measurement_id for item in carried] == [1, 3, 4, 5]
    assert all(item.is_shared for item in carried)
    assert ready[6].files != carried[0].files
    assert not ready[6].sites


def test_a_carrier_that_cannot_be_made_fails_its_kernels_together(
    state: StateDir, running: Callable[[Any], Any]
) -> None:
    items = in_situ(3)
    items[2] = items[2].model_copy(update={"apart": True})

    async def prepared() -> Any:
        async with cache_in(state, references=Starved(state.cache)) as (cache, _):
            return await prepare(cache, items)

    ready, failed = running(prepared())
    assert sorted(ready) == [3]
    assert {one.measurement_id: one.failure for one in failed} == dict.fromkeys((1, 2), "carrier_failed")
    assert all("runner_died" in one.detail for one in failed)


@pytest.fixture
def carrying(
    local_board: Callable[..., LocalBoard], state: StateDir
) -> Callable[..., tuple[LeaseLaunches, list[LaunchOrder]]]:
    """Launches of a lease whose first three measurements share a carrier, and what was ordered of the board."""

    def make(*faults: str, sites: tuple[CarriedSite, ...] = SITES) -> tuple[LeaseLaunches, list[LaunchOrder]]:
        orders: list[LaunchOrder] = []

        class Noting(LocalBoard):
            def _request(self, order: LaunchOrder, scratch: Path) -> bytes:
                orders.append(order)
                return super()._request(order, scratch)

        granted: LeaseGrant = grant_of(5)
        path = state.cache / "file"
        plain = [PreparedItem(item.measurement_id, path, "0" * 64, (), path, 1e-3) for item in granted.items]
        numbers = {site.measurement_id for site in sites}
        items = [replace(item, sites=sites) if item.measurement_id in numbers else item for item in plain]
        board = local_board(*faults, kind=Noting)
        return LeaseLaunches(board, granted, items, canary_in(state.cache), lambda _: None), orders

    return make


def test_a_carrier_is_visited_once_in_every_launch(carrying: Any, running: Callable[[Any], Any]) -> None:
    work, orders = carrying()
    running(work.run())
    assert outcomes(work.results()) == dict.fromkeys(range(1, 6), "ok")
    assert len(orders) == 3
    for order in orders:
        visits = {visit["visit"]: visit for visit in order.request["visits"]}
        assert sorted(visits) == [1, 4, 5]
        assert [site["visit"] for site in visits[1]["sites"]] == [None, 1, 2, 3]
        assert "sites" not in visits[4]


@pytest.mark.parametrize("fault", ["segfault", "exit", "bad-alloc", "garbage", "refuse"])
def test_a_carrier_that_fails_takes_its_kernels_and_no_other(
    carrying: Any, running: Callable[[Any], Any], fault: str
) -> None:
    work, _ = carrying(f"{fault}@1")
    running(work.run())
    found = outcomes(work.results())
    assert found[1] == "carrier_failed"
    assert (found[4], found[5]) == ("ok", "ok")
    if fault != "refuse":  # the runner died in the middle: nobody knows of which kernel
        assert (found[2], found[3]) == ("carrier_failed", "carrier_failed")
    reasons = {result.measurement_id: result.detail for result in work.results()}
    assert reasons[1].split(":")[0] in {str(code) for code in FailureCode}


def test_a_kernel_that_failed_by_itself_has_its_own_failure(carrying: Any, running: Callable[[Any], Any]) -> None:
    work, _ = carrying("segfault@1", sites=SITES[:2])
    running(work.run())
    assert outcomes(work.results()) == {1: "runner_died", 2: "ok", 3: "ok", 4: "ok", 5: "ok"}


def test_a_kernel_without_a_time_of_its_own_leaves_the_others(carrying: Any, running: Callable[[Any], Any]) -> None:
    work, orders = carrying("fuse@2")
    running(work.run())
    assert outcomes(work.results()) == {1: "ok", 2: "fused_away", 3: "ok", 4: "ok", 5: "ok"}
    later = next(visit for visit in orders[-1].request["visits"] if visit["visit"] == 1)
    assert [site["visit"] for site in later["sites"]] == [None, 1, None, 3]


@pytest.mark.parametrize(("faults", "launched"), [(("contended@2",), 3), (("contended@2", "contended@4"), 8)])
def test_one_unsteady_kernel_gets_no_launches_for_a_whole_carrier(
    carrying: Any, running: Callable[[Any], Any], faults: tuple[str, ...], launched: int
) -> None:
    sites = tuple(CarriedSite(f"k{number}", number) for number in range(1, 6))
    work, orders = carrying(*faults, sites=sites)
    running(work.run())
    assert len(orders) == launched
    assert {number for order in orders[3:] for number in _numbers(order)} == ({2, 4} if launched > 3 else set())
    assert outcomes(work.results()) == dict.fromkeys(range(1, 6), "ok")


def _numbers(order: LaunchOrder) -> set[int]:
    sites = [site for visit in order.request["visits"] for site in visit["sites"]]
    return {site["visit"] for site in sites if site["visit"] is not None}


def test_what_a_shared_failure_means() -> None:
    wrong, contended, disk = FailureCode.WRONG_RESULT, FailureCode.CONTENDED, FailureCode.DISK_FULL
    assert carried_failure(wrong, "far off") == (FailureCode.CARRIER_FAILED, "wrong_result: far off")
    assert carried_failure(contended, "") == (contended, "")
    assert carried_failure(disk, "") == (disk, "")
