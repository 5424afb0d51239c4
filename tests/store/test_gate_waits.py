"""A board that waits for quiet says so: since when, and what is busy; what a lease waits so costs nobody anything."""

from datetime import UTC, datetime

import pytest

from benchfarm_core.agent_protocol import LeaseReport, ReportsRequest, ToldWait
from benchfarm_core.leases import LeaseTimes
from benchfarm_core.measurements import Purpose
from benchfarm_store import gate_waits, jobs, leases, why
from tests.store.test_adaptation_budgets import MANY, asks, lab, lasted, pace_of, probing, sweep

__all__ = ("lab",)
BUSY = "3.2 other threads want to run, more than 2"
WAITED_S = 90.0


@pytest.fixture
def waiting(farm, ann, agent, job_of):
    """A job whose board has a lease and is not quiet; the job and the lease."""
    job = farm.submit_planned(ann, job_of(2, platforms={"threads": [1]}))
    grant = agent.must_take()
    note(farm, agent, {agent.boards[0]: ToldWait(waited_s=WAITED_S, reason=BUSY)})
    return job, grant


def note(farm, agent, waits):
    with farm.transaction() as tx:
        gate_waits.note(tx, agent.id, waits)


def unix_s(farm):
    return float(farm.scalar("SELECT extract(epoch FROM now())"))


def sentence(of_board):
    since = datetime.fromtimestamp(of_board.gate_wait.since_unix_s, UTC)
    return f"waits for quiet since {since:%Y-%m-%d %H:%M:%S} UTC: {BUSY}"


def explained(farm, ann, agent, job):
    with farm.transaction() as tx:
        return jobs.explain(tx, job.id, ann), why.explain_board(tx, agent.boards[0])


def test_a_leased_board_that_waits_says_since_when_and_why(farm, ann, agent, waiting):
    job, _ = waiting
    of_job, of_board = explained(farm, ann, agent, job)
    wait, said = of_board.gate_wait, sentence(of_board)
    assert wait.since_unix_s == pytest.approx(unix_s(farm) - WAITED_S, abs=5)
    assert of_job.reason == f"its board {said}"
    (platform,) = of_job.platforms
    assert [(board.reason, board.gate_wait) for board in platform.boards] == [(said, wait)]
    assert (of_board.reason, of_board.removed_by) == (said, "state")


def test_a_wait_keeps_its_beginning_however_long_each_poll_takes(farm, ann, agent, waiting):
    job, _ = waiting
    begun_unix_s = explained(farm, ann, agent, job)[1].gate_wait.since_unix_s
    for waited_s, reason in ((WAITED_S - 2, "late"), (WAITED_S + 2, "early")):
        note(farm, agent, {agent.boards[0]: ToldWait(waited_s=waited_s, reason=reason)})
        wait = explained(farm, ann, agent, job)[1].gate_wait
        assert (wait.since_unix_s, wait.reason) == (begun_unix_s, reason)
    note(farm, agent, {agent.boards[0]: ToldWait(waited_s=3, reason="another")})
    assert explained(farm, ann, agent, job)[1].gate_wait.since_unix_s > begun_unix_s + 60


def test_a_board_that_rests_for_want_of_quiet_goes_on_waiting(farm, ann, agent, waiting):
    job, grant = waiting
    agent.release(grant, "gate")
    of_job, of_board = explained(farm, ann, agent, job)
    assert of_job.reason == f"its only board {sentence(of_board)}"
    assert of_board.reason == sentence(of_board)


def test_quiet_ends_the_wait(farm, ann, agent, waiting):
    job, _ = waiting
    note(farm, agent, {})
    of_job, of_board = explained(farm, ann, agent, job)
    assert (of_job.reason, of_board.reason, of_board.gate_wait) == ("measuring 2 now", "is measuring", None)


def test_what_was_told_last_is_over_where_nobody_wants_the_board(farm, ann, agent, waiting, report_of):
    job, grant = waiting
    agent.release(grant)
    assert explained(farm, ann, agent, job)[1].gate_wait is None
    agent.must_take()
    agent.register(report_of())
    assert explained(farm, ann, agent, job)[1].gate_wait is None


def test_nobody_tells_of_another_agents_board(farm, ann, agent, waiting, report_of):
    job, _ = waiting
    other = farm.agent(ann, report_of("s2"), name="other lab")
    note(farm, other, {agent.boards[0]: ToldWait(waited_s=1, reason="lies")})
    assert explained(farm, ann, agent, job)[1].gate_wait.reason == BUSY


def test_a_job_hears_why_its_engine_was_withdrawn(farm, ann, agent, job_of, report_of):
    job = farm.submit_planned(ann, job_of(1, platforms={"threads": [1]}))
    damaged = {"name": "onnxruntime", "available": False, "reason": "onnxruntime cannot be imported: no such file"}
    agent.register(report_of(engines=[damaged]))
    of_job, of_board = explained(farm, ann, agent, job)
    assert [(one.reason, one.removed_by) for one in of_job.platforms[0].boards] == [
        ("lacks onnxruntime: onnxruntime cannot be imported: no such file", "engine")
    ]
    assert of_board.lacks == {"onnxruntime": "onnxruntime cannot be imported: no such file"}
    agent.register(report_of())
    assert agent.measure_all() == 1


def test_a_board_says_which_engines_it_lacks(farm, agent):
    with farm.transaction() as tx:
        assert why.explain_board(tx, agent.boards[0]).lacks == {"ncnn": "not installed"}


def test_what_a_lease_is_told_to_have_waited_at_its_gate_gives_up_nothing(lab, agent, ok_result):
    one = probing(lab, budget_s=7200)
    lab.want(one, asks(MANY), purpose=Purpose.PROBE, round_no=0)
    grant = agent.must_take()
    ids = tuple(item.measurement_id for item in grant.items)
    lasted(lab, 3000)
    told = LeaseReport(lease_token=grant.lease_token, measurement_ids=ids, gate_ms=2_990_000)
    with lab.farm.transaction() as tx:
        leases.report(tx, agent.id, ReportsRequest(leases=(told,)), LeaseTimes())
    sweep(lab)
    assert lab.view(one).measured.given_up == 0
    assert lab.view(one).board_s == pytest.approx(10, abs=5)
    agent.finish(grant, *map(ok_result, ids))
    assert (took_s := lab.view(one).board_s) == pytest.approx(10, abs=5)
    expected_s = lab.farm.scalar("SELECT sum(expected_s) FROM measurements WHERE state = 'done'")
    assert pace_of(lab, one).value == pytest.approx(took_s / expected_s), "nor is more expected of the next ones"
    assert lab.view(one).measured.given_up == 0
