"""A board that waits for quiet says so: since when, and what is busy."""

import pytest

from benchfarm_core.boards import GateWait
from benchfarm_store import gate_waits, jobs, why

WAIT = GateWait(since_unix_s=1_700_000_000.5, reason="3.2 other threads want to run, more than 2")
SAID = "waits for quiet since 1700000000 (unix time): 3.2 other threads want to run, more than 2"


@pytest.fixture
def waiting(farm, ann, agent, job_of):
    """A job whose board has a lease and is not quiet; the job and the lease."""
    job = farm.submit_planned(ann, job_of(2, platforms={"threads": [1]}))
    grant = agent.must_take()
    note(farm, agent, {agent.boards[0]: WAIT})
    return job, grant


def note(farm, agent, waits):
    with farm.transaction() as tx:
        gate_waits.note(tx, agent.id, waits)


def explained(farm, ann, agent, job):
    with farm.transaction() as tx:
        return jobs.explain(tx, job.id, ann), why.explain_board(tx, agent.boards[0])


def test_a_leased_board_that_waits_says_since_when_and_why(farm, ann, agent, waiting):
    job, _ = waiting
    of_job, of_board = explained(farm, ann, agent, job)
    assert of_job.reason == f"its board {SAID}"
    (platform,) = of_job.platforms
    assert [(board.reason, board.gate_wait) for board in platform.boards] == [(SAID, WAIT)]
    assert (of_board.reason, of_board.gate_wait, of_board.removed_by) == (SAID, WAIT, "state")


def test_a_board_that_rests_for_want_of_quiet_goes_on_waiting(farm, ann, agent, waiting):
    job, grant = waiting
    agent.release(grant, "gate")
    of_job, of_board = explained(farm, ann, agent, job)
    assert of_job.reason == f"its only board {SAID}"
    assert of_board.reason == SAID


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
    note(farm, other, {agent.boards[0]: GateWait(since_unix_s=1, reason="lies")})
    assert explained(farm, ann, agent, job)[1].gate_wait == WAIT


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
