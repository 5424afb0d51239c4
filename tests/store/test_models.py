import hashlib

import pytest

from benchfarm_core.accounts import Quotas
from benchfarm_core.errors import InvalidRequest, NotFound, QuotaExceeded
from benchfarm_core.jobs import JobRequest, JobState
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.views import ResultsWanted
from benchfarm_core.workloads import InputSpec, NormalFill
from benchfarm_store import jobs, latency, leases, models, results, summaries

PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"


def new_model(name: str = "net", content: bytes = b"one", **changes):
    fields = {
        "name": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": 1000,
        "opset": 17,
        "dims": {"batch": 1},
        "inputs": (InputSpec(name="x", dtype="float32", shape=(1, 3, 8, 8), fill=NormalFill()),),
        "graph": {"operators": ["Conv"]},
        "flops": 5000,
        "parameters": 100,
        "reference_sha256": hashlib.sha256(content + b"reference").hexdigest(),
    }
    return models.NewModel.model_validate(fields | changes)


def add(farm, by, model=None):
    with farm.transaction() as tx:
        return models.add(tx, model or new_model(), by=by)


def upload_job(job_of, model_id):
    return job_of(1).model_copy(
        update={"workloads": (JobRequest.model_validate({"workloads": [_upload(model_id)]}).workloads)}
    )


def _upload(model_id):
    return {"kind": "upload", "model_id": model_id}


def test_the_same_upload_again_is_the_same_model_and_is_counted_once(farm, ann):
    first = add(farm, ann)
    assert add(farm, ann, new_model(name="other name")) == first
    assert farm.scalar("SELECT stored_bytes FROM accounts") == 1000
    other = add(farm, ann, new_model(dims={"batch": 2}))
    assert other.id != first.id
    with farm.transaction() as tx:
        page = models.list_models(tx, ann, None, 1)
        rest = models.list_models(tx, ann, page.next_cursor, 1)
    assert [model.id for model in page.items + rest.items] == [other.id, first.id]


def test_a_list_reads_no_graph(farm, ann):
    model = add(farm, ann)
    with farm.statements() as sent, farm.transaction() as tx:
        (listed,) = models.list_models(tx, ann, None, 10).items
    assert listed.model_dump() == model.model_dump(exclude={"graph"})
    assert not [one for one in sent if "graph" in one]


def test_a_full_quota_refuses_and_keeps_nothing(farm):
    small = farm.account("small", quotas=Quotas(stored_bytes=1500))
    add(farm, small)
    with pytest.raises(QuotaExceeded) as refused:
        add(farm, small, new_model(content=b"two"))
    assert refused.value.limit == 1500
    assert farm.scalar("SELECT count(*) FROM models") == 1
    assert farm.scalar("SELECT count(*) FROM workloads") == 1


def test_a_deleted_model_cannot_be_used_but_its_results_stay_readable(farm, ann, agent, job_of):
    model = add(farm, ann)
    job = farm.submit_planned(ann, upload_job(job_of, model.id))
    agent.measure_all()
    with farm.transaction() as tx:
        models.delete_model(tx, model.id, ann)
    assert farm.scalar("SELECT stored_bytes FROM accounts") == 0
    with farm.transaction() as tx:
        assert len(results.list_results(tx, ann).items) == 2
        assert len(jobs.items(tx, job.id, ann).items) == 2
        assert models.unneeded_files(tx, [model.sha256]) == [model.sha256]
        for gone in (models.get_model, models.delete_model):
            with pytest.raises(NotFound):
                gone(tx, model.id, ann)
        with pytest.raises(NotFound):
            jobs.submit(tx, upload_job(job_of, model.id), by=ann)
    assert add(farm, ann).id != model.id


