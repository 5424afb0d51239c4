import pytest
from sqlalchemy.exc import ProgrammingError

from benchfarm_core.jobs import ItemState, JobState
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_store import events, jobs, planning, sweeping


def sweep(farm):
    return sweeping.sweep(farm.database)


def test_a_farm_at_rest_has_nothing_to_repair(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(2))
    agent.measure_all()
    report = sweep(farm)
    assert report.model_dump(exclude={"boards_to_dispatch", "told_jobs"}) == {
        "expired_leases": 0, "offline_boards": 0, "unplanned_jobs": 0, "ended_jobs": 0, "settled_jobs": 0,
        "forgotten_keys": 0, "forgotten_orphans": 0, "forgotten_board_events": 0,
        "forgotten_bundles": 0,
        "forgotten_tries": 0,
        "retired_measurements": 0,
    }  # fmt: skip


def test_jobs_whose_message_was_lost_are_planned(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(2))
    farm.messages.clear()
    assert sweep(farm).unplanned_jobs == 0
    farm.run("UPDATE jobs SET created_at = now() - interval '16 seconds'")
    assert sweep(farm).unplanned_jobs == 1
    assert TaskMessage(task=Task.PLAN_JOB, args=(job.id,)) in farm.messages
    farm.plan(job)
    farm.messages.clear()
    assert sweep(farm).unplanned_jobs == 0
    assert TaskMessage(task=Task.DISPATCH, args=(agent.boards[0],)) in farm.messages


def test_a_job_whose_planning_goes_on_is_left_alone(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(700))
    with farm.transaction() as tx:
        assert planning.plan_chunk(tx, job.id)
    farm.run("UPDATE jobs SET created_at = now() - interval '1 minute'")
    assert sweep(farm).unplanned_jobs == 0
    farm.run("UPDATE jobs SET progressed_at = now() - interval '16 seconds'")
    assert sweep(farm).unplanned_jobs == 1


def test_idempotency_keys_are_forgotten_after_a_week(farm, ann, agent, job_of):
    def submit() -> bool:
        with farm.transaction() as tx:
            return jobs.submit(tx, job_of(1), by=ann, idempotency_key="k", request_sha256="a")[1]

    assert submit()
    farm.run("UPDATE idempotency_keys SET created_at = now() - interval '6 days 23 hours'")
    assert sweep(farm).forgotten_keys == 0
    assert not submit()
    farm.run("UPDATE idempotency_keys SET created_at = now() - interval '7 days 1 second'")
    assert sweep(farm).forgotten_keys == 1
    assert submit()


def test_orphans_are_forgotten_after_a_month(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(2))
    grant = agent.must_take()
    farm.run("UPDATE leases SET expires_at = now() - interval '1 second'")
    agent.send(grant, *(ok_result(item.measurement_id) for item in grant.items))
    farm.run("UPDATE orphans SET received_at = now() - interval '29 days'")
    assert sweep(farm).forgotten_orphans == 0
    farm.run("UPDATE orphans SET received_at = now() - interval '31 days'")
    assert sweep(farm).forgotten_orphans == len(grant.items)


def test_a_part_that_fails_undoes_no_other(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(2))
    agent.start(agent.must_take())
    farm.run("UPDATE leases SET expires_at = now() - interval '1 second'")
    farm.run("UPDATE jobs SET expires_at = now() - interval '1 second'")
    farm.run("ALTER TABLE events RENAME TO lost")  # ending a job writes an event
    with pytest.raises(ProgrammingError):
        sweep(farm)
    assert farm.scalar("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 0


def test_lost_leases_come_back(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(2))
    agent.start(agent.must_take())
    farm.run("UPDATE leases SET expires_at = now() - interval '1 second'")
    assert sweep(farm).expired_leases == 1
    agent.measure_all()
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED


def test_an_expired_job_keeps_what_is_done_and_fails_the_rest(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(5, expires_in_s=600))
    grant = agent.must_take()
    agent.send(grant, ok_result(grant.items[0].measurement_id))
    agent.release(grant)
    assert sweep(farm).ended_jobs == 0
    farm.run("UPDATE jobs SET expires_at = now() - interval '1 second'")
    assert sweep(farm).ended_jobs == 1
    assert sweep(farm).ended_jobs == 0
    done = farm.job(job.id, ann)
    assert (done.state, done.reason) == (JobState.PARTIAL, "the job expired before everything was measured")
    assert (done.progress.succeeded, done.progress.failed) == (1, 9)
    with farm.transaction() as tx:
        items = jobs.items(tx, job.id, ann, state=ItemState.FAILED).items
        kinds = [event.data for event in events.after(tx, job.id, ann, 0, 100)]
    assert {item.failure for item in items} == {"expired"}
    assert any(data.get("count") == 9 for data in kinds)
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state = 'wanted'") == 0


def test_a_job_that_expires_unplanned_fails(farm, ann, agent, job_of):
    job = farm.submit(ann, job_of(2, expires_in_s=600))
    farm.run("UPDATE jobs SET expires_at = now() - interval '1 second'")
    sweep(farm)
    assert farm.job(job.id, ann).state == JobState.FAILED


def test_a_job_stops_when_its_budget_is_spent(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(5, budget_device_s=1000))
    grant = agent.must_take()
    agent.start(grant)
    agent.send(grant, ok_result(grant.items[0].measurement_id))
    farm.run("UPDATE leases SET accepted_at = accepted_at - interval '2000 seconds'")
    agent.release(grant)
    assert farm.job(job.id, ann).device_s_spent == pytest.approx(2000, rel=0.01)
    assert sweep(farm).ended_jobs == 1
    with farm.transaction() as tx:
        items = jobs.items(tx, job.id, ann, state=ItemState.FAILED).items
    assert {item.failure for item in items} == {"budget_spent"}
    assert farm.job(job.id, ann).state == JobState.PARTIAL


def test_a_job_whose_counts_say_it_ended_is_ended(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(1))
    farm.run("UPDATE jobs SET succeeded = total, pending = 0")
    assert sweep(farm).settled_jobs == 1
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED


def test_progress_within_a_second_of_an_event_is_told_later(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(5))
    grant = agent.must_take()
    for item in grant.items[:3]:
        agent.send(grant, ok_result(item.measurement_id))
    before = _last_progress(farm, job, ann)
    assert before["succeeded"] < 3
    farm.run("UPDATE jobs SET progress_event_at = progress_event_at - interval '2 seconds'")
    assert sweep(farm).told_jobs == 1
    assert _last_progress(farm, job, ann)["succeeded"] == 3
    assert sweep(farm).told_jobs == 0


def _last_progress(farm, job, by):
    with farm.transaction() as tx:
        found = events.after(tx, job.id, by, 0, 100)
    return [event.data for event in found if event.kind == "progress"][-1]
