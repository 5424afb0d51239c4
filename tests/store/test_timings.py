"""Kernels in situ in the store: told apart from alone in every way, and refused where there is no such time."""

from typing import Any

import pytest
from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import ItemSource, ItemState, JobRequest
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.measurements import MeasurementResult, SideSamples, Timing
from benchfarm_store import jobs, latency, results, summaries, support
from tests.store.asking import measured_answers
from tests.store.conftest import board_report, failed, kernel_job, launch, ok

KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
NCNN = KEY.replace("onnxruntime", "ncnn")
INT8 = NCNN.replace("fp32", "int8")
FC = {"cin": 64, "cout": 32}
RESIZE = {"kind": "kernel", "type": "resize", "config": {"hw": 200, "cin": 8, "scale": 3}}
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


def test_a_latency_question_is_answered_from_its_own_timing(farm, ann, agent):
    question = {"items": job().model_dump(mode="json")["workloads"], "platforms": [KEY]}
    alone, inside = (LatencyRequest.model_validate(question | more) for more in ({}, {"timing": "in_situ"}))
    farm.submit_planned(ann, job())
    agent.measure_all(run_ns=700_000)
    with farm.transaction() as tx:
        assert {answer.source for answer in measured_answers(latency.ask(tx, alone, ann))} == {None}
        answers = measured_answers(latency.ask(tx, inside, ann))
    assert {(answer.source, answer.timing) for answer in answers} == {("measured", Timing.IN_SITU)}
    farm.submit_planned(ann, job(timing="alone"))
    agent.measure_all(run_ns=900_000)
    with farm.transaction() as tx:
        answers = measured_answers(latency.ask(tx, alone, ann))
        again = measured_answers(latency.ask(tx, inside, ann))
    assert {(answer.source, answer.timing) for answer in answers} == {("measured", Timing.ALONE)}
    assert all((a.median_ms or 0.0) > (b.median_ms or 0.0) > 0 for a, b in zip(answers, again, strict=True))


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


def two_engines(farm: Any, ann: Any) -> Any:
    """A board with an engine that has a profiler, and one that has none and times by difference in fp32."""
    engines = [
        {"name": name, "available": True, "version": "1.31.1", "precisions": precisions, "by_difference": by_difference}
        for name, precisions, by_difference in (("onnxruntime", ["fp32"], False), ("ncnn", ["fp32", "int8"], True))
    ]
    return farm.agent(ann, board_report("s9", engines=engines), name="other lab")


