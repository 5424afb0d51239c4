"""Adaptations keep their budgets: what a lease takes is known before, and what does not fit any more is given up."""

from datetime import UTC, datetime, timedelta

import pytest

from benchfarm_core.accounts import Quotas
from benchfarm_core.adapting import PACE_UNKNOWN, AdaptationState, CurvePoint
from benchfarm_core.errors import QuotaExceeded
from benchfarm_core.jobs import JobRequest
from benchfarm_core.measurements import Purpose
from benchfarm_core.workloads import workload_id
from benchfarm_store import adaptation_budgets, adaptations, database, endings, jobs, leases
from benchfarm_store.adaptation_items import Ask
from benchfarm_store.encodings import workload_digest
from benchfarm_workloads.draws import draw
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import draws, space
from tests.adapting_lab import KEY, WIDE, AdaptingLab
from tests.store.conftest import TIMES

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MANY = 120
"""More kernels than one lease takes."""


@pytest.fixture
def lab(farm, ann, agent):
    return AdaptingLab(farm, ann, agent)


def kernels(count, seed=1):
    return [kernel_type("fc").workload(config) for config in draw("fc", seed, count)]


def networks(count):
    return [space("bert").workload(one.genes) for one in draws("bert", "1", count)]


def asks(count, seed=1):
    return [Ask(one) for one in kernels(count, seed)]


def job_on(workloads, platform=KEY, **fields):
    named = [{"kind": "kernel", "type": one.type, "config": one.config} for one in workloads]
    return JobRequest.model_validate({"workloads": named, "platforms": [platform], **fields})


def probing(lab, **fields):
    made = lab.start(**fields)
    lab.move(made.id, "probing")
    return made.id


def lasted(lab, seconds):
    """Leases, gone by or going on, were so long."""
    lab.farm.run(
        "UPDATE leases SET accepted_at = coalesce(ended_at, now()) - make_interval(secs => :s)", s=float(seconds)
    )


def clock_stands(lab, monkeypatch, seconds):
    """From now on it is so many seconds after the start of the lease that goes on."""
    began_at = lab.farm.scalar("SELECT accepted_at FROM leases WHERE ended_at IS NULL")
    now = began_at + timedelta(seconds=seconds)
    monkeypatch.setattr(database, "_NOW", f"SELECT CAST('{now.isoformat()}' AS timestamptz)")


def pace_of(lab, adaptation_id):
    whose = lab.whose(adaptation_id)
    with lab.farm.transaction() as tx:
        return adaptation_budgets.pace_of(tx, whose.adaptation_id, whose.platform_id, whose.platform)


def states(lab):
    return {
        state: lab.farm.scalar("SELECT count(*) FROM measurements WHERE state = :state", state=state)
        for state in ("wanted", "leased", "done", "cancelled")
    }


@pytest.mark.parametrize("way", ["release", "finish", "lost"])
def test_what_does_not_fit_any_more_is_given_up_when_a_lease_ends(lab, agent, ok_result, monkeypatch, way):
    one = probing(lab, budget_s=20)
    assert lab.want(one, asks(MANY), purpose=Purpose.PROBE, round_no=0).new == MANY
    grant = agent.must_take()
    taken = len(grant.items)
    assert 10 < taken < MANY
    agent.start(grant)
    clock_stands(lab, monkeypatch, 9)
    results = [ok_result(item.measurement_id) for item in grant.items]
    if way == "finish":
        assert agent.finish(grant, *results, wants_next=True).next_lease is None, "nothing is left to take"
    elif way == "release":
        agent.send(grant, *results)
        agent.release(grant)
    else:
        agent.release(grant, "error")
        lab.farm.run("UPDATE boards SET cooling_until = cooling_until - interval '1 minute'")
    view = lab.view(one)
    assert view.board_s == pytest.approx(9)
    assert (lab.open_items(one), agent.take()) == (0, None)
    assert view.measured.given_up == MANY - (0 if way == "lost" else taken)
    assert view.measured.failed == 0, "nothing failed"


