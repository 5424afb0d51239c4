"""Adaptations step by step: what each step leaves in Postgres, and that dying between any two loses nothing."""

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from benchfarm_core.adapting import AdaptationState, AdaptationView, mix_of
from benchfarm_core.jobs import JobRequest
from benchfarm_core.measurements import Purpose
from benchfarm_core.messages import TrainingWork
from benchfarm_core.predictors import WHOLE_MODEL, PredictorState
from benchfarm_core.publishing import ROWS_MIN, UNJUDGED
from benchfarm_store import adaptation_items, adaptations, predictors
from benchfarm_store.adaptations import Adaptation
from benchfarm_store.database import Database
from benchfarm_worker import adapting, claims, fitting, publishing
from benchfarm_worker.fitting import Known
from benchfarm_worker.settings import Settings
from benchfarm_worker.training import own_boot_id, run
from benchfarm_workloads.spaces import draws
from tests.adapting_lab import KEY, AdaptingLab
from tests.predictor.training.farm_rows import MOBILE, Platform, model_rows, training_rows
from tests.store.conftest import board_report, failed, ok

SMALL: dict[str, Any] = {"budget_s": 3.0, "spaces": ["proxylessnas"], "holdouts": 5}
ROUGH = """
    UPDATE summaries SET grade = 'D' WHERE measurement_id NOT IN (
        SELECT id FROM (
            SELECT m.id, w.kind, row_number() OVER (PARTITION BY w.kind ORDER BY m.id) AS place
            FROM measurements m JOIN workloads w ON w.id = m.workload_id
            WHERE m.purpose <> 'holdout' AND m.state = 'done') x
        WHERE place <= CASE kind WHEN 'kernel' THEN :kernels ELSE :architectures END)
"""
"""What judges is too rough, and all but the first few of what teaches."""
COSTS = {"board_s": 0, "train_s": 0}
S = AdaptationState


def step(lab: AdaptingLab, adaptation_id: str, *, boot_id: str = "", wait_s: float = 0.0) -> AdaptationState:
    """One step; the state that it led to."""
    adapting.step(lab.farm.database, adaptation_id, boot_id, wait_s)
    return lab.view(adaptation_id).state


def to_end(lab: AdaptingLab, adaptation_id: str, *, until: AdaptationState | None = None) -> AdaptationView:
    """Measure and step until it has ended, or has come to a state."""
    for _ in range(60):
        view = lab.view(adaptation_id)
        if view.finished_at is not None or view.state == until:
            return view
        lab.measure(ok)
        step(lab, adaptation_id)
    raise AssertionError(f"it does not end: {lab.view(adaptation_id).state}")


