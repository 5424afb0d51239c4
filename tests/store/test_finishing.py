"""The end of a lease in one step: as its parts one after the other, once, and with the next batch."""

import threading

import pytest

from benchfarm_core.agent_protocol import LeaseReport, ReportsRequest
from benchfarm_core.boards import BoardState, Health
from benchfarm_core.errors import InvalidRequest, LeaseLost
from benchfarm_core.jobs import JobState
from benchfarm_core.leases import LeaseTimes
from benchfarm_core.messages import Task, TaskMessage
from benchfarm_store import boards, dispatching, endings, jobs, leases

MOST_STATEMENTS = 24
"""For a whole lease, its begin and the look at the clock included, however many results it brings."""
PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"


def ids_of(grant):
    return [item.measurement_id for item in grant.items]


def test_it_leaves_what_results_and_release_leave(farm, ann, agent, job_of, ok_result, failed_result):
    """The same job twice, once each way."""
    seen = []
    for by_parts in (True, False):
        job = farm.submit_planned(ann, job_of(4, platforms=[PLATFORM], max_age_s=0))
        grant = agent.must_take()
        good, bad, again, left = ids_of(grant)
        found = [ok_result(good), failed_result(bad, "unsupported_operator"), failed_result(again, "runner_died")]
        agent.start(grant, [good, bad, again, left])
        if by_parts:
            agent.send(grant, *found)
            agent.release(grant)
        else:
            answer = agent.finish(grant, *found)
            assert (answer.accepted, answer.repeated, answer.orphaned) == ([good, bad, again], [], [])
            assert not answer.lost
            assert answer.next_lease is None
        seen.append(_left_behind(farm, grant))
        assert farm.job(job.id, ann).progress.pending == 2
        agent.measure_all()
        assert farm.job(job.id, ann).state == JobState.PARTIAL
    assert seen[0] == seen[1]
    assert farm.scalar("SELECT lease_wall_ms FROM leases ORDER BY lease_wall_ms DESC LIMIT 1") == 1234.5


def _left_behind(farm, grant):
    """States, outcomes, summaries and charges of a lease, in the order of its batch."""
    lease = {"token": grant.lease_token.removeprefix("l_")}
    rows = farm.scalar(
        """
        SELECT json_agg(json_build_array(i.outcome, i.detail, i.started_at IS NOT NULL, i.finished_at IS NOT NULL,
            m.state, m.attempts, m.failure, j.state, j.failure, s.grade, s.median_ms, octet_length(d.data))
            ORDER BY i.position)
        FROM leases l JOIN lease_items i ON i.lease_id = l.id JOIN measurements m ON m.id = i.measurement_id
            JOIN job_items j ON j.measurement_id = m.id LEFT JOIN summaries s ON s.measurement_id = m.id
            LEFT JOIN samples d ON d.measurement_id = m.id
        WHERE l.token = CAST(:token AS uuid)
        """,
        **lease,
    )
    ended = farm.scalar(
        """
        SELECT json_build_array(l.end_reason, l.sgemm_ns, b.state, (
            SELECT count(*) FROM launches WHERE lease_id = l.id))
        FROM leases l JOIN boards b ON b.id = l.board_id WHERE l.token = CAST(:token AS uuid)
        """,
        **lease,
    )
    return rows, ended


def test_a_whole_lease_takes_few_statements(farm, ann, agent, job_of, ok_result):
    """Each is a round trip: what a result costs is what its lease costs, shared."""
    farm.submit_planned(ann, job_of(20, platforms=[PLATFORM], max_age_s=0))
    grant = agent.must_take()
    agent.start(grant)
    found = [ok_result(id_) for id_ in ids_of(grant)]
    agent.finish(grant, *found[:1])  # what a connection prepares once
    agent.measure_all()
    counts = []
    for size in (2, 20):
        farm.submit_planned(ann, job_of(size, platforms=[PLATFORM], max_age_s=0))
        grant = agent.must_take()
        agent.start(grant)
        found = [ok_result(id_) for id_ in ids_of(grant)]
        farm.run("UPDATE jobs SET progress_event_at = now() + interval '1 hour'")
        with farm.statements() as sent:
            agent.finish(grant, *found[:-1])
        counts.append(len([one for one in sent if not one.startswith("PREPARE")]))
        agent.measure_all()
    assert counts[0] == counts[1] <= MOST_STATEMENTS, counts


