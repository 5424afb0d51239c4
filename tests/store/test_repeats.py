"""Repeats of one measurement are independent: no lease, and so no process and no canary, is shared by two of them."""

from collections import Counter

from benchfarm_store import dispatching

PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"


def leases_of(agent, ok_result):
    """What each lease measures, until nothing is wanted."""
    found = []
    while (grant := agent.take()) is not None:
        agent.send(grant, *(ok_result(item.measurement_id) for item in grant.items))
        agent.release(grant)
        found.append(Counter(item.workload.model_dump_json() for item in grant.items))
    return found


def test_repeats_share_no_lease(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(3, platforms=[PLATFORM], repeats=4))
    batches = leases_of(agent, ok_result)
    assert [(len(batch), max(batch.values())) for batch in batches] == [(3, 1)] * 4


def test_a_lease_is_filled_from_behind_the_repeats_that_it_leaves(farm, ann, agent, job_of, ok_result):
    """The first look at a queue sees repeats of two workloads alone."""
    assert dispatching.CANDIDATES[0] < 2 * 20
    farm.submit_planned(ann, job_of(6, platforms=[PLATFORM], repeats=20))
    farm.run("UPDATE measurements SET expected_s = 0.1")
    batches = leases_of(agent, ok_result)
    assert [len(batch) for batch in batches] == [6] * 20


def test_repeats_that_other_jobs_want_share_none_either(farm, ann, agent, job_of, ok_result):
    for _ in range(2):
        farm.submit_planned(ann, job_of(2, platforms=[PLATFORM], max_age_s=0))
        grant = agent.must_take()
        agent.release(grant)
    farm.submit_planned(ann, job_of(2, platforms=[PLATFORM], max_age_s=0, repeats=2))
    assert [max(batch.values()) for batch in leases_of(agent, ok_result)] == [1, 1]
