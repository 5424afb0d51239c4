"""Answers that were given up in hope of a better one: they count when none came, marked."""

import pytest

from benchfarm_core.jobs import JobState
from benchfarm_core.measurements import MAX_INCONCLUSIVE, MAX_NOISY
from benchfarm_core.summaries import Grade
from benchfarm_store import kept_tries, results, sweeping
from tests.store.test_clock_proofs import SAMPLED, SURE
from tests.store.test_models import add, new_model, upload_job

PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
KEPT = "SELECT count(*) FROM kept_tries"


@pytest.fixture
def job(farm, ann, agent, job_of):
    """Two items, after a quiet lease that the farm remembers."""
    farm.submit_planned(ann, job_of(1, platforms=[PLATFORM], max_age_s=0))
    agent.measure_all()
    return farm.submit_planned(ann, job_of(2, seed=2, platforms=[PLATFORM], max_age_s=0))


def try_once(farm, agent, found):
    """One lease, whose board has rested; `found` makes the result of a measurement."""
    farm.run("UPDATE boards SET cooling_until = now() - interval '1 second'")
    grant = agent.must_take()
    agent.start(grant)
    agent.finish(grant, *(found(item.measurement_id) for item in grant.items))
    return grant


def shown(farm, ann, job):
    """The measurements of a job, in id order."""
    rows = farm.scalar("SELECT array_agg(measurement_id ORDER BY item_no) FROM job_items WHERE job_id = :id", id=job.id)
    with farm.transaction() as tx:
        return [results.get_measurement(tx, id_, ann) for id_ in rows]


@pytest.mark.parametrize("noisy_at", [0, 1, 2])
@pytest.mark.parametrize("code", ["contended", "canary_drift", "throttled"])
def test_what_was_noisy_is_the_answer_where_no_other_came(
    farm, ann, agent, job, ok_result, failed_result, noisy_at, code
):
    tries = [lambda id_: failed_result(id_, code)] * MAX_INCONCLUSIVE
    tries.insert(noisy_at, lambda id_: ok_result(id_, neighbours=1.2, run_ns=3_000_000))
    leases = []
    for found in tries:
        assert farm.job(job.id, ann).progress.pending == 2
        leases.append(try_once(farm, agent, found).lease_token)
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED
    for one in shown(farm, ann, job):
        assert one.summary is not None
        assert (one.state, one.failure, one.summary.grade, one.summary.noisy) == ("done", None, Grade.D, True)
        assert one.summary.median_ms == pytest.approx(3, rel=0.01)
        assert one.detail.startswith(f"{MAX_INCONCLUSIVE} inconclusive attempts, the last: {code}; an earlier try")
        assert [len(launch.blocks_ns) for launch in one.samples] == [20, 20, 20]
    kept_of = "SELECT count(*) FROM results r JOIN leases l ON l.id = r.lease_id WHERE l.token = CAST(:token AS uuid)"
    assert farm.scalar(kept_of, token=leases[noisy_at].removeprefix("l_")) == 2, "its evidence is that of the noisy try"
    assert farm.scalar(KEPT) == 0
    outcomes = "SELECT array_agg(DISTINCT outcome ORDER BY outcome) FROM lease_items WHERE outcome <> 'ok'"
    assert farm.scalar(outcomes) == sorted([code, "noisy"]), "tries are told as they were"


def test_the_support_matrix_knows_a_kept_answer_as_one(farm, agent, job, ok_result, failed_result):
    """Else a family whose only answers were kept would have none there."""
    before = farm.scalar("SELECT coalesce(sum(count), 0) FROM support_outcomes WHERE code = 'ok'")
    try_once(farm, agent, lambda id_: ok_result(id_, neighbours=1.2).model_copy(update={"effective_precision": "fp32"}))
    for _ in range(MAX_INCONCLUSIVE):
        try_once(farm, agent, lambda id_: failed_result(id_, "contended"))
    told = "SELECT coalesce(sum(count), 0) FROM support_outcomes WHERE code = 'ok'"
    assert farm.scalar(told) == before + 2
    error = "SELECT max(relative_l2_last) FROM support_outcomes WHERE code = 'ok' AND effective_precision = 'fp32'"
    assert farm.scalar(error) is not None, "with what its gate saw"


