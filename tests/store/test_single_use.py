"""Boards that share a host or are emulated: what is measured there answers who asked for it, and nobody else."""

import threading
import time

import pytest
from sqlalchemy import text

from benchfarm_core.adapting import AdaptationRequest
from benchfarm_core.agent_protocol import ResultsRequest
from benchfarm_core.boards import MARK_PREFIXES, SINGLE_USE
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.exports import ExportRequest
from benchfarm_core.jobs import ItemSource, JobState
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.pool import PoolExport
from benchfarm_core.predictors import WHOLE_MODEL, PredictorEvidence
from benchfarm_store import (
    adaptations,
    exports,
    jobs,
    latency,
    likenesses,
    pool,
    predictors,
    refreshes,
    results,
    summaries,
    training_rows,
)
from tests.store.predictor_bytes import predictor_bytes
from tests.store.probing import CONV, Probing

POINT = "c0.t1.free/onnxruntime-1.31.1/fp32"
WAIT_S = 10.0


@pytest.fixture(params=sorted(SINGLE_USE))
def key(request) -> str:
    """A platform of a board with one of the marks; `lab` drives it."""
    return f"{MARK_PREFIXES[request.param]}host-m/{POINT}"


@pytest.fixture
def lab(farm, ann, report_of, key):
    model = key.partition("/")[0]
    (mark,) = (mark for mark in SINGLE_USE if model.startswith(MARK_PREFIXES[mark]))
    return farm.agent(ann, report_of("m", board_model=model, marks=[mark]), name="marked lab")


def sources(farm, job, by):
    with farm.transaction() as tx:
        return [item.source for item in jobs.items(tx, job.id, by, limit=100).items]


def test_the_same_job_again_is_measured_again(farm, ann, lab, key, job_of):
    first = farm.submit_planned(ann, job_of(3, platforms=[key]))
    lab.measure_all()
    assert farm.job(first.id, ann).state == JobState.SUCCEEDED
    with farm.transaction() as tx:
        assert jobs.dry_run(tx, job_of(3, platforms=[key]), by=ann).to_measure == 3
    again = farm.submit_planned(ann, job_of(3, platforms=[key]))
    assert (again.progress.known, again.progress.pending) == (0, 3)
    assert lab.measure_all() == 3
    assert sources(farm, again, ann) == [ItemSource.NEW] * 3


def test_a_real_board_beside_it_reuses_as_ever(farm, ann, agent, lab, key, job_of):
    request = job_of(2, platforms=[key, f"host-a/{POINT}"])
    farm.submit_planned(ann, request)
    lab.measure_all()
    agent.measure_all()
    assert sources(farm, farm.submit_planned(ann, request), ann) == [ItemSource.NEW, ItemSource.KNOWN] * 2


def test_jobs_that_wait_at_once_share_what_waits(farm, ann, lab, key, job_of):
    one, two = (farm.submit_planned(ann, job_of(2, platforms=[key])) for _ in range(2))
    assert lab.measure_all() == 2
    assert farm.job(one.id, ann).progress.succeeded == farm.job(two.id, ann).progress.succeeded == 2
    assert sources(farm, two, ann) == [ItemSource.JOINED] * 2


def test_what_is_measured_while_it_is_joined_is_not_reused_either(farm, ann, lab, key, job_of, ok_result):
    farm.submit_planned(ann, job_of(1, platforms=[key]))
    grant = lab.must_take()
    lab.start(grant)
    second = farm.submit(ann, job_of(1, platforms=[key]))
    planner = threading.Thread(target=farm.plan, args=(second,))
    with farm.transaction() as tx:
        request = ResultsRequest(results=(ok_result(grant.items[0].measurement_id),), launches=())
        results.ingest(tx, lab.id, grant.lease_token, request)
        planner.start()
        _wait_for_a_lock(farm)
    planner.join()
    lab.release(grant)
    assert sources(farm, second, ann) == [ItemSource.NEW]
    assert lab.measure_all() == 1


def _wait_for_a_lock(farm) -> None:
    until_s = time.monotonic() + WAIT_S
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while farm.scalar(waiting) == 0:
        assert time.monotonic() < until_s, "nobody waits for the row"
        time.sleep(0.01)


def test_a_question_is_answered_by_none_of_it(farm, ann, agent, lab, key, job_of):
    request = job_of(2, platforms=[key])
    farm.submit_planned(ann, request)
    lab.measure_all()
    pinned = [publish(farm, key, subject) for subject in {one.type for one in request.workloads}]
    for pin in (None, {"predictors": pinned}):
        question = {"platforms": [key, f"host-a/{POINT}"], "items": request.workloads, "pin": pin}
        with farm.transaction() as tx:
            asked = latency.ask(tx, LatencyRequest.model_validate(question), ann)
        one, _ = asked.platforms
        assert (dict(asked.best), one.gaps, dict(one.heads)) == ({}, (0, 1), {})