def test_a_lease_that_nobody_kept_takes_nothing_after_it_ran_out(lab, agent, monkeypatch):
    one = probing(lab, budget_s=100)
    lab.want(one, asks(3), purpose=Purpose.PROBE, round_no=0)
    agent.start(agent.must_take())
    kept_s = float(lab.farm.scalar("SELECT extract(epoch FROM expires_at - accepted_at) FROM leases"))
    clock_stands(lab, monkeypatch, kept_s + 300)
    assert lab.view(one).board_s == pytest.approx(kept_s)
    with lab.farm.transaction() as tx:
        assert endings.expire(tx, None) == 1
    assert lab.view(one).board_s == pytest.approx(kept_s)


def test_what_still_fits_goes_on_being_measured(lab, agent, ok_result):
    one = probing(lab, budget_s=7200)
    lab.want(one, asks(MANY), purpose=Purpose.PROBE, round_no=0)
    assert lab.measure(ok_result) == MANY
    assert lab.view(one).measured.given_up == 0


def test_the_sweep_gives_up_what_a_long_lease_leaves_no_time_for(lab, agent):
    one = probing(lab, budget_s=20)
    lab.want(one, asks(MANY), purpose=Purpose.PROBE, round_no=0)
    taken = len(agent.must_take().items)
    lasted(lab, 30)
    with lab.farm.transaction() as tx:
        adaptations.wake(tx)
    assert states(lab) == {"wanted": 0, "leased": taken, "done": 0, "cancelled": MANY - taken}
    assert lab.open_items(one) == taken, "a board has them already"


def test_what_fits_is_told_by_one_look_at_the_leases_of_its_platform(lab, farm, ann, agent, ok_result):
    """It is looked at whenever a lease ends, while its rows are held, and others measure there for hours. A lease
    without any of its own adds nothing."""
    farm.submit_planned(ann, job_on(kernels(5, seed=3)))
    first = agent.must_take()
    one = probing(lab, budget_s=20)
    agent.finish(first, *(ok_result(item.measurement_id) for item in first.items))
    lasted(lab, 500)
    lab.want(one, asks(MANY), purpose=Purpose.PROBE, round_no=0)
    assert lab.view(one).board_s == 0, "these seconds were another's"
    with farm.statements() as said, farm.transaction() as tx:
        adaptation_budgets.keep(tx)
    assert len([each for each in said if "lease_items" in each and "adaptation_items" in each]) == 1


def sweep(lab):
    with lab.farm.transaction() as tx:
        adaptations.wake(tx)


def uncounted(lab):
    return lab.farm.scalar("SELECT count(*) FROM leases l JOIN adaptations a ON l.id > a.leases_after")


def test_what_leases_took_that_have_ended_is_counted_once(lab, farm, ann, ok_result):
    """The end of a lease looks at those that came since, however many there were before."""
    farm.submit_planned(ann, job_on(kernels(5, seed=3)))
    one = lab.start().id
    lab.want(one, asks(3))
    lab.declare(one, networks(2), 2)
    lab.measure(ok_result)
    lasted(lab, 10)
    assert (seen := lab.view(one)).holdout_board_s == pytest.approx(10, abs=0.01), "hold-outs share no lease"
    assert 0 < seen.board_s < 10, "it shared one with the job"
    found = pace_of(lab, one)
    assert uncounted(lab) >= 2
    sweep(lab)
    assert uncounted(lab) == 0
    lasted(lab, 99)  # whoever looked at them again would see this
    sweep(lab)
    for _ in range(2):
        again = lab.view(one)
        assert (again.board_s, again.holdout_board_s) == pytest.approx((seen.board_s, seen.holdout_board_s))
        assert pace_of(lab, one) == (pytest.approx(found.value), True)
        lab.want(one, asks(2, seed=2), round_no=2)  # the next round starts where the last one ended
    lab.measure(ok_result)
    farm.run(
        "UPDATE leases SET accepted_at = ended_at - interval '5 s' WHERE id > (SELECT leases_after FROM adaptations)"
    )
    assert lab.view(one).board_s == pytest.approx(seen.board_s + 5, abs=0.01)
    lab.move(one, "cancelled")
    assert lab.view(one).board_s == pytest.approx(seen.board_s + 5, abs=0.01)
    with farm.transaction() as tx:
        spent = adaptation_budgets.spent(tx, one)
    assert spent.board_s == pytest.approx(seen.board_s + 5, abs=0.01), "nor is it counted twice once it has ended"


