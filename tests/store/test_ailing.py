"""Boards that can begin no launch rest, longer from lease to lease; what failed there is tried by nobody at once."""

import pytest

from benchfarm_core.boards import BoardState
from benchfarm_core.jobs import JobState
from benchfarm_core.leases import BOARD_AT_FAULT, LeaseTimes
from benchfarm_core.measurements import MAX_ATTEMPTS, rests_s
from benchfarm_store import jobs, why
from benchfarm_store.endings import COOLING_S
from tests.store.test_asked import add_upload

PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
AT_ONCE = LeaseTimes(retry_s=0)
LATER = LeaseTimes(retry_s=100)
"""Measurements rest for 100, 600 and 2,400 s: far longer than a test takes."""
NO_ROOM = "its files could not be written: No space left on device"


def ids_of(grant):
    return [item.measurement_id for item in grant.items]


def pass_s(farm, seconds):
    """As if so much time had passed since the last lease."""
    farm.run("UPDATE boards SET cooling_until = cooling_until - make_interval(secs => :s)", s=seconds)
    farm.run("UPDATE leases SET ended_at = ended_at - make_interval(secs => :s)", s=seconds)


def fail(agent, failed_result, code="disk_full", *, board=None, has_launched=False, times=AT_ONCE):
    """A lease on a board that begins nothing; its end."""
    grant = agent.must_take(board, times)
    found = [failed_result(id_, code, NO_ROOM) for id_ in ids_of(grant)]
    return agent.finish(grant, *found, wants_next=True, times=times, has_launched=has_launched)


def rest_s(farm):
    """How long the board rests; None where it does not."""
    left_s = farm.scalar("SELECT extract(epoch FROM cooling_until - now())::float8 FROM boards")
    return None if left_s is None else pytest.approx(left_s, abs=5)


@pytest.mark.parametrize("code", sorted(BOARD_AT_FAULT))
def test_a_board_that_can_begin_no_launch_rests(farm, ann, agent, job_of, failed_result, code):
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    answer = fail(agent, failed_result, code)
    assert answer.next_lease is None
    assert farm.scalar("SELECT state FROM boards") == BoardState.COOLING
    assert agent.take(times=AT_ONCE) is None


def test_a_workload_that_a_launch_came_to_rests_no_board(farm, ann, agent, job_of, failed_result):
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    answer = fail(agent, failed_result, "runner_died", has_launched=True)
    assert answer.next_lease is not None


def test_a_launch_that_an_earlier_chunk_told_of_counts(farm, ann, agent, job_of, failed_result):
    farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    grant = agent.must_take()
    one, two = ids_of(grant)
    agent.send(grant, failed_result(one, "runner_died"))
    agent.finish(grant, failed_result(two, "runner_died"), has_launched=False)
    assert farm.scalar("SELECT state FROM boards") == BoardState.IDLE


def test_it_rests_longer_from_lease_to_lease_until_it_measures(farm, ann, agent, job_of, failed_result):
    farm.submit_planned(ann, job_of(200, platforms=[PLATFORM]))
    first, second, third = rests_s(COOLING_S["ailing"])
    for expected_s in (first, second, third, third):
        fail(agent, failed_result)
        assert rest_s(farm) == expected_s
        pass_s(farm, expected_s + 1)
    agent.measure_all()
    farm.submit_planned(ann, job_of(2, seed=2, platforms=[PLATFORM]))
    fail(agent, failed_result)
    assert rest_s(farm) == first


def test_a_strangers_file_makes_no_board_rest_longer(farm, ann, agent, job_of, failed_result):
    """Over it the agent's child may die, again and again."""
    uploads = [add_upload(farm, ann, content) for content in (b"one", b"two", b"three")]
    farm.submit_planned(ann, job_of(3, workloads=uploads, platforms=[PLATFORM]))
    for _ in range(3):
        fail(agent, failed_result, "runner_died")
        assert rest_s(farm) == COOLING_S["ailing"]
        pass_s(farm, COOLING_S["ailing"] + 1)


def test_the_board_and_the_job_say_why(farm, ann, agent, job_of, failed_result):
    job = farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    fail(agent, failed_result)
    told = f"is cooling down: no launch began on it, by a fault of its own or its agent's: disk_full: {NO_ROOM}"
    with farm.transaction() as tx:
        use, waits = why.explain_board(tx, agent.boards[0]), why.explain(tx, jobs.get_job(tx, job.id, ann))
    assert use.reason == told
    assert use.last_lease is not None
    assert use.last_lease.end_reason == "ailing"
    assert waits.platforms[0].reason == f"its only board {told}"


