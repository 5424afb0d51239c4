"""Leases beside neighbours whom no witness sees: what was measured is measured again, after the board's rest."""

import pytest

from benchfarm_core.boards import BoardState
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.leases import LeaseTimes
from benchfarm_core.messages import AHEAD_MAX_S, Task, TaskMessage
from benchfarm_core.quality import RULE_VERSION
from benchfarm_core.summaries import Grade
from benchfarm_store import jobs, latency, results, summaries, why
from benchfarm_store.goldens import QUIET_LEASES
from benchfarm_store.training_rows import training_rows
from tests.store.asking import measured_answers

PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
LATER = LeaseTimes()
"""A board rests 10 s."""
OUTCOME = "SELECT outcome FROM lease_items WHERE measurement_id = :id AND outcome IS NOT NULL"


@pytest.fixture
def job(farm, ann, agent, job_of):
    """Three items, after a quiet lease that the farm remembers."""
    farm.submit_planned(ann, job_of(1, platforms=[PLATFORM], max_age_s=0))
    agent.measure_all()
    return farm.submit_planned(ann, job_of(3, seed=2, platforms=[PLATFORM], max_age_s=0))


def ids_of(grant):
    return [item.measurement_id for item in grant.items]


def state(farm):
    return farm.scalar("SELECT state FROM boards")


def rested(farm):
    farm.run("UPDATE boards SET cooling_until = now() - interval '1 second'")


def test_what_a_noisy_lease_measured_is_wanted_again_and_the_board_rests(farm, ann, agent, job, ok_result):
    grant = agent.must_take()
    agent.start(grant)
    found = [ok_result(id_, neighbours=1.2) for id_ in ids_of(grant)]
    answer = agent.finish(grant, *found, wants_next=True, times=LATER)
    assert (answer.next_lease, state(farm)) == (None, BoardState.COOLING)
    assert farm.job(job.id, ann).progress.pending == 3
    with farm.transaction() as tx:
        reason = why.explain(tx, jobs.get_job(tx, job.id, ann)).platforms[0].reason
    assert "its canary was slower than it has been on this board" in reason
    assert agent.take() is None
    rested(farm)
    assert agent.measure_all() == 3
    assert farm.job(job.id, ann).progress.succeeded == 3


def rest_after_noise(farm, agent, ok_result, retry_s):
    """How long the board rests after a lease that was noisy as a whole, and what is sent meanwhile."""
    rested(farm)
    grant = agent.must_take()
    agent.start(grant)
    farm.messages.clear()
    agent.finish(grant, *(ok_result(id_, neighbours=1.2) for id_ in ids_of(grant)), times=LeaseTimes(retry_s=retry_s))
    dispatches = [one for one in farm.messages if isinstance(one, TaskMessage) and one.task == Task.DISPATCH]
    return farm.scalar("SELECT extract(epoch FROM cooling_until - now())::float8 FROM boards"), dispatches


@pytest.mark.parametrize("retry_s", [0.5, 5.0, AHEAD_MAX_S / 2])
def test_a_board_rests_twice_as_long_as_what_is_tried_again_and_is_looked_at_then(farm, agent, job, ok_result, retry_s):
    left_s, dispatches = rest_after_noise(farm, agent, ok_result, retry_s)
    assert (left_s, state(farm)) == (pytest.approx(2 * retry_s, abs=5 if retry_s > 1 else 0.9), BoardState.COOLING)
    assert dispatches == [TaskMessage(task=Task.DISPATCH, args=(agent.boards[0],), after_s=2 * retry_s)]


def test_the_end_of_a_long_rest_is_left_to_the_sweep(farm, agent, job, ok_result):
    left_s, dispatches = rest_after_noise(farm, agent, ok_result, AHEAD_MAX_S)
    assert (left_s, dispatches) == (pytest.approx(2 * AHEAD_MAX_S, abs=5), [])


def test_no_rest_is_asked_for(farm, agent, job, ok_result):
    left_s, dispatches = rest_after_noise(farm, agent, ok_result, 0)
    assert (left_s, state(farm)) == (None, BoardState.IDLE)
    assert dispatches == [TaskMessage(task=Task.DISPATCH, args=(agent.boards[0],))]
    grant = agent.must_take()
    found = [ok_result(id_, neighbours=1.2) for id_ in ids_of(grant)]
    answer = agent.finish(grant, *found, wants_next=True, times=LeaseTimes(retry_s=0))
    assert answer.next_lease is not None


def test_the_same_end_again_is_no_news(farm, agent, job, ok_result):
    grant = agent.must_take()
    agent.start(grant)
    found = [ok_result(id_, neighbours=1.2) for id_ in ids_of(grant)]
    first, again = agent.finish(grant, *found), agent.finish(grant, *found)
    assert (first.accepted, again.repeated, again.lost) == (ids_of(grant), ids_of(grant), False)
    assert farm.scalar("SELECT count(*) FROM lease_items WHERE outcome = 'noisy'") == 3


def measure_beside_neighbours(farm, agent, ok_result, *, last=1.2):
    """Three tries; `last`: what neighbours make of the canary in the third."""
    for neighbours in (1.2, 1.2, last):
        rested(farm)
        grant = agent.must_take()
        agent.start(grant)
        agent.finish(grant, *(ok_result(id_, neighbours=neighbours) for id_ in ids_of(grant)))