def test_a_lease_that_goes_on_is_counted_when_it_has_ended(lab, agent, ok_result):
    one = lab.start().id
    lab.want(one, asks(3))
    grant = agent.must_take()
    sweep(lab)
    lasted(lab, 10)
    agent.finish(grant, *(ok_result(item.measurement_id) for item in grant.items))
    lasted(lab, 10)
    assert lab.view(one).board_s == pytest.approx(10, abs=0.01)
    sweep(lab)
    lasted(lab, 99)
    assert lab.view(one).board_s == pytest.approx(10, abs=0.01)


def test_a_gate_that_stays_shut_costs_nothing(lab, farm, agent, ok_result):
    one = lab.start().id
    lab.want(one, asks(3))
    found = pace_of(lab, one)
    for _ in range(2):
        grant = agent.must_take()
        lasted(lab, 20)
        assert lab.view(one).board_s == 0, "it may wait at its gate yet"
        agent.finish(grant, reason="gate", has_launched=False)
        lasted(lab, 20)
        assert (lab.view(one).board_s, pace_of(lab, one)) == (0, found)
        farm.run("UPDATE boards SET cooling_until = now()")
    sweep(lab)
    grant = agent.must_take()
    agent.start(grant)
    farm.run("UPDATE leases SET accepted_at = now() - interval '7 s' WHERE ended_at IS NULL")
    assert lab.view(one).board_s == pytest.approx(7, abs=1)
    agent.finish(grant, *(ok_result(item.measurement_id) for item in grant.items))
    assert lab.view(one).board_s == pytest.approx(7, abs=1)


def test_while_a_lease_waits_at_its_gate_nothing_is_given_up_for_it(lab, agent):
    one = probing(lab, budget_s=7200)
    lab.want(one, asks(MANY), purpose=Purpose.PROBE, round_no=0)
    grant = agent.must_take()
    lasted(lab, 3000)
    sweep(lab)
    assert lab.view(one).measured.given_up == 0
    agent.start(grant)
    sweep(lab)
    assert lab.view(one).measured.given_up == MANY - len(grant.items), "it got through, and its wait counts"


def test_what_another_transaction_holds_is_counted_by_the_next_sweep(lab, ok_result):
    one = lab.start().id
    lab.want(one, asks(3))
    lab.measure(ok_result)
    with lab.farm.transaction() as tx:
        assert adaptations.hold(tx, lab.claimed(one))
        with lab.farm.transaction() as other:
            assert adaptation_budgets.count_ended(other) == 0, "it waits for nobody"
    with lab.farm.transaction() as tx:
        assert adaptation_budgets.count_ended(tx) == 1
    with lab.farm.transaction() as tx:
        assert adaptation_budgets.count_ended(tx) == 0