def test_a_filter_leaves_out_what_has_no_time_in_situ(farm, ann):
    two_engines(farm, ann)
    found = farm.submit_planned(ann, job(1, platforms={}))
    assert found.progress.total == 4
    where = {item.platform.split("/", 2)[2] for item in items(farm, ann, found)}
    assert where == {"onnxruntime-1.31.1/fp32", "ncnn-1.31.1/fp32"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workloads": [MODEL]}, "workloads.0"),
        ({"protocol": {"name": "memory"}}, "protocol.name"),
        ({"protocol": {"name": "profile"}}, "protocol.name"),
        ({"platforms": [INT8]}, "platforms"),
        ({"platforms": {"engine": ["ncnn"], "precision": ["int8"]}}, "platforms"),
        ({"platforms": [NCNN], "workloads": [{"kind": "kernel", "type": "fc", "config": FC}, RESIZE]}, "workloads.1"),
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
    grant = agent.must_take()
    with farm.transaction() as tx:  # such as an engine that loses its profiler
        tx.execute(text("UPDATE platforms SET spec = jsonb_set(spec, '{engine,name}', '\"ncnn\"')"))
    agent.send(grant, failed(grant.items[0].measurement_id, "unsupported_operator"))
    with farm.transaction() as tx:
        assert support.list_support(tx).items == []


def test_without_a_profiler_the_refusal_says_where_it_is_timed(farm, ann):
    two_engines(farm, ann)
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as caught:
        jobs.submit(tx, job(1, platforms=[INT8]), by=ann)
    assert "ncnn does not tell the time of single operators and does not time them by difference at int8" in (
        caught.value.detail
    )


def test_a_kernel_that_the_catalogue_refuses_is_refused_as_elsewhere(farm, ann):
    two_engines(farm, ann)
    broken = {"kind": "kernel", "type": "fc", "config": {"cin": 0, "cout": 1}}
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as caught:
        jobs.submit(tx, job(1, platforms=[NCNN], workloads=[broken]), by=ann)
    assert (caught.value.code, caught.value.field) == ("kernel_out_of_range", "workloads.0.config.cin")


def by_difference(measurement_id: int, kernel_ns: int = 400_000) -> MeasurementResult:
    """A good result of a carrier of 1 ms, which with a second copy takes `kernel_ns` longer."""
    launches = []
    for number in range(3):
        once, twice = (launch(number, run_ns=ns, blocks=24) for ns in (1_000_000, 1_000_000 + kernel_ns))
        fields = {name: getattr(twice, name) for name in SideSamples.model_fields if hasattr(twice, name)}
        launches.append(once.model_copy(update={"beside": SideSamples(**fields, rounds=(6,) * 4, threads=1)}))
    return MeasurementResult(measurement_id=measurement_id, outcome="ok", launches=tuple(launches))


def test_by_difference_the_second_copy_is_the_result(farm, ann):
    agent = two_engines(farm, ann)
    found = farm.submit_planned(ann, job(2, platforms=[NCNN]))
    grant = agent.must_take()
    first, second = (item.measurement_id for item in grant.items)
    agent.send(grant, by_difference(first), failed(second, "wrong_result"))
    agent.release(grant)
    with farm.transaction() as tx:
        view = results.get_measurement(tx, first, ann)
        [listed] = results.list_results(tx, ann).items
        [counted] = support.list_support(tx).items
    assert view.summary is not None
    assert view.summary.median_ms == pytest.approx(0.4, rel=1e-3)
    assert (view.timing, view.in_situ_by, listed.in_situ_by) == (Timing.IN_SITU, "difference", "difference")
    assert view.samples[0].beside is not None
    assert (counted.outcome, counted.count) == ("ok", 1)  # of the other nobody knows whether its neighbours failed
    farm.run("UPDATE summaries SET rule_version = 1, median_ms = 9")
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 1
        assert results.get_measurement(tx, first, ann).summary == view.summary
    assert {item.state for item in items(farm, ann, found)} == {ItemState.SUCCEEDED, ItemState.FAILED}


def test_a_profilers_time_says_so_and_alone_says_nothing(farm, ann, agent):
    for timing in Timing:
        farm.submit_planned(ann, job(1, timing=timing))
    agent.measure_all()
    with farm.transaction() as tx:
        told = {one.timing: one.in_situ_by for one in results.list_results(tx, ann).items}
    assert told == {Timing.ALONE: None, Timing.IN_SITU: "profiler"}


def test_a_difference_that_is_none_is_inconclusive(farm, ann):
    agent = two_engines(farm, ann)
    found = farm.submit_planned(ann, job(1, platforms=[NCNN]))
    for attempt in range(3):
        grant = agent.must_take()
        agent.send(grant, by_difference(grant.items[0].measurement_id, kernel_ns=0))
        agent.release(grant)
        [item] = items(farm, ann, found)
        assert item.state == (ItemState.FAILED if attempt == 2 else ItemState.PENDING)
    assert (item.failure, "difference_unclear" in item.reason) == ("inconclusive", True)


@pytest.mark.parametrize("key", [KEY, NCNN])
def test_a_result_with_the_sides_of_another_way_is_refused(farm, ann, key):
    agent = two_engines(farm, ann)
    farm.submit_planned(ann, job(1, platforms=[key]))
    grant = agent.must_take()
    make = by_difference if key == KEY else ok
    with pytest.raises(InvalidRequest, match="two sides"):
        agent.send(grant, make(grant.items[0].measurement_id))


def test_by_difference_is_expected_to_take_longer_than_by_profiler(farm, ann):
    two_engines(farm, ann)
    seconds = {}
    for key in (KEY, NCNN):
        with farm.transaction() as tx:
            seconds[key] = jobs.dry_run(tx, job(20, platforms=[key]), ann).device_s
        farm.submit_planned(ann, job(20, platforms=[key]))
    assert seconds[NCNN] > 5 * seconds[KEY]
    with farm.transaction() as tx:
        rows = tx.execute(text("SELECT p.key, sum(m.expected_s) AS s FROM measurements m JOIN platforms p ON p.id = "
            "m.platform_id GROUP BY p.key"))  # fmt: skip
        planned = {row.key: row.s for row in rows}
    assert planned[NCNN] == pytest.approx(seconds[NCNN], rel=1e-3)
    assert planned[KEY] == pytest.approx(seconds[KEY], rel=1e-3)


def test_in_situ_is_expected_to_take_less(farm, ann, agent):
    estimates = {}
    for timing in Timing:
        with farm.transaction() as tx:
            estimates[timing] = jobs.dry_run(tx, job(20, timing=timing), ann).device_s
    assert 0 < estimates[Timing.IN_SITU] < 0.7 * estimates[Timing.ALONE]
