from collections.abc import Sequence
from datetime import timedelta

import pytest

from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.boards import Health
from benchfarm_core.errors import InvalidRequest, LeaseLost, NotFound
from benchfarm_core.jobs import ItemState, JobState
from benchfarm_core.measurements import MeasurementState, Timing
from benchfarm_core.quality import FASTEST_RUNS, RULE_VERSION
from benchfarm_core.views import ResultsWanted
from benchfarm_store import boards, endings, jobs, results, summaries


def test_the_same_chunk_again_changes_nothing(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    chunk = [ok_result(item.measurement_id) for item in grant.items]
    ids = [result.measurement_id for result in chunk]
    first = agent.send(grant, *chunk)
    assert (first.accepted, first.repeated, first.orphaned) == (ids, [], [])
    progress = farm.job(job.id, ann).progress
    again = agent.send(grant, *chunk)
    assert (again.accepted, again.repeated, again.orphaned) == ([], ids, [])
    assert farm.job(job.id, ann).progress == progress
    agent.release(grant)
    late = agent.send(grant, *chunk)
    assert (late.accepted, late.repeated, late.orphaned) == ([], ids, [])
    assert farm.scalar("SELECT count(*) FROM results") == len(ids)
    assert farm.scalar("SELECT count(*) FROM orphans") == 0
    assert farm.scalar("SELECT count(*) FROM launches") == 1


def test_what_comes_after_the_lease_is_kept_as_an_orphan_and_never_an_answer(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    ids = [item.measurement_id for item in grant.items]
    agent.start(grant)
    farm.run("UPDATE leases SET expires_at = now() - interval '1 second'")
    for _ in range(2):
        answer = agent.send(grant, *map(ok_result, ids))
        assert (answer.accepted, answer.repeated, answer.orphaned) == ([], [], ids)
    with farm.transaction() as tx:
        endings.expire(tx, None)
    assert agent.send(grant, *map(ok_result, ids)).orphaned == ids
    with pytest.raises(InvalidRequest, match="not of this lease"):
        agent.send(grant, ok_result(max(ids) + 1000))
    assert farm.scalar("SELECT count(*) FROM orphans") == len(ids)
    assert farm.scalar("SELECT count(*) FROM results") == 0
    agent.measure_all()
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED
    assert farm.scalar("SELECT count(*) FROM results") == 6


@pytest.mark.parametrize("word", ["fp32", "int8", "other", None])
def test_what_a_result_was_computed_in_is_kept_with_it(farm, ann, agent, job_of, ok_result, word):
    job = farm.submit_planned(ann, job_of(1, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    grant = agent.must_take()
    (item,) = grant.items
    agent.send(grant, ok_result(item.measurement_id).model_copy(update={"effective_precision": word}))
    agent.release(grant)
    with farm.transaction() as tx:
        view = results.get_measurement(tx, item.measurement_id, ann)
        (listed,) = results.list_results(tx, ann).items
        (row,) = jobs.items(tx, job.id, ann).items
    assert view.effective_precision == listed.effective_precision == row.effective_precision == word


@pytest.mark.parametrize("changed", [{}, {"visit_ms": 50, "launches_min": 4}])
def test_a_protocols_changed_parameters_stand_beside_a_result(farm, ann, agent, job_of, ok_result, changed):
    job = farm.submit_planned(ann, job_of(1, protocol={"name": "kernel", "parameters": changed}))
    agent.measure_all(launches=4)
    with farm.transaction() as tx:
        told = [one.protocol_parameters for one in results.list_results(tx, ann).items]
        told += [one.protocol_parameters for one in jobs.items(tx, job.id, ann).items]
    assert told == [changed] * 4


def test_a_token_that_never_was_is_refused(farm, ann, agent, job_of, report_of, ok_result):
    farm.submit_planned(ann, job_of(1))
    grant = agent.must_take()
    other = farm.agent(ann, report_of("other"), name="other")
    with pytest.raises(LeaseLost):
        other.send(grant, ok_result(grant.items[0].measurement_id))
    assert farm.scalar("SELECT count(*) FROM orphans") == 0


def test_impossible_chunks_leave_no_trace(farm, ann, agent, job_of, ok_result, failed_result):
    farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    one, two, *_ = [item.measurement_id for item in grant.items]
    for chunk in (
        [ok_result(one), ok_result(one)],
        [ok_result(one), ok_result(10**12)],
        [ok_result(one), ok_result(two).model_copy(update={"launches": ()})],
        [ok_result(one), failed_result(two, "timeout").model_copy(update={"failure": None})],
    ):
        with pytest.raises(InvalidRequest) as refused:
            agent.send(grant, *chunk)
        assert refused.value.code == "result_invalid"
    assert farm.scalar("SELECT count(*) FROM results") == 0
    assert farm.scalar("SELECT count(*) FROM launches") == 0


def test_failures_of_the_workload_fail_and_passing_ones_come_back(farm, ann, agent, job_of, failed_result):
    job = farm.submit_planned(ann, job_of(2, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    grant = agent.must_take()
    lasting, passing = [item.measurement_id for item in grant.items]
    agent.send(grant, failed_result(lasting, "unsupported_operator", "Foo"), failed_result(passing, "runner_died"))
    agent.release(grant)
    with farm.transaction() as tx:
        items = {item.measurement_id: item for item in jobs.items(tx, job.id, ann).items}
    assert (items[lasting].state, items[lasting].failure) == (ItemState.FAILED, "unsupported_operator")
    assert "Foo" in items[lasting].reason
    assert items[passing].state == ItemState.PENDING
    for _ in range(2):
        grant = agent.must_take()
        agent.send(grant, failed_result(passing, "runner_died"))
        agent.release(grant)
    done = farm.job(job.id, ann)
    assert (done.state, done.reason) == (JobState.FAILED, "none of 2 items could be measured")


def test_three_inconclusive_attempts(farm, ann, agent, job_of, failed_result):
    farm.submit_planned(ann, job_of(1, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    for _ in range(3):
        grant = agent.must_take()
        agent.send(grant, failed_result(grant.items[0].measurement_id, "contended"))
        agent.release(grant)
    with farm.transaction() as tx:
        view = results.get_measurement(tx, grant.items[0].measurement_id, ann)
    assert (view.state, view.failure) == (MeasurementState.FAILED, "inconclusive")
    assert (view.attempts, view.inconclusive) == (0, 3)


def test_two_failed_pins_of_a_generation_make_a_board_suspect(farm, ann, agent, job_of, report_of, failed_result):
    board = agent.boards[0]

    def fail_a_pin() -> Health:
        grant = agent.must_take()
        agent.send(grant, *(failed_result(item.measurement_id, "pin_not_verified") for item in grant.items[:2]))
        agent.release(grant)
        with farm.transaction() as tx:
            health: Health = boards.get_board(tx, board).health
        return health

    farm.submit_planned(ann, job_of(10))
    assert fail_a_pin() == Health.GOOD
    agent.register(report_of(generation="g2"))
    assert fail_a_pin() == Health.GOOD
    assert fail_a_pin() == Health.SUSPECT
    with farm.transaction() as tx:
        assert "pin_not_verified" in boards.get_board(tx, board).reason
        boards.set_health(tx, board, Health.GOOD, "looked at", ann)
    assert farm.scalar("SELECT author FROM health_changes ORDER BY id LIMIT 1") == "farm"
    assert fail_a_pin() == Health.GOOD
    assert fail_a_pin() == Health.SUSPECT
    assert fail_a_pin() == Health.SUSPECT
    assert farm.scalar("SELECT count(*) FROM health_changes") == 3


def test_too_few_clean_blocks_are_inconclusive(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(1, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    grant = agent.must_take()
    result = ok_result(grant.items[0].measurement_id)
    noisy = [visit.model_copy(update={"switches": (1,) * 20}) for visit in result.launches]
    answer = agent.send(grant, result.model_copy(update={"launches": tuple(noisy)}))
    assert answer.accepted == [grant.items[0].measurement_id]
    assert farm.scalar("SELECT inconclusive FROM measurements") == 1
    assert farm.scalar("SELECT count(*) FROM results") == 0


def test_the_first_canaries_are_the_reference_and_a_broken_board_shows(farm, ann, agent, job_of, ok_result):
    platform = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"

    def measure(seed: int, canary_ns: int):
        farm.submit_planned(ann, job_of(1, seed=seed, platforms=[platform]))
        grant = agent.must_take()
        id_ = grant.items[0].measurement_id
        agent.send(grant, ok_result(id_, canary_ns=canary_ns))
        agent.release(grant)
        with farm.transaction() as tx:
            return results.get_measurement(tx, id_, ann)

    first = measure(1, 2_000_000)
    assert first.summary.normalised_ms == pytest.approx(1.0, rel=1e-3), (
        "the fastest clean block, at the first lease's clock"
    )
    slower = measure(2, 2_200_000)
    assert slower.summary.normalised_ms == pytest.approx(1 / 1.1, rel=1e-3)
    off = measure(3, 2_600_000)
    assert (off.state, off.summary, off.inconclusive) == (MeasurementState.WANTED, None, 1)
    assert off.detail.startswith("inconclusive: canary_drift")
    # what stays for two leases is how the board is now; the reference does not move
    id_ = off.measurement_id
    for expected in (MeasurementState.WANTED, MeasurementState.DONE):
        grant = agent.must_take()
        agent.send(grant, ok_result(id_, canary_ns=2_600_000))
        agent.release(grant)
        with farm.transaction() as tx:
            assert results.get_measurement(tx, id_, ann).state == expected
    assert farm.scalar("SELECT mobilenet_ns FROM canary_goldens") == 2_000_000


def test_a_board_is_measured_again_at_once_after_a_loud_minute(farm, ann, agent, job_of, ok_result):
    """Three leases beside a neighbour make the history loud; quiet ones after them are no drift. Faster ones are."""
    platform = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"

    def lease(canary_ns: int) -> str:
        grant = agent.must_take()
        agent.send(grant, ok_result(grant.items[0].measurement_id, canary_ns=canary_ns))
        agent.release(grant)
        return str(farm.scalar("SELECT state FROM measurements ORDER BY id DESC LIMIT 1"))

    farm.submit_planned(ann, job_of(1, seed=1, platforms=[platform]))
    assert lease(2_000_000) == "done"
    farm.submit_planned(ann, job_of(1, seed=2, platforms=[platform]))
    assert [lease(ns) for ns in (2_800_000, 3_400_000)] == ["wanted", "wanted"]
    assert lease(2_050_000) == "done", "the median of the last three leases is 2.8 ms, what quiet ones take is not"
    farm.submit_planned(ann, job_of(1, seed=3, platforms=[platform]))
    assert lease(1_500_000) == "wanted"


def test_a_measurement_is_no_drift_where_its_lease_saw_the_clock_that_the_board_has(
    farm, ann, agent, job_of, ok_result
):
    """A dozen canaries of one measurement may all miss the processor's fastest mode, those of a lease hardly."""
    platform = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"

    def measure(seed: int, canaries_ns: tuple[int, ...]) -> list[str]:
        farm.submit_planned(ann, job_of(len(canaries_ns), seed=seed, platforms=[platform]))
        grant = agent.must_take()
        ids = [item.measurement_id for item in grant.items]
        of_each = zip(ids, canaries_ns, strict=True)
        agent.send(grant, *(ok_result(id_, canary_ns=ns, neighbours=2_000_000 / ns) for id_, ns in of_each))
        agent.release(grant)
        with farm.transaction() as tx:
            return [results.get_measurement(tx, id_, ann).state for id_ in ids]

    assert measure(1, (2_000_000, 2_000_000)) == [MeasurementState.DONE] * 2
    assert measure(3, (2_600_000, 2_100_000)) == [MeasurementState.DONE] * 2
    assert measure(5, (2_600_000, 2_500_000)) == [MeasurementState.WANTED] * 2, "the lease as a whole is off"


def test_a_lease_that_hands_in_by_and_by_is_held_to_all_that_it_saw_until_then(farm, ann, agent, job_of, ok_result):
    platform = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"

    def measure(seed: int, canaries_ns: tuple[int, ...]) -> list[str]:
        farm.submit_planned(ann, job_of(len(canaries_ns), seed=seed, platforms=[platform]))
        grant = agent.must_take()
        ids = [item.measurement_id for item in grant.items]
        for id_, ns in zip(ids, canaries_ns, strict=True):
            agent.send(grant, ok_result(id_, canary_ns=ns, neighbours=2_000_000 / ns))
        agent.release(grant)
        with farm.transaction() as tx:
            return [results.get_measurement(tx, id_, ann).state for id_ in ids]

    assert measure(1, (2_100_000, 2_000_000)) == [MeasurementState.DONE] * 2
    history = "SELECT sgemm_recent_ns FROM canary_goldens"
    assert farm.scalar(history) == [1_000_000], "a lease is in the history once, by its fastest"
    done = [MeasurementState.DONE] * 3
    assert measure(3, (2_000_000, 2_600_000, 2_500_000)) == done, "its first results saw the clock that the board has"
    assert farm.scalar(history) == [1_000_000, 1_000_000]
    off = [MeasurementState.WANTED, MeasurementState.DONE]
    assert measure(6, (2_600_000, 2_000_000)) == off, "what will be seen nobody knows yet"


def test_the_canaries_of_a_lease_normalise_all_its_results_now_and_when_derived_again(
    farm, ann, agent, job_of, ok_result
):
    farm.submit_planned(ann, job_of(3, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    grant = agent.must_take()
    first, second, later = (item.measurement_id for item in grant.items)
    agent.send(grant, ok_result(first, canary_ns=2_000_000), ok_result(second, canary_ns=2_200_000))
    agent.send(grant, ok_result(later, canary_ns=1_900_000))
    agent.release(grant)

    def normalised() -> dict[int, float | None]:
        with farm.transaction() as tx:
            found = results.list_results(tx, ann).items
        return {one.measurement_id: one.summary.normalised_ms for one in found}

    told = normalised()
    assert list(told.values()) == [pytest.approx(1.0, rel=1e-3)] * 3
    assert farm.scalar("SELECT sgemm_ns FROM leases") == farm.scalar("SELECT sgemm_ns FROM canary_goldens")
    farm.run("UPDATE summaries SET rule_version = 0, normalised_ms = 7")
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 3
    assert normalised() == told
    # as leases of older versions are
    farm.run("UPDATE leases SET sgemm_ns = NULL, fastest_ns = NULL, mobilenet_ns = NULL")
    farm.run("DELETE FROM summaries WHERE NOT active")
    farm.run("UPDATE summaries SET rule_version = 0")
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 3
    assert normalised()[second] == pytest.approx(1 / 1.1, rel=1e-3)


def test_the_first_lease_that_tells_its_fastest_canary_takes_the_old_reference_over(
    farm, ann, agent, job_of, ok_result
):
    def measure(seed: int, canaries_ns: Sequence[int]) -> float:
        farm.submit_planned(ann, job_of(1, seed=seed, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
        grant = agent.must_take()
        result = ok_result(grant.items[0].measurement_id)
        seen = {"sgemm": tuple((0, ns) for ns in canaries_ns), "mobilenet": ((0, min(canaries_ns) // 4),)}
        launches = tuple(visit.model_copy(update={"canaries": seen}) for visit in result.launches)
        agent.send(grant, result.model_copy(update={"launches": launches}))
        agent.release(grant)
        told = "SELECT normalised_ms FROM summaries WHERE measurement_id = :id"
        normalised_ms: float = farm.scalar(told, id=result.measurement_id)
        return normalised_ms

    old_ms = measure(1, [2_000_000])
    farm.run("UPDATE leases SET fastest_ns = NULL")  # as before rule version 8
    farm.run("UPDATE canary_goldens SET fastest_ns = NULL")
    often = [2_000_000] * (FASTEST_RUNS // 3)
    assert measure(4, often[:30]) == pytest.approx(old_ms, rel=1e-6), "too few to tell that there is no faster mode"
    assert farm.scalar("SELECT array[sgemm_ns, fastest_ns] FROM canary_goldens") == [2_000_000, None]
    assert farm.scalar("SELECT array_agg(fastest_ns) FROM leases") == [None, None]
    assert farm.scalar("SELECT sgemm_recent_ns FROM canary_goldens") == [2_000_000] * 2, "the history goes on"
    assert measure(2, [1_840_000, *often]) == pytest.approx(old_ms, rel=1e-6), "a fast mode that is met once"
    assert farm.scalar("SELECT array[sgemm_ns, fastest_ns] FROM canary_goldens") == [2_000_000, 1_840_000]
    assert farm.scalar("SELECT sgemm_recent_ns FROM canary_goldens") == [1_840_000], "the history begins with it"
    assert measure(3, [1_840_000] * 5 + often[:30]) == pytest.approx(old_ms, rel=1e-6)
    farm.run("UPDATE summaries SET rule_version = 7")
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 4
    found = farm.scalar("SELECT array_agg(normalised_ms) FROM summaries WHERE active")
    assert found == [pytest.approx(old_ms, rel=1e-6)] * 4


def test_a_lease_that_began_before_the_hand_over_ends_by_its_own_clock(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(3, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    grant = agent.must_take()
    first, second, third = (item.measurement_id for item in grant.items)

    def send(id_: int, runs: int) -> float:
        result = ok_result(id_)
        seen = {"sgemm": ((0, 1_840_000), *((0, 2_000_000),) * runs), "mobilenet": ((0, 500_000),)}
        launches = tuple(visit.model_copy(update={"canaries": seen}) for visit in result.launches)
        agent.send(grant, result.model_copy(update={"launches": launches}))
        normalised_ms: float = farm.scalar("SELECT normalised_ms FROM summaries WHERE measurement_id = :id", id=id_)
        return normalised_ms

    send(first, 60)
    farm.run("UPDATE leases SET fastest_ns = NULL, sgemm_ns = 2000000")
    farm.run("UPDATE canary_goldens SET fastest_ns = NULL, sgemm_ns = 2000000")
    by_share_ms = send(second, 60)
    assert send(third, FASTEST_RUNS) == by_share_ms
    assert farm.scalar("SELECT fastest_ns FROM leases") is None
    assert farm.scalar("SELECT fastest_ns FROM canary_goldens") is None, "it waits for a lease that tells one clock"
    farm.run("UPDATE summaries SET rule_version = 7")
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 3
    assert farm.scalar("SELECT count(DISTINCT normalised_ms) FROM summaries WHERE active") == 1


def test_a_measurement_shows_its_evidence_and_samples(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(1))
    grant = agent.must_take()
    id_ = grant.items[0].measurement_id
    sent = ok_result(id_, run_ns=300_000)
    agent.start(grant)
    agent.send(grant, sent)
    agent.release(grant)
    with farm.transaction() as tx:
        view = results.get_measurement(tx, id_, ann)
    assert view.evidence is not None
    assert view.evidence.lease_id == str(farm.scalar("SELECT id FROM leases"))
    assert grant.lease_token not in view.model_dump_json()
    assert view.evidence.end_reason == "done"
    assert view.evidence.launches[0]["engine_version"] == "1.31.1"
    assert len(view.samples) == 3
    for got, was in zip(view.samples, sent.launches, strict=True):
        assert got.model_dump(exclude={"blocks_ns"}) == was.model_dump(exclude={"blocks_ns"})
        assert got.blocks_ns == pytest.approx(was.blocks_ns, rel=1.3e-4)
    for nothing in (0, -1, 10**9, 2**70):
        with farm.transaction() as tx, pytest.raises(NotFound):
            results.get_measurement(tx, nothing, ann)


def test_results_are_listed_newest_first_with_filters(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(6))
    agent.measure_all()
    with farm.transaction() as tx:
        page = results.list_results(tx, ann, limit=5)
        rest = results.list_results(tx, ann, limit=50, cursor=page.next_cursor)
        everything = page.items + rest.items
        assert len({r.measurement_id for r in everything}) == 12
        assert [r.measured_at for r in everything] == sorted((r.measured_at for r in everything), reverse=True)
        one = everything[0]
        same = results.list_results(tx, ann, ResultsWanted(workload_id=one.workload_id)).items
        assert {r.workload_id for r in same} == {one.workload_id}
        assert len(same) == 2
        by_key = results.list_results(tx, ann, ResultsWanted(platform=one.platform)).items
        by_id = results.list_results(tx, ann, ResultsWanted(platform=one.platform_id)).items
        assert by_key == by_id
        assert len(by_key) == 6
        assert len(results.list_results(tx, ann, ResultsWanted(origin="local")).items) == 12
        assert results.list_results(tx, ann, ResultsWanted(origin="elsewhere")).items == []
        of_kernels = results.list_results(tx, ann, ResultsWanted(protocol="kernel", timing=Timing.ALONE)).items
        assert len(of_kernels) == 12
        for nothing in ({"protocol": "standard"}, {"timing": Timing.IN_SITU}):
            assert results.list_results(tx, ann, ResultsWanted(**nothing)).items == []
        assert results.list_results(tx, ann, ResultsWanted(since=tx.now + timedelta(hours=1))).items == []
        assert len(results.list_results(tx, ann, ResultsWanted(until=tx.now + timedelta(hours=1))).items) == 12
        for bad in (
            ResultsWanted(workload_id="nonsense"),
            ResultsWanted(platform="nonsense"),
            ResultsWanted(protocol="ker\x00nel"),
        ):
            with pytest.raises(InvalidRequest):
                results.list_results(tx, ann, bad)
        with pytest.raises(InvalidRequest):
            results.list_results(tx, ann, cursor="nonsense")


def test_summaries_are_derived_anew_from_what_is_stored(farm, ann, agent, job_of, monkeypatch):
    farm.submit_planned(ann, job_of(5))
    agent.measure_all()
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 0
        before = {r.measurement_id: r.summary for r in results.list_results(tx, ann).items}
    farm.run("UPDATE summaries SET rule_version = 0, median_ms = 1e6, low_ms = 1e6, high_ms = 1e6")
    with farm.transaction() as tx:
        assert summaries.rederive(tx, limit=7) == 7
    with farm.transaction() as tx:
        assert summaries.rederive(tx) == 3
        assert summaries.rederive(tx) == 0
        after = {r.measurement_id: r.summary for r in results.list_results(tx, ann).items}
    assert after == before
    assert farm.scalar("SELECT count(*) FROM summaries") == 20
    active = "SELECT count(*) FROM summaries WHERE active AND rule_version = :version"
    assert farm.scalar(active, version=RULE_VERSION) == 10


def test_a_result_that_only_an_older_rule_summarised_is_readable_meanwhile(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(1))
    agent.measure_all()
    farm.run("UPDATE summaries SET rule_version = 1, median_ms = 77")
    with farm.transaction() as tx:
        listed = results.list_results(tx, ann).items
        read = results.get_measurement(tx, listed[0].measurement_id, ann)
    assert {one.summary.rule_version for one in listed} == {1}
    assert read.summary is not None
    assert (read.summary.rule_version, read.summary.median_ms) == (1, 77)


def test_summaries_that_another_transaction_holds_are_left_to_it(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(1))
    agent.measure_all()
    farm.run("UPDATE summaries SET rule_version = 1")
    with farm.transaction() as first, farm.transaction() as second:
        assert summaries.rederive(first) == 2
        assert summaries.rederive(second) == 0


def test_one_accepted_result_whatever_happens_around_it(farm, ann, agent, job_of, ok_result, failed_result):
    """Random orders of taking, losing, sending twice, failing and releasing: each item gets exactly one result."""
    import random

    chance = random.Random(7)
    job = farm.submit_planned(ann, job_of(40))
    old: list[LeaseGrant] = []
    for _ in range(400):
        grant = agent.take()
        if grant is None:
            break
        ids = [item.measurement_id for item in grant.items]
        agent.start(grant, chance.sample(ids, chance.randint(1, len(ids))))
        good = [ok_result(id_) for id_ in ids if chance.random() < 0.6]
        if good:
            agent.send(grant, *good)
            if chance.random() < 0.5:
                agent.send(grant, *good)
        if old and chance.random() < 0.5:
            late = chance.choice(old)
            agent.send(late, *(ok_result(item.measurement_id) for item in late.items))
        if chance.random() < 0.15:
            farm.run("UPDATE leases SET expires_at = now() - interval '1 second' WHERE ended_at IS NULL")
            with farm.transaction() as tx:
                endings.expire(tx, None)
        else:
            agent.release(grant)
        old.append(grant)
    done = farm.job(job.id, ann)
    assert done.finished_at is not None
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state IN ('wanted', 'leased')") == 0
    assert farm.scalar("SELECT count(*) FROM results") == done.progress.succeeded
    assert farm.scalar("SELECT count(*) FROM summaries WHERE active") == done.progress.succeeded
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state = 'done'") == done.progress.succeeded