def test_each_round_keeps_to_its_own_share(lab, agent, ok_result):
    """Of 100 s the probes have taken 20; the first round may take 10."""
    one = probing(lab, budget_s=100)
    lab.want(one, asks(3), purpose=Purpose.PROBE, round_no=0)
    lab.measure(ok_result)
    lasted(lab, 20)
    lab.move(one, "training")
    point = CurvePoint(round=0, at=NOW, board_s=20, rows={}, unseen=None, chosen=[], train_s=0)
    with lab.farm.transaction() as tx:
        adaptations.keep_round(tx, lab.claimed(one), point, [])
    lab.move(one, "measuring")
    lab.farm.run("UPDATE adaptations SET round = 1")
    lab.want(one, asks(MANY, seed=2))
    lab.farm.run("UPDATE measurements SET expected_s = 20")
    with lab.farm.transaction() as tx:
        assert adaptation_budgets.keep(tx) == MANY - 1, "one is measured whatever it takes"
    assert len(agent.must_take().items) == 1


def test_what_a_job_wants_too_is_measured_for_the_job_alone(lab, farm, ann, agent, ok_result):
    one = probing(lab, budget_s=20)
    lab.want(one, asks(MANY), purpose=Purpose.PROBE, round_no=0)
    digest = farm.scalar(
        "SELECT w.digest::text FROM measurements m JOIN workloads w ON w.id = m.workload_id ORDER BY m.id DESC LIMIT 1"
    )
    (joined,) = (kernel for kernel in kernels(MANY) if workload_digest(workload_id(kernel)) == digest)
    job = farm.submit_planned(ann, job_on([joined]))
    grant = agent.must_take()
    lasted(lab, 30)
    agent.finish(grant, *(ok_result(item.measurement_id) for item in grant.items))
    assert lab.open_items(one) == 0, "it waits for nothing any more"
    assert states(lab)["wanted"] == 1
    assert lab.measure(ok_result) == 1
    assert farm.job(job.id, ann).state == "succeeded"


def test_what_was_given_up_may_be_asked_for_again_and_what_failed_may_not(lab, agent, failed_result):
    one = probing(lab, budget_s=7200)
    lab.want(one, asks(3), purpose=Purpose.PROBE, round_no=0)
    grant = agent.must_take()
    agent.finish(grant, *(failed_result(item.measurement_id, "unsupported_operator") for item in grant.items))
    assert not lab.want(one, asks(3), purpose=Purpose.PROBE, round_no=0).is_any
    lab.want(one, asks(5), purpose=Purpose.PROBE, round_no=0)
    with lab.farm.transaction() as tx:
        waiting = tx.execute(adaptation_budgets._WAITING, {"id": one}).all()
        assert adaptation_budgets.give_up(tx, one, [row.id for row in waiting]) == 2
    assert lab.open_items(one) == 0
    assert lab.want(one, asks(5), purpose=Purpose.PROBE, round_no=0).new == 2
    assert lab.open_items(one) == 2


def test_leases_of_before_tell_what_the_first_ones_will_take(lab, farm, ann, ok_result):
    first = lab.start().id
    assert pace_of(lab, first) == (PACE_UNKNOWN, False)
    for number in range(3):
        farm.submit_planned(ann, job_on(kernels(4, seed=10 + number), WIDE))
        lab.measure(ok_result)
    lasted(lab, 6)
    expected_s = farm.scalar("SELECT sum(expected_s) FROM measurements")
    found = pace_of(lab, first)
    assert found.value == pytest.approx(18 / expected_s, rel=1e-3)
    assert not found.is_known, "of another platform"
    farm.run("UPDATE leases SET gate_ms = 3000, accepted_at = accepted_at - interval '3 s'")
    assert pace_of(lab, first).value == pytest.approx(found.value, rel=1e-3), "what they waited is no work"
    assert 3 < found.value < 40
    some = lab.want(first, asks(30), limit_s=10)
    assert some.expected_s * found.value <= 10
    lab.move(first, "cancelled")
    farm.submit_planned(ann, job_on(kernels(4, seed=20)))
    lab.measure(ok_result)
    assert pace_of(lab, lab.start().id).is_known