def test_the_latest_of_noisy_tries_is_kept(farm, ann, agent, job, ok_result, failed_result):
    for run_ns in (3_000_000, 4_000_000)[:MAX_NOISY]:
        try_once(farm, agent, lambda id_, ns=run_ns: ok_result(id_, neighbours=1.2, run_ns=ns))
        assert farm.scalar(KEPT) == 2
    for _ in range(MAX_INCONCLUSIVE):
        try_once(farm, agent, lambda id_: failed_result(id_, "contended"))
    assert [one.summary.median_ms for one in shown(farm, ann, job)] == [pytest.approx(4, rel=0.01)] * 2


def test_a_better_answer_takes_its_place_and_the_sweep_forgets_it(farm, ann, agent, job, ok_result):
    try_once(farm, agent, lambda id_: ok_result(id_, neighbours=1.2))
    assert sweeping.sweep(farm.database).forgotten_tries == 0
    try_once(farm, agent, ok_result)
    assert [(one.summary.grade, one.summary.noisy) for one in shown(farm, ann, job)] == [(Grade.A, False)] * 2
    assert sweeping.sweep(farm.database).forgotten_tries == 2
    assert farm.scalar(KEPT) == 0


def test_what_never_gave_an_answer_has_none(farm, ann, agent, job, failed_result):
    for _ in range(MAX_INCONCLUSIVE):
        try_once(farm, agent, lambda id_: failed_result(id_, "contended"))
    assert farm.job(job.id, ann).state == JobState.FAILED


def test_what_fails_otherwise_fails(farm, ann, agent, job, ok_result, failed_result):
    """A workload that the engine cannot run after all had no number worth a mark."""
    try_once(farm, agent, lambda id_: ok_result(id_, neighbours=1.2))
    try_once(farm, agent, lambda id_: failed_result(id_, "wrong_result"))
    assert {one.failure for one in shown(farm, ann, job)} == {"wrong_result"}


def test_golden_runs_and_who_asks_for_a_better_clock_get_none(farm, ann, agent, job, ok_result):
    try_once(farm, agent, lambda id_: ok_result(id_, neighbours=1.2))
    ids = [one.measurement_id for one in shown(farm, ann, job)]
    with farm.transaction() as tx:
        assert kept_tries.answering(tx, ids) == set(ids)
    farm.run("UPDATE measurements SET only_board_id = (SELECT id FROM boards) WHERE id = :id", id=ids[0])
    farm.run("UPDATE measurements SET clock_need = 1 WHERE id = :id", id=ids[1])
    with farm.transaction() as tx:
        assert kept_tries.answering(tx, ids) == set()


