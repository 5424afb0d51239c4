import threading
from collections import Counter

import pytest

from benchfarm_core.access import Role
from benchfarm_core.agent_protocol import ReleaseRequest, StartedRequest
from benchfarm_core.boards import BoardState, Health
from benchfarm_core.errors import InvalidRequest, LeaseLost, NotFound
from benchfarm_core.jobs import JobState
from benchfarm_core.leases import LeaseTimes
from benchfarm_core.messages import Nudge, Task, TaskMessage, agent_channel
from benchfarm_store import agents, boards, dispatching, endings, jobs, leases, planning, support, sweeping

TIMES = LeaseTimes()


def test_sixteen_dispatchers_of_four_boards_make_one_offer_per_board(farm, ann, job_of, report_of):
    agent = farm.agent(ann, *(report_of(f"s{n}") for n in range(4)))
    # little work: a dispatcher that only looks at rows must not make them seem taken to the others
    farm.submit_planned(ann, job_of(100))
    offered = []
    barrier = threading.Barrier(16)

    def claim(board: str) -> None:
        barrier.wait(10)
        with farm.transaction() as tx:
            if dispatching.dispatch(tx, board, TIMES) is not None:
                offered.append(board)

    threads = [threading.Thread(target=claim, args=(agent.boards[n % 4],)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(offered) == sorted(agent.boards)
    assert farm.scalar("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 4
    assert farm.scalar("SELECT count(*) - count(DISTINCT measurement_id) FROM lease_items") == 0


def test_sixteen_agents_at_once_measure_everything_exactly_once(farm, ann, job_of, report_of):
    lab = [farm.agent(ann, report_of(f"s{n}"), name=f"lab{n}") for n in range(16)]
    job = farm.submit_planned(ann, job_of(150))
    counts, errors = [], []

    def work(agent) -> None:
        try:
            counts.append(agent.measure_all())
        except Exception as error:  # boundary: a thread's error is the test's
            errors.append(error)

    threads = [threading.Thread(target=work, args=(agent,)) for agent in lab]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert sum(counts) == 300
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED
    assert farm.scalar("SELECT count(*) FROM results") == 300
    assert farm.scalar("SELECT count(*) FROM lease_items") == 300


def test_an_offer_is_told_to_its_agent_only(farm, ann, agent, job_of, report_of):
    other = farm.agent(ann, report_of("other"), name="other")
    farm.submit_planned(ann, job_of(2))
    with farm.transaction() as tx:
        token = dispatching.dispatch(tx, agent.boards[0], TIMES)
    assert Nudge(channel=agent_channel(agent.id)) in farm.messages
    with farm.transaction() as tx:
        assert leases.offers_for(tx, other.id, agent.boards) == []
        assert token is not None
        assert [o.lease_token for o in leases.offers_for(tx, agent.id, agent.boards)] == [token]
        assert leases.offers_for(tx, agent.id, []) == []
        with pytest.raises(LeaseLost):
            leases.accept(tx, other.id, token, TIMES)


def test_accepting_twice_gives_the_same_batch(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    with farm.transaction() as tx:
        again = leases.accept(tx, agent.id, grant.lease_token, TIMES)
    assert again == grant
    assert grant.platform.engine.name == "onnxruntime"
    assert grant.protocol.name == "kernel"
    assert grant.generation == "g1"
    assert all(item.max_relative_l2 == 1e-3 and item.file_sha256 is None for item in grant.items)


def test_a_batch_is_of_one_platform_and_bounded(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(200))
    grant = agent.must_take()
    assert 1 < len(grant.items) < 200
    assert 8 <= sum(item.expected_s for item in grant.items) <= 30


def test_an_unanswered_offer_lapses_and_costs_nothing(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    with farm.transaction() as tx:
        token = dispatching.dispatch(tx, agent.boards[0], TIMES)
    assert token is not None
    _pass_time(farm)
    with farm.transaction() as tx, pytest.raises(LeaseLost):
        leases.accept(tx, agent.id, token, TIMES)
    with farm.transaction() as tx:
        assert endings.expire(tx, None) == 1
        assert endings.expire(tx, None) == 0
    assert _attempts(farm) == {0}
    assert _states(farm) == {"wanted": 6}
    assert _board(farm, agent).state == BoardState.COOLING, "an agent that did not answer is not asked again at once"
    farm.run("UPDATE boards SET cooling_until = now() - interval '1 second'")
    assert agent.must_take().lease_token != token


def test_on_a_lost_lease_only_what_was_running_pays(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(6))
    grant = agent.must_take()
    ids = [item.measurement_id for item in grant.items]
    agent.start(grant, ids[:3])
    agent.send(grant, ok_result(ids[0]))
    _pass_time(farm)
    with farm.transaction() as tx:
        endings.expire(tx, agent.boards[0])
    paid = {id_: farm.scalar("SELECT attempts FROM measurements WHERE id = :id", id=id_) for id_ in ids}
    assert [paid[id_] for id_ in ids[:4]] == [0, 0, 1, 0]  # the last one reported is the one that ran
    agent.measure_all()
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED


def test_a_lease_that_is_found_dead_late_ended_when_it_ran_out(farm, ann, agent, job_of):
    """An hour in which nobody ran the farm is nobody's board time."""
    job = farm.submit_planned(ann, job_of(3))
    agent.start(agent.must_take())
    farm.run(
        "UPDATE leases SET accepted_at = now() - interval '1 hour 10 seconds', expires_at = now() - interval '1 hour'"
    )
    with farm.transaction() as tx:
        assert endings.expire(tx, None) == 1
    assert farm.scalar("SELECT ended_at = expires_at FROM leases")
    assert farm.job(job.id, ann).device_s_spent == pytest.approx(10)
    assert farm.scalar("SELECT sum(device_s) FROM accounts") == pytest.approx(10)


def test_what_has_finished_does_not_pay_for_a_lease_that_is_lost_at_the_hand_in(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    ids = [item.measurement_id for item in grant.items]
    agent.start(grant, ids[:1])
    with farm.transaction() as tx:
        leases.started(tx, agent.id, grant.lease_token, StartedRequest(measurement_ids=tuple(ids[1:]), over=True))
    _pass_time(farm)
    with farm.transaction() as tx:
        assert endings.expire(tx, agent.boards[0]) == 1
    assert _attempts(farm) == {0}
    assert farm.scalar("SELECT count(*) FROM lease_items WHERE started_at IS NOT NULL") == len(ids)


def test_two_lost_boards_then_alone_and_the_third_is_poison(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(4, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    grant = agent.must_take()
    killer = grant.items[1].measurement_id
    for _ in range(2):
        assert len(grant.items) == 4
        agent.start(grant, [killer])
        _lose(farm)
        grant = agent.must_take()
    others = [item.measurement_id for item in grant.items]
    assert killer not in others
    agent.send(grant, *map(ok_result, others))
    agent.release(grant)
    grant = agent.must_take()
    assert [item.measurement_id for item in grant.items] == [killer]
    agent.start(grant)
    _lose(farm)
    row = farm.scalar("SELECT state || ' ' || failure || ' ' || attempts FROM measurements WHERE id = :id", id=killer)
    assert row == "failed poison 3"
    done = farm.job(job.id, ann)
    assert done.state == JobState.PARTIAL
    assert (done.progress.succeeded, done.progress.failed) == (3, 1)
    with farm.transaction() as tx:
        counted = Counter[str]()
        for row in support.list_support(tx).items:
            counted[row.code] += row.count
    assert counted == {"ok": 3, "poison": 1}


def test_gates_drain_and_errors_cost_nothing(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    for reason, state in (("gate", BoardState.COOLING), ("error", BoardState.COOLING), ("drain", BoardState.OFFLINE)):
        grant = agent.must_take()
        agent.start(grant)
        agent.release(grant, reason)
        assert _board(farm, agent).state == state
        assert agent.take() is None
        assert _attempts(farm) == {0}
        farm.run("UPDATE boards SET state = 'idle', cooling_until = NULL")


def test_work_is_offered_to_equal_boards_by_chance(farm, ann, job_of, report_of):
    lab = farm.agent(ann, *(report_of(f"s{n}") for n in range(12)))
    farm.messages.clear()
    farm.submit_planned(ann, job_of(3))
    woken = [each.args[0] for each in farm.messages if isinstance(each, TaskMessage) and each.task is Task.DISPATCH]
    with farm.transaction() as tx:
        swept = dispatching.boards_to_dispatch(tx)
    assert sorted(woken) == sorted(swept) == sorted(lab.boards)
    assert len({tuple(lab.boards), tuple(woken), tuple(swept)}) == 3, "in another order each time, but once in 10^8"


def test_as_many_idle_boards_are_woken_at_once_as_there_is_work_for(farm, ann, job_of, report_of):
    lab = farm.agent(ann, *(report_of(f"s{n}") for n in range(planning.WOKEN_MIN + 20)))

    def woken(kernels, seed):
        farm.messages.clear()
        farm.submit_planned(ann, job_of(kernels, seed=seed))
        return {each.args[0] for each in farm.messages if isinstance(each, TaskMessage) and each.task is Task.DISPATCH}

    assert woken(planning.WOKEN_MIN + 30, seed=1) == set(lab.boards)
    assert len(woken(1, seed=2)) == planning.WOKEN_MIN, "one kernel needs no more"
    farm.run("UPDATE boards SET state = 'offline' WHERE public_id = :id", id=lab.boards[0])
    assert woken(planning.WOKEN_MIN + 30, seed=3) == set(lab.boards[1:])


def test_a_cooling_board_gets_work_again_when_it_has_rested(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    agent.release(agent.must_take(), "gate")
    with farm.transaction() as tx:
        assert dispatching.boards_to_dispatch(tx) == []
    farm.run("UPDATE boards SET cooling_until = now() - interval '1 second'")
    with farm.transaction() as tx:
        assert dispatching.boards_to_dispatch(tx) == agent.boards
    assert agent.take() is not None


def test_an_operator_ends_a_lease_free_of_charge(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    operator = farm.account("lab", Role.OPERATOR)
    grant = agent.must_take()
    agent.start(grant)
    with farm.transaction() as tx:
        view = boards.set_health(tx, agent.boards[0], Health.MAINTENANCE, "new fan", operator)
    assert (view.state, view.health, view.reason) == (BoardState.IDLE, Health.MAINTENANCE, "new fan")
    with farm.transaction() as tx:
        assert leases.ended(tx, agent.id, [grant.lease_token]) == [grant.lease_token]
    assert _attempts(farm) == {0}
    assert agent.take() is None
    with farm.transaction() as tx:
        boards.set_health(tx, agent.boards[0], Health.GOOD, "", operator)
    assert agent.take() is not None
    assert farm.scalar("SELECT author FROM health_changes ORDER BY id LIMIT 1").startswith("lab/")


def test_a_stale_token_moves_nothing(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    old = agent.must_take()
    _pass_time(farm)
    with farm.transaction() as tx:
        endings.expire(tx, None)
    new = agent.must_take()
    ids = tuple(item.measurement_id for item in old.items)
    for move in (
        lambda tx: leases.renew(tx, agent.id, old.lease_token, TIMES),
        lambda tx: leases.accept(tx, agent.id, old.lease_token, TIMES),
        lambda tx: leases.started(tx, agent.id, old.lease_token, StartedRequest(measurement_ids=ids)),
        lambda tx: leases.release(tx, agent.id, old.lease_token, ReleaseRequest(reason="done")),
        lambda tx: leases.renew(tx, agent.id, "l_" + "0" * 32, TIMES),
        lambda tx: leases.release(tx, agent.id, "l_" + "0" * 32, ReleaseRequest(reason="done")),
    ):
        with farm.transaction() as tx, pytest.raises(LeaseLost):
            move(tx)
    with farm.transaction() as tx:
        assert leases.ended(tx, agent.id, [old.lease_token, new.lease_token]) == [old.lease_token]


def test_releasing_twice_changes_nothing(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    agent.release(grant)
    again = agent.must_take()
    agent.release(grant)
    assert _board(farm, agent).state == BoardState.LEASED
    agent.release(again)


def test_renewing_tells_what_nobody_wants(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    with farm.transaction() as tx:
        assert leases.renew(tx, agent.id, grant.lease_token, TIMES).cancelled == []
        jobs.cancel(tx, job.id, ann)
    assert Nudge(channel=agent_channel(agent.id)) in farm.messages
    with farm.transaction() as tx:
        answer = leases.renew(tx, agent.id, grant.lease_token, TIMES)
    assert answer.cancelled == sorted(item.measurement_id for item in grant.items)
    agent.release(grant, "cancelled")
    assert _states(farm) == {"cancelled": 6}


def test_started_names_only_measurements_of_the_lease(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    with pytest.raises(InvalidRequest) as refused:
        agent.start(grant, [10**9])
    assert refused.value.code == "result_invalid"


def test_a_new_process_of_the_agent_ends_the_leases_of_the_old(farm, ann, agent, job_of, report_of):
    farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    ids = [item.measurement_id for item in grant.items]
    agent.start(grant, ids[:1])
    agent.register(report_of(), process_started=True)
    assert _board(farm, agent).state == BoardState.IDLE
    assert [farm.scalar("SELECT attempts FROM measurements WHERE id = :id", id=id_) for id_ in ids] == [1, 0, 0]


def test_a_retry_prefers_another_board(farm, ann, job_of, report_of, failed_result):
    agent = farm.agent(ann, report_of("one"), report_of("two"))
    one, two = agent.boards
    farm.submit_planned(ann, job_of(1, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    grant = agent.must_take(one)
    agent.send(grant, failed_result(grant.items[0].measurement_id, "runner_died"))
    agent.release(grant)
    assert agent.take(one) is None
    assert agent.must_take(two).items[0].measurement_id == grant.items[0].measurement_id


def test_a_retry_stays_when_there_is_no_other_board(farm, ann, agent, job_of, failed_result):
    farm.submit_planned(ann, job_of(1, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    grant = agent.must_take()
    agent.send(grant, failed_result(grant.items[0].measurement_id, "runner_died"))
    agent.release(grant)
    assert agent.must_take().items[0].measurement_id == grant.items[0].measurement_id


def test_accounts_take_turns_by_device_seconds(farm, ann, agent, job_of):
    bob = farm.account("bob")
    farm.submit_planned(ann, job_of(40, seed=1, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    farm.submit_planned(bob, job_of(40, seed=2, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]))
    farm.run("UPDATE accounts SET device_s = 100 WHERE name = 'ann'")
    grant = agent.must_take()
    owner = farm.scalar(
        "SELECT a.name FROM leases l JOIN queues q ON q.id = l.queue_id JOIN accounts a ON a.id = q.account_id"
    )
    assert owner == "bob"
    agent.start(grant)
    farm.run("UPDATE leases SET accepted_at = accepted_at - interval '300 seconds'")
    agent.release(grant)
    assert farm.scalar("SELECT device_s FROM accounts WHERE name = 'bob'") == pytest.approx(300, abs=5)
    agent.must_take()
    owner = farm.scalar(
        "SELECT a.name FROM leases l JOIN queues q ON q.id = l.queue_id JOIN accounts a ON a.id = q.account_id"
        " WHERE l.ended_at IS NULL"
    )
    assert owner == "ann"


def test_a_higher_class_goes_first_and_joining_raises_it(farm, ann, agent, job_of):
    platform = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
    farm.submit_planned(ann, job_of(30, seed=1, platforms=[platform], priority="low"))
    farm.submit_planned(ann, job_of(1, seed=3, platforms=[platform], priority="low"))
    urgent = farm.submit_planned(ann, job_of(1, seed=3, platforms=[platform], priority="high"))
    grant = agent.must_take()
    with farm.transaction() as tx:
        wanted = jobs.items(tx, urgent.id, ann).items[0].measurement_id
    assert [item.measurement_id for item in grant.items] == [wanted]


def test_a_silent_agent_gets_no_offer(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(2))
    farm.run("UPDATE agents SET last_heard_at = now() - interval '61 seconds'")
    assert agent.take() is None
    report = sweeping.sweep(farm.database)
    assert report.offline_boards == 1
    assert _board(farm, agent).state == BoardState.OFFLINE
    with farm.transaction() as tx:
        leases.offers_for(tx, agent.id, agent.boards)
    assert _board(farm, agent).state == BoardState.IDLE


def test_an_agent_that_works_and_does_not_poll_is_heard(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(4))
    grant = agent.must_take()

    def renew() -> None:
        with farm.transaction() as tx:
            leases.renew(tx, agent.id, grant.lease_token, TIMES)

    one = grant.items[0].measurement_id
    calls = [
        renew,
        lambda: agent.start(grant, [one]),
        lambda: agent.send(grant, ok_result(one)),
        lambda: agent.release(grant),
    ]
    for call in calls:
        farm.run("UPDATE agents SET last_heard_at = now() - interval '5 minutes'")
        call()
        assert farm.scalar("SELECT now() - last_heard_at < interval '1 minute' FROM agents")
    assert agent.take() is not None


def test_hearing_an_agent_never_waits_and_is_rare(farm, agent):
    farm.run("UPDATE agents SET last_heard_at = now() - interval '6 seconds'")
    before = farm.scalar("SELECT last_heard_at FROM agents")
    with farm.transaction() as holder:
        agents.heard(holder, agent.id)
        with farm.transaction() as tx:
            agents.heard(tx, agent.id)
    after = farm.scalar("SELECT last_heard_at FROM agents")
    assert after > before
    with farm.transaction() as tx:
        agents.heard(tx, agent.id)
    assert farm.scalar("SELECT last_heard_at FROM agents") == after
    with farm.transaction() as tx:
        agents.heard(tx, agent.id, "0.2.0")
    assert farm.scalar("SELECT agent_version FROM agents") == "0.2.0"


def test_the_clock_an_item_needs_decides_the_board(farm, ann, job_of, report_of):
    point = {"mode": "pinned", "cores": [0], "threads": 1, "freq_khz": [1_800_000]}
    pinned = {"operating_points": [point, {**point, "cores": [1]}]}
    agent = farm.agent(ann, report_of("loose", **pinned), report_of("tight", clock_proof="verified", **pinned))
    loose, tight = agent.boards
    farm.submit_planned(ann, job_of(2, clock_proof="verified"))
    assert agent.take(loose) is None
    farm.submit_planned(ann, job_of(3))  # younger, in the same queue, and good enough for the loose board
    grant = agent.must_take(loose)
    assert len(grant.items) == 1
    assert agent.take(tight) is not None


def test_files_are_fetched_only_under_a_lease_that_needs_them(farm, agent):
    with farm.transaction() as tx, pytest.raises(NotFound):
        leases.check_file(tx, agent.id, "0" * 64)


def _pass_time(farm) -> None:
    """Every live lease and offer has just run out."""
    farm.run("UPDATE leases SET expires_at = now() - interval '1 second' WHERE ended_at IS NULL")


def _lose(farm) -> None:
    _pass_time(farm)
    with farm.transaction() as tx:
        endings.expire(tx, None)


def _attempts(farm) -> set[int]:
    return set(farm.scalar("SELECT array_agg(DISTINCT attempts) FROM measurements"))


def _states(farm) -> dict[str, int]:
    found = farm.scalar(
        "SELECT json_object_agg(state, n) FROM (SELECT state, count(*) AS n FROM measurements GROUP BY state) s"
    )
    return dict(found)


def _board(farm, agent):
    with farm.transaction() as tx:
        return boards.get_board(tx, agent.boards[0], show_serial=False)
