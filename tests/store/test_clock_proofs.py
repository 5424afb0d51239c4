"""How sure a result's clock is, by its launches; what a throttled launch and a clock that was not proven do."""

from typing import Any

import pytest

from benchfarm_core.boards import Health
from benchfarm_core.clock_proof import ClockEvidence
from benchfarm_core.jobs import JobState
from benchfarm_core.measurements import MeasurementState
from benchfarm_store import boards, jobs, results, summaries

PINNED_POINT = {"mode": "pinned", "cores": [0], "threads": 1, "freq_khz": [1_800_000]}
PINNED = "host-a/c0.t1.1800000/onnxruntime-1.31.1/fp32"
FREE = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
SURE = ClockEvidence(asked_khz=(1_800_000,), residency=1.0, watched_s=3.0, throttle_events=0)
SAMPLED = SURE.model_copy(update={"residency": None, "samples": 60})
ELSEWHERE = SURE.model_copy(update={"residency": 0.7})
HOT = SURE.model_copy(update={"throttle_events": 2})


@pytest.fixture
def board(farm, ann, report_of):
    points = [PINNED_POINT, {"mode": "free", "cores": [0], "threads": 1}]
    return farm.agent(ann, report_of(operating_points=points, clock_proof="verified"))


@pytest.fixture
def measure(farm, ann, board, job_of, ok_result):
    """One kernel on one platform: takes the lease, hands the launches over, returns the measurement."""

    def run(*clocks: ClockEvidence | None, platform: str = PINNED, seed: int = 1, **changes: Any):
        wish = {name: changes.pop(name) for name in ("clock_proof", "max_age_s") if name in changes}
        if farm.scalar("SELECT count(*) FROM measurements WHERE state = 'wanted'") == 0:
            farm.submit_planned(ann, job_of(1, seed=seed, platforms=[platform], **wish))
        grant = board.must_take()
        id_ = grant.items[0].measurement_id
        board.send(grant, ok_result(id_, launches=len(clocks), **changes), clocks=clocks)
        board.release(grant)
        with farm.transaction() as tx:
            return results.get_measurement(tx, id_, ann)

    return run


@pytest.mark.parametrize(
    ("clocks", "proven"),
    [
        ((SURE, SURE, SURE), "verified"),
        ((SURE, SAMPLED, SURE), "bounded"),
        ((SURE, SURE, ELSEWHERE), "unpinned"),
        ((SURE, SURE, None), "unpinned"),
    ],
)
def test_a_result_is_as_sure_as_its_weakest_launch(measure, clocks, proven):
    measured = measure(*clocks)
    assert measured.state == MeasurementState.DONE
    assert measured.summary.clock_proof == proven
    assert [launch["clock"] and launch["clock"]["residency"] for launch in measured.evidence.launches] == [
        clock and clock.residency for clock in clocks
    ]


def test_what_was_proven_is_reused_by_who_asks_for_it(farm, ann, board, measure, job_of):
    measure(SURE, SAMPLED, SURE)
    assert farm.submit_planned(ann, job_of(1, platforms=[PINNED], clock_proof="bounded")).progress.known == 1
    again = farm.submit_planned(ann, job_of(1, platforms=[PINNED], clock_proof="verified"))
    assert (again.progress.known, again.progress.pending) == (0, 1)


def test_who_asks_for_a_proof_gets_no_result_without_it(farm, ann, board, measure):
    for attempt in range(3):
        measured = measure(SURE, ELSEWHERE, SURE, clock_proof="verified")
        assert measured.summary is None
        assert measured.attempts == attempt + 1
        with farm.transaction() as tx:
            health = boards.get_board(tx, board.boards[0]).health
        assert health == (Health.GOOD if attempt == 0 else Health.SUSPECT)
    assert (measured.state, measured.failure) == (MeasurementState.FAILED, "pin_not_verified")


def test_where_nothing_is_pinned_nothing_can_be_proven(farm, ann, board, job_of):
    request = job_of(1, platforms=[FREE, PINNED], clock_proof="verified")
    with farm.transaction() as tx:
        plan = jobs.dry_run(tx, request, ann)
    assert (plan.impossible, plan.to_measure) == (1, 1)
    assert plan.reasons == [f"{FREE}: no board can prove its clock as verified"]
    job = farm.submit_planned(ann, request)
    with farm.transaction() as tx:
        failed = [item for item in jobs.items(tx, job.id, ann).items if item.failure is not None]
    assert [(item.platform, item.failure) for item in failed] == [(FREE, "clock_proof_unavailable")]


@pytest.mark.parametrize("bad", [HOT, SURE.model_copy(update={"cores_lost": True})])
def test_a_throttled_launch_is_no_part_of_a_result(measure, bad):
    measured = measure(SURE, bad, SURE, SURE)
    assert measured.summary.launches == 3
    assert measured.summary.clock_proof == "verified"
    assert len(measured.samples) == 4, "raw data stay as they came"


def test_too_few_launches_that_were_not_throttled_are_inconclusive(farm, ann, board, measure):
    for attempt in range(3):
        measured = measure(SURE, HOT, SURE)
        assert (measured.attempts, measured.inconclusive) == (0, attempt + 1)
    assert (measured.state, measured.failure) == (MeasurementState.FAILED, "inconclusive")
    assert "throttled" in measured.detail
    with farm.transaction() as tx:
        (job,) = jobs.list_jobs(tx, ann).items
    assert job.state == JobState.FAILED


def test_what_throttled_launches_took_is_left_out_when_a_summary_is_derived_again(farm, measure, ann):
    first = measure(SURE, HOT, SURE, SURE)
    farm.run("UPDATE summaries SET rule_version = 0, median_ms = 77")
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 1
        again = results.get_measurement(tx, first.measurement_id, ann)
    assert again.summary == first.summary


def test_evidence_of_an_earlier_chunk_counts(farm, ann, board, job_of, ok_result):
    farm.submit_planned(ann, job_of(2, platforms=[PINNED]))
    grant = board.must_take()
    one, two = [item.measurement_id for item in grant.items]
    board.send(grant, ok_result(one), clocks=(SURE, SURE, SURE))
    board.send(grant, ok_result(two), clocks=())
    assert farm.scalar("SELECT count(*) FROM summaries WHERE clock_proof = 2") == 2


def test_the_canary_is_held_to_its_history_more_tightly_under_a_proven_clock(measure):
    measure(SURE, SURE, SURE, canary_ns=2_000_000)
    drifting = measure(SURE, SURE, SURE, seed=2, canary_ns=2_100_000)
    assert (drifting.state, drifting.inconclusive) == (MeasurementState.WANTED, 1)
    assert drifting.detail == "inconclusive: canary_drift"


def test_the_canary_may_wander_where_the_clock_does(measure):
    measure(ELSEWHERE, ELSEWHERE, ELSEWHERE, canary_ns=2_000_000)
    wandering = measure(ELSEWHERE, ELSEWHERE, ELSEWHERE, seed=2, canary_ns=2_100_000)
    assert wandering.state == MeasurementState.DONE