def test_what_it_joined_counts_whosever_the_lease_was(lab, farm, ok_result):
    bob = farm.account("bob")
    farm.submit_planned(bob, job_on(kernels(2)))
    one = lab.start().id
    assert lab.want(one, asks(1)).joined == 1
    lab.measure(ok_result)
    lasted(lab, 10)
    share = farm.scalar(
        "SELECT m.expected_s / (SELECT sum(expected_s) FROM measurements) FROM measurements m"
        " JOIN adaptation_items i ON i.measurement_id = m.id"
    )
    assert 0 < share < 1, "the other kernel is the job's alone"
    assert lab.view(one).board_s == pytest.approx(10 * share, rel=1e-3)


def test_what_a_board_had_already_when_it_was_joined_counts_too(lab, farm, agent, ok_result):
    farm.submit_planned(lab.by, job_on(kernels(1)))
    grant = agent.must_take()
    one = lab.start().id
    assert lab.want(one, asks(1)).joined == 1
    agent.finish(grant, ok_result(grant.items[0].measurement_id))
    lasted(lab, 10)
    assert lab.view(one).board_s == pytest.approx(10, abs=0.01)


def test_what_was_known_is_told_apart(lab, ok_result):
    first = lab.start().id
    lab.want(first, asks(4))
    lab.measure(ok_result)
    lasted(lab, 12)
    lab.move(first, "cancelled")
    second = lab.start().id
    assert lab.want(second, asks(4)).known == 4
    view = lab.view(second)
    assert (view.board_s, view.known_board_s) == (0, pytest.approx(12, abs=0.01))
    lab.move(second, "cancelled")
    lasted(lab, 99)
    assert lab.view(second).known_board_s == pytest.approx(12, abs=0.01), "once it has ended it stands"


def test_a_job_that_is_cancelled_takes_nothing_from_who_joined_it(lab, farm, ann, agent, ok_result):
    job = farm.submit_planned(ann, job_on(kernels(3)))
    one = lab.start().id
    assert lab.want(one, asks(2)).joined == 2
    with farm.transaction() as tx:
        jobs.cancel(tx, job.id, ann)
    assert states(lab) == {"wanted": 2, "leased": 0, "done": 0, "cancelled": 1}
    assert lab.measure(ok_result) == 2, "nor does dispatch"
    assert lab.view(one).measured.done == 2


def test_a_board_is_told_what_nobody_waits_for_any_more(lab, farm, ann, agent):
    job = farm.submit_planned(ann, job_on(kernels(3)))
    one = lab.start().id
    lab.want(one, asks(2))
    grant = agent.must_take()
    named = {item.measurement_id for item in grant.items}

    def unwanted():
        with farm.transaction() as tx:
            return leases.renew(tx, agent.id, grant.lease_token, TIMES).cancelled

    assert unwanted() == []
    with farm.transaction() as tx:
        jobs.cancel(tx, job.id, ann)
    assert len(unwanted()) == 1
    with farm.transaction() as tx:
        adaptations.cancel(tx, one, by=ann)
    assert unwanted() == sorted(named)
    agent.release(grant, "cancelled")
    assert states(lab) == {"wanted": 0, "leased": 0, "done": 0, "cancelled": 3}


def test_what_the_farm_wants_for_itself_is_measured_whoever_joined_it(lab, farm, agent, ok_result):
    first = lab.start().id
    lab.declare(first, networks(2), 2)
    farm.run("DELETE FROM adaptation_items")  # as a refresh wants hold-outs again
    assert lab.declare(first, networks(2), 2) == 2
    assert farm.scalar("SELECT count(*) FROM adaptation_items WHERE source = 'joined'") == 2
    lab.move(first, "cancelled")
    assert states(lab)["wanted"] == 2
    assert lab.measure(ok_result) == 2


def test_what_another_cancels_at_this_moment_is_not_joined(lab, farm, ann):
    farm.submit_planned(ann, job_on(kernels(2)))
    one = lab.start().id
    with farm.transaction() as tx:
        tx.execute(adaptation_budgets._HOLD, {"ids": [farm.scalar("SELECT min(id) FROM measurements")]})
        assert lab.want(one, asks(2)).joined == 1
    assert lab.want(one, asks(2)).joined == 1, "the next time it is"


