"""Uploads beside a board's history: a board that changed measures none, and a loud moment is told as one."""

import pytest

from benchfarm_core.measurements import MeasurementState
from benchfarm_store import results
from tests.store.test_models import add, new_model, upload_job

PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
OUTCOMES = "SELECT array_agg(outcome ORDER BY lease_id, position) FROM lease_items WHERE measurement_id = :id"


@pytest.fixture
def kernels(farm, ann, agent, job_of, ok_result):
    """Measures kernels beside such canaries in one lease; all are accepted."""

    def measure(seed, *canaries_ns):
        farm.submit_planned(ann, job_of(len(canaries_ns), seed=seed, platforms=[PLATFORM]))
        grant = agent.must_take()
        assert grant.slowest_canary_ns is None, "of leases without uploads the farm judges them together"
        ids = [item.measurement_id for item in grant.items]
        of_each = zip(ids, canaries_ns, strict=True)
        agent.send(grant, *(ok_result(id_, canary_ns=ns, neighbours=2_000_000 / ns) for id_, ns in of_each))
        agent.release(grant)
        with farm.transaction() as tx:
            assert {results.get_measurement(tx, id_, ann).state for id_ in ids} == {MeasurementState.DONE}

    return measure


@pytest.fixture
def upload(farm, ann, agent, job_of, ok_result):
    """Measures an upload once beside a canary; its outcome and the limit that its agent was told."""

    def measure(content, canary_ns):
        model = add(farm, ann, new_model(content=content))
        job = upload_job(job_of, model.id).model_copy(update={"platforms": (PLATFORM,)})
        farm.submit_planned(ann, job)
        grant = agent.must_take()
        id_ = grant.items[-1].measurement_id
        agent.send(grant, ok_result(id_, canary_ns=canary_ns))
        agent.release(grant)
        farm.run("UPDATE measurements SET state = 'cancelled' WHERE state = 'wanted'")
        return farm.scalar(OUTCOMES, id=id_)[-1], grant.slowest_canary_ns

    return measure


def test_a_moment_such_as_kernels_met_is_no_drift_and_no_answer(kernels, upload):
    kernels(1, 2_000_000, 2_000_000)
    assert upload(b"one", 2_600_000) == ("canary_drift", 1_150_000), "no kernel was as slow as that"
    kernels(3, 2_600_000, 2_100_000)
    assert upload(b"two", 2_600_000) == ("contended", 1_150_000), "one was, beside another that was not"
    assert upload(b"three", 2_700_000)[0] == "canary_drift", "slower than any moment"
    assert upload(b"four", 1_400_000)[0] == "canary_drift", "no neighbour makes a board faster"
    assert upload(b"five", 2_100_000)[0] == "ok"


def test_a_lease_is_told_what_the_clock_takes_at_its_fastest(farm, ann, agent, job_of, kernels):
    def told():
        farm.submit_planned(ann, job_of(1, platforms=[PLATFORM], seed=farm.scalar("SELECT 100 + count(*) FROM jobs")))
        grant = agent.must_take()
        agent.release(grant)
        farm.run("UPDATE measurements SET state = 'cancelled' WHERE state = 'wanted'")
        return grant.fastest_canary_ns

    assert told() is None
    kernels(1, 2_600_000, 2_000_000)
    assert told() == 1_000_000, "a lease's canary is half of what its results are named by"
    for seed in (10, 20, 30):
        kernels(seed, 2_200_000, 2_200_000)
    assert told() == 1_000_000, "what the latest leases met was loud"


def test_what_ran_beside_a_file_excuses_nothing(kernels, upload):
    assert upload(b"one", 9_000_000) == ("ok", None), "nothing is known yet"
    kernels(1, 2_000_000)
    assert upload(b"two", 2_600_000)[0] == "canary_drift"


def test_what_another_state_of_the_board_met_excuses_nothing(agent, report_of, kernels, upload):
    kernels(1, 2_000_000, 2_000_000)
    kernels(3, 2_600_000, 2_100_000)
    agent.register(report_of(generation="g2"))
    kernels(5, 2_000_000, 2_000_000)
    assert upload(b"one", 2_600_000)[0] == "canary_drift"
