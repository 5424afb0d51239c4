"""Leases beside neighbours whom no witness sees: what was measured is measured again, after the board's rest."""

import pytest

from benchfarm_core.boards import BoardState
from benchfarm_store import jobs, why
from benchfarm_store.goldens import QUIET_LEASES

PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
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
    answer = agent.finish(grant, *(ok_result(id_, neighbours=1.2) for id_ in ids_of(grant)), wants_next=True)
    assert (answer.next_lease, state(farm)) == (None, BoardState.COOLING)
    assert farm.job(job.id, ann).progress.pending == 3
    with farm.transaction() as tx:
        reason = why.explain(tx, jobs.get_job(tx, job.id, ann)).platforms[0].reason
    assert "its canary was slower than it has been on this board" in reason
    assert agent.take() is None
    rested(farm)
    assert agent.measure_all() == 3
    assert farm.job(job.id, ann).progress.succeeded == 3


def test_the_same_end_again_is_no_news(farm, agent, job, ok_result):
    grant = agent.must_take()
    agent.start(grant)
    found = [ok_result(id_, neighbours=1.2) for id_ in ids_of(grant)]
    first, again = agent.finish(grant, *found), agent.finish(grant, *found)
    assert (first.accepted, again.repeated, again.lost) == (ids_of(grant), ids_of(grant), False)
    assert farm.scalar("SELECT count(*) FROM lease_items WHERE outcome = 'noisy'") == 3


def test_the_last_try_is_an_answer_all_the_same(farm, ann, agent, job, ok_result):
    """A board that got slower for good would else never answer again; so would one with neighbours all day."""
    for _ in range(3):
        rested(farm)
        grant = agent.must_take()
        agent.start(grant)
        agent.finish(grant, *(ok_result(id_, neighbours=1.2) for id_ in ids_of(grant)))
    assert farm.job(job.id, ann).progress.succeeded == 3
    assert farm.scalar("SELECT array_agg(DISTINCT ARRAY[noisy, inconclusive]) FROM measurements WHERE noisy > 0") == [
        [2, 0]
    ]


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
    agent.finish(grant, ok_result(late))
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
