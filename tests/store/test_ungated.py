"""Engines that tell times alone: what the farm makes of their results, and what it asks of them."""

from typing import Any

import pytest

from benchfarm_core.boards import EngineReport
from benchfarm_core.correctness import BENCHMARK_MODEL
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import JobRequest, JobState
from benchfarm_core.platforms import Precision
from benchfarm_core.summaries import Grade
from benchfarm_store import jobs, results, summaries
from tests.store.conftest import Agent, Farm, board_report, kernel_job, launch, ok

VERSION = "0123456789ab"
KEY = f"host-a/c0.t1.free/{BENCHMARK_MODEL}-{VERSION}/fp32"


@pytest.fixture
def agent(farm: Farm, ann: Any) -> Agent:
    report = board_report()
    tool = EngineReport(name=BENCHMARK_MODEL, available=True, version=VERSION, precisions=(Precision.FP32,))
    return farm.agent(ann, report.model_copy(update={"engines": (*report.engines, tool)}))


def job(**changes: Any) -> JobRequest:
    return kernel_job(1, **{"platforms": [KEY], **changes})


def told(measurement_id: int) -> Any:
    """A result as the agent hands it in: neither gate nor canaries."""
    bare: dict[str, Any] = {"gate_relative_l2": None, "canaries": {}}
    visits = tuple(launch(number).model_copy(update=bare) for number in range(3))
    return ok(measurement_id).model_copy(update={"launches": visits})


def test_its_results_have_grade_c_at_best_and_are_derived_again_so(farm: Farm, ann: Any, agent: Agent) -> None:
    asked = farm.submit_planned(ann, job())
    grant = agent.must_take()
    number = grant.items[0].measurement_id
    agent.send(grant, told(number))
    agent.release(grant)
    assert farm.job(asked.id, ann).state == JobState.SUCCEEDED
    farm.run("UPDATE summaries SET rule_version = 1")
    for _ in range(2):
        with farm.transaction() as tx:
            (found,) = results.list_results(tx, ann).items
        assert found.summary is not None
        summary = found.summary
        assert (summary.grade, summary.normalised_ms, summary.canary, summary.clean_share) == (Grade.C, None, None, 0)
        assert summary.median_ms == pytest.approx(1.0, rel=0.01)
        with farm.transaction() as tx:
            summaries.rederive(tx)


def test_other_engines_of_the_board_keep_their_grades(farm: Farm, ann: Any, agent: Agent) -> None:
    farm.submit_planned(ann, job(platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    agent.measure_all()
    with farm.transaction() as tx:
        (found,) = results.list_results(tx, ann).items
    assert found.summary is not None
    assert found.summary.grade == Grade.A


def test_a_filter_means_it_by_its_name_alone(farm: Farm, ann: Any, agent: Agent) -> None:
    def meant(**parts: Any) -> int:
        with farm.transaction() as tx:
            return jobs.dry_run(tx, job(platforms=parts), ann).items

    assert (meant(), meant(engine=[BENCHMARK_MODEL])) == (2, 2)
    assert meant(engine=[BENCHMARK_MODEL, "onnxruntime"], threads=[1]) == 2


@pytest.mark.parametrize(
    "changes", [{"protocol": {"name": "memory"}}, {"protocol": {"name": "profile"}}, {"timing": "in_situ"}]
)
def test_it_is_asked_for_times_of_whole_workloads_alone(
    farm: Farm, ann: Any, agent: Agent, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as refused, farm.transaction() as tx:
        jobs.dry_run(tx, job(**changes), ann)
    assert refused.value.code == "timing_impossible"
    assert BENCHMARK_MODEL in refused.value.detail
