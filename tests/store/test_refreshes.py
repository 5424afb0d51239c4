"""Which predictors are due: by results that came since the newest version, whatever became of that."""

import pytest

from benchfarm_core.boards import EngineReport
from benchfarm_core.fusion import FusionReport, FusionRow
from benchfarm_core.jobs import JobRequest
from benchfarm_core.measurements import Purpose
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.platforms import Precision, parse_platform_key
from benchfarm_core.predictors import PredictorEvidence
from benchfarm_core.refreshing import (
    AGAIN_LEAST_S,
    AGAIN_MOST_S,
    AGAIN_S,
    AGAIN_SHARE,
    ATTEMPTS_MAX,
    JUDGES_MIN,
    LOOK_ROWS,
    Since,
)
from benchfarm_store import fusions, predictors, refreshes
from benchfarm_store.training_rows import holdout_rows, training_rows
from benchfarm_workloads.draws import draw
from benchfarm_workloads.kernels import kernel_type
from tests.adapting_lab import KEY, WIDE, AdaptingLab
from tests.store.predictor_bytes import predictor_bytes


class Bench(AdaptingLab):
    """Publishes made-up predictors, measures kernels, and looks."""

    def publish(self, number=0, *, subject="fc", learnt=10, key=KEY, rules=None):
        evidence = PredictorEvidence(rows={"alone": learnt, "models": 3}, rules=rules)
        with self.farm.transaction() as tx:
            return predictors.publish(
                tx,
                platform_id=self.farm.scalar("SELECT id FROM platforms WHERE key = :key", key=key),
                subject=subject,
                file=predictor_bytes(key, subject, bytes([number])),
                evidence=evidence,
                reason="first",
                activate=number == 0,
            )

    def fc(self, ok, count, *, seed=1, **fields):
        workloads = [{"kind": "kernel", "type": "fc", "config": config} for config in draw("fc", seed, count)]
        request = {"workloads": workloads, "platforms": [KEY], **fields}
        self.farm.submit_planned(self.by, JobRequest.model_validate(request))
        self.measure(ok)

    def found(self, key=KEY):
        platform = self.farm.scalar("SELECT public_id FROM platforms WHERE key = :key", key=key)
        with self.farm.transaction() as tx:
            return refreshes.due_on(tx, platform)

    def due(self, key=KEY):
        return {one.subject: one.since for one in self.found(key)}

    def look(self, *, ends=True, key=KEY):
        """At the first that is due; its subject."""
        one = self.found(key)[0]
        with self.farm.transaction() as tx:
            refreshes.begin(tx, one)
            if ends:
                refreshes.end(tx, one)
        return one.subject

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


def fuse(bench, key=KEY, *, fused=True):
    with bench.farm.transaction() as tx:
        fusions.report(tx, key, FusionReport(rows=(FusionRow(first="Conv", second="Relu", by_profile=fused),)))


def rules_now(bench):
    with bench.farm.transaction() as tx:
        return fusions.rules_digest(fusions.engine_rules(tx, parse_platform_key(KEY)))


def test_whole_models_are_due_after_fusion_was_measured(bench):
    """Their kernel lists are made by other rules from then on, and the predictor has learnt the old ones."""
    fuse(bench)
    bench.publish()
    bench.publish(subject="model")
    assert bench.due() == {}, "it was made by these rules"
    fuse(bench)
    assert bench.due() == {"model": Since(3, 0, has_new_rules=True)}
    assert bench.look() == "model"
    assert bench.due() == {}, "what was seen is not looked at twice"
    fuse(bench)
    assert set(bench.due()) == {"model"}
    bench.publish(1, subject="model")
    assert bench.due() == {}, "a version that was refused was an attempt"


def test_fusion_that_is_measured_again_and_says_the_same_calls_for_nothing(bench, ok_result):
    fuse(bench)
    bench.publish()
    bench.publish(subject="model", rules=rules_now(bench))
    fuse(bench)
    assert bench.due() == {}
    fuse(bench, fused=False)
    assert bench.due() == {"model": Since(3, 0, has_new_rules=True)}
    fuse(bench)
    assert bench.due() == {}, "it is as it was"