def test_an_adaptation_takes_room_of_its_account(lab, farm, ok_result):
    small = Quotas(active_jobs=1, pending_items=30)
    lab.by = farm.account("bob", quotas=small)
    with pytest.raises(QuotaExceeded) as caught:
        lab.start(holdouts=31)
    assert caught.value.limit == 30
    one = lab.start(holdouts=20).id
    for ask in (lambda: lab.start(WIDE, holdouts=5), lambda: farm.submit(lab.by, job_on(kernels(1)))):
        with pytest.raises(QuotaExceeded) as caught:
            ask()
        assert caught.value.limit == 1
    lab.move(one, "cancelled")
    farm.run("UPDATE accounts SET quota_active_jobs = 2 WHERE name = 'bob'")
    two = lab.start(holdouts=20).id
    lab.declare(two, networks(6), 6)
    with pytest.raises(QuotaExceeded, match="6 items wait already and the job has 25"):
        farm.submit(lab.by, job_on(kernels(25)))
    farm.submit(lab.by, job_on(kernels(24)))


def test_a_night_without_the_farm_is_no_waiting(lab, farm):
    one = probing(lab)
    lab.want(one, asks(2), purpose=Purpose.PROBE, round_no=0)

    def sweeps(*hours_later):
        for hours in hours_later:
            farm.run("UPDATE adaptations SET looked_at = looked_at - make_interval(secs => :s)", s=3600.0 * hours)
            with farm.transaction() as tx:
                adaptations.wake(tx)
        return farm.scalar("SELECT waited_s FROM adaptations")

    assert sweeps(0) == 0
    assert sweeps(9) == adaptations.GAP_S
    assert sweeps(0.01, 0.01) == pytest.approx(adaptations.GAP_S + 72, abs=1), "while the farm runs it is"
    farm.run("UPDATE measurements SET state = 'cancelled' WHERE id = (SELECT min(id) FROM measurements)")
    assert sweeps(0.01) == 0, "something came of it"
    assert sweeps(0.01) == pytest.approx(36, abs=1)
    lab.move(one, "training")
    assert sweeps(9) == 0, "nobody waits for boards"


def test_training_rests_from_when_it_was_ready_and_anew_after_a_quiet_moment(lab, farm):
    one = lab.claimed(lab.start().id)

    def rests(is_measuring, ago_s=0.0):
        farm.run("UPDATE adaptations SET waiting_since = waiting_since - make_interval(secs => :s)", s=ago_s)
        with farm.transaction() as tx:
            return adaptations.rests(tx, one, 300, is_measuring=is_measuring)

    farm.run("UPDATE adaptations SET changed_at = now() - interval '1 hour'")
    assert rests(True), "its hold-outs took an hour, it waits all the same"
    assert rests(True, ago_s=250)
    assert not rests(True, ago_s=60), "not for ever"
    assert not rests(True)
    assert not rests(False)
    assert rests(True)


def test_clients_see_accounts_and_no_tokens(lab, farm, ann):
    made = lab.start()
    assert made.author == "ann"
    with farm.transaction() as tx:
        ended = adaptations.cancel(tx, made.id, by=ann)
    assert (ended.author, ended.reason) == ("ann", "cancelled by ann")
    assert ann.token_id not in ended.model_dump_json()
    assert farm.scalar("SELECT author FROM adaptations") == f"ann/{ann.token_id}", "whoever looks into it can tell"


def test_processor_time_adds_up(lab, farm):
    one = lab.claimed(lab.start().id)
    with farm.transaction() as tx:
        adaptations.worked(tx, one, 1.5)
        adaptations.worked(tx, one, 0.25)
        adaptations.move(tx, one, AdaptationState.FAILED)
    assert lab.view(one.id).train_s == 1.75
