import threading
import time
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text

from benchfarm_core.accounts import Quotas
from benchfarm_core.agent_protocol import ReleaseRequest
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded
from benchfarm_core.events import EventKind
from benchfarm_core.jobs import ItemSource, ItemState, JobState
from benchfarm_core.leases import LeaseTimes
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_store import dispatching, endings, events, jobs, leases, planning


def test_a_job_is_planned_measured_and_read_back(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(12, name="first", labels={"team": "nas"}))
    assert TaskMessage(task=Task.PLAN_JOB, args=(job.id,)) in farm.messages
    assert job.state == JobState.QUEUED
    assert job.progress.planned == job.progress.total == 24
    farm.plan(job)
    assert farm.job(job.id, ann).state == JobState.RUNNING
    assert agent.measure_all() == 24
    done = farm.job(job.id, ann)
    assert done.state == JobState.SUCCEEDED
    assert done.finished_at is not None
    assert done.progress.succeeded == 24
    assert done.device_s_spent > 0
    with farm.transaction() as tx:
        items = jobs.items(tx, job.id, ann, limit=100).items
    assert [item.item_no for item in items] == list(range(24))
    assert {item.source for item in items} == {ItemSource.NEW}
    assert all(item.summary and item.summary.median_ms > 0 and item.origin == "local" for item in items)
    assert len({(item.workload_id, item.platform) for item in items}) == 24


def test_items_are_workloads_times_platforms_times_repeats_in_that_order(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(3, repeats=2))
    with farm.transaction() as tx:
        items = jobs.items(tx, job.id, ann).items
    assert [item.repeat for item in items] == [0, 1] * 6
    assert [item.platform for item in items] == [key for key in job.platforms for _ in range(2)] * 3
    assert len({item.measurement_id for item in items}) == 12


