"""Jobs that questions ask for: what is queued of many wishes, what is not, and who waits for whom."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from benchfarm_core.accounts import Quotas
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.workloads import workload_id
from benchfarm_store import accounts, asked_items, asked_jobs, specs
from benchfarm_store.asked_jobs import Wanted
from benchfarm_workloads.spaces import draws
from tests.store.test_asked import ACT, FC, ONE, add_upload

RESNET = {"kind": "model", "name": "resnet18"}
FCS = [{**FC, "config": {"cin": 100 + number, "cout": 32}} for number in range(5)]


def question(*items, **changes):
    fields = {"platforms": [ONE], "items": items or [FC], "tolerance": 0.1, "on_miss": "measure"}
    return LatencyRequest.model_validate(fields | changes)


def resolved(item):
    found = specs.resolve_generated(item)
    assert found is not None, "an upload"
    return found


def wanted(request, ids=None):
    made = ids or [workload_id(resolved(item).workload) for item in request.items]
    return [Wanted(item, id_) for item, id_ in zip(request.items, made, strict=True)]


def queue(farm, by, request, wishes=None, budget_s=3600.0, **changes):
    with farm.transaction() as tx:
        return asked_jobs.queue(tx, request, ONE, wishes or wanted(request), by=by, budget_s=budget_s, **changes)


def test_what_is_measured_by_now_is_not_queued_again(farm, ann, agent):
    """A pinned search does not see it, and is not charged for it every hour."""
    farm.plan(farm.job(queue(farm, ann, question(FC)).job_ids[0], ann))
    agent.measure_all()
    farm.run("UPDATE jobs SET finished_at = finished_at - interval '2 hours'")
    pinned = question(FC, ACT, pin={"as_of": "2020-01-01T00:00:00Z"})
    found = queue(farm, ann, pinned)
    assert (found.measured, found.queued, found.waiting, list(found.job_ids)) == (1, 1, 0, [1])
    assert queue(farm, ann, question(ACT, FC)).measured == 1
    farm.run("UPDATE results SET measured_at = measured_at - interval '1 hour'")
    assert queue(farm, ann, question(FC, max_age_s=60)).queued == 1  # too old for this question


def test_what_was_measured_a_moment_ago_waits_no_more(farm, ann, agent):
    """Its job has ended, and is no reason to say that somebody still has to measure it."""
    asked = queue(farm, ann, question(FC, ACT))
    assert (asked.queued, asked.waiting) == (2, 0)
    farm.plan(farm.job(asked.job_ids[0], ann))
    assert (queue(farm, ann, question(FC)).waiting, queue(farm, ann, question(FC)).measured) == (1, 0)
    agent.measure_all()
    found = queue(farm, ann, question(FC, ACT, FCS[0], pin={"as_of": "2020-01-01T00:00:00Z"}))
    assert (found.measured, found.waiting, found.queued, found.left_out, list(found.job_ids)) == (2, 0, 1, 0, [2])


def test_what_cannot_be_an_item_is_refused_alone(farm, ann, report_of):
    farm.agent(ann, report_of(facts={"cores": 2, "memory_bytes": 40_000_000}))
    upload = add_upload(farm, ann, b"one")
    request = question(RESNET, upload, FC, {"kind": "upload", "model_id": "m_none"})
    ids = [f"w_{str(number) * 32}" for number in range(4)]
    found = queue(farm, ann, request, wanted(request, ids))
    assert (found.queued, found.refused, found.left_out, list(found.job_ids)) == (2, 2, 0, [1, 2])
    assert "no board can measure this" in found.why


def test_what_fits_into_no_board_is_worked_out_once_and_keeps_nobody_out(farm, ann, report_of, monkeypatch):
    """The largest architectures are predicted least exactly: they come first, whenever a search asks."""
    monkeypatch.setattr(asked_jobs, "MOST", 2)
    farm.agent(ann, report_of(facts={"cores": 2, "memory_bytes": 20_000_000}))
    large = [
        {"kind": "architecture", "space": one.space, "genes": dict(one.genes)}
        for one in draws("ofa_resnet", "fits into no board", 6)
    ]
    asked_items._architecture_needs.cache_clear()
    found = queue(farm, ann, question(*large, *FCS[:3]))
    assert (found.refused, found.queued, list(found.job_ids)) == (6, 2, [6, 7])
    assert "no board can measure this" in found.why
    assert asked_items._architecture_needs.cache_info().misses == 6
    again = queue(farm, ann, question(*large, *FCS))
    assert (again.refused, again.waiting, again.queued) == (6, 2, 2)
    assert asked_items._architecture_needs.cache_info().misses == 6
    monkeypatch.setattr(asked_items, "MOST_REFUSED", 4)
    few = queue(farm, ann, question(*large, FC))
    assert (few.refused, few.queued, few.left_out) == (4, 0, 3)


def test_an_architecture_that_is_none_is_refused_alone(farm, ann, agent):
    genes = dict(draws("bert", "one", 1)[0].genes)
    strays = [{**genes, "layers": 99}, {"layers": 1}]
    items = [{"kind": "architecture", "space": "bert", "genes": each} for each in (*strays, genes)]
    request = question(*items)
    found = queue(farm, ann, request, wanted(request, [f"w_{n * 32}" for n in "123"]))
    assert (found.refused, found.queued) == (2, 1)
    assert "layers=99" in found.why


def test_the_quota_cuts_and_does_not_refuse_all(farm, agent):
    few = farm.account("few", quotas=Quotas(pending_items=2))
    found = queue(farm, few, question(*FCS))
    assert (found.queued, found.refused, found.left_out) == (2, 3, 0)
    assert "3 items are above the account's quota" in found.why
    again = queue(farm, few, question(*FCS))
    assert (again.waiting, again.queued, again.refused) == (2, 0, 3)
    none = farm.account("none", quotas=Quotas(active_jobs=0))
    refused = queue(farm, none, question(FC))
    assert (refused.queued, refused.refused, refused.device_s) == (0, 1, 0.0)
    assert "active" in refused.why


def test_what_is_looked_at_is_what_does_not_wait(farm, ann, agent, monkeypatch):
    monkeypatch.setattr(asked_jobs, "MOST", 2)
    told = [queue(farm, ann, question(*FCS)) for _ in range(4)]
    assert [(one.queued, one.waiting, one.left_out) for one in told] == [(2, 0, 3), (2, 2, 1), (1, 4, 0), (0, 5, 0)]


def test_a_long_item_keeps_no_shorter_one_out_and_each_platform_has_its_share(farm, ann, agent):
    assert asked_jobs._within([(0, 100.0), (1, 9.0), (2, 8.0), (3, 9.0)], 20.0) == [(1, 9.0), (2, 8.0)]
    one_s = queue(farm, ann, question(FC)).device_s
    left = queue(farm, ann, question(*FCS), budget_s=5.5 * one_s, share=2)
    assert (left.queued, left.left_out) == (2, 3)
    assert left.left_s == pytest.approx(2.5 * one_s, rel=1e-4)


def test_a_few_that_do_not_fit_end_the_looking(farm, ann, agent, monkeypatch):
    """A search goes on asking when next to nothing is left: it must not cost a second each time."""
    monkeypatch.setattr(asked_items, "MISFITS", 2)
    one_s = queue(farm, ann, question(FC)).device_s
    long = [{**RESNET, "config": {"hw": hw}} for hw in (224, 192)]
    spent = {"budget_s": one_s * 2.5}
    assert list(queue(farm, ann, question(long[0], *FCS[:2]), **spent).job_ids) == [1]
    told = queue(farm, ann, question(*long, *FCS[2:]), budget_s=one_s * 4.5)
    assert (told.queued, told.left_out) == (0, 5)


def test_nobody_waits_for_the_account_while_a_question_queues(farm, ann, agent):
    """Who submits takes the account's row after his workloads: the other way round both would wait for ever."""
    request = question(FC)
    with ThreadPoolExecutor(1) as pool:
        with farm.transaction() as tx:
            fc = resolved(request.items[0])
            specs.ensure_workloads(tx, [fc])  # of a job that is being submitted
            asking = pool.submit(queue, farm, ann, request)
            _wait_for_a_waiter(farm)
            tx.execute(text("SET LOCAL lock_timeout = '2s'"))
            accounts.check_room(tx, ann.account_number, 1)
        assert asking.result(10).queued == 1


