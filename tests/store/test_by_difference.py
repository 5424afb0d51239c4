"""Times by difference go to boards whose agents and runners know them, and to no other."""

from typing import Any

import pytest
from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import JobRequest, JobView
from benchfarm_core.measurements import Timing
from benchfarm_store import dispatching, jobs, why
from tests.store.conftest import TIMES, board_report, failed, kernel_job

NCNN = "host-a/c0.t1.free/ncnn-1/fp32"
KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
UNKNOWN: dict[str, Any] = {"name": "ncnn", "available": True, "version": "1", "precisions": ["fp32"]}
KNOWN = {**UNKNOWN, "by_difference": True}
PROFILED = {**UNKNOWN, "name": "onnxruntime", "version": "1.31.1"}


def job(count: int = 2, timing: str = "in_situ", **changes: Any) -> JobRequest:
    return kernel_job(count, timing=timing, **{"platforms": [NCNN], **changes})


def lab(farm: Any, ann: Any, serial: str, *engines: dict[str, Any]) -> Any:
    """An agent whose one board has these engines."""
    return farm.agent(ann, board_report(serial, engines=engines), name=f"lab of {serial}")


def explained(farm: Any, ann: Any, found: JobView) -> Any:
    with farm.transaction() as tx:
        (platform,) = jobs.explain(tx, found.id, ann).platforms
    return platform


def test_a_board_that_knows_no_differences_is_offered_all_else(farm, ann):
    """It would fail them for good, and no newer board would get them."""
    older, newer = lab(farm, ann, "older", UNKNOWN), lab(farm, ann, "newer", KNOWN)
    farm.submit_planned(ann, job(3))
    farm.submit_planned(ann, job(2, timing="alone"))
    grant = older.must_take()
    assert [item.timing for item in grant.items] == [Timing.ALONE] * 2
    older.release(grant)
    older.measure_all()
    assert older.take() is None
    grant = newer.must_take()
    assert [item.timing for item in grant.items] == [Timing.IN_SITU] * 3


def test_a_board_that_knows_no_differences_finds_the_rest_however_much_waits_before_it(farm, ann):
    """What it cannot take is not even read."""
    older = lab(farm, ann, "older", UNKNOWN)
    lab(farm, ann, "newer", KNOWN)
    farm.submit_planned(ann, job(3))
    farm.run("""
        INSERT INTO measurements (workload_id, wanted_at, platform_id, protocol_id, queue_id, repeat_no, expected_s,
            timing, state, purpose)
        SELECT workload_id, wanted_at, platform_id, protocol_id, queue_id, n, expected_s, timing, state, purpose
        FROM measurements, generate_series(100, 1100) n
    """)
    farm.submit_planned(ann, job(2, timing="alone"))
    farm.run("ANALYZE measurements")
    read = text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'measurements'")
    with farm.transaction() as tx:
        before = tx.execute(read).scalar_one()
        assert dispatching.dispatch(tx, older.boards[0], TIMES, taken_by=older.id) is not None
        assert tx.execute(read).scalar_one() - before < 100


def test_another_version_of_the_engine_does_not_speak_for_it(farm, ann):
    both = lab(farm, ann, "both", UNKNOWN, {**KNOWN, "version": "2"})
    lab(farm, ann, "newer", KNOWN)
    farm.submit_planned(ann, job(1))
    assert both.take() is None
    farm.submit_planned(ann, job(1, platforms=[NCNN.replace("ncnn-1", "ncnn-2")]))
    assert [item.timing for item in both.must_take().items] == [Timing.IN_SITU]


def test_engines_with_a_profiler_need_not_say_anything(farm, ann):
    older = lab(farm, ann, "older", PROFILED, UNKNOWN)
    farm.submit_planned(ann, job(2, platforms=[KEY]))
    assert [item.timing for item in older.must_take().items] == [Timing.IN_SITU] * 2


def test_what_failed_on_the_one_board_that_can_goes_there_again(farm, ann):
    """Elsewhere is no board that could take it, though there is one that takes what is timed alone."""
    older, newer = lab(farm, ann, "older", UNKNOWN), lab(farm, ann, "newer", KNOWN)
    for timing in Timing:
        farm.submit_planned(ann, job(1, timing=timing))
    grant = newer.must_take()
    numbers = {item.timing: item.measurement_id for item in grant.items}
    newer.send(grant, *(failed(number, "runner_died") for number in numbers.values()))
    newer.release(grant)
    assert [item.measurement_id for item in newer.must_take().items] == [numbers[Timing.IN_SITU]]
    assert [item.measurement_id for item in older.must_take().items] == [numbers[Timing.ALONE]]


@pytest.mark.parametrize("make", [True, False])
def test_where_no_board_can_it_is_refused_and_not_left_waiting(farm, ann, make):
    lab(farm, ann, "older", PROFILED, UNKNOWN)

    def ask(request: JobRequest) -> Any:
        with farm.transaction() as tx:
            return jobs.submit(tx, request, by=ann)[0] if make else jobs.dry_run(tx, request, ann)

    for platforms in ([NCNN], [KEY, NCNN], {"engine": ["ncnn"]}):
        with pytest.raises(InvalidRequest, match="does not time kernels by difference") as refused:
            ask(job(1, platforms=platforms))
        assert (refused.value.code, refused.value.field) == ("timing_impossible", "platforms")
    ask(job(1, timing="alone"))
    ask(job(1, platforms={}))
    lab(farm, ann, "newer", KNOWN)
    ask(job(1))


def test_a_filter_leaves_out_what_no_board_can(farm, ann):
    lab(farm, ann, "older", PROFILED, UNKNOWN)
    found = farm.submit_planned(ann, job(1, platforms={"threads": [1]}))
    with farm.transaction() as tx:
        assert {item.platform for item in jobs.items(tx, found.id, ann).items} == {KEY}


def test_what_waits_says_which_boards_cannot(farm, ann):
    older, newer = lab(farm, ann, "older", UNKNOWN), lab(farm, ann, "newer", KNOWN)
    found = farm.submit_planned(ann, job(2))
    reasons = {one.board_id: one.removed_by for one in explained(farm, ann, found).boards}
    assert reasons == {older.boards[0]: "timing", newer.boards[0]: None}
    newer.register(board_report("newer", engines=[UNKNOWN]))
    platform = explained(farm, ann, found)
    assert platform.reason.startswith("none of its 2 boards can be used; one does not time kernels by difference")
    assert {one.removed_by for one in platform.boards} == {"timing"}
    with farm.transaction() as tx:
        assert why.explain_board(tx, older.boards[0]).waiting == 0
        assert dispatching.dispatch(tx, older.boards[0], TIMES) is None
    newer.register(board_report("newer", engines=[KNOWN]))
    with farm.transaction() as tx:
        assert why.explain_board(tx, newer.boards[0]).waiting == 2
    alone = farm.submit_planned(ann, job(1, timing="alone"))
    assert {one.removed_by for one in explained(farm, ann, alone).boards} == {None}
