"""Adaptations in the store: what is asked for once, wanted within a budget, judged by what nobody learnt from."""

import threading
from datetime import UTC, datetime

import pytest

from benchfarm_core.access import Role
from benchfarm_core.adapting import (
    ADAPTATION_TRANSITIONS,
    PACE_UNKNOWN,
    AdaptationState,
    AdaptationsWanted,
    AdaptedPredictor,
    CurvePoint,
    DonorChoice,
)
from benchfarm_core.correctness import BENCHMARK_MODEL
from benchfarm_core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from benchfarm_core.jobs import JobRequest
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_core.platforms import Precision
from benchfarm_core.workloads import workload_id
from benchfarm_store import adaptation_items, adaptations, host_leases
from benchfarm_store.adaptation_donors import find_donors
from benchfarm_store.adaptation_items import Ask
from benchfarm_store.training_rows import holdout_rows, training_rows
from benchfarm_workloads.draws import draw
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import draws, space
from tests.adapting_lab import KEY, WIDE, AdaptingLab
from tests.store.conftest import moves_of

UNKNOWN = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
def lab(farm, ann, agent):
    return AdaptingLab(farm, ann, agent)


def kernels(count, seed=1, name="fc"):
    return [kernel_type(name).workload(config) for config in draw(name, seed, count)]


def networks(count, seed="1", name="bert"):
    return [space(name).workload(one.genes) for one in draws(name, seed, count)]


def step_messages(lab):
    return [one for one in lab.farm.messages if isinstance(one, TaskMessage) and one.task == Task.TRAIN]


def test_one_is_asked_for_shown_and_listed(lab):
    made = lab.start(budget_s=30, spaces=["bert"], target={"share": 0.9, "percent": 5})
    assert (made.state, made.platform, made.board_s) == (AdaptationState.QUEUED, KEY, 0)
    assert (made.request.budget_s, made.request.spaces, made.request.target.text) == (30, ("bert",), "0.9@5%")
    assert [one.args for one in step_messages(lab)] == [("adapt", made.id)]
    assert lab.view(made.id) == made
    other = lab.start(WIDE)
    with lab.farm.transaction() as tx:
        assert [one.id for one in adaptations.list_adaptations(tx).items] == [other.id, made.id]
        first = adaptations.list_adaptations(tx, limit=1)
        rest = adaptations.list_adaptations(tx, cursor=first.next_cursor, limit=1)
        assert [one.id for one in (*first.items, *rest.items)] == [other.id, made.id]
        assert rest.next_cursor is None
        wanted = AdaptationsWanted(platform=KEY, state=AdaptationState.QUEUED)
        assert [one.id for one in adaptations.list_adaptations(tx, wanted).items] == [made.id]
        assert not adaptations.list_adaptations(tx, AdaptationsWanted(state=AdaptationState.FAILED)).items


def test_one_at_a_time_for_each_platform_also_when_two_ask_at_once(lab):
    caught, made = [], []

    def ask():
        try:
            made.append(lab.start())
        except Conflict as error:
            caught.append(error.code)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert (len(made), caught) == (1, ["adaptation_running"] * 2)
    lab.move(made[0].id, "cancelled")
    assert lab.start().id != made[0].id


