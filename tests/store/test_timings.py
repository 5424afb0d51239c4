"""Kernels in situ in the store: told apart from alone in every way, and refused where there is no such time."""

from typing import Any

import pytest
from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import ItemSource, ItemState, JobRequest
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.measurements import Timing
from benchfarm_store import jobs, latency, results, support
from tests.store.conftest import board_report, failed, kernel_job, ok

KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
MODEL = {"kind": "model", "name": "mobilenet_v2", "config": {"hw": 64}}


def job(count: int = 2, timing: str = "in_situ", **changes: Any) -> JobRequest:
    return kernel_job(count, timing=timing, **{"platforms": [KEY], **changes})


def items(farm: Any, ann: Any, found: Any) -> list[Any]:
    with farm.transaction() as tx:
        return jobs.items(tx, found.id, ann).items


def test_alone_and_in_situ_are_two_measurements_of_one_workload(farm, ann, agent):
    alone, inside = farm.submit_planned(ann, job(timing="alone")), farm.submit_planned(ann, job())
    grant = agent.must_take()
    assert sorted(item.timing for item in grant.items) == [Timing.ALONE] * 2 + [Timing.IN_SITU] * 2
    agent.send(grant, *(ok(i.measurement_id, run_ns=900 if i.timing == "alone" else 700) for i in grant.items))
    agent.release(grant)
    found = {one.timing: items(farm, ann, one) for one in (alone, inside)}
    numbers = {timing: {item.measurement_id for item in each} for timing, each in found.items()}
    assert not numbers[Timing.ALONE] & numbers[Timing.IN_SITU]
    assert {item.timing for item in found[Timing.IN_SITU]} == {Timing.IN_SITU}
    assert {item.workload_id for item in found[Timing.ALONE]} == {i.workload_id for i in found[Timing.IN_SITU]}
    with farm.transaction() as tx:
        listed = {one.measurement_id: one.timing for one in results.list_results(tx, ann).items}
        view = results.get_measurement(tx, found[Timing.IN_SITU][0].measurement_id, ann)
    assert view.timing == Timing.IN_SITU
    assert {listed[number] for number in numbers[Timing.IN_SITU]} == {Timing.IN_SITU}


@pytest.mark.parametrize("timing", Timing)
def test_what_is_known_is_reused_for_the_same_timing_only(farm, ann, agent, timing):
    farm.submit_planned(ann, job(timing=timing))
    joined = farm.submit_planned(ann, job(timing=timing))
    assert {item.source for item in items(farm, ann, joined)} == {ItemSource.JOINED}
    agent.measure_all()
    for other in Timing:
        with farm.transaction() as tx:
            told = jobs.dry_run(tx, job(timing=other), ann)
        again = farm.submit_planned(ann, job(timing=other))
        same = other == timing
        assert (told.timing, told.known, told.to_measure) == (other, 2 * same, 2 * (not same))
        assert {item.source for item in items(farm, ann, again)} == {ItemSource.KNOWN if same else ItemSource.NEW}


def test_the_latency_question_is_answered_from_alone(farm, ann, agent):
    request = LatencyRequest.model_validate({"items": job().model_dump(mode="json")["workloads"], "platforms": [KEY]})
    farm.submit_planned(ann, job())
    agent.measure_all()
    with farm.transaction() as tx:
        assert {answer.source for answer in latency.ask(tx, request, ann).answers} == {None}
    farm.submit_planned(ann, job(timing="alone"))
    agent.measure_all()
    with farm.transaction() as tx:
        answers = latency.ask(tx, request, ann).answers
    assert {(answer.source, answer.timing) for answer in answers} == {("measured", Timing.ALONE)}


def test_what_failed_with_its_carrier_comes_back_apart(farm, ann, agent):
    found = farm.submit_planned(ann, job())
    grant = agent.must_take()
    assert not any(item.apart for item in grant.items)
    first, second = (item.measurement_id for item in grant.items)
    agent.send(grant, failed(first, "carrier_failed"), failed(second, "fused_away", "computed within a0"))
    agent.release(grant)
    assert [(item.measurement_id, item.apart) for item in agent.must_take().items] == [(first, True)]
    with farm.transaction() as tx:
        assert support.list_support(tx).items == []
    fused = {item.measurement_id: item for item in items(farm, ann, found)}[second]
    assert (fused.state, fused.failure, fused.reason) == (ItemState.FAILED, "fused_away", "computed within a0")


def test_the_gate_of_a_carrier_is_no_error_of_its_kernels(farm, ann, agent):
    farm.submit_planned(ann, job())
    agent.measure_all()
    assert {(row.code, row.max_relative_l2, row.last_relative_l2) for row in _support(farm)} == {("ok", None, None)}
    farm.submit_planned(ann, job(timing="alone"))
    agent.measure_all()
    assert all(row.max_relative_l2 for row in _support(farm))