def test_fusion_that_was_measured_while_a_version_was_made_calls_for_another(bench):
    before = rules_now(bench)
    fuse(bench)
    bench.publish(subject="model", rules=before)
    assert bench.due() == {"model": Since(3, 0, has_new_rules=True)}
    bench.publish(1, subject="model", rules=rules_now(bench))
    assert bench.due() == {}


def test_fusion_of_another_engine_or_precision_is_none_of_it(bench):
    bench.publish(subject="model")
    bench.farm.run("""
        INSERT INTO fusions (engine, version, options, precision, board_model, first, second, measured_at, by_profile)
        VALUES ('onnxruntime', '1.31.1', '', 'int8', 'host-a', 'Conv', 'Relu', now(), true),
            ('openvino', '1.31.1', '', 'fp32', 'host-a', 'Conv', 'Relu', now(), true),
            ('onnxruntime', '1.31.1', '~graph_optimization=none', 'fp32', 'host-a', 'Conv', 'Relu', now(), true),
            ('onnxruntime', '1.31.1', '', 'fp32', 'sim-a', 'Conv', 'Relu', now(), true)
    """)
    assert bench.due() == {}
    bench.farm.run("UPDATE fusions SET board_model = 'host-b' WHERE board_model = 'sim-a'")
    assert set(bench.due()) == {"model"}, "unmarked boards lend their rules"


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


def test_what_was_looked_at_in_vain_is_due_again_only_when_more_has_come(bench, ok_result):
    bench.publish()
    bench.fc(ok_result, LOOK_ROWS)
    bench.look()
    assert bench.due() == {}
    bench.fc(ok_result, 1, seed=2)
    assert set(bench.due()) == {"fc"}


def test_looks_that_come_to_no_end_are_given_up_after_a_few(bench, ok_result):
    bench.publish()
    bench.fc(ok_result, LOOK_ROWS)
    for _ in range(ATTEMPTS_MAX):
        bench.look(ends=False)
    assert bench.due() == {}
    bench.fc(ok_result, 1, seed=2)
    assert set(bench.due()) == {"fc"}, "it may have been the rows"


def test_who_was_looked_at_longest_ago_comes_first(bench, farm, ok_result):
    for subject in ("fc", "mul"):
        bench.publish(subject=subject)
    bench.fc(ok_result, LOOK_ROWS)
    farm.run("UPDATE workloads SET family = 'mul' WHERE id % 2 = 0")
    bench.fc(ok_result, 2 * LOOK_ROWS, seed=2)
    farm.run("UPDATE workloads SET family = 'mul' WHERE id % 2 = 0")
    assert [bench.look(ends=False) for _ in range(4)] == ["fc", "mul", "fc", "mul"]


def test_wake_takes_platforms_in_turn(bench, farm, ok_result, monkeypatch):
    monkeypatch.setattr(refreshes, "MAX_DUE", 1)
    for key in (KEY, WIDE):
        bench.publish(key=key)
    bench.fc(ok_result, LOOK_ROWS, platforms=[KEY, WIDE])
    first = bench.asked()
    bench.look(ends=False, key=farm.scalar("SELECT key FROM platforms WHERE public_id = :id", id=first[0][1]))
    second = bench.asked()
    assert len(first) == len(second) == 1
    assert first != second


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE summaries SET rule_version = rule_version - 1",
        "UPDATE summaries SET normalised_ms = NULL",
        "UPDATE measurements SET origin_id = 2",
        "UPDATE boards SET generation_id = NULL",
        "UPDATE protocols SET public_id = 'of-another-version'",
    ],
)
def test_only_what_may_teach_is_counted(bench, farm, ok_result, statement):
    bench.publish()
    bench.fc(ok_result, LOOK_ROWS)
    assert set(bench.due()) == {"fc"}
    farm.run(statement)
    assert bench.due() == {}


def test_the_same_kernels_again_are_no_more_rows(bench, ok_result):
    bench.publish()
    for _ in range(3):
        bench.fc(ok_result, LOOK_ROWS - 1, max_age_s=0)
    assert bench.due() == {}


