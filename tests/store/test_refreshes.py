"""Which predictors are due: by results that came since the newest version, whatever became of that."""

import pytest

from benchfarm_core.jobs import JobRequest
from benchfarm_core.measurements import Purpose
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.predictors import PredictorEvidence
from benchfarm_core.refreshing import LOOK_ROWS, Since
from benchfarm_store import predictors, refreshes
from benchfarm_workloads.draws import draw
from tests.adapting_lab import KEY, AdaptingLab
from tests.store.predictor_bytes import predictor_bytes


class Bench(AdaptingLab):
    """Publishes made-up predictors, measures kernels, and looks."""

    def publish(self, number=0, *, subject="fc", learnt=10):
        evidence = PredictorEvidence(rows={"alone": learnt, "models": 3})
        with self.farm.transaction() as tx:
            return predictors.publish(
                tx,
                platform_id=self.farm.scalar("SELECT id FROM platforms WHERE key = :key", key=KEY),
                subject=subject,
                file=predictor_bytes(KEY, subject, bytes([number])),
                evidence=evidence,
                reason="first",
                activate=number == 0,
            )

    def fc(self, ok, count, *, seed=1, **fields):
        workloads = [{"kind": "kernel", "type": "fc", "config": config} for config in draw("fc", seed, count)]
        request = {"workloads": workloads, "platforms": [KEY], **fields}
        self.farm.submit_planned(self.by, JobRequest.model_validate(request))
        self.measure(ok)

    def due(self):
        platform = self.farm.scalar("SELECT public_id FROM platforms WHERE key = :key", key=KEY)
        with self.farm.transaction() as tx:
            return {one.subject: one.since for one in refreshes.due_on(tx, platform)}

    def asked(self):
        self.farm.messages.clear()
        with self.farm.transaction() as tx:
            count = refreshes.wake(tx)
        asked = [one.args for one in self.farm.messages if isinstance(one, TaskMessage) and one.task == Task.TRAIN]
        assert len(asked) == count
        return asked


@pytest.fixture
def bench(farm, ann, agent):
    return Bench(farm, ann, agent)


def test_new_results_of_the_subject_are_counted_from_its_newest_version_on(bench, ok_result):
    assert bench.asked() == []
    bench.fc(ok_result, 12)
    bench.publish()
    assert bench.due() == {}, "it learnt from these"
    bench.fc(ok_result, LOOK_ROWS - 1, seed=2)
    assert bench.due() == {}
    bench.fc(ok_result, 2, seed=3)
    assert bench.due() == {"fc": Since(10, LOOK_ROWS + 1, False)}
    platform = bench.farm.scalar("SELECT public_id FROM platforms WHERE key = :key", key=KEY)
    assert bench.asked() == [("refresh", platform)]
    bench.publish(1)
    assert bench.due() == {}, "a version that was refused was an attempt"


def test_what_teaches_nobody_does_not_count(bench, farm, ok_result):
    bench.publish()
    bench.publish(subject="model")
    bench.fc(ok_result, 10)
    assert set(bench.due()) == {"fc"}, "kernels alone say nothing of whole models"
    farm.run("UPDATE measurements SET purpose = :purpose", purpose=Purpose.HOLDOUT)
    assert bench.due() == {}
    farm.run("UPDATE measurements SET purpose = :purpose", purpose=Purpose.JOB)
    farm.run("UPDATE summaries SET grade = 'D'")
    assert bench.due() == {}


def test_kernels_in_situ_are_no_kernels_alone(bench, ok_result):
    bench.publish()
    bench.fc(ok_result, 10, timing="in_situ")
    assert bench.due() == {}


def test_another_generation_is_told(bench, ok_result, report_of):
    bench.publish()
    bench.agent.register(report_of("s1", generation="g2"))
    bench.fc(ok_result, LOOK_ROWS)
    assert bench.due() == {"fc": Since(10, LOOK_ROWS, True)}


def test_while_an_adaptation_is_under_way_nothing_is_due(bench, ok_result):
    bench.publish()
    bench.fc(ok_result, 10)
    made = bench.start()
    assert bench.due() == {}
    bench.move(made.id, "failed")
    assert set(bench.due()) == {"fc"}
