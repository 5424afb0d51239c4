"""Files that run as they are: on the platforms that open them, and refused by name elsewhere."""

import pytest

from benchfarm_core.boards import EngineReport
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import JobRequest
from benchfarm_core.platforms import Precision
from benchfarm_store import jobs, models

LITERT = EngineReport(
    name="litert", available=True, version="2.3.0", precisions=(Precision.FP32, Precision.AS_GIVEN), options={}
)
GIVEN = "host-a/c0.t1.free/litert-2.3.0/as_given"
FP32 = "host-a/c0.t1.free/litert-2.3.0/fp32"
FC = {"kind": "kernel", "type": "fc", "config": {"cin": 64, "cout": 64}}


@pytest.fixture
def board(farm, ann, report_of):
    return farm.agent(ann, report_of(engines=(*report_of().engines, LITERT)))


@pytest.fixture
def upload(farm, ann, board):
    return uploaded(farm, ann, "tflite")


def uploaded(farm, by, file_format):
    sha256 = ("a" if file_format == "tflite" else "b") * 64
    fields = {"opset": 3, "dims": {}, "inputs": (), "graph": {}, "flops": 100, "parameters": 10, "size_bytes": 1000}
    given = {"name": "m", "sha256": sha256, "format": file_format, "reference_sha256": "c" * 64}
    new = models.NewModel.model_validate(fields | given)
    with farm.transaction() as tx:
        return {"kind": "upload", "model_id": models.add(tx, new, by=by).id}


def request(*workloads, **changes):
    return JobRequest.model_validate({"workloads": workloads, **changes})


def items_of(farm, by, job):
    with farm.transaction() as tx:
        return [(one.platform.split("/", 2)[2], one.failure) for one in jobs.items(tx, job.id, by).items]


def test_a_file_runs_as_it_is_where_it_is_opened(farm, ann, board, upload):
    job = farm.submit_planned(ann, request(upload, platforms=[GIVEN]))
    grant = board.must_take()
    [item] = grant.items
    assert (item.workload.format, item.max_relative_l2) == ("tflite", 0.05)
    board.release(grant)
    assert items_of(farm, ann, job) == [("litert-2.3.0/as_given", None)]


@pytest.mark.parametrize("filtered", [False, True])
def test_a_filter_means_the_platforms_that_open_something_of_the_job(farm, ann, upload, filtered):
    found = farm.submit_planned(ann, request(FC if filtered else upload))
    names = {name for name, _ in items_of(farm, ann, found)}
    assert names == ({"litert-2.3.0/fp32", "onnxruntime-1.31.1/fp32"} if filtered else {"litert-2.3.0/as_given"})
    assert found.progress.total == (4 if filtered else 2)


@pytest.mark.parametrize("platforms", [[FP32], {"engine": ["onnxruntime"]}])
def test_a_file_that_no_platform_opens_is_refused_and_nothing_stays(farm, ann, upload, platforms):
    for ask in (lambda tx, one: jobs.submit(tx, one, by=ann), lambda tx, one: jobs.dry_run(tx, one, ann)):
        with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
            ask(tx, request(FC, upload, platforms=platforms))
        assert (refused.value.code, refused.value.field) == ("format_not_opened", "workloads.1")
        assert "on litert with precision as_given alone" in refused.value.detail
    assert farm.scalar("SELECT count(*) FROM jobs") == 0


def test_what_the_farm_makes_itself_is_refused_where_nothing_is_made(farm, ann, upload):
    for workload in (FC, uploaded(farm, ann, "onnx")):
        with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
            jobs.submit(tx, request(workload, platforms=[GIVEN]), by=ann)
        assert refused.value.code == "format_not_opened"


def test_items_that_do_not_fit_fail_with_their_reason(farm, ann, board, upload):
    wanted = request(FC, upload, platforms=[FP32, GIVEN])
    with farm.transaction() as tx:
        plan = jobs.dry_run(tx, wanted, ann)
    assert (plan.to_measure, plan.impossible) == (2, 2)
    assert any(reason.startswith(f"{FP32}: 1 items: an uploaded .tflite file") for reason in plan.reasons)
    job = farm.submit_planned(ann, wanted)
    assert board.measure_all() == 2
    assert items_of(farm, ann, job) == [
        ("litert-2.3.0/fp32", None),
        ("litert-2.3.0/as_given", "conversion_failed"),
        ("litert-2.3.0/fp32", "conversion_failed"),
        ("litert-2.3.0/as_given", None),
    ]
    assert farm.job(job.id, ann).state == "partial"


def test_a_pair_has_each_side_where_it_is_opened(farm, ann, board, upload):
    pair = {"kind": "pair", "a": upload, "b": FC}
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
        jobs.submit(tx, request(pair, kind="compare", platforms=[GIVEN]), by=ann)
    assert refused.value.code == "format_not_opened"
    job = farm.submit_planned(ann, request({**pair, "b_platform": FP32}, kind="compare", platforms=[GIVEN]))
    assert items_of(farm, ann, job) == [("litert-2.3.0/as_given", None)]


def test_weights_of_8_bits_need_no_more_memory_than_their_file():
    fields = {"name": "m", "sha256": "a" * 64, "opset": 3, "dims": {}, "inputs": (), "graph": {}, "flops": 1}
    small = models.NewModel.model_validate({**fields, "size_bytes": 1000, "parameters": 900})
    plain = models.NewModel.model_validate({**fields, "size_bytes": 5000, "parameters": 900})
    assert [one.cost and one.cost.weight_bytes for one in (small, plain)] == [1000, 3600]