JOBS_READ = text("""
    SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_xact_user_tables WHERE relname = 'jobs'
""")


def test_jobs_of_questions_that_ended_long_ago_are_not_looked_through(farm, ann, agent):
    request = question(FC)
    queue(farm, ann, request)
    farm.run("""
        INSERT INTO jobs SELECT (jsonb_populate_record(j, jsonb_build_object(
            'id', uuidv7(), 'state', 'failed', 'finished_at', now() - interval '2 hours'))).*
        FROM jobs j, generate_series(1, 3000)
    """)
    farm.run("ANALYZE jobs")
    with farm.transaction() as tx:
        before = tx.execute(JOBS_READ).scalar_one()
        found = asked_jobs.queue(tx, request, ONE, wanted(request), by=ann, budget_s=3600.0)
        read = tx.execute(JOBS_READ).scalar_one() - before
    assert (found.waiting, found.queued) == (1, 0)
    assert read < 100


def _wait_for_a_waiter(farm):
    for _ in range(1000):
        waits = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database OR l.database IS NULL"
        if farm.scalar(f"{waits} WHERE NOT l.granted AND d.datname = current_database()"):
            return
    raise AssertionError("nobody waits")


def test_of_two_questions_at_once_one_finds_what_the_other_queued(farm, ann, agent):
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: queue(farm, ann, question(*FCS)), range(4)))
    assert sorted((one.queued, one.waiting) for one in told) == [(0, 5), (0, 5), (0, 5), (5, 0)]
    with farm.transaction() as tx:
        spent_s = tx.execute(text("SELECT asked_s FROM tokens WHERE id = :id"), {"id": ann.token_id}).scalar_one()
    assert spent_s == pytest.approx(sum(one.device_s for one in told))
