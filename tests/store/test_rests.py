"""What a loud moment made inconclusive rests from its board, longer from try to try; everything else goes on."""

import pytest

from benchfarm_core.boards import BoardState
from benchfarm_core.leases import LeaseTimes
from benchfarm_core.measurements import MAX_INCONCLUSIVE
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_store import dispatching, jobs, why

PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
TIMES = LeaseTimes(retry_s=100)
"""Rests of 100, 600 and 2,400 s: far longer than a test takes."""


def pass_s(farm, seconds):
    """As if so much time had passed since the last try."""
    farm.run("UPDATE lease_items SET finished_at = finished_at - make_interval(secs => :s)", s=seconds)


def ids_of(grant):
    return [item.measurement_id for item in grant.items]


def try_in_vain(agent, failed_result, *, board=None, code="contended"):
    """A lease in a loud moment; its measurements."""
    grant = agent.must_take(board, TIMES)
    agent.send(grant, *(failed_result(id_, code) for id_ in ids_of(grant)))
    agent.release(grant)
    return ids_of(grant)


@pytest.fixture
def job(farm, ann, agent, job_of):
    return farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))


@pytest.mark.parametrize("code", ["contended", "canary_drift", "throttled"])
def test_three_tries_lie_in_three_moments(farm, ann, agent, job, failed_result, code):
    for rest_s in (100, 600):
        try_in_vain(agent, failed_result, code=code)
        assert agent.take(times=TIMES) is None
        pass_s(farm, rest_s - 50)
        assert agent.take(times=TIMES) is None
        pass_s(farm, 50)
    try_in_vain(agent, failed_result, code=code)
    assert farm.job(job.id, ann).progress.failed == 2
    assert farm.scalar("SELECT DISTINCT inconclusive FROM measurements") == MAX_INCONCLUSIVE


def test_tries_that_noise_took_count_too(farm, agent, job, failed_result):
    try_in_vain(agent, failed_result)
    farm.run("UPDATE measurements SET noisy = 2")
    pass_s(farm, 2350)
    assert agent.take(times=TIMES) is None, "the third try was this one"
    pass_s(farm, 50)
    assert agent.take(times=TIMES) is not None


def test_what_no_moment_was_to_blame_for_is_tried_again_at_once(farm, agent, job, failed_result):
    first = try_in_vain(agent, failed_result, code="difference_unclear")
    assert try_in_vain(agent, failed_result, code="runner_died") == first
    assert agent.take(times=TIMES) is not None


def test_the_board_measures_what_else_is_wanted_meanwhile(farm, ann, agent, job, job_of, failed_result, ok_result):
    """Whatever its class: what rests is of the highest, and keeps nothing waiting."""
    farm.run("UPDATE queues SET priority = 2")
    resting = try_in_vain(agent, failed_result)
    later = farm.submit_planned(ann, job_of(2, seed=7, platforms=[PLATFORM], priority="low"))
    grant = agent.must_take(times=TIMES)
    assert not set(ids_of(grant)) & set(resting)
    agent.send(grant, *(ok_result(id_) for id_ in ids_of(grant)))
    agent.release(grant)
    assert farm.job(later.id, ann).progress.succeeded == 2
    pass_s(farm, 100)
    assert sorted(ids_of(agent.must_take(times=TIMES))) == sorted(resting)


def test_however_much_rests_the_rest_of_its_queue_is_found(farm, ann, agent, job_of, failed_result):
    """More than a dispatch looks at."""
    count = dispatching.CANDIDATES[-1] + 1
    farm.submit_planned(ann, job_of(count, platforms=[PLATFORM]))
    farm.run("UPDATE measurements SET expected_s = 0.1")
    resting: set[int] = set()
    while len(resting) < count:
        resting |= set(try_in_vain(agent, failed_result))
    assert agent.take(times=TIMES) is None
    farm.submit_planned(ann, job_of(1, seed=7, platforms=[PLATFORM]))
    assert len(set(ids_of(agent.must_take(times=TIMES))) - resting) == 1


def test_another_board_of_the_platform_takes_it_at_once(farm, ann, agent, job, report_of, failed_result):
    here, there = agent.register(report_of("s1"), report_of("s2")).boards
    first = try_in_vain(agent, failed_result, board=here.board_id)
    assert agent.take(here.board_id, TIMES) is None
    assert try_in_vain(agent, failed_result, board=there.board_id) == first
    assert agent.take(there.board_id, TIMES) is None
    grant = agent.must_take(here.board_id, TIMES)
    assert ids_of(grant) == first, "it rests from the board of its last try"


@pytest.mark.parametrize(("retry_s", "told"), [(0.5, [0.5, 3]), (5, [5, 30]), (20, [20]), (100, [])])
def test_a_worker_looks_at_the_board_when_they_have_rested(farm, agent, job, failed_result, retry_s, told):
    """What rests for longer is left to the sweep."""
    times, found = LeaseTimes(retry_s=retry_s), []
    for _ in range(3):
        grant = agent.must_take(times=times)
        farm.messages.clear()
        agent.finish(grant, *(failed_result(id_, "contended") for id_ in ids_of(grant)), times=times)
        found += [one for one in farm.messages if isinstance(one, TaskMessage) and one.after_s]
        pass_s(farm, 1000)
    dispatches = [TaskMessage(task=Task.DISPATCH, args=(agent.boards[0],), after_s=after_s) for after_s in told]
    assert found == dispatches, "nothing waits after the third"


def test_no_rest_is_asked_for(farm, agent, job, failed_result):
    first = try_in_vain(agent, failed_result)
    assert ids_of(agent.must_take(times=LeaseTimes(retry_s=0))) == first


def test_a_lease_that_follows_at_once_leaves_it_too(farm, ann, agent, job, job_of, failed_result):
    grant = agent.must_take(times=TIMES)
    later = farm.submit_planned(ann, job_of(1, seed=7, platforms=[PLATFORM]))
    assert later.progress.pending == 1
    release = [failed_result(id_, "contended") for id_ in ids_of(grant)]
    answer = agent.finish(grant, *release, wants_next=True, times=TIMES)
    assert answer.next_lease is not None
    assert not set(ids_of(answer.next_lease)) & set(ids_of(grant))


def test_who_asks_is_told_of_the_rest(farm, ann, agent, job, failed_result):
    try_in_vain(agent, failed_result)
    assert farm.scalar("SELECT state FROM boards") == BoardState.IDLE
    with farm.transaction() as tx:
        told = why.explain(tx, jobs.get_job(tx, job.id, ann))
    assert told.reason.startswith("2 were inconclusive and rest")