def test_while_what_failed_rests_nobody_calls_it_next_in_line(farm, ann, agent, job_of, failed_result):
    def explained():
        with farm.transaction() as tx:
            (platform,) = jobs.explain(tx, job.id, ann, retry_s=LATER.retry_s).platforms
            use = why.explain_board(tx, agent.boards[0], retry_s=LATER.retry_s)
        (board,) = platform.boards
        assert (use.reason, use.removed_by) == (board.reason, None)
        return platform.reason, board.reason, board.removed_by

    job = farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    fail(agent, failed_result, times=LATER)
    pass_s(farm, 60)
    farm.run("UPDATE boards SET state = 'idle', cooling_until = NULL")
    until = farm.scalar("SELECT to_char(ended_at + interval '100 s', 'YYYY-MM-DD HH24:MI:SS') FROM leases")
    told = f"2 rest, the first until {until} UTC: no launch began on the board that tried last: disk_full: {NO_ROOM}"
    assert explained() == (told, "is idle: what waits for it rests", None)
    more = [*job_of(2).workloads, *job_of(1, seed=7).workloads]
    later = farm.submit_planned(ann, job_of(1, workloads=more, platforms=[PLATFORM]))
    with farm.transaction() as tx:
        of_later = jobs.explain(tx, later.id, ann, retry_s=LATER.retry_s)
    assert of_later.reason == f"next in line; {told}"
    assert of_later.platforms[0].boards[0].reason == "next in line"
    pass_s(farm, 41)
    assert explained() == ("next in line", "next in line", None)


def test_of_more_than_are_counted_nobody_says_that_all_rest(farm, ann, agent, job_of, failed_result, monkeypatch):
    farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    fail(agent, failed_result, times=LATER)
    farm.run("UPDATE boards SET state = 'idle', cooling_until = NULL")
    for counted, told in ((3, "is idle: what waits for it rests"), (2, "next in line"), (1, "next in line")):
        monkeypatch.setattr(why, "MAX_WAITING", counted)
        with farm.transaction() as tx:
            use = why.explain_board(tx, agent.boards[0], retry_s=LATER.retry_s)
        assert (use.waiting, use.reason) == (min(counted, 2), told)


def test_no_board_tries_again_at_once_what_one_failed_with(farm, ann, agent, job_of, report_of, failed_result):
    """Boards of one agent share its disk: three of them would use three attempts up in a second."""
    boards = [one.board_id for one in agent.register(*map(report_of, ("s1", "s2", "s3"))).boards]
    job = farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    for board, rest in zip(boards, (100, 600, None), strict=True):
        fail(agent, failed_result, board=board, times=LATER)
        if rest is not None:
            pass_s(farm, rest - 50)
            assert [agent.take(each, LATER) for each in boards] == [None] * 3
            pass_s(farm, 50)
    assert farm.job(job.id, ann).state == JobState.FAILED
    assert farm.scalar("SELECT DISTINCT attempts FROM measurements") == MAX_ATTEMPTS


def test_what_else_is_wanted_is_measured_by_other_boards(farm, ann, agent, job_of, report_of, failed_result, ok_result):
    ill, well = [one.board_id for one in agent.register(report_of("s1"), report_of("s2")).boards]
    farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    fail(agent, failed_result, board=ill, times=LATER)
    later = farm.submit_planned(ann, job_of(1, seed=7, platforms=[PLATFORM]))
    grant = agent.must_take(well, LATER)
    agent.finish(grant, *(ok_result(id_) for id_ in ids_of(grant)))
    assert farm.job(later.id, ann).state == JobState.SUCCEEDED
    pass_s(farm, 100)
    assert len(agent.must_take(well, LATER).items) == 2, "another board comes first"


def test_the_same_end_again_is_no_news(farm, ann, agent, job_of, failed_result):
    farm.submit_planned(ann, job_of(2, platforms=[PLATFORM]))
    grant = agent.must_take()
    found = [failed_result(id_, "disk_full") for id_ in ids_of(grant)]
    first, again = (agent.finish(grant, *found, has_launched=False) for _ in range(2))
    assert (first.accepted, again.repeated, again.lost) == (ids_of(grant), ids_of(grant), False)
    assert rest_s(farm) == COOLING_S["ailing"]