def test_uploads_are_private_to_their_account(farm, ann, agent, job_of):
    bob = farm.account("bob")
    model = add(farm, ann)
    farm.submit_planned(ann, upload_job(job_of, model.id))
    agent.measure_all()
    with farm.transaction() as tx:
        assert len(results.list_results(tx, ann).items) == 2
        measured = results.list_results(tx, ann).items[0]
        assert results.list_results(tx, bob).items == []
        assert results.list_results(tx, bob, ResultsWanted(workload_id=measured.workload_id)).items == []
        for ask in (
            lambda: models.get_model(tx, model.id, bob),
            lambda: models.delete_model(tx, model.id, bob),
            lambda: results.get_measurement(tx, measured.measurement_id, bob),
            lambda: jobs.submit(tx, upload_job(job_of, model.id), by=bob),
            lambda: jobs.dry_run(tx, upload_job(job_of, model.id), bob),
        ):
            with pytest.raises(NotFound):
                ask()
        question = {"platforms": [measured.platform], "items": [_upload(model.id)]}
        asked = latency.ask(tx, LatencyRequest.model_validate(question), bob)
        assert asked.refusals[0].error == "not_found", "as if there were none"
        assert (asked.workloads, asked.best) == ([], {})
        assert models.list_models(tx, bob, None, 10).items == []


def test_uploads_run_in_leases_of_their_own(farm, ann, agent, job_of, ok_result):
    model = add(farm, ann)
    both = (*job_of(3, platforms=[PLATFORM]).workloads, *upload_job(job_of, model.id).workloads)
    farm.submit_planned(ann, job_of(1, platforms=[PLATFORM]).model_copy(update={"workloads": both}))
    kinds = []
    while (grant := agent.take()) is not None:
        kinds.append([item.workload.kind for item in grant.items])
        agent.send(grant, *(ok_result(item.measurement_id) for item in grant.items))
        agent.release(grant)
    assert sorted(kinds) == [["kernel"] * 3, ["upload"]]


def test_a_lease_with_an_upload_gives_no_canary_that_judges_others(farm, ann, agent, job_of, ok_result):
    def measure(request, canary_ns):
        farm.submit_planned(ann, request)
        grant = agent.must_take()
        id_ = grant.items[0].measurement_id
        agent.send(grant, ok_result(id_, canary_ns=canary_ns))
        agent.release(grant)
        with farm.transaction() as tx:
            return results.get_measurement(tx, id_, ann)

    def upload(content):
        added = add(farm, ann, new_model(content=content))
        return upload_job(job_of, added.id).model_copy(update={"platforms": (PLATFORM,)})

    unjudged = measure(upload(b"one"), 9_000_000)
    assert unjudged.summary.normalised_ms is None
    assert farm.scalar("SELECT count(*) FROM canary_goldens") == 0
    honest = measure(job_of(1, platforms=[PLATFORM]), 2_000_000)
    assert honest.summary.normalised_ms == pytest.approx(1.0, rel=1e-3)
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 1
        again = results.get_measurement(tx, unjudged.measurement_id, ann)
    assert again.summary is not None
    assert again.summary.normalised_ms == pytest.approx(2 / 9, rel=1e-3)
    before = farm.scalar("SELECT mobilenet_recent_ns FROM canary_goldens")
    assert measure(upload(b"two"), 2_000_000).summary.normalised_ms == pytest.approx(1.0, rel=1e-3)
    assert farm.scalar("SELECT mobilenet_recent_ns FROM canary_goldens") == before


def test_an_upload_on_a_board_that_changed_waits_for_work_of_the_farm_to_move_the_history(
    farm, ann, agent, job_of, ok_result
):
    farm.submit_planned(ann, job_of(1, platforms=[PLATFORM]))
    agent.measure_all(canary_ns=2_000_000)
    model = add(farm, ann)
    farm.submit_planned(ann, upload_job(job_of, model.id).model_copy(update={"platforms": (PLATFORM,)}))
    states: list[str] = []

    def measure_what_is_wanted():
        states.clear()
        while (grant := agent.take()) is not None:
            agent.send(grant, ok_result(grant.items[0].measurement_id, canary_ns=2_600_000))
            agent.release(grant)
            states.append(farm.scalar("SELECT state FROM measurements ORDER BY id DESC LIMIT 1"))

    measure_what_is_wanted()
    assert states == ["wanted", "wanted", "failed"], "canary drift, however often"
    farm.submit_planned(ann, job_of(1, seed=9, platforms=[PLATFORM]))
    measure_what_is_wanted()
    assert states == ["wanted", "wanted", "done"], "what stays for two leases is how the board is now"
    farm.submit_planned(ann, upload_job(job_of, model.id).model_copy(update={"platforms": (PLATFORM,), "max_age_s": 0}))
    measure_what_is_wanted()
    assert states == ["done"]