def test_items_page_by_page(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(5))
    numbers, cursor = [], None
    while True:
        with farm.transaction() as tx:
            page = jobs.items(tx, job.id, ann, state=ItemState.PENDING, cursor=cursor, limit=3)
        numbers += [item.item_no for item in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert numbers == list(range(10))
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
        jobs.items(tx, job.id, ann, cursor="bm9uc2Vuc2U")
    assert refused.value.code == "cursor_invalid"


def test_the_same_job_again_is_answered_from_what_is_known(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(10))
    agent.measure_all()
    again = farm.submit_planned(ann, job_of(10))
    assert again.state == JobState.SUCCEEDED
    assert again.progress.known == 20
    assert again.device_s_spent == 0
    assert agent.take() is None


def test_max_age_zero_measures_anew(farm, ann, agent, job_of):
    first = farm.submit_planned(ann, job_of(4))
    agent.measure_all()
    anew = farm.submit_planned(ann, job_of(4, max_age_s=0))
    assert anew.progress.pending == 8
    assert agent.measure_all() == 8
    assert _measurement_ids(farm, first.id, ann).isdisjoint(_measurement_ids(farm, anew.id, ann))


def test_max_age_zero_joins_what_still_waits(farm, ann, agent, job_of):
    first = farm.submit_planned(ann, job_of(4, max_age_s=0))
    second = farm.submit_planned(ann, job_of(4, max_age_s=0))
    assert _measurement_ids(farm, first.id, ann) == _measurement_ids(farm, second.id, ann)
    assert agent.measure_all() == 8
    assert farm.job(first.id, ann).state == farm.job(second.id, ann).state == JobState.SUCCEEDED


def test_two_identical_jobs_at_once_share_the_work(farm, ann, agent, job_of):
    bob = farm.account("bob")
    submitted = [farm.submit(by, job_of(200)) for by in (ann, bob)]
    _at_once([lambda job=job: farm.plan(job) for job in submitted])
    assert farm.scalar("SELECT count(*) FROM measurements") == 400
    assert agent.measure_all() == 400
    one, two = (farm.job(job.id, by) for job, by in zip(submitted, (ann, bob), strict=True))
    assert one.state == two.state == JobState.SUCCEEDED
    assert farm.scalar("SELECT count(*) FROM results") == 400


def test_many_planners_of_one_job_plan_each_item_once(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(1100))
    _at_once([lambda: farm.plan(job) for _ in range(6)])
    assert farm.scalar("SELECT count(*) FROM job_items") == 2200
    assert farm.job(job.id, ann).progress.pending == 2200


def test_planning_resumes_at_its_cursor(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(700, repeats=3))
    chunks = 0
    more = True
    while more:
        with farm.transaction() as tx:
            more = planning.plan_chunk(tx, job.id)
        chunks += 1
    assert chunks == 5
    assert farm.scalar("SELECT count(DISTINCT measurement_id) FROM job_items") == 4200
    with farm.transaction() as tx:
        assert planning.plan_chunk(tx, job.id) is False


def test_an_idempotency_key_names_one_job(farm, ann, agent, job_of):
    def submit(body: str, seed: int):
        with farm.transaction() as tx:
            return jobs.submit(tx, job_of(2, seed=seed), by=ann, idempotency_key="k", request_sha256=body)

    first, created = submit("a", 1)
    same, created_again = submit("a", 1)
    assert (created, created_again) == (True, False)
    assert first.id == same.id
    with pytest.raises(Conflict) as refused:
        submit("b", 2)
    assert refused.value.code == "idempotency_mismatch"
    bob = farm.account("bob")
    with farm.transaction() as tx:
        other, created = jobs.submit(tx, job_of(2), by=bob, idempotency_key="k", request_sha256="b")
    assert created
    assert other.id != first.id


def test_the_same_key_at_once_makes_one_job(farm, ann, agent, job_of):
    found = []

    def submit() -> None:
        with farm.transaction() as tx:
            found.append(jobs.submit(tx, job_of(5), by=ann, idempotency_key="k", request_sha256="a"))

    _at_once([submit] * 8)
    assert len({job.id for job, _ in found}) == 1
    assert sum(created for _, created in found) == 1


def test_cancel_ends_what_waits_and_twice_changes_nothing(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(6))
    with farm.transaction() as tx:
        cancelled = jobs.cancel(tx, job.id, ann)
    assert cancelled.state == JobState.CANCELLED
    assert cancelled.progress.cancelled == 12
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state = 'cancelled'") == 12
    with farm.transaction() as tx:
        assert jobs.cancel(tx, job.id, ann) == cancelled
    assert agent.take() is None


def test_cancel_leaves_what_others_wait_for(farm, ann, agent, job_of):
    bob = farm.account("bob")
    mine = farm.submit_planned(ann, job_of(6))
    theirs = farm.submit_planned(bob, job_of(3))
    with farm.transaction() as tx:
        jobs.cancel(tx, mine.id, ann)
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state = 'wanted'") == theirs.progress.pending > 0
    agent.measure_all()
    assert farm.job(theirs.id, bob).state == JobState.SUCCEEDED
    after = farm.submit_planned(ann, job_of(6))
    assert after.progress.pending + after.progress.known == 12


def test_cancel_before_planning(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(6))
    with farm.transaction() as tx:
        assert jobs.cancel(tx, job.id, ann).progress.cancelled == 12
        assert planning.plan_chunk(tx, job.id) is False


def test_a_finished_job_cannot_be_cancelled(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(1))
    agent.measure_all()
    with farm.transaction() as tx, pytest.raises(Conflict) as refused:
        jobs.cancel(tx, job.id, ann)
    assert refused.value.code == "job_finished"


def test_a_look_at_jobs_reads_no_long_list(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(2))
    with farm.statements() as sent, farm.transaction() as tx:
        jobs.list_jobs(tx, ann)
        jobs.get_job(tx, job.id, ann)
    assert not [one for one in sent if "jobs.workload_ids" in one or "jobs.item_nos" in one]
    assert not [one for one in sent if "jobs.platform_ids," in one]


def test_jobs_of_others_do_not_exist(farm, ann, agent, job_of):
    bob = farm.account("bob")
    job = farm.submit(ann, job_of(1))
    for ask in (jobs.get_job, jobs.cancel, jobs.retry, jobs.items, jobs.explain):
        with farm.transaction() as tx, pytest.raises(NotFound):
            ask(tx, job.id, bob)
    with farm.transaction() as tx, pytest.raises(NotFound):
        events.after(tx, job.id, bob, 0, 10)
    for nonsense in ("", "no-uuid", "x" * 300):
        with farm.transaction() as tx, pytest.raises(NotFound):
            jobs.get_job(tx, nonsense, ann)
    with farm.transaction() as tx:
        assert jobs.list_jobs(tx, bob).items == []


def test_jobs_are_listed_newest_first_by_state_and_label(farm, ann, agent, job_of):
    made = [farm.submit(ann, job_of(1, labels={"n": str(n)})) for n in range(5)]
    with farm.transaction() as tx:
        jobs.cancel(tx, made[0].id, ann)
        page = jobs.list_jobs(tx, ann, limit=2)
        rest = jobs.list_jobs(tx, ann, limit=10, cursor=page.next_cursor)
        assert [job.id for job in page.items + rest.items] == [job.id for job in reversed(made)]
        assert [job.id for job in jobs.list_jobs(tx, ann, state=JobState.CANCELLED).items] == [made[0].id]
        assert [job.id for job in jobs.list_jobs(tx, ann, label="n=3").items] == [made[3].id]
        assert len(jobs.list_jobs(tx, ann, label="n").items) == 5
        assert jobs.list_jobs(tx, ann, label="other").items == []


def test_events_are_numbered_without_gaps_and_end_with_the_final_counts(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(60))
    agent.measure_all()
    with farm.transaction() as tx:
        found = events.after(tx, job.id, ann, 0, 1000)
        assert events.after(tx, job.id, ann, found[-1].number, 10) == []
        assert jobs.get_job_state_number(tx, job.id) == (JobState.SUCCEEDED, found[-1].number)
    assert [event.number for event in found] == list(range(1, len(found) + 1))
    assert [e.data["state"] for e in found if e.kind == EventKind.STATE] == [
        "queued", "planning", "running", "succeeded",
    ]  # fmt: skip
    progress = [event for event in found if event.kind == EventKind.PROGRESS]
    assert progress[-1].data["succeeded"] == 120
    spaced = [later.at - earlier.at for earlier, later in pairwise(progress[:-1])]
    assert all(gap.total_seconds() >= 1 for gap in spaced)


def test_a_dry_run_says_what_would_happen_and_writes_nothing(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(4))
    agent.measure_all()
    farm.submit_planned(ann, job_of(2, seed=9))
    before = farm.scalar("SELECT count(*) FROM jobs")
    wanted = job_of(4).workloads + job_of(2, seed=9).workloads + job_of(3, seed=5).workloads
    with farm.transaction() as tx:
        dry = jobs.dry_run(tx, job_of(1).model_copy(update={"workloads": wanted}), ann)
    assert (dry.items, dry.known, dry.joined, dry.to_measure, dry.impossible) == (18, 8, 4, 6, 0)
    assert dry.device_s > 0
    assert dry.expected_wait_s is not None
    assert dry.within_budget
    assert dry.reasons == []
    assert farm.scalar("SELECT count(*) FROM jobs") == before


def test_what_no_board_can_prove_fails_at_planning_with_the_reason(farm, ann, agent, job_of):
    request = job_of(2, clock_proof="verified")
    with farm.transaction() as tx:
        assert jobs.dry_run(tx, request, ann).impossible == 4
    job = farm.submit_planned(ann, request)
    assert job.state == JobState.FAILED
    with farm.transaction() as tx:
        items = jobs.items(tx, job.id, ann).items
    assert {item.failure for item in items} == {"clock_proof_unavailable"}
    assert "prove" in items[0].reason


def test_a_job_above_its_budget_is_refused(farm, ann, agent, job_of):
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
        jobs.submit(tx, job_of(50, budget_device_s=0.5), by=ann)
    assert refused.value.code == "budget_too_small"


def test_quotas_of_jobs_and_items(farm, agent, job_of):

    few = farm.account("few", quotas=Quotas(active_jobs=1))
    farm.submit(few, job_of(1))
    with farm.transaction() as tx, pytest.raises(QuotaExceeded) as refused:
        jobs.submit(tx, job_of(1, seed=2), by=few)
    assert refused.value.limit == 1
    assert refused.value.retry_after_s > 0
    small = farm.account("small", quotas=Quotas(pending_items=5))
    with farm.transaction() as tx, pytest.raises(QuotaExceeded):
        jobs.submit(tx, job_of(3), by=small)


def test_the_last_room_of_a_quota_is_taken_once(farm, agent, job_of):
    small = farm.account("small", quotas=Quotas(active_jobs=1))
    refused = []

    def submit() -> None:
        try:
            farm.submit(small, job_of(1, seed=2))
        except QuotaExceeded as error:
            refused.append(error)

    second = threading.Thread(target=submit)
    with farm.transaction() as tx:
        jobs.submit(tx, job_of(1), by=small)
        second.start()
        _wait_for_a_waiter(farm)
    second.join(30)
    assert len(refused) == 1
    assert farm.scalar("SELECT count(*) FROM jobs") == 1


def test_a_planner_that_waits_for_a_queue_holds_no_measurement(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    job = farm.submit(ann, job_of(4, priority="high"))
    planner = threading.Thread(target=farm.plan, args=(job,))
    with farm.transaction() as tx:
        tx.execute(
            text("""
            INSERT INTO queues (platform_id, protocol_id, account_id, priority)
            SELECT platform_id, protocol_id, account_id, 2 FROM queues
        """)
        )
        planner.start()
        _wait_for_a_waiter(farm)
        assert len(tx.execute(text("SELECT id FROM measurements FOR UPDATE NOWAIT")).all()) == 6
    planner.join(30)
    assert farm.job(job.id, ann).progress.pending == 8


def test_a_second_planner_leaves_when_the_first_moved_the_cursor(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(700))
    left = []

    def plan_one() -> None:
        with farm.transaction() as tx:
            left.append(planning.plan_chunk(tx, job.id))

    # all is planned already for somebody else, so that the two meet at the job's row only
    farm.submit_planned(ann, job_of(700))
    second = threading.Thread(target=plan_one)
    with farm.transaction() as tx:
        assert planning.plan_chunk(tx, job.id) is True
        second.start()
        _wait_for_a_waiter(farm)
    second.join(60)
    assert left == [False]
    assert farm.scalar("SELECT plan_cursor FROM jobs WHERE id = CAST(:id AS uuid)", id=job.id) == 1000


def test_why_a_job_waits(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(2))
    farm.run("UPDATE agents SET last_heard_at = now() - interval '5 minutes'")
    with farm.transaction() as tx:
        why = jobs.explain(tx, job.id, ann)
    assert [one.pending for one in why.platforms] == [2, 2]
    assert why.reason == "no board with engine onnxruntime is online"
    assert "has not been heard" in why.platforms[0].boards[0].reason


def test_a_board_that_is_out_of_use_is_not_in_use(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(2))
    farm.run("UPDATE boards SET health = 'quarantined', reason = 'fan broken'")
    with farm.transaction() as tx:
        why = jobs.explain(tx, job.id, ann)
        planned = jobs.dry_run(tx, job_of(2), ann)
    assert why.reason == "its only board is out of use: fan broken"
    assert why.platforms[0].boards[0].reason == "health is quarantined: fan broken"
    assert [reason.partition(": ")[2] for reason in planned.reasons] == [why.reason] * 2


def test_why_a_job_waits_for_a_board_that_rests(farm, ann, agent, job_of):
    def reason() -> str:
        with farm.transaction() as tx:
            why = jobs.explain(tx, job.id, ann)
        assert why.reason.endswith(why.platforms[0].boards[0].reason)
        return why.platforms[0].boards[0].reason

    job = farm.submit_planned(ann, job_of(2))
    token = agent.must_take().lease_token
    with farm.transaction() as tx:
        leases.release(tx, agent.id, token, ReleaseRequest(reason="gate", detail="load 4.2 is above 1.0"))
    assert reason() == "is cooling down: its conditions did not hold: load 4.2 is above 1.0"
    farm.run("UPDATE boards SET cooling_until = now()")
    with farm.transaction() as tx:
        assert dispatching.dispatch(tx, agent.boards[0], LeaseTimes())
    farm.run("UPDATE leases SET expires_at = now() - interval '1 second' WHERE ended_at IS NULL")
    with farm.transaction() as tx:
        endings.expire(tx, None)
    assert reason() == "is cooling down: its agent did not answer an offer"


def test_names_that_mean_nothing_are_refused(farm, ann, agent, job_of):
    cases: dict[str, dict[str, Any]] = {
        "platform_unknown": {"platforms": ["nothing"]},
        "platform_impossible": {"platforms": ["host-a/c0.t1.free/ncnn-1.0/fp32"]},
        "platform_none_matched": {"platforms": {"engine": ["ncnn"]}},
        "protocol_unknown": {"protocol": {"name": "slow"}},
        "kernel_unknown": {"workloads": [{"kind": "kernel", "type": "warp", "config": {}}]},
        "kernel_out_of_range": {"workloads": [{"kind": "kernel", "type": "fc", "config": {"cin": 0, "cout": 1}}]},
        "model_unknown": {"workloads": [{"kind": "model", "name": "vgg"}]},
    }
    for code, changes in cases.items():
        with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
            jobs.submit(tx, job_of(1, **changes), by=ann)
        assert refused.value.code == code
    assert farm.scalar("SELECT count(*) FROM jobs") == 0


def _measurement_ids(farm, job_id, by):
    with farm.transaction() as tx:
        return {item.measurement_id for item in jobs.items(tx, job_id, by, limit=1000).items}


def _wait_for_a_waiter(farm) -> None:
    """Until some transaction waits for a lock."""
    end = time.monotonic() + 20
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while not farm.scalar(statement):
        assert time.monotonic() < end, "nobody waits"
        time.sleep(0.02)


def _at_once(calls):
    errors = []

    def guarded(call):
        try:
            call()
        except Exception as error:  # boundary: a thread's error is the test's
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