def _support(farm: Any) -> Any:
    with farm.transaction() as tx:
        return support.list_support(tx).items


def test_a_retried_job_keeps_its_timing(farm, ann, agent):
    found = farm.submit_planned(ann, job(1))
    grant = agent.must_take()
    agent.send(grant, failed(grant.items[0].measurement_id, "fused_away"))
    agent.release(grant)
    with farm.transaction() as tx:
        again = jobs.retry(tx, found.id, ann)[0]
    farm.plan(again)
    assert (again.timing, agent.must_take().items[0].timing) == (Timing.IN_SITU, Timing.IN_SITU)


def two_engines(farm: Any, ann: Any) -> None:
    """A board with an engine that has a profiler and one that has none."""
    engines = [
        {"name": name, "available": True, "version": "1.31.1", "precisions": ["fp32"]}
        for name in ("onnxruntime", "ncnn")
    ]
    farm.agent(ann, board_report("s9", engines=engines), name="other lab")


def test_a_filter_leaves_out_what_has_no_time_in_situ(farm, ann):
    two_engines(farm, ann)
    found = farm.submit_planned(ann, job(1, platforms={}))
    assert found.progress.total == 2
    assert {item.platform.split("/")[2] for item in items(farm, ann, found)} == {"onnxruntime-1.31.1"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workloads": [MODEL]}, "workloads.0"),
        ({"protocol": {"name": "memory"}}, "protocol.name"),
        ({"protocol": {"name": "profile"}}, "protocol.name"),
        ({"platforms": [KEY.replace("onnxruntime", "ncnn")]}, "platforms"),
        ({"platforms": {"engine": ["ncnn"]}}, "platforms"),
    ],
)
def test_what_has_no_time_in_situ_is_refused(farm, ann, changes, field):
    two_engines(farm, ann)
    request = JobRequest.model_validate({**job().model_dump(mode="json"), **changes})
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as caught:
        jobs.submit(tx, request, by=ann)
    assert (caught.value.code, caught.value.field) == ("timing_impossible", field)


PROFILE: dict[str, Any] = {"timing": "alone", "protocol": {"name": "profile"}}


def test_a_filter_leaves_out_what_has_no_profile(farm, ann):
    two_engines(farm, ann)
    found = farm.submit_planned(ann, job(1, platforms={}, **PROFILE))
    assert {item.platform.split("/")[2] for item in items(farm, ann, found)} == {"onnxruntime-1.31.1"}


@pytest.mark.parametrize("platforms", [[KEY, KEY.replace("onnxruntime", "ncnn")], {"engine": ["ncnn"]}])
def test_a_profile_without_a_profiler_is_refused_and_says_who_has_one(farm, ann, platforms):
    two_engines(farm, ann)
    for ask in (lambda tx, one: jobs.submit(tx, one, by=ann), lambda tx, one: jobs.dry_run(tx, one, ann)):
        with farm.transaction() as tx, pytest.raises(InvalidRequest) as caught:
            ask(tx, job(1, platforms=platforms, **PROFILE))
        assert (caught.value.code, caught.value.field) == ("profile_impossible", "platforms")
        assert "ncnn does not tell" in caught.value.detail
        assert caught.value.detail.endswith("of this farm's engines onnxruntime does: name such platforms")


def test_where_no_engine_has_a_profiler_the_refusal_says_so(farm, ann):
    engine = {"name": "ncnn", "available": True, "version": "1", "precisions": ["fp32"]}
    farm.agent(ann, board_report(engines=[engine]))
    with farm.transaction() as tx, pytest.raises(InvalidRequest, match="no engine of this farm's boards does"):
        jobs.submit(tx, job(1, platforms={}, **PROFILE), by=ann)


@pytest.mark.parametrize("asked", [PROFILE, {"timing": "in_situ"}])
def test_what_an_older_farm_accepted_without_a_profiler_is_no_attempt_of_the_family(farm, ann, asked):
    engine = {"name": "mnn", "available": True, "version": "1", "precisions": ["fp32"]}
    agent = farm.agent(ann, board_report(engines=[engine]))
    farm.submit_planned(ann, job(1, platforms={"threads": [1]}, **asked))
    with farm.transaction() as tx:  # such as an engine that loses its profiler
        tx.execute(text("UPDATE platforms SET spec = jsonb_set(spec, '{engine,name}', '\"ncnn\"')"))
    grant = agent.must_take()
    agent.send(grant, failed(grant.items[0].measurement_id, "unsupported_operator"))
    with farm.transaction() as tx:
        assert support.list_support(tx).items == []


def test_in_situ_is_expected_to_take_less(farm, ann, agent):
    estimates = {}
    for timing in Timing:
        with farm.transaction() as tx:
            estimates[timing] = jobs.dry_run(tx, job(20, timing=timing), ann).device_s
    assert 0 < estimates[Timing.IN_SITU] < 0.7 * estimates[Timing.ALONE]