class Uploads:
    """Measures one upload, beside kernels on the same board."""

    def __init__(self, farm, by, agent, job_of, ok_result):
        self.farm, self.by, self.agent, self.job_of, self.ok_result = farm, by, agent, job_of, ok_result
        self.seed = 0

    def submit(self):
        model = add(self.farm, self.by, new_model(content=b"net"))
        job = upload_job(self.job_of, model.id).model_copy(update={"platforms": (PLATFORM,)})
        self.job = self.farm.submit_planned(self.by, job)

    def measure(self, *canaries_ns, clocks=(None,)):
        """Tries of the upload, each beside such a canary; what its last one came to."""
        for ns in canaries_ns:
            grant = self.agent.must_take()
            self.agent.send(grant, self.ok_result(grant.items[-1].measurement_id, canary_ns=ns), clocks=clocks)
            self.agent.release(grant)
        return self.farm.scalar("SELECT outcome FROM lease_items ORDER BY lease_id DESC LIMIT 1")

    def kernels(self, *canaries_ns):
        """A lease of kernels beside such canaries."""
        self.seed += 1
        job = self.job_of(len(canaries_ns), seed=self.seed, platforms=[PLATFORM], priority="high")
        self.farm.submit_planned(self.by, job)
        grant = self.agent.must_take()
        assert len(grant.items) == len(canaries_ns)
        of_each = zip(grant.items, canaries_ns, strict=True)
        found = [self.ok_result(i.measurement_id, canary_ns=ns, neighbours=2_000_000 / ns) for i, ns in of_each]
        self.agent.send(grant, *found)
        self.agent.release(grant)
        ids = [item.measurement_id for item in grant.items]
        self.farm.run("UPDATE measurements SET state = 'cancelled' WHERE state = 'wanted' AND id = ANY(:ids)", ids=ids)

    def end(self):
        """How its job ended, with the grade and the mark of its answer."""
        (one,) = shown(self.farm, self.by, self.job)
        told = None if one.summary is None else (one.summary.grade, one.summary.noisy)
        return self.farm.job(self.job.id, self.by).state, told


@pytest.fixture
def uploads(farm, ann, agent, job_of, ok_result):
    found = Uploads(farm, ann, agent, job_of, ok_result)
    found.kernels(2_000_000, 2_000_000)
    return found


def test_an_upload_that_met_only_loud_moments_is_answered_and_marked(uploads):
    uploads.kernels(2_600_000, 2_100_000)
    uploads.submit()
    assert uploads.measure(2_600_000, 2_600_000) == "contended"
    assert uploads.end() == (JobState.RUNNING, None)
    assert uploads.measure(2_600_000) == "ok", "as the third of noisy tries"
    assert uploads.end() == (JobState.SUCCEEDED, (Grade.D, True))


def test_its_loud_moment_answers_also_where_the_last_try_says_nothing(uploads):
    uploads.kernels(2_600_000, 2_100_000)
    uploads.submit()
    uploads.measure(2_600_000)
    assert uploads.measure(2_900_000, 2_900_000) == "canary_drift"
    assert uploads.end() == (JobState.SUCCEEDED, (Grade.D, True))


def test_an_upload_on_a_board_that_may_have_changed_fails(uploads):
    uploads.submit()
    assert uploads.measure(2_900_000, 2_900_000, 2_900_000) == "canary_drift"
    assert uploads.end() == (JobState.FAILED, None)


@pytest.mark.parametrize(("after_ns", "state"), [(2_050_000, JobState.SUCCEEDED), (2_900_000, JobState.FAILED)])
def test_a_later_lease_says_whether_it_was_the_board(uploads, after_ns, state):
    """One that met the clock shows that the board had not changed; one that did not shows nothing."""
    uploads.submit()
    uploads.measure(2_900_000)
    uploads.kernels(after_ns)
    assert uploads.measure(2_900_000, 2_900_000) == "canary_drift"
    assert uploads.end() == (state, (Grade.D, True) if state is JobState.SUCCEEDED else None)


@pytest.mark.parametrize(("clock", "state"), [(SAMPLED, JobState.SUCCEEDED), (SURE, JobState.FAILED)])
def test_a_clock_that_is_proven_wanders_in_no_moment(uploads, clock, state):
    uploads.submit()
    uploads.measure(2_900_000, clocks=[clock] * 3)
    uploads.kernels(2_050_000)
    uploads.measure(2_900_000, 2_900_000, clocks=[clock] * 3)
    assert uploads.end()[0] is state


def test_a_board_that_got_faster_has_changed(uploads):
    uploads.submit()
    uploads.measure(1_400_000)
    uploads.kernels(2_000_000)
    assert uploads.measure(1_400_000, 1_400_000) == "canary_drift"
    assert uploads.end() == (JobState.FAILED, None)