def publish(farm, key, subject=WHOLE_MODEL) -> str:
    """A predictor from before the board was marked; its id."""
    with farm.transaction() as tx:
        made = predictors.publish(
            tx,
            platform_id=row_of(farm, key),
            subject=subject,
            file=predictor_bytes(key, subject, b"1"),
            evidence=PredictorEvidence(),
            reason="once",
            activate=True,
        )
        return made.id


def row_of(farm, key) -> int:
    return int(farm.scalar("SELECT id FROM platforms WHERE key = :key", key=key))


def test_it_teaches_judges_and_likens_nothing(farm, ann, lab, key):
    probing = Probing(farm, ann, lab)
    probing.measure(key)
    platform = probing.row_of(key)
    farm.run(
        "UPDATE measurements SET purpose = 'holdout' WHERE id = (SELECT min(id) FROM measurements WHERE state = 'done')"
    )
    with farm.transaction() as tx:
        assert training_rows.training_rows(tx, platform).every == ()
        assert training_rows.holdout_rows(tx, platform).every == ()
        tx.execute(text("UPDATE boards SET generation_id = NULL"))
        assert training_rows.former_rows(tx, platform).every == ()
    farm.run("UPDATE measurements SET purpose = 'job'")
    farm.run("UPDATE boards b SET generation_id = (SELECT id FROM generations g WHERE g.board_id = b.id)")
    with farm.transaction() as tx:
        assert likenesses.due_members(tx) == []
        assert likenesses.probed_platforms(tx) == []
        before = likenesses.Probed(probing.id_of(key), key.partition("/")[0], {}, (16, tx.now))
        likenesses.keep_platform(tx, before, [])
    with farm.transaction() as tx:
        assert likenesses.due_members(tx) == [before.id], "what was compared once is to be forgotten"
        likenesses.forget_platform(tx, before.id)
        assert likenesses.due_members(tx) == []


def test_its_old_predictors_are_not_made_anew_and_are_in_no_pool(farm, ann, lab, key):
    probing = Probing(farm, ann, lab)
    probing.ask(key)
    lab.measure_all()
    publish(farm, key, CONV)
    farm.run("UPDATE predictors SET created_at = created_at - interval '1 hour'")
    public_id = probing.id_of(key)
    with farm.transaction() as tx:
        assert refreshes.due_on(tx, public_id) == []
        assert refreshes.wake(tx) == 0
        assert pool.list_members(tx) == []


def test_what_would_use_it_is_refused_with_the_reason(farm, ann, lab, key, job_of):
    farm.submit_planned(ann, job_of(1, platforms=[key]))
    publish(farm, key)
    export = ExportRequest(platform=key, space="bert")
    with farm.transaction() as tx:
        for ask, field in (
            (lambda: adaptations.start(tx, key, AdaptationRequest(), by=ann), "platform"),
            (lambda: exports.order(tx, export, 1, ann), "platform"),
            (lambda: pool.gather(tx, PoolExport(names=(key,), licence="CC0-1.0", source="a lab")), "names"),
        ):
            with pytest.raises(InvalidRequest, match="submit a job") as refused:
                ask()
            assert (refused.value.code, refused.value.field) == ("platform_single_use", field)
    assert farm.scalar("SELECT count(*) FROM adaptations") == 0


def contended(result):
    """The same with neighbours in nearly every block."""
    told = [visit.model_copy(update={"switches": (1,) * 19 + (0,)}) for visit in result.launches]
    return result.model_copy(update={"launches": tuple(told)})


def test_the_witness_is_recorded_and_fails_nobody_on_a_shared_host_alone(farm, ann, lab, key, job_of, ok_result):
    farm.submit_planned(ann, job_of(1, platforms=[key]))
    grant = lab.must_take()
    (item,) = grant.items
    lab.send(grant, contended(ok_result(item.measurement_id)))
    lab.release(grant)
    with farm.transaction() as tx:
        view = results.get_measurement(tx, item.measurement_id, ann)
    if not key.startswith(MARK_PREFIXES["shared_host"]):
        assert (view.summary, view.inconclusive) == (None, 1)
        return
    assert (view.state, view.inconclusive) == ("done", 0)
    assert view.summary is not None
    assert (view.summary.launches, view.summary.clean_share) == (3, 0.0)
    farm.run("UPDATE summaries SET rule_version = 1, median_ms = 99")
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 1
    with farm.transaction() as tx:
        assert results.get_measurement(tx, item.measurement_id, ann).summary == view.summary


def test_a_shared_host_is_not_noisy(farm, ann, lab, key, job_of, ok_result):
    farm.submit_planned(ann, job_of(1, platforms=[key]))
    lab.measure_all()
    farm.submit_planned(ann, job_of(1, seed=2, platforms=[key]))
    grant = lab.must_take()
    lab.start(grant)
    lab.finish(grant, ok_result(grant.items[0].measurement_id, neighbours=1.2))
    outcome = farm.scalar("SELECT outcome FROM lease_items ORDER BY lease_id DESC LIMIT 1")
    assert outcome == ("ok" if key.startswith(MARK_PREFIXES["shared_host"]) else "noisy")
