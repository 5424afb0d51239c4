import threading

import pytest

from benchfarm_core.errors import Conflict, NotFound
from benchfarm_core.jobs import ItemState, JobState
from benchfarm_store import jobs


def test_retry_is_a_new_job_of_what_failed(farm, ann, agent, job_of, ok_result, failed_result):
    job = farm.submit_planned(ann, job_of(3, name="n", labels={"a": "b"}))
    with farm.transaction() as tx, pytest.raises(Conflict) as refused:
        jobs.retry(tx, job.id, ann)
    assert refused.value.code == "job_not_finished"
    broken = set()
    while (grant := agent.take()) is not None:
        first, *rest = [item.measurement_id for item in grant.items]
        broken.add(first)
        agent.send(grant, failed_result(first, "wrong_result"), *map(ok_result, rest))
        agent.release(grant)
    done = farm.job(job.id, ann)
    assert done.state == JobState.PARTIAL
    assert done.progress.failed == len(broken) == 2
    with farm.transaction() as tx:
        again, _ = jobs.retry(tx, job.id, ann)
    assert (again.name, again.labels, again.progress.total) == ("n", {"a": "b"}, 2)
    farm.plan(again)
    agent.measure_all()
    assert farm.job(again.id, ann).state == JobState.SUCCEEDED
    with farm.transaction() as tx:
        failed_items = jobs.items(tx, job.id, ann, state=ItemState.FAILED).items
        retried = jobs.items(tx, again.id, ann).items
    assert [(i.item_no, i.workload_id, i.platform) for i in failed_items] == [
        (i.item_no, i.workload_id, i.platform) for i in retried
    ]


def test_a_retry_with_a_key_is_made_once(farm, ann, agent, job_of):
    first, second = (farm.submit(ann, job_of(2, seed=seed)) for seed in (1, 2))
    bob = farm.account("bob")
    for job in (first, second):
        with farm.transaction() as tx:
            jobs.cancel(tx, job.id, ann)
    with farm.transaction() as tx:
        made, fresh = jobs.retry(tx, first.id, ann, idempotency_key="k")
        assert fresh
    with farm.transaction() as tx:
        assert jobs.retry(tx, first.id, ann, idempotency_key="k") == (made, False)
    with farm.transaction() as tx, pytest.raises(Conflict) as refused:
        jobs.retry(tx, second.id, ann, idempotency_key="k")
    assert refused.value.code == "idempotency_mismatch"
    with farm.transaction() as tx, pytest.raises(NotFound):
        jobs.retry(tx, first.id, bob, idempotency_key="k")
    with farm.transaction() as tx:
        assert jobs.retry(tx, second.id, ann, idempotency_key="other")[1]
    assert farm.scalar("SELECT count(*) FROM jobs") == 4


def test_two_retries_with_a_key_at_once_are_one_job(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(2))
    made = []
    with farm.transaction() as tx:
        jobs.cancel(tx, job.id, ann)

    def retry():
        with farm.transaction() as tx:
            made.append(jobs.retry(tx, job.id, ann, idempotency_key="k"))

    threads = [threading.Thread(target=retry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({view.id for view, _ in made}) == 1
    assert sorted(fresh for _, fresh in made) == [False, False, False, True]