def dies(lab: AdaptingLab, adaptation_id: str, monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
    """A step whose process dies where it calls something, as a fault that nobody foresaw."""

    def planted(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, planted)
        with pytest.raises(RuntimeError, match="planted"):
            adapting.step(lab.farm.database, adaptation_id, "", 0.0)


def claims_run_out(lab: AdaptingLab) -> None:
    lab.farm.run("UPDATE adaptations SET claimed_until = now() - interval '1 second'")


def test_one_that_was_begun_before_its_board_was_of_single_use_ends(lab: AdaptingLab) -> None:
    made = lab.start(**SMALL)
    assert step(lab, made.id) is S.PROBING
    lab.measure(ok)
    lab.farm.run("""UPDATE platforms SET spec = jsonb_set(CAST(spec AS jsonb), '{board_model}', '"emu-a"')""")
    assert step(lab, made.id) is S.FAILED
    assert "emu-a are emulated" in lab.view(made.id).reason


@pytest.mark.slow
def test_a_platform_is_adapted_judged_and_answers(lab: AdaptingLab) -> None:
    lab.pace = 0.0, 1.0
    made = lab.start(**{**SMALL, "budget_s": 8.0, "holdouts": 8})
    assert step(lab, made.id) is S.PROBING
    assert lab.view(made.id).measured.holdouts >= 8
    assert step(lab, made.id) is S.PROBING, "boards have yet to answer"
    done = to_end(lab, made.id)
    assert done.state is S.SUCCEEDED, done.reason
    model = next(one for one in done.predictors if one.subject == WHOLE_MODEL)
    assert model.is_active
    assert model.holdout is not None
    assert (model.holdout.count, model.before) == (8, None)
    assert model.holdout.mape < 0.1, "times are sums of what the board computes"
    assert "8 hold-outs are within 10 %" in done.reason
    assert [point.round for point in done.curve] == list(range(len(done.curve)))
    assert done.curve[-1].rows["models"] >= done.curve[0].rows["models"] >= 1
    assert done.expected == done.curve[-1].unseen
    with lab.farm.transaction() as tx:
        (head, *kernels) = sorted(
            predictors.active(tx, [lab.farm.scalar("SELECT id FROM platforms WHERE key = :k", k=KEY)]),
            key=lambda one: one.subject != WHOLE_MODEL,
        )
        view = predictors.get_predictor(tx, head.id)
    assert (view.evidence.adaptation_id, view.evidence.holdout) == (made.id, model.holdout)
    assert {one.subject for one in kernels} == {one.subject for one in done.predictors if one.is_active} - {WHOLE_MODEL}
    again = to_end(lab, lab.start(**{**SMALL, "budget_s": 8.0, "holdouts": 8}).id)
    assert again.state is S.SUCCEEDED
    assert again.measured.known > 0, "what was measured costs nothing"
    (second,) = (one for one in again.predictors if one.subject == WHOLE_MODEL)
    assert second.before == model.holdout, "judged on the same hold-outs"
    assert second.is_active, second.detail
    assert second.holdout is not None
    assert second.holdout.mape < model.holdout.mape, "twice as many rows"
    assert 6 < done.board_s < 8.5
    assert 6 < again.board_s < 8.5
    assert 0 < again.known_board_s < done.board_s, "what was known is told apart"
    with lab.farm.transaction() as tx:
        assert second.predictor_id is not None
        learnt_s = predictors.get_predictor(tx, second.predictor_id).evidence.board_s
    assert learnt_s == pytest.approx(again.board_s + again.known_board_s, abs=0.01)
    with lab.farm.transaction() as tx:
        states = {one.version: one.state for one in predictors.list_predictors(tx).items if one.subject == WHOLE_MODEL}
    assert states == {1: PredictorState.SUPERSEDED, 2: PredictorState.ACTIVE}


def test_the_probes_and_what_judges_are_wanted_first(lab: AdaptingLab) -> None:
    made = lab.start(**SMALL)
    assert step(lab, made.id) is S.PROBING
    purposes = "SELECT count(*) FROM measurements WHERE purpose = :purpose"
    probes = lab.farm.scalar(purposes, purpose=Purpose.PROBE)
    holdouts = lab.farm.scalar(purposes, purpose=Purpose.HOLDOUT)
    counts = lab.view(made.id).measured
    assert (counts.wanted, counts.holdouts) == (probes, holdouts)
    assert probes > 0
    assert holdouts >= SMALL["holdouts"]
    assert lab.farm.scalar("SELECT count(*) FROM measurements") == probes + holdouts


def test_each_step_can_die_and_is_taken_again(lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab.start(**SMALL)
    dies(lab, made.id, monkeypatch, adaptation_items, "want")
    declared = lab.view(made.id).measured.holdouts
    assert declared >= SMALL["holdouts"]
    claims_run_out(lab)
    faults = [
        (S.QUEUED, adaptation_items, "want"),
        (S.PROBING, adaptation_items, "open_items"),
        (S.TRAINING, adapting, "whole_model"),
        (S.JUDGING, fitting, "fit_or_why"),
        (S.JUDGING, publishing, "keep"),
    ]
    for state, module, name in faults:
        assert to_end(lab, made.id, until=state).state is state
        if state is S.JUDGING:
            lab.measure(ok)
        before = lab.view(made.id)
        dies(lab, made.id, monkeypatch, module, name)
        assert lab.view(made.id).model_copy(update=COSTS) == before.model_copy(update=COSTS), name
        assert step(lab, made.id) is state, "its claim still stands"
        claims_run_out(lab)
    done = to_end(lab, made.id)
    assert done.state is S.SUCCEEDED, done.reason
    assert done.measured.holdouts == declared, "declared twice they are the same"
    assert len({one.subject for one in done.predictors}) == len(done.predictors)
    versions = lab.farm.scalar("SELECT max(version) FROM predictors")
    assert versions == 1, "what died before its commit left nothing"


def test_what_others_make_too_is_made_in_one_order_and_before_anything_is_held(lab: AdaptingLab) -> None:
    """Else two planners wait for each other."""
    made = lab.start(**SMALL)
    with lab.farm.statements() as sent:
        step(lab, made.id)
    makes = [number for number, one in enumerate(sent) if "INSERT INTO workloads" in one]
    holds = [number for number, one in enumerate(sent) if "FROM adaptations" in one and "FOR NO KEY UPDATE" in one]
    assert len(makes) == 1
    assert makes[0] < min(holds)
    assert len(holds) > 3, "each list of hold-outs has a transaction of its own"


def test_two_processes_at_once_take_a_step_once(lab: AdaptingLab) -> None:
    made = lab.start(**SMALL)
    steppers = [threading.Thread(target=step, args=(lab, made.id)) for _ in range(3)]
    for stepper in steppers:
        stepper.start()
    for stepper in steppers:
        stepper.join()
    wanted = lab.farm.scalar("SELECT count(*) FROM measurements")
    items = lab.farm.scalar("SELECT count(*) FROM adaptation_items")
    assert (lab.view(made.id).state, wanted) == (S.PROBING, items)


def test_training_waits_for_leases_on_its_own_host_but_not_for_ever(lab: AdaptingLab) -> None:
    lab.farm.run("""UPDATE boards SET facts = facts || '{"boot_id": "own"}'""")
    made = lab.start(**SMALL)
    step(lab, made.id)
    lab.move(made.id, "training")
    lab.farm.run("UPDATE adaptations SET changed_at = now() - interval '1 hour'")
    grant = lab.agent.must_take()
    assert step(lab, made.id, boot_id="own", wait_s=60) is S.TRAINING, "however long ago the state changed"
    assert lab.view(made.id).curve == []
    assert lab.claimed(made.id), "the claim was given back"
    lab.farm.run("UPDATE adaptations SET waiting_since = waiting_since - interval '61 seconds'")
    assert step(lab, made.id, boot_id="own", wait_s=60) is S.MEASURING
    lab.agent.release(grant)


def test_without_a_single_row_it_fails_and_says_so(lab: AdaptingLab) -> None:
    made = lab.start(**SMALL)
    step(lab, made.id)
    for _ in range(40):
        while (grant := lab.agent.take()) is not None:
            lab.agent.start(grant)
            lab.agent.send(grant, *(failed(item.measurement_id, "unsupported_operator") for item in grant.items))
            lab.agent.release(grant)
        if step(lab, made.id) in (S.FAILED, S.SUCCEEDED):
            break
    view = lab.view(made.id)
    assert view.state is S.FAILED
    assert "0 measurements succeeded and" in view.reason
    assert "too few" in view.reason
    assert lab.farm.scalar("SELECT count(*) FROM predictors") == 0


def test_what_is_too_rough_or_always_the_same_teaches_nothing_and_is_told(lab: AdaptingLab) -> None:
    made = lab.start(**{**SMALL, "budget_s": 20.0})
    while step(lab, made.id) is S.PROBING:
        lab.agent.measure_all(run_ns=1_000_000)
    assert lab.view(made.id).measured.done > 10
    lab.farm.run("UPDATE adaptations SET request = jsonb_set(request, '{budget_s}', '2')")
    lab.farm.run("UPDATE leases SET accepted_at = ended_at - interval '9 seconds'")
    assert step(lab, made.id) is S.JUDGING
    assert step(lab, made.id) is S.FAILED, "kernels that always take the same have none either"
    model = next(one for one in lab.view(made.id).predictors if one.subject == WHOLE_MODEL)
    assert (model.predictor_id, "measure more" in model.detail) == (None, True), model
    lab.farm.run("UPDATE summaries SET grade = 'D'")
    counts = lab.view(made.id).measured
    assert counts.rough == counts.done > 0


def test_what_no_board_takes_is_given_up(lab: AdaptingLab) -> None:
    made = lab.start(**SMALL)
    step(lab, made.id)
    lab.farm.run("UPDATE adaptations SET changed_at = now() - interval '7 hours'")
    assert step(lab, made.id) is S.PROBING, "the farm may have been away"
    lab.farm.run("UPDATE adaptations SET waited_s = 7 * 3600")
    assert step(lab, made.id) is S.FAILED
    assert "probing" in lab.view(made.id).reason
    assert lab.farm.scalar("SELECT count(*) FROM measurements WHERE state = 'wanted'") == 0


def test_hold_outs_that_no_board_takes_are_given_up_and_what_was_learnt_is_published(lab: AdaptingLab) -> None:
    made = lab.start(**SMALL)
    to_end(lab, made.id, until=S.TRAINING)
    second = lab.farm.scalar("SELECT max(measurement_id) FROM adaptation_items WHERE purpose = 'holdout'")
    lab.move(made.id, "judging")
    lab.farm.run("UPDATE measurements SET state = 'wanted' WHERE id = :id", id=second)
    assert step(lab, made.id) is S.JUDGING
    before = lab.view(made.id).measured
    assert before.holdouts_done == before.holdouts - 1
    lab.farm.run("UPDATE adaptations SET waited_s = 7 * 3600")
    assert step(lab, made.id) is S.SUCCEEDED
    assert lab.view(made.id).measured.holdouts == before.holdouts
    assert lab.farm.scalar("SELECT state FROM measurements WHERE id = :id", id=second) == "cancelled"


@pytest.mark.parametrize(("budget_s", "each_s", "per_s"), [(6.0, 0.0, 14.0), (12.0, 1.0, 3.0)])
def test_whatever_boards_take_the_budget_is_kept(
    lab: AdaptingLab, budget_s: float, each_s: float, per_s: float
) -> None:
    """Nothing ran before, so that nobody knows it beforehand. What that is enough for is another question."""
    lab.pace = each_s, per_s
    done = to_end(lab, lab.start(budget_s=budget_s, spaces=["proxylessnas"], holdouts=5, target={"share": 1}).id)
    assert (done.state, "too few" in done.reason) == (S.FAILED, True), done.reason
    assert 0.5 * budget_s < done.board_s < 1.15 * budget_s
    assert done.holdout_board_s > 5 * each_s / 10


def test_one_whose_judging_dies_says_what_it_has_published(lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab.start(**SMALL)
    to_end(lab, made.id, until=S.JUDGING)
    lab.measure(ok)
    really = publishing.publish_for

    def but_for_kernels(database: Database, adaptation: Adaptation, subject: str) -> None:
        if subject != WHOLE_MODEL:
            raise RuntimeError("planted")
        really(database, adaptation, subject)

    monkeypatch.setattr(publishing, "publish_for", but_for_kernels)
    for _ in range(adaptations.MAX_ATTEMPTS + 1):
        with pytest.raises(RuntimeError, match="planted"):
            step(lab, made.id)
        claims_run_out(lab)
    assert step(lab, made.id) is S.FAILED
    assert lab.view(made.id).reason == (
        "3 tries came to no end while it was judging; the worker's log says why; published before that: model"
    )
    assert lab.farm.scalar("SELECT subject FROM predictors WHERE state = 'active'") == WHOLE_MODEL


def test_one_whose_first_versions_are_all_refused_has_failed(lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab.start(**SMALL)
    to_end(lab, made.id, until=S.JUDGING)
    monkeypatch.setattr("benchfarm_core.publishing.HOPELESS_MAPE", -1.0)
    ended = to_end(lab, made.id)
    assert ended.state is S.FAILED
    assert ended.reason.startswith("nothing was published; model is worse than no answer: ")
    assert lab.farm.scalar("SELECT count(*) FROM predictors WHERE state <> 'rejected'") == 0


def test_one_that_learnt_next_to_nothing_and_is_judged_by_nothing_has_failed(lab: AdaptingLab) -> None:
    made = lab.start(**SMALL)
    to_end(lab, made.id, until=S.JUDGING)
    lab.farm.run(ROUGH, architectures=2, kernels=10)
    ended = to_end(lab, made.id)
    assert ended.state is S.FAILED
    assert ended.reason.startswith(
        f"nothing was published; model is {UNJUDGED}: no hold-out of it could be measured, and 2 rows of its own"
    )
    assert lab.farm.scalar("SELECT count(*) FROM predictors WHERE state <> 'rejected'") == 0


def test_learning_and_judging_are_both_counted_as_the_workers_time(lab: AdaptingLab) -> None:
    made = lab.start(**SMALL)
    to_end(lab, made.id, until=S.JUDGING)
    learning_s = lab.view(made.id).train_s
    assert learning_s >= sum(point.train_s for point in lab.view(made.id).curve) > 0
    assert to_end(lab, made.id).train_s > learning_s + 0.05


def test_a_cancelled_one_is_left_alone(lab: AdaptingLab) -> None:
    made = lab.start(**SMALL)
    with lab.farm.transaction() as tx:
        adaptations.cancel(tx, made.id, by=lab.by)
    assert step(lab, made.id) is S.CANCELLED


def test_a_platform_without_spaces_of_its_own_learns_from_kernels(lab: AdaptingLab) -> None:
    made = lab.start(budget_s=4.0, holdouts=7)
    to_end(lab, made.id, until=S.MEASURING)
    kinds = (
        "SELECT DISTINCT w.kind FROM measurements m JOIN workloads w ON w.id = m.workload_id WHERE purpose = 'train'"
    )
    timings = "SELECT count(DISTINCT timing) FROM measurements WHERE purpose = 'train'"
    assert (lab.farm.scalar(kinds), lab.farm.scalar(timings)) == ("kernel", 2)


def test_what_another_platform_knows_is_a_donor(lab: AdaptingLab) -> None:
    first = to_end(lab, lab.start(**SMALL).id)
    assert first.state is S.SUCCEEDED, first.reason
    second = board_report("s9", board_model="host-b", hardware_id="other")
    lab.agent = lab.farm.agent(lab.by, second, name="other")
    lab.slower = 2.0
    made = lab.start(KEY.replace("host-a", "host-b"), **SMALL)
    point = to_end(lab, made.id, until=S.MEASURING)
    assert point.donors == [KEY]
    with lab.farm.transaction() as tx:
        assert adaptations.cancel(tx, made.id, by=lab.by).state is S.CANCELLED
    alone = lab.start(KEY.replace("host-a", "host-b"), **SMALL, donors="none")
    assert to_end(lab, alone.id, until=S.MEASURING).donors == []


def test_the_task_knows_its_work_and_survives_what_is_gone(lab: AdaptingLab) -> None:
    settings = Settings(database_url="postgresql://nowhere/x", redis_url="redis://nowhere")
    made = lab.start(**SMALL)
    run(lab.farm.database, settings, TrainingWork.ADAPT, made.id)
    assert lab.view(made.id).state is S.PROBING
    run(lab.farm.database, settings, TrainingWork.ADAPT, "00000000-0000-7000-8000-000000000000")
    run(lab.farm.database, settings, "cook", made.id)
    assert own_boot_id()


def test_rows_of_other_spaces_reach_no_target(lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab.start(**SMALL, target={"share": 0.5, "percent": 10})
    step(lab, made.id)
    lab.move(made.id, "training")
    rows = training_rows(Platform(1), model_rows(Platform(1), MOBILE, 20))
    known = Known.of(rows, (), ())
    fit = fitting.whole_model(known)
    assert fit is not None
    assert fit.unseen is not None
    assert fit.unseen.within_10 > 0.5
    assert (adapting.expected(fit, ()), adapting.expected(fit, [MOBILE])) == (fit.unseen, fit.unseen)
    assert fit.told is not None
    few = replace(
        fit, told=replace(fit.told, spaces=("proxylessnas",) * (ROWS_MIN - 1) + fit.told.spaces[ROWS_MIN - 1 :])
    )
    assert few.unseen_in(["proxylessnas"]) is not None
    assert adapting.expected(few, ["proxylessnas"]) is None, "seven rows tell nothing"
    really, mixes = adapting._see, []
    monkeypatch.setattr(adapting, "_see", lambda context: really(context)._replace(known=known))

    def mixed(**told: Any) -> Any:
        mixes.append(told["whole_models"])
        return mix_of(**told)

    monkeypatch.setattr(adapting, "mix_of", mixed)
    assert step(lab, made.id) is S.MEASURING
    assert (lab.view(made.id).curve[-1].unseen, mixes) == (None, [0])


def test_of_an_unseen_space_nothing_is_measured_but_what_judges(lab: AdaptingLab) -> None:
    """What clients measured of it teaches nothing either."""
    networks = [{"kind": "architecture", "space": MOBILE, "genes": one.genes} for one in draws(MOBILE, "client", 5)]
    lab.farm.submit_planned(lab.by, JobRequest.model_validate({"workloads": networks, "platforms": [KEY]}))
    lab.measure(ok)
    made = lab.start(budget_s=30.0, unseen_spaces=[MOBILE], holdouts=5)
    assert made.request.judged_by == 5
    assert step(lab, made.id) is S.PROBING
    lab.measure(ok)
    assert spaces_of(lab, Purpose.HOLDOUT) == {MOBILE}
    probed = spaces_of(lab, Purpose.PROBE)
    assert "proxylessnas" in probed
    assert MOBILE not in probed
    context = adapting.Context(lab.farm.database, lab.claimed(made.id), "", 0.0, 0.0)
    assert set(adapting._see(context).known.rows.models.spaces) == probed
    lab.move(made.id, "training")
    assert step(lab, made.id) is S.MEASURING
    assert spaces_of(lab, Purpose.TRAIN) == set(), "kernels as it has them are"
    assert lab.view(made.id).measured.wanted > 0


def spaces_of(lab: AdaptingLab, purpose: Purpose) -> set[str]:
    """Whose architectures adaptations want for a purpose."""
    return set(lab.farm.scalar(_SPACES, purpose=purpose) or ())


_SPACES = """
    SELECT array_agg(DISTINCT w.spec->>'space') FROM adaptation_items i
        JOIN measurements m ON m.id = i.measurement_id JOIN workloads w ON w.id = m.workload_id
    WHERE w.kind = 'architecture' AND i.purpose = :purpose
"""


def test_rows_of_one_space_reach_no_target_of_all_spaces(lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adaptation that names no space is for all of them, whatever was measured before."""
    target = {"share": 0.5, "percent": 10}
    rows = training_rows(Platform(1), model_rows(Platform(1), MOBILE, 20))
    known = Known.of(rows, (), ())
    really = adapting._see
    monkeypatch.setattr(adapting, "_see", lambda context: really(context)._replace(known=known))
    for spaces, state in (((), S.MEASURING), ((MOBILE,), S.JUDGING)):
        made = lab.start(budget_s=30.0, spaces=spaces, holdouts=5, target=target)
        step(lab, made.id)
        lab.move(made.id, "training")
        assert step(lab, made.id) is state
        unseen = lab.view(made.id).curve[-1].unseen
        assert unseen is not None
        assert unseen.within_10 > 0.5
        with lab.farm.transaction() as tx:
            adaptations.cancel(tx, made.id, by=lab.by)


@pytest.mark.parametrize(
    ("state", "module", "name"), [(S.TRAINING, adapting, "whole_model"), (S.JUDGING, publishing, "publish_for")]
)
def test_while_something_is_computed_its_claim_is_renewed(
    lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch, state: AdaptationState, module: Any, name: str
) -> None:
    """However long it takes: another trainer does not compute it too."""
    made = lab.start(**SMALL)
    to_end(lab, made.id, until=state)
    lab.measure(ok)
    monkeypatch.setattr(claims, "EVERY_S", 0.02)
    really, others = getattr(module, name), list[Adaptation | None]()

    def slow(*arguments: Any) -> Any:
        until_s, before = time.monotonic() + 10, claimed_until(lab)
        while claimed_until(lab) <= before:
            assert time.monotonic() < until_s, "it runs out"
            time.sleep(0.01)  # wait: for the thread that renews, with a limit
        with lab.farm.transaction() as tx:
            others.append(adaptations.claim(tx, made.id))
        return really(*arguments)

    monkeypatch.setattr(module, name, slow)
    after = step(lab, made.id)
    assert after is not state
    assert set(others) == {None}
    assert claimed_until(lab) is None, "and it is given back"


def claimed_until(lab: AdaptingLab) -> Any:
    return lab.farm.scalar("SELECT claimed_until FROM adaptations")