def test_the_same_end_again_changes_nothing_and_gives_the_same_next_lease(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    grant = agent.must_take()
    found = [ok_result(id_) for id_ in ids_of(grant)]
    first = agent.finish(grant, *found, wants_next=True)
    again = agent.finish(grant, *found, wants_next=True)
    assert first.next_lease is not None
    assert first.next_lease == again.next_lease
    assert again.repeated == first.accepted == ids_of(grant)
    assert not again.lost
    assert set(ids_of(first.next_lease)).isdisjoint(ids_of(grant))
    assert farm.scalar("SELECT count(*) FROM results") == len(found)
    assert farm.scalar("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 1
    assert farm.scalar("SELECT sum(count) FROM support_outcomes") == len(found)


def test_the_next_lease_has_started_and_no_worker_is_asked_for_it(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    grant = agent.must_take()
    farm.messages.clear()
    answer = agent.finish(grant, *(ok_result(id_) for id_ in ids_of(grant)), wants_next=True)
    assert TaskMessage(task=Task.DISPATCH, args=(agent.boards[0],)) not in farm.messages
    assert answer.next_lease is not None
    assert farm.scalar("SELECT accepted_at IS NOT NULL AND expires_at > now() + interval '50 seconds' FROM leases"
                       " WHERE ended_at IS NULL")  # fmt: skip
    agent.start(answer.next_lease)
    assert agent.finish(answer.next_lease).lost is False
    assert TaskMessage(task=Task.DISPATCH, args=(agent.boards[0],)) in farm.messages


def test_an_offer_that_came_in_between_is_taken(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    grant = agent.must_take()
    agent.finish(grant, *(ok_result(id_) for id_ in ids_of(grant)))
    following = agent.must_take()
    again = agent.finish(grant, wants_next=True)
    assert again.next_lease is not None
    assert again.next_lease.lease_token == following.lease_token


def test_an_end_that_comes_again_takes_nothing_new(farm, ann, agent, job_of, ok_result):
    """A proxy may deliver it long after its agent has had the answer: what it takes, nobody knows."""
    farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    grant = agent.must_take()
    found = [ok_result(id_) for id_ in ids_of(grant)]
    assert agent.finish(grant, *found, wants_next=True).next_lease is None
    farm.submit_planned(ann, job_of(4, seed=2, platforms=[PLATFORM]))
    farm.messages.clear()
    again = agent.finish(grant, *found, wants_next=True)
    assert (again.lost, again.repeated, again.next_lease) == (False, ids_of(grant), None)
    assert _state(farm, agent) == BoardState.IDLE
    assert TaskMessage(task=Task.DISPATCH, args=(agent.boards[0],)) in farm.messages
    with farm.transaction() as tx:
        assert dispatching.dispatch(tx, agent.boards[0], LeaseTimes()) is not None
    assert agent.finish(grant, *found, wants_next=True).next_lease is None
    assert farm.scalar("SELECT count(*) FROM leases WHERE ended_at IS NULL AND accepted_at IS NULL") == 1


def test_an_end_for_whose_answer_nobody_waits_takes_nothing(farm, ann, agent, job_of, ok_result):
    """Its agent gives up a tenth of the lease's length before that ends, and renews it no more meanwhile."""
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    for left_s, takes in ((5, False), (7, True)):
        grant = agent.must_take()
        farm.run(f"UPDATE leases SET expires_at = now() + interval '{left_s} seconds' WHERE ended_at IS NULL")
        farm.messages.clear()
        answer = agent.finish(grant, *(ok_result(id_) for id_ in ids_of(grant)), wants_next=True)
        assert (answer.accepted, answer.lost) == (ids_of(grant), False)
        assert (answer.next_lease is not None) == takes
        assert (TaskMessage(task=Task.DISPATCH, args=(agent.boards[0],)) in farm.messages) == (not takes)


@pytest.mark.parametrize("is_known", [False, True])
def test_a_next_lease_of_which_nobody_speaks_costs_nobody_anything(farm, ann, agent, job_of, ok_result, is_known):
    """The answer that named it was lost. Once something of it has started it is paid for like any other."""
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    grant = agent.must_take()
    following = agent.finish(grant, *(ok_result(id_) for id_ in ids_of(grant)), wants_next=True).next_lease
    if is_known:
        agent.start(following)
    farm.run("UPDATE accounts SET device_s = 0")
    _let_pass(farm, 61)
    with farm.transaction() as tx:
        assert endings.expire(tx, None) == 1
    assert farm.scalar("SELECT sum(device_s) FROM accounts") == pytest.approx(60 if is_known else 0, abs=5)
    assert farm.scalar("SELECT sum(attempts) FROM measurements") == is_known


def test_a_next_lease_whose_answer_was_lost_is_offered_to_its_idle_board(farm, ann, agent, job_of, ok_result):
    """Whoever says that the board is idle works on no lease there; what he does work on he is not offered."""

    def offered():
        with farm.transaction() as tx:
            return [one.lease_token for one in leases.offers_for(tx, agent.id, agent.boards)]

    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    grant = agent.must_take()
    assert offered() == []
    following = agent.finish(grant, *(ok_result(id_) for id_ in ids_of(grant)), wants_next=True).next_lease
    assert offered() == [following.lease_token]
    with farm.transaction() as tx:
        assert leases.accept(tx, agent.id, following.lease_token, LeaseTimes()) == following
    agent.start(following)
    assert offered() == []
    found = [ok_result(id_) for id_ in ids_of(following)]
    assert agent.finish(following, *found).accepted == ids_of(following)


def test_a_next_lease_that_its_agent_gives_back_is_paid_for(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    grant = agent.must_take()
    following = agent.finish(grant, *(ok_result(id_) for id_ in ids_of(grant)), wants_next=True).next_lease
    farm.run("UPDATE accounts SET device_s = 0")
    _let_pass(farm, 20)
    agent.finish(following, reason="error")
    assert farm.scalar("SELECT sum(device_s) FROM accounts") == pytest.approx(20, abs=5)


@pytest.mark.parametrize("reason", ["gate", "drain"])
@pytest.mark.parametrize("has_begun", [False, True])
def test_what_came_to_nothing_at_the_gate_is_paid_for_by_nobody(farm, ann, agent, job_of, reason, has_begun):
    farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    grant = agent.must_take()
    if has_begun:
        agent.start(grant, ids_of(grant)[:1])
    _let_pass(farm, 20)
    agent.finish(grant, reason=reason)
    assert farm.scalar("SELECT sum(device_s) FROM accounts") == pytest.approx(20 if has_begun else 0, abs=5)


@pytest.mark.parametrize("told", ["in the end", "while it ran", "both", "twice"])
def test_what_a_lease_waited_at_a_gate_that_opened_is_paid_for_by_nobody(farm, ann, agent, job_of, ok_result, told):
    job = farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    grant = agent.must_take()
    agent.start(grant)
    _let_pass(farm, 30)
    if told != "in the end":
        report = LeaseReport(lease_token=grant.lease_token, measurement_ids=ids_of(grant)[:1], gate_ms=20_000)
        with farm.transaction() as tx:
            leases.report(tx, agent.id, ReportsRequest(leases=(report,) * (1 + (told == "twice"))), LeaseTimes())
    agent.finish(
        grant, *(ok_result(id_) for id_ in ids_of(grant)), gate_ms=0 if told in ("while it ran", "twice") else 20_000
    )
    assert farm.scalar("SELECT sum(device_s) FROM accounts") == pytest.approx(10, abs=5)
    assert farm.job(job.id, ann).device_s_spent == pytest.approx(10, abs=5)


def test_a_lost_lease_is_not_charged_for_the_wait_that_its_agent_told_of(farm, ann, agent, job_of):
    job = farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    grant = agent.must_take()
    report = LeaseReport(lease_token=grant.lease_token, measurement_ids=ids_of(grant), gate_ms=20_000)
    with farm.transaction() as tx:
        leases.report(tx, agent.id, ReportsRequest(leases=(report,)), LeaseTimes())
    farm.run("UPDATE leases SET accepted_at = now() - interval '90 seconds', expires_at = now() - interval '1 minute'")
    with farm.transaction() as tx:
        assert endings.expire(tx, None) == 1
    assert farm.job(job.id, ann).device_s_spent == pytest.approx(10)
    assert farm.scalar("SELECT sum(device_s) FROM accounts") == pytest.approx(10)


def test_a_wait_longer_than_its_lease_pays_nobody_back(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    grant = agent.must_take()
    agent.finish(grant, *(ok_result(id_) for id_ in ids_of(grant)), gate_ms=1e6)
    assert farm.job(job.id, ann).device_s_spent == 0
    assert farm.scalar("SELECT sum(device_s) FROM accounts") == 0


def test_a_board_that_flaps_has_lost_the_lease_whose_results_come_in(farm, ann, agent, job_of, report_of, ok_result):
    """The farm ended it when the board was gone; what its agent says of a lost board comes after that."""
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    grant = agent.must_take()
    agent.register()
    agent.register(report_of())
    good = ok_result(ids_of(grant)[0])
    answer = agent.finish(grant, good, reason="board_lost", wants_next=True)
    assert (answer.lost, answer.orphaned, answer.next_lease) == (True, [good.measurement_id], None)
    with pytest.raises(LeaseLost):
        agent.release(grant, "board_lost")
    own = agent.must_take()
    assert not agent.finish(own, reason="board_lost").lost
    assert not agent.finish(own, reason="board_lost").lost, "its own word, again"


def test_without_work_there_is_no_next_lease(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    grant = agent.must_take()
    answer = agent.finish(grant, *(ok_result(id_) for id_ in ids_of(grant)), wants_next=True)
    assert answer.next_lease is None
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED
    assert _state(farm, agent) == BoardState.IDLE


def test_a_board_out_of_use_or_of_another_agent_gets_no_next_lease(farm, ann, agent, job_of, report_of, ok_result):
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    grant = agent.must_take()
    farm.run("UPDATE boards SET health = 'quarantined'")
    assert agent.finish(grant, ok_result(ids_of(grant)[0]), wants_next=True).next_lease is None
    farm.run("UPDATE boards SET health = 'good'")
    grant = agent.must_take()
    other = farm.agent(ann, report_of("other"), name="other")
    farm.run("UPDATE boards SET agent_id = :id", id=other.id)
    assert agent.finish(grant, wants_next=True).next_lease is None
    assert farm.scalar("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 0


def test_what_comes_after_the_lease_is_an_orphan_and_the_answer_says_so(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(3, platforms=[PLATFORM]))
    grant = agent.must_take()
    farm.run("UPDATE leases SET expires_at = now() - interval '1 second'")
    first, second, _ = ids_of(grant)
    for _ in range(2):
        answer = agent.finish(grant, ok_result(first), ok_result(second), wants_next=True)
        assert answer.lost
        assert answer.next_lease is None
        assert (answer.accepted, answer.orphaned) == ([], [first, second])
        with farm.transaction() as tx:
            endings.expire(tx, None)
    assert farm.scalar("SELECT count(*) FROM orphans") == 2
    assert farm.scalar("SELECT count(*) FROM results") == 0
    unknown = grant.model_copy(update={"lease_token": "l_" + "0" * 32})
    with pytest.raises(LeaseLost):
        agent.finish(unknown)


def test_what_ran_last_pays_nothing_and_what_nobody_wants_is_dropped(farm, ann, agent, job_of, ok_result):
    job = farm.submit_planned(ann, job_of(4, platforms=[PLATFORM]))
    grant = agent.must_take()
    agent.start(grant)
    with farm.transaction() as tx:
        jobs.cancel(tx, job.id, ann)
    agent.finish(grant, ok_result(ids_of(grant)[0]), reason="cancelled")
    assert farm.scalar("SELECT max(attempts) FROM measurements") == 0
    states = farm.scalar("SELECT array_agg(state ORDER BY id) FROM measurements")
    assert sorted(states) == ["cancelled"] * 3 + ["done"]


def test_a_refused_end_leaves_nothing_half_done(farm, ann, agent, job_of, ok_result):
    farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    grant = agent.must_take()
    good = ok_result(ids_of(grant)[0])
    for found in ((good, ok_result(10**9)), (good, good)):
        with pytest.raises(InvalidRequest) as refused:
            agent.finish(grant, *found)
        assert (refused.value.code, refused.value.field) == ("result_invalid", "results")
    assert farm.scalar("SELECT count(*) FROM results") == farm.scalar("SELECT count(*) FROM launches") == 0
    assert farm.scalar("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 1
    assert agent.finish(grant, good).accepted == [good.measurement_id]


def test_a_gate_that_stays_shut_rests_the_board(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(2))
    agent.finish(agent.must_take(), reason="gate")
    assert _state(farm, agent) == BoardState.COOLING


def test_failed_pins_make_a_board_suspect(farm, ann, agent, job_of, failed_result):
    farm.submit_planned(ann, job_of(8))
    for _ in range(2):
        grant = agent.must_take()
        agent.finish(grant, *(failed_result(id_, "pin_not_verified") for id_ in ids_of(grant)))
    with farm.transaction() as tx:
        assert boards.get_board(tx, agent.boards[0], show_serial=False).health == Health.SUSPECT


def test_many_boards_end_their_leases_at_once_and_measure_everything_once(farm, ann, job_of, report_of, ok_result):
    lab = [farm.agent(ann, report_of(f"s{n}"), name=f"lab{n}") for n in range(8)]
    job = farm.submit_planned(ann, job_of(150, platforms=[PLATFORM]))
    counts, errors = [], []

    def work(agent):
        try:
            grant = agent.take()
            while grant is not None:
                agent.start(grant)
                counts.append(len(grant.items))
                found = [ok_result(id_) for id_ in ids_of(grant)]
                grant = agent.finish(grant, *found, wants_next=True).next_lease or agent.take()
        except Exception as error:  # boundary: a thread's error is the test's
            errors.append(error)

    threads = [threading.Thread(target=work, args=(agent,)) for agent in lab]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert sum(counts) == 150 == farm.scalar("SELECT count(*) FROM results")
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED


def _let_pass(farm, seconds):
    """The live lease is so much older."""
    times = ", ".join(
        f"{name} = {name} - interval '{seconds} s'" for name in ("offered_at", "accepted_at", "expires_at")
    )
    farm.run(f"UPDATE leases SET {times} WHERE ended_at IS NULL")


def _state(farm, agent):
    with farm.transaction() as tx:
        return boards.get_board(tx, agent.boards[0], show_serial=False).state