def test_a_look_counts_the_newest_and_no_more_than_it_needs(bench, ok_result, monkeypatch):
    monkeypatch.setattr(refreshes, "COUNTED_MAX", LOOK_ROWS)
    bench.publish()
    bench.fc(ok_result, LOOK_ROWS + 4)
    assert bench.due() == {"fc": Since(10, LOOK_ROWS)}
    (before,) = bench.found()
    bench.fc(ok_result, 1, seed=2)
    (after,) = bench.found()
    assert before.seen != after.seen, "what came last is among them"


def test_a_clock_that_is_another_one_is_told(bench, farm, ok_result):
    bench.fc(ok_result, 2)
    bench.publish()
    bench.fc(ok_result, LOOK_ROWS, seed=2)
    assert not bench.due()["fc"].have_canaries_moved
    farm.run("UPDATE canary_goldens SET sgemm_recent_ns = ARRAY[sgemm_ns * 5 / 4]")
    assert bench.due()["fc"].canaries == pytest.approx(0.25, rel=0.01)
    assert bench.due()["fc"].have_canaries_moved
    bench.publish(1)
    farm.run("UPDATE canary_goldens SET sgemm_recent_ns = ARRAY[sgemm_ns]")  # or the lease is inconclusive
    bench.fc(ok_result, LOOK_ROWS, seed=3)
    farm.run("UPDATE canary_goldens SET sgemm_recent_ns = ARRAY[sgemm_ns * 5 / 4]")
    assert not bench.due()["fc"].have_canaries_moved, "the newest version was made by this clock"


def test_another_version_of_the_engine_has_a_neighbour_that_knows(bench, ok_result, report_of, monkeypatch):
    def with_version(version):
        engine = EngineReport(name="onnxruntime", available=True, version=version, precisions=(Precision.FP32,))
        bench.agent.register(report_of("s1", engines=(engine,)))

    old = KEY.replace("1.31.1", "1.30.0")
    with_version("1.30.0")
    bench.publish(key=old)
    with_version("1.31.1")
    assert bench.due() == {}
    bench.fc(ok_result, LOOK_ROWS)
    assert bench.due() == {"fc": Since(0, LOOK_ROWS, is_first=True)}
    with monkeypatch.context() as patched:
        patched.setattr(refreshes, "SEARCHED_MAX", LOOK_ROWS - 1)
        assert bench.due() == {}, "there may be a million, and none of the subject"
    assert bench.due(WIDE) == {}
    bench.publish()
    assert bench.due() == {}


def test_declared_holdouts_are_measured_again_and_waited_for(bench, farm, ok_result):
    bench.publish()
    bench.fc(ok_result, JUDGES_MIN, seed=9)
    farm.run("UPDATE measurements SET purpose = 'holdout'")
    bench.fc(ok_result, LOOK_ROWS)
    (due,) = bench.found()
    with farm.transaction() as tx:
        refreshes.begin(tx, due)
        assert refreshes.want_holdouts_again(tx, due) == JUDGES_MIN
        wanted_at = tx.now
    assert bench.due() == {}, "it waits for boards"
    again = "SELECT count(*) FROM measurements WHERE state = 'wanted' AND purpose = 'holdout' AND repeat_no = 1"
    assert farm.scalar(again) == JUDGES_MIN
    assert bench.measure(ok_result) == JUDGES_MIN
    (due,) = bench.found()
    assert due.wanted_at == wanted_at
    with farm.transaction() as tx:
        assert len(training_rows(tx, due.platform_id).kernels) == LOOK_ROWS, "they teach nobody"
        assert len(holdout_rows(tx, due.platform_id, occasion=2).kernels) == JUDGES_MIN
        late = holdout_rows(tx, due.platform_id, since=wanted_at).kernels
        assert len(late) == JUDGES_MIN
        refreshes.judge_from(tx, due, wanted_at)
        assert holdout_rows(tx, due.platform_id).kernels == late, "what was measured before judges nobody any more"


def want_holdouts_again(bench, farm, ok_result):
    """A published predictor that new rows call in question, whose hold-outs are wanted anew."""
    bench.publish()
    bench.fc(ok_result, JUDGES_MIN, seed=9)
    farm.run("UPDATE measurements SET purpose = 'holdout'")
    bench.fc(ok_result, LOOK_ROWS)
    (due,) = bench.found()
    with farm.transaction() as tx:
        refreshes.begin(tx, due)
        refreshes.want_holdouts_again(tx, due)