def test_work_is_joined_only_after_the_second_account_uploaded_the_same_bytes(farm, ann, agent, job_of):
    bob = farm.account("bob")
    mine, theirs = add(farm, ann), add(farm, bob)
    assert mine.id != theirs.id
    farm.submit_planned(ann, upload_job(job_of, mine.id))
    agent.measure_all()
    job = farm.submit_planned(bob, upload_job(job_of, theirs.id))
    assert (job.state, job.progress.known) == (JobState.SUCCEEDED, 2)
    with farm.transaction() as tx:
        assert len(results.list_results(tx, bob).items) == 2


def test_an_agent_fetches_files_only_while_it_needs_them(farm, ann, agent, job_of):
    model = add(farm, ann)
    farm.submit_planned(ann, upload_job(job_of, model.id))
    reference = new_model().reference_sha256
    grant = agent.must_take()
    assert (grant.items[0].file_sha256, grant.items[0].reference_sha256) == (model.sha256, reference)
    with farm.transaction() as tx:
        for sha256 in (model.sha256, reference):
            leases.check_file(tx, agent.id, sha256)
            with pytest.raises(NotFound):
                leases.check_file(tx, "a_other", sha256)
        assert models.unneeded_files(tx, [model.sha256, reference]) == []
    agent.release(grant)
    with farm.transaction() as tx, pytest.raises(NotFound):
        leases.check_file(tx, agent.id, model.sha256)


def test_files_are_needed_by_models_jobs_and_measurements(farm, ann, agent, job_of):
    bob = farm.account("bob")
    mine, theirs = add(farm, ann), add(farm, bob)
    files = sorted([mine.sha256, str(new_model().reference_sha256)])

    def unneeded() -> list[str]:
        with farm.transaction() as tx:
            found: list[str] = models.unneeded_files(tx, [*files, "0" * 64])
        assert "0" * 64 in found
        return found[1:]

    def delete(model, by) -> None:
        with farm.transaction() as tx:
            models.delete_model(tx, model.id, by)

    delete(mine, ann)
    assert unneeded() == []  # bob has it too
    job = farm.submit(bob, upload_job(job_of, theirs.id))
    delete(theirs, bob)
    assert unneeded() == []  # a job that is not planned yet names it
    farm.plan(job)
    farm.run("UPDATE jobs SET finished_at = now()")
    assert unneeded() == []  # its measurements wait
    farm.run("UPDATE jobs SET finished_at = NULL")
    agent.measure_all()
    assert unneeded() == files


def test_the_reference_of_a_second_upload_is_the_one_that_counts(farm, ann):
    add(farm, ann)
    newer = hashlib.sha256(b"newer").hexdigest()
    add(farm, ann, new_model(reference_sha256=newer))
    with farm.transaction() as tx:
        assert models.unneeded_files(tx, [newer]) == []
    assert farm.scalar("SELECT reference_sha256 FROM workloads") == newer


def test_a_retry_names_models_that_were_deleted(farm, ann, agent, job_of):
    model = add(farm, ann)
    job = farm.submit_planned(ann, upload_job(job_of, model.id))
    with farm.transaction() as tx:
        jobs.cancel(tx, job.id, ann)
        models.delete_model(tx, model.id, ann)
    with farm.transaction() as tx, pytest.raises(InvalidRequest, match=model.id) as refused:
        jobs.retry(tx, job.id, ann)
    assert refused.value.code == "model_deleted"
    add(farm, ann)
    with farm.transaction() as tx:
        assert jobs.retry(tx, job.id, ann)[0].progress.total == 2
