"""Memory: what certainly fits into no board is refused before one is touched, and what a model took is kept."""

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import JobRequest
from benchfarm_core.measurements import MeasurementResult, MemorySample
from benchfarm_store import jobs, models, results, summaries
from tests.store.conftest import launch, ok

SMALL = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
LARGE = "host-b/c0.t1.free/onnxruntime-1.31.1/fp32"
MIB = 2**20


def fc(cin: int) -> dict:
    """About 4 MiB of weights per 1024 inputs."""
    return {"kind": "kernel", "type": "fc", "config": {"cin": cin, "cout": 1024}}


def request(*workloads, platforms=(SMALL,), **changes):
    return JobRequest.model_validate({"workloads": workloads, "platforms": platforms, **changes})


@pytest.fixture
def board(farm, ann, report_of):
    return farm.agent(ann, report_of(facts={"memory_bytes": 10 * MIB}))


def test_what_fits_nowhere_is_refused_and_nothing_stays(farm, ann, board):
    for ask in (lambda tx, one: jobs.submit(tx, one, by=ann), lambda tx, one: jobs.dry_run(tx, one, ann)):
        with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
            ask(tx, request(fc(1024), fc(2048)))
        assert (refused.value.code, refused.value.field) == ("model_too_large_for_board", "workloads.1")
        assert "0.01 GiB" in refused.value.detail
    assert farm.scalar("SELECT count(*) FROM jobs") == 0
    assert farm.submit(ann, request(fc(1024), fc(1800))).state == "queued"


def test_what_fits_somewhere_fails_elsewhere_with_its_reason(farm, ann, board, report_of):
    other = farm.agent(ann, report_of("s2", board_model="host-b", facts={"memory_bytes": 100 * MIB}), name="other")
    wanted = request(fc(1024), fc(2048), platforms=(SMALL, LARGE))
    with farm.transaction() as tx:
        plan = jobs.dry_run(tx, wanted, ann)
    assert (plan.to_measure, plan.impossible) == (3, 1)
    assert plan.reasons == [f"{SMALL}: 1 items are too large for its boards"]
    job = farm.submit_planned(ann, wanted)
    assert board.measure_all() == 1
    assert other.measure_all() == 2
    with farm.transaction() as tx:
        items = jobs.items(tx, job.id, ann).items
    assert [(one.state, one.failure) for one in items] == [
        ("succeeded", None),
        ("succeeded", None),
        ("failed", "model_too_large_for_board"),
        ("succeeded", None),
    ]
    assert "it needs at least 0.01 GiB" in items[2].reason
    assert farm.job(job.id, ann).state == "partial"


@pytest.mark.parametrize("told", [{}, {"memory_bytes": 0}, {"memory_bytes": "much"}])
def test_a_board_that_does_not_tell_is_tried(farm, ann, report_of, told):
    farm.agent(ann, report_of(facts=told))
    assert farm.submit_planned(ann, request(fc(2048))).progress.pending == 1


def test_an_upload_needs_its_file(farm, ann, board):
    upload = models.NewModel(
        name="m", sha256="a" * 64, size_bytes=9 * MIB, opset=13, dims={}, inputs=(), graph={}, flops=None, parameters=1
    )
    with farm.transaction() as tx:
        model = models.add(tx, upload, by=ann)
    named = {"kind": "upload", "model_id": model.id}
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
        jobs.submit(tx, request(named), by=ann)
    assert refused.value.code == "model_too_large_for_board"


def took(measurement_id: int) -> MeasurementResult:
    """Three cold starts in a crowd: no block is clean, the sizes are what they are."""
    sizes = {
        "base_pss_bytes": 10 * MIB,
        "loaded_pss_bytes": 30 * MIB,
        "peak_pss_bytes": 40 * MIB,
        "peak_rss_bytes": 50 * MIB,
        "mapped_weights_bytes": 5 * MIB,
    }
    change = {"memory": MemorySample.model_validate(sizes), "canaries": {}, "switches": (7,)}
    visits = tuple(launch(number, blocks=1, run_ns=10**9).model_copy(update=change) for number in range(3))
    return MeasurementResult(measurement_id=measurement_id, outcome="ok", launches=visits)


def test_what_a_model_took_is_kept_shown_and_derived_again(farm, ann, agent):
    wanted = request(fc(1024), protocol={"name": "memory"})
    job = farm.submit_planned(ann, wanted)
    (item,) = (grant := agent.must_take()).items
    with pytest.raises(InvalidRequest) as refused:
        agent.send(grant, ok(item.measurement_id))
    assert refused.value.code == "result_invalid"
    agent.send(grant, took(item.measurement_id))
    agent.release(grant)
    with farm.transaction() as tx:
        first = results.get_measurement(tx, item.measurement_id, ann)
        assert jobs.items(tx, job.id, ann).items[0].summary == first.summary
    assert first.summary is not None
    assert (first.summary.peak_pss_bytes, first.summary.model_pss_bytes) == (40 * MIB, 30 * MIB)
    assert (first.summary.median_ms, first.summary.launches, first.summary.grade) == (1000, 3, "A")
    assert first.samples[0].memory == took(1).launches[0].memory
    farm.run("UPDATE summaries SET rule_version = 3, peak_pss_bytes = 1, grade = 'D'")
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 1
        assert results.get_measurement(tx, item.measurement_id, ann).summary == first.summary
        assert jobs.dry_run(tx, wanted, ann).known == 1