def test_holdouts_are_measured_again_as_often_as_boards_have_time_for_them(bench, farm, ok_result):
    want_holdouts_again(bench, farm, ok_result)
    cost_s = farm.scalar("SELECT again_s FROM predictor_looks")
    assert 0 < cost_s < AGAIN_SHARE * AGAIN_LEAST_S, "five kernels take a few seconds"
    assert bench.measure(ok_result) == JUDGES_MIN
    bench.publish(1)
    bench.fc(ok_result, LOOK_ROWS, seed=5)
    (due,) = bench.found()
    assert not due.may_be_judged_again
    bench.look()
    assert bench.due() == {}, "there is nothing else to see"
    farm.run("UPDATE predictor_looks SET wanted_at = wanted_at - make_interval(secs => :s)", s=AGAIN_LEAST_S)
    (due,) = bench.found()
    assert due.may_be_judged_again, "what changes twice a day does not wait for tomorrow"
    for told in ("again_s = :s", "again_s = NULL"):
        farm.run(f"UPDATE predictor_looks SET {told}", s=AGAIN_SHARE * AGAIN_MOST_S)
        assert bench.due() == {}, "those that take long, or of which nobody knows, wait for a day"
    farm.run("UPDATE predictor_looks SET wanted_at = wanted_at - make_interval(secs => :s)", s=AGAIN_MOST_S)
    (due,) = bench.found()
    assert due.may_be_judged_again


def test_holdouts_that_no_board_measures_are_not_waited_for_for_ever(bench, farm, ok_result):
    want_holdouts_again(bench, farm, ok_result)
    assert bench.due() == {}
    farm.run("UPDATE predictor_looks SET wanted_at = wanted_at - make_interval(secs => :after_s)", after_s=AGAIN_S)
    assert set(bench.due()) == {"fc"}


def test_holdouts_that_no_board_measures_again_are_cancelled_but_not_what_others_wait_for(bench, farm, ok_result):
    want_holdouts_again(bench, farm, ok_result)
    made = bench.start()
    declared = bench.declare(made.id, [kernel_type("fc").workload(draw("fc", 77, 1)[0])], 1)
    workloads = [{"kind": "kernel", "type": "fc", "config": draw("fc", 9, 1)[0]}]
    request = {"workloads": workloads, "platforms": [KEY], "max_age_s": 0}
    farm.submit_planned(bench.by, JobRequest.model_validate(request))
    waiting = "SELECT count(*) FROM measurements WHERE state = 'wanted' AND purpose = 'holdout'"
    bench.asked()
    assert (declared, farm.scalar(waiting)) == (1, JUDGES_MIN + 1), "none waits for long yet"
    farm.run("UPDATE measurements SET wanted_at = wanted_at - make_interval(secs => :after_s)", after_s=AGAIN_S)
    bench.asked()
    assert farm.scalar(waiting) == 2, "a job joined one, and an adaptation declared one"


def test_too_few_holdouts_are_not_measured_again(bench, farm, ok_result):
    bench.publish()
    bench.fc(ok_result, JUDGES_MIN - 1, seed=9)
    farm.run("UPDATE measurements SET purpose = 'holdout'")
    bench.fc(ok_result, LOOK_ROWS)
    (due,) = bench.found()
    with farm.transaction() as tx:
        refreshes.begin(tx, due)
        assert refreshes.want_holdouts_again(tx, due) == 0
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state = 'wanted'") == 0


def test_whom_the_latest_adaptation_could_start_from_lends_to_a_refresh_too(bench, farm, ok_result):
    bench.publish()
    bench.fc(ok_result, LOOK_ROWS)
    assert [one.donors for one in bench.found()] == ["any"]
    made = bench.start(donors="none")
    bench.move(made.id, "probing", "training", "judging", "succeeded")
    bench.publish(1)
    bench.fc(ok_result, LOOK_ROWS, seed=2)
    assert [one.donors for one in bench.found()] == ["none"]
    refused = bench.start(donors="any")
    bench.move(refused.id, "failed")
    assert [one.donors for one in bench.found()] == ["none"], "nothing of it answers"
    farm.run("UPDATE adaptations SET predictors = '[{\"is_active\": true}]' WHERE state = 'failed'")
    assert [one.donors for one in bench.found()] == ["any"], "something of it does"