def test_what_cannot_be_learnt_is_refused_and_nothing_stays(lab, farm, ann, report_of):
    engines = [
        {"name": "litert", "available": True, "version": "2.3.0", "precisions": [Precision.AS_GIVEN]},
        {"name": BENCHMARK_MODEL, "available": True, "version": "1", "precisions": [Precision.FP32]},
    ]
    farm.agent(ann, report_of("s2", board_model="host-b", engines=engines), name="other")
    for key, code in (
        ("host-b/c0.t1.free/litert-2.3.0/as_given", "adaptation_impossible"),
        (f"host-b/c0.t1.free/{BENCHMARK_MODEL}-1/fp32", "adaptation_impossible"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            lab.start(key)
        assert caught.value.code == code
    with pytest.raises(NotFound):
        lab.start("nobody")
    with pytest.raises(InvalidRequest) as caught:
        lab.start(spaces=["bert", "nowhere"])
    assert (caught.value.code, caught.value.field) == ("space_unknown", "spaces.1")
    with pytest.raises(InvalidRequest, match="twice"):
        lab.start(spaces=["bert", "bert"])
    with pytest.raises(InvalidRequest) as caught:
        lab.start(unseen_spaces=["bert", "nowhere"])
    assert (caught.value.code, caught.value.field) == ("space_unknown", "unseen_spaces.1")
    with pytest.raises(InvalidRequest, match="cannot be both") as caught:
        lab.start(spaces=["bert", "autoformer"], unseen_spaces=["bert"])
    assert caught.value.field == "unseen_spaces"
    first, second = ({**one.genes} for one in draws("autoformer", "given", 2))
    for spaces, genes, code, field in (
        (["bert"], {}, "invalid_request", "architectures.0.space"),
        (["autoformer"], {"hidden": 1}, "architecture_out_of_range", "architectures.1.genes.hidden"),
    ):
        given = [{"space": "autoformer", "genes": one} for one in (first, {**second, **genes})]
        with pytest.raises(InvalidRequest) as caught:
            lab.start(spaces=spaces, architectures=given)
        assert (caught.value.code, caught.value.field) == (code, field)
    assert farm.scalar("SELECT count(*) FROM adaptations") == 0


def test_unknown_ones_are_not_found(lab, ann):
    with lab.farm.transaction() as tx:
        for name in (UNKNOWN, "nothing"):
            for call in (
                lambda name=name: adaptations.get_adaptation(tx, name),
                lambda name=name: adaptations.claim(tx, name),
                lambda name=name: adaptations.cancel(tx, name, by=ann),
            ):
                with pytest.raises(NotFound):
                    call()


def test_a_claim_keeps_others_away_until_it_is_given_back_runs_out_or_is_used(lab):
    made = lab.start()

    def claim(for_s=60.0):
        with lab.farm.transaction() as tx:
            return adaptations.claim(tx, made.id, for_s)

    first = claim()
    assert first is not None
    assert claim() is None
    assert claim() is None, "a claim is not renewed by who does not have it"
    with lab.farm.transaction() as tx:
        assert adaptations.wake(tx) == 0
        renewed = adaptations.renew(tx, first)
        assert renewed is not None
        adaptations.release(tx, renewed)
    assert claim(for_s=-1) is not None, "somebody who died long ago"
    with lab.farm.transaction() as tx:
        assert adaptations.wake(tx) == 1
    second = claim()
    with lab.farm.transaction() as tx:
        assert adaptations.hold(tx, second)
        adaptations.move(tx, second, AdaptationState.PROBING)
    assert claim() is not None, "a move gives it back"


def test_who_comes_late_finds_out_and_writes_nothing(lab):
    made = lab.start()
    one = lab.claimed(made.id)
    lab.move(made.id, "probing")
    with lab.farm.transaction() as tx:
        assert not adaptations.hold(tx, one)
    late = lab.claimed(made.id)
    with lab.farm.transaction() as tx:
        adaptations.cancel(tx, made.id, by=lab.by)
    with lab.farm.transaction() as tx:
        assert not adaptations.hold(tx, late)
        assert adaptations.claim(tx, made.id) is None


def test_every_move_of_the_table_and_no_other(lab, farm):
    farm.run(
        "CREATE TRIGGER moved AFTER UPDATE ON adaptations FOR EACH ROW WHEN (OLD.state <> NEW.state)"
        " EXECUTE FUNCTION record_move()"
    )
    to_training = ("probing", "training")
    ways = {
        AdaptationState.QUEUED: (),
        AdaptationState.PROBING: ("probing",),
        AdaptationState.TRAINING: to_training,
        AdaptationState.MEASURING: (*to_training, "measuring", "training", "measuring"),
        AdaptationState.JUDGING: (*to_training, "judging"),
    }
    for state, way in ways.items():
        for end in (AdaptationState.FAILED, AdaptationState.CANCELLED, AdaptationState.SUCCEEDED):
            if end in ADAPTATION_TRANSITIONS[state]:
                lab.move(lab.start().id, *way, end)
    assert farm.moves("adaptations") == moves_of(ADAPTATION_TRANSITIONS)
    made = lab.start()
    with pytest.raises(Conflict):
        lab.move(made.id, "judging")


def test_as_much_is_wanted_as_the_budget_allows_and_what_is_known_costs_nothing(lab, ok_result):
    asks = [Ask(one) for one in kernels(30)]
    first = lab.start(WIDE)
    everything = lab.want(first.id, asks)
    assert (everything.new, everything.known) == (30, 0)
    each_s = everything.expected_s / 30
    lab.move(first.id, "cancelled")
    made = lab.start()
    limit_s = 5.5 * PACE_UNKNOWN * each_s
    some = lab.want(made.id, asks, limit_s=limit_s)
    assert 4 <= some.new <= 7
    assert PACE_UNKNOWN * some.expected_s <= limit_s
    assert lab.open_items(made.id) == some.new
    assert lab.measure(ok_result) == some.new
    again = lab.want(made.id, asks[: some.new], round_no=2)
    assert not again.is_any, "they are of this adaptation already"
    lab.move(made.id, "cancelled")
    later = lab.start()
    known = lab.want(later.id, asks, limit_s=0.0)
    assert (known.known, known.new, known.expected_s) == (some.new, 0, 0)
    counts = lab.view(later.id).measured
    assert (counts.wanted, counts.known, counts.done) == (some.new, some.new, some.new)


def test_one_measurement_is_wanted_even_where_a_round_is_shorter_than_it(lab):
    made = lab.start()
    asks = [Ask(one) for one in kernels(3)]
    assert lab.want(made.id, asks, limit_s=1e-6, one_s=1e-6).new == 0, "nor into what is left of the budget"
    assert lab.want(made.id, asks, limit_s=1e-6, one_s=60).new == 1


def test_the_same_asks_at_once_make_each_measurement_once(lab, farm):
    made = [lab.start(KEY), lab.start(WIDE)]
    asks = [Ask(one) for one in kernels(40)]
    lab.want(made[0].id, asks)
    one = lab.whose(made[0].id)
    asked = adaptation_items.costed(asks, one.platform)
    found = []

    def again():
        with farm.transaction() as tx:
            found.append(adaptation_items.want(tx, one, asked, purpose=Purpose.TRAIN, round_no=1, limit_s=1e9))

    threads = [threading.Thread(target=again) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.is_any for one in found] == [False] * 3
    assert farm.scalar("SELECT count(*) FROM measurements") == 40
    assert lab.want(made[1].id, asks).new == 40, "another platform has its own"


def test_a_measurement_that_a_job_waits_for_is_joined_and_outlives_the_adaptation(lab, farm, ann, ok_result):
    config = kernels(1)[0].config
    request = {"workloads": [{"kind": "kernel", "type": "fc", "config": config}], "platforms": [KEY]}
    job = farm.submit_planned(ann, JobRequest.model_validate(request))
    made = lab.start()
    found = lab.want(made.id, [Ask(one) for one in kernels(3)])
    assert (found.joined, found.new) == (1, 2)
    with farm.transaction() as tx:
        adaptations.cancel(tx, made.id, by=ann)
    assert lab.open_items(made.id) == 1, "the job's own"
    assert lab.measure(ok_result) == 1
    assert farm.job(job.id, ann).state == "succeeded"


def test_what_a_job_joined_is_measured_although_the_adaptation_is_cancelled(lab, farm, ann, ok_result):
    made = lab.start()
    lab.want(made.id, [Ask(one) for one in kernels(3)])
    config = kernels(3)[1].config
    request = {"workloads": [{"kind": "kernel", "type": "fc", "config": config}], "platforms": [KEY]}
    job = farm.submit_planned(ann, JobRequest.model_validate(request))
    assert farm.job(job.id, ann).progress.pending == 1
    lab.move(made.id, "cancelled")
    assert lab.measure(ok_result) == 1
    assert farm.job(job.id, ann).state == "succeeded"


def test_what_judges_is_declared_before_and_teaches_nobody(lab, farm, ok_result):
    drawn = networks(12)
    first = lab.start()
    lab.want(first.id, [Ask(one) for one in drawn[:3]])
    assert lab.declare(first.id, drawn, 5) == 5, "those that somebody learns from are passed over"
    held = {workload_id(one) for one in drawn[3:8]}
    with farm.transaction() as tx:
        assert set(adaptation_items.holdout_workloads(tx, first.id)) == held
    assert lab.want(first.id, [Ask(one) for one in drawn[3:9]], round_no=2).new == 1, "hold-outs never train"
    assert lab.declare(first.id, drawn, 5) == 0, "declaring them again changes nothing"
    other = lab.start(WIDE)
    assert lab.want(other.id, [Ask(one) for one in drawn[3:8]]).new == 0, "nor on any other platform"
    assert lab.declare(other.id, drawn[3:], 5) == 5, "the same ones judge there"
    assert (lab.open_items(first.id, holdouts=True), lab.open_items(first.id)) == (5, 4)
    lab.measure(ok_result)
    one = lab.claimed(first.id)
    with farm.transaction() as tx:
        assert {row.workload_id for row in holdout_rows(tx, one.platform_id).models} == held
        assert len(training_rows(tx, one.platform_id).models) == 4
    counts = lab.view(first.id).measured
    assert (counts.done, counts.holdouts, counts.holdouts_done) == (4, 5, 5)


def test_hold_outs_that_were_never_measured_are_given_back(lab, farm, ann):
    drawn = networks(6)
    first = lab.start()
    assert lab.declare(first.id, drawn, 4) == 4
    with farm.transaction() as tx:
        adaptations.cancel(tx, first.id, by=ann)
    assert lab.want(lab.start().id, [Ask(one) for one in drawn]).new == 6


def test_what_is_known_costs_nothing_behind_what_does_not_fit(lab, ok_result):
    first = lab.start()
    asks = [Ask(one) for one in kernels(6)]
    lab.want(first.id, asks[3:])
    lab.measure(ok_result)
    lab.move(first.id, "cancelled")
    found = lab.want(lab.start().id, asks, limit_s=1e-6)
    assert (found.new, found.known) == (1, 3)


def test_what_was_measured_of_another_board_is_measured_anew(lab, farm, ok_result):
    asks = [*map(Ask, kernels(3)), *map(Ask, networks(2))]
    lab.want(lab.start().id, asks)
    lab.measure(ok_result)
    farm.run("UPDATE adaptations SET state = 'cancelled', finished_at = now()")
    farm.run(
        "INSERT INTO predictor_looks (platform_id, subject, looked_at, seen, attempts, is_done, judges_from)"
        " SELECT platform_id, 'fc', now(), '', 0, true, max(measured_at) FROM results GROUP BY 1"
    )
    found = lab.want(lab.start().id, asks)
    assert (found.known, found.new) == (2, 3)


def test_declaring_again_on_the_same_platform_costs_nothing(lab, ok_result):
    drawn = networks(8)
    first = lab.start()
    lab.declare(first.id, drawn, 4)
    lab.measure(ok_result)
    lab.move(first.id, "cancelled")
    second = lab.start()
    assert lab.declare(second.id, drawn, 4) == 4
    assert lab.open_items(second.id, holdouts=True) == 0
    assert lab.view(second.id).measured.holdouts_done == 4


def test_hold_outs_wait_behind_everything_until_nothing_else_is_left(lab, farm):
    made = lab.start()
    lab.declare(made.id, networks(3), 3)
    lab.want(made.id, [Ask(one) for one in kernels(3)])
    priority = (
        "SELECT max(q.priority) FROM measurements m JOIN queues q ON q.id = m.queue_id"
        " WHERE (m.purpose = 'holdout') = :holdout"
    )
    assert [farm.scalar(priority, holdout=one) for one in (True, False)] == [0, 1]
    whose = lab.whose(made.id)
    with farm.transaction() as tx:
        adaptation_items.raise_holdouts(tx, whose)
    assert farm.scalar(priority, holdout=True) == 1


def test_only_what_can_be_timed_in_situ_is_asked_for_so(lab, farm, ann, report_of):
    asks = [Ask(one, Timing.IN_SITU) for one in (*kernels(2, name="conv-bn-act"), *networks(1))]
    assert lab.want(lab.start().id, asks).new == 2, "networks have no carrier"
    engines = [{"name": "tvm", "available": True, "version": "1", "precisions": [Precision.FP32]}]
    farm.agent(ann, report_of("s2", board_model="host-b", engines=engines), name="other")
    made = lab.start("host-b/c0.t1.free/tvm-1/fp32")
    assert not lab.want(made.id, asks).is_any, "it has neither a profiler nor differences"


def test_what_is_too_large_for_the_boards_is_left_out(lab, farm):
    farm.run("""UPDATE boards SET facts = facts || '{"memory_bytes": 30000000}'""")
    made = lab.start()
    small = [one for one in networks(30) if space("bert").cost(one).total_bytes < 1e7]
    large = [one for one in networks(30) if space("bert").cost(one).total_bytes > 4e7]
    assert small
    assert large
    assert lab.want(made.id, [Ask(one) for one in (*large, *small)]).new == len(small)


def test_board_time_is_that_of_the_leases_and_hold_outs_stand_apart(lab, farm, ok_result):
    made = lab.start()
    lab.declare(made.id, networks(2), 2)
    lab.want(made.id, [Ask(one) for one in kernels(4)])
    lab.measure(ok_result)
    farm.run("UPDATE leases SET accepted_at = ended_at - interval '10 seconds'")
    leases = farm.scalar("SELECT count(*) FROM leases")
    view = lab.view(made.id)
    assert view.board_s + view.holdout_board_s == pytest.approx(10 * leases, abs=0.01)
    assert view.board_s > 9.9
    assert view.holdout_board_s > 9.9
    lab.move(made.id, "cancelled")
    farm.run("UPDATE leases SET accepted_at = ended_at - interval '99 seconds'")
    assert lab.view(made.id).board_s == pytest.approx(view.board_s, abs=0.01), "once it has ended it stands"


def test_a_lost_lease_counts_and_what_others_measure_does_not(lab, farm, ann, ok_result, job_of):
    farm.submit_planned(ann, job_of(3, seed=5, platforms=[KEY]))
    lab.measure(ok_result)
    made = lab.start()
    lab.want(made.id, [Ask(one) for one in kernels(2)])
    grant = lab.agent.must_take()
    lab.agent.release(grant, "error")
    farm.run("UPDATE boards SET cooling_until = now() - interval '1 second'")
    lab.measure(ok_result)
    farm.run("UPDATE leases SET accepted_at = ended_at - interval '5 seconds'")
    assert lab.view(made.id).board_s == pytest.approx(10, abs=0.01)


def test_the_sweep_asks_again_only_for_what_can_go_on(lab, ok_result):
    made = lab.start()
    lab.move(made.id, "probing")
    lab.want(made.id, [Ask(one) for one in kernels(2)], purpose=Purpose.PROBE)
    lab.declare(made.id, networks(2), 2)

    def woken():
        with lab.farm.transaction() as tx:
            return adaptations.wake(tx)

    assert woken() == 0
    lab.farm.run("UPDATE adaptations SET changed_at = now() - interval '7 hours'")
    assert woken() == 0, "nobody waited for it meanwhile"
    lab.farm.run("UPDATE adaptations SET waited_s = 7 * 3600")
    assert woken() == 1, "a step has to give it up"
    lab.farm.run("UPDATE adaptations SET waited_s = 0")
    lab.farm.run("UPDATE measurements SET state = 'cancelled' WHERE purpose = 'probe'")
    assert woken() == 1, "hold-outs keep nobody waiting yet"
    lab.move(made.id, "training", "judging")
    assert woken() == 0
    lab.measure(ok_result)
    assert woken() == 1
    lab.move(made.id, "succeeded")
    assert woken() == 0


def test_cancelling_is_for_whoever_asked_and_for_operators(lab, farm, ann):
    made = lab.start()
    lab.want(made.id, [Ask(one) for one in kernels(3)])
    stranger, operator = farm.account("bob"), farm.account("eve", role=Role.OPERATOR)
    with farm.transaction() as tx, pytest.raises(Forbidden):
        adaptations.cancel(tx, made.id, by=stranger)
    with farm.transaction() as tx:
        ended = adaptations.cancel(tx, made.id, by=operator)
    assert (ended.state, "eve" in ended.reason) == (AdaptationState.CANCELLED, True)
    assert lab.open_items(made.id) == 0
    with farm.transaction() as tx:
        assert adaptations.cancel(tx, made.id, by=ann) == ended, "twice changes nothing"
    other = lab.start()
    lab.move(other.id, "failed")
    with farm.transaction() as tx, pytest.raises(Conflict) as caught:
        adaptations.cancel(tx, other.id, by=ann)
    assert caught.value.code == "adaptation_finished"


def test_rounds_and_predictors_are_kept_once(lab):
    made = lab.start()
    one = lab.claimed(made.id)
    when = datetime(2026, 1, 1, tzinfo=UTC)
    point = CurvePoint(round=0, at=when, board_s=1.5, rows={"models": 9}, unseen=None, chosen=["ridge"], train_s=0.1)
    nothing = dict.fromkeys(("predictor_id", "version", "holdout", "unseen", "before"))
    for detail in ("first", "told again"):
        with lab.farm.transaction() as tx:
            adaptations.keep_round(tx, one, point, [WIDE])
            for subject in ("model", "fc"):
                fields = {**nothing, "subject": subject, "detail": detail, "is_active": False}
                adaptations.keep_predictor(tx, one, AdaptedPredictor.model_validate(fields))
    view = lab.view(made.id)
    assert (view.curve, view.donors, view.expected) == ([point], [WIDE], None)
    assert sorted((each.subject, each.detail) for each in view.predictors) == [
        ("fc", "told again"),
        ("model", "told again"),
    ]


def test_without_predictors_elsewhere_there_is_no_donor(lab):
    one = lab.claimed(lab.start().id)
    with lab.farm.transaction() as tx:
        for choice in DonorChoice:
            assert find_donors(tx, one.platform_id, one.platform, choice, 3) == []


def test_a_host_measures_while_a_board_of_its_run_has_a_lease(lab, farm, ann, job_of):
    farm.run("""UPDATE boards SET facts = facts || '{"boot_id": "b-1"}'""")

    def measuring(boot_id):
        with farm.transaction() as tx:
            return host_leases.is_measuring(tx, boot_id)

    farm.submit_planned(ann, job_of(2))
    assert not measuring("b-1")
    grant = lab.agent.must_take()
    assert [measuring(boot) for boot in ("b-1", "b-2", "")] == [True, False, False]
    lab.agent.release(grant)
    assert not measuring("b-1")