def told(farm, ann, job):
    """Grade and mark of a job's items, as they are listed, stored and shown one by one."""
    with farm.transaction() as tx:
        items = jobs.items(tx, job.id, ann).items
        ids = [one.measurement_id or 0 for one in items]
        listed = {one.measurement_id: one.summary for one in results.list_results(tx, ann).items}
        shown = [results.get_measurement(tx, id_, ann).summary for id_ in ids]
    assert [one.summary for one in items] == [listed[id_] for id_ in ids] == shown
    return [(one.grade, one.noisy) for one in shown if one is not None]


def test_the_last_try_is_an_answer_with_a_mark(farm, ann, agent, job, ok_result):
    """A board that got slower for good would else never answer again; so would one with neighbours all day."""
    measure_beside_neighbours(farm, agent, ok_result)
    assert farm.job(job.id, ann).progress.succeeded == 3
    assert farm.scalar("SELECT array_agg(DISTINCT ARRAY[noisy, inconclusive]) FROM measurements WHERE noisy > 0") == [
        [2, 0]
    ]
    assert told(farm, ann, job) == [(Grade.D, True)] * 3


def test_a_last_try_that_was_quiet_has_no_mark(farm, ann, agent, job, ok_result):
    measure_beside_neighbours(farm, agent, ok_result, last=1.0)
    assert told(farm, ann, job) == [(Grade.A, False)] * 3


@pytest.mark.parametrize(("last", "source"), [(1.0, "known"), (1.2, None)])
def test_what_is_marked_is_neither_reused_nor_taught_nor_an_answer(
    farm, ann, agent, job, job_of, ok_result, last, source
):
    measure_beside_neighbours(farm, agent, ok_result, last=last)
    again = job_of(3, seed=2, platforms=[PLATFORM], max_age_s=3600)
    question = LatencyRequest(platforms=(PLATFORM,), items=again.workloads)
    with farm.transaction() as tx:
        answers = measured_answers(latency.ask(tx, question, ann))
        platform_id = farm.scalar("SELECT id FROM platforms WHERE key = :key", key=PLATFORM)
        taught = {row.workload_id for row in training_rows(tx, platform_id).kernels}
    second = farm.submit_planned(ann, again)
    with farm.transaction() as tx:
        items = jobs.items(tx, second.id, ann).items
    is_good = source is not None
    assert {(item.source == "known", item.state == "succeeded") for item in items} == {(is_good, is_good)}
    assert {answer.source == "measured" for answer in answers} == {is_good}
    assert {item.workload_id in taught for item in items} == {is_good}


def test_a_mark_stays_when_the_summary_is_derived_again(farm, ann, agent, job, ok_result):
    """What was quiet then is not known any more."""
    measure_beside_neighbours(farm, agent, ok_result)
    farm.run("UPDATE summaries SET rule_version = 1")
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 4
    assert told(farm, ann, job) == [(Grade.D, True)] * 3
    active = "SELECT array_agg(DISTINCT (noisy, grade)::text) FROM summaries WHERE active AND rule_version = :rule"
    assert farm.scalar(active, rule=RULE_VERSION) == ["(f,A)", "(t,D)"]


def test_noise_takes_no_try_from_what_may_be_inconclusive(farm, ann, agent, job, ok_result, failed_result):
    for found in (lambda id_: ok_result(id_, neighbours=1.2),) * 2 + (lambda id_: failed_result(id_, "contended"),) * 2:
        rested(farm)
        grant = agent.must_take()
        agent.start(grant)
        agent.finish(grant, *map(found, ids_of(grant)))
    assert farm.job(job.id, ann).progress.pending == 3
    rested(farm)
    agent.measure_all()
    assert farm.job(job.id, ann).progress.succeeded == 3


def test_a_lease_is_noisy_by_all_of_its_chunks(farm, agent, job, ok_result):
    grant = agent.must_take()
    agent.start(grant)
    *early, late = ids_of(grant)
    agent.send(grant, *(ok_result(id_, neighbours=1.2) for id_ in early))
    agent.finish(grant, ok_result(late), times=LATER)
    assert state(farm) == BoardState.COOLING


def test_a_few_noisy_results_keep_no_board_from_measuring(farm, ann, agent, job, ok_result):
    grant = agent.must_take()
    agent.start(grant)
    noisy, *others = ids_of(grant)
    found = [ok_result(noisy, neighbours=1.2), *(ok_result(id_) for id_ in others)]
    answer = agent.finish(grant, *found, wants_next=True)
    assert answer.next_lease is not None
    assert ids_of(answer.next_lease) == [noisy]


def test_a_board_without_a_quiet_lease_for_long_is_taken_as_it_is_now(farm, ann, agent, job_of, ok_result):
    """Until then quiet leases count, however many noisy ones came after them."""
    outcomes = []
    for number in range(QUIET_LEASES + 2):
        job = farm.submit_planned(ann, job_of(1, seed=number, platforms=[PLATFORM], max_age_s=0))
        rested(farm)
        grant = agent.must_take()
        agent.start(grant)
        agent.finish(grant, ok_result(*ids_of(grant), neighbours=1.0 if number < 3 else 1.2))
        outcomes.append(farm.scalar("SELECT outcome FROM lease_items ORDER BY lease_id DESC LIMIT 1"))
        if outcomes[-1] == "noisy":
            with farm.transaction() as tx:
                jobs.cancel(tx, job.id, ann)
    assert (set(outcomes[:3]), set(outcomes[3:-1]), outcomes[-1]) == ({"ok"}, {"noisy"}, "ok")
    assert farm.scalar("SELECT cardinality(mobilenet_recent_ns) FROM canary_goldens") == QUIET_LEASES
