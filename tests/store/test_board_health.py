"""The golden suite: who gets it, that it stays within a minute a day, and what becomes of a board that drifts."""

import pytest

from benchfarm_core.access import Role
from benchfarm_core.board_health import BUDGET_S, GOLDEN_SUITE, GoldenOutcome, GoldenReason
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import Health
from benchfarm_core.errors import NotFound
from benchfarm_core.messages import Nudge, board_channel
from benchfarm_store import board_health, board_history, boards
from tests.store.conftest import failed, ok

DAY = 86_400.0
SUITE = len(GOLDEN_SUITE)


def look(farm, every_s=DAY):
    return board_health.look_after(farm.database, every_s=every_s)


def later(farm, hours):
    """As if so much time had gone since everything that the suite did."""
    farm.run("UPDATE golden_runs SET wanted_at = wanted_at - make_interval(hours => :h)", h=hours)


def runs(farm, board):
    with farm.transaction() as tx:
        return board_health.list_runs(tx, board).items


def health(farm, board):
    with farm.transaction() as tx:
        return boards.get_board(tx, board).health


def days(farm, agent, count, **changes):
    for _ in range(count):
        later(farm, 25)
        assert look(farm)[1] == 1
        assert agent.measure_all(**changes) == SUITE
        look(farm)


def test_a_new_board_is_measured_once_a_day(farm, agent):
    assert look(farm) == (0, 1)
    assert look(farm) == (0, 0)
    assert agent.measure_all() == SUITE
    assert look(farm) == (1, 0)
    (run,) = runs(farm, agent.boards[0])
    assert (run.reason, run.outcome, run.generation) == (GoldenReason.ENROLLED, GoldenOutcome.BEGUN, "g1")
    assert {one.name for one in run.times} == {*GOLDEN_SUITE, "canary-sgemm", "canary-mobilenet"}
    assert all(one.normalised_ms for one in run.times)
    later(farm, 23)
    assert look(farm) == (0, 0)
    later(farm, 1)
    assert look(farm) == (0, 1)
    assert runs(farm, agent.boards[0])[0].reason == GoldenReason.DAY


def test_the_suite_is_no_answer_for_a_client(farm, ann, agent, job_of):
    look(farm)
    workloads = [one.model_dump() for one in GOLDEN_SUITE.values()]
    job = farm.submit_planned(
        ann, job_of(1, workloads=workloads, platforms=["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"])
    )
    assert (job.progress.known, job.progress.pending) == (0, SUITE)
    assert agent.measure_all() == 2 * SUITE
    assert farm.scalar("SELECT count(*) FROM measurements WHERE purpose = 'golden' AND state = 'done'") == SUITE


def test_each_board_measures_its_own_suite(farm, ann, report_of):
    agent = farm.agent(ann, report_of("one"), report_of("two"))
    one, two = agent.boards
    assert look(farm) == (0, 2)
    assert agent.measure_all(one) == SUITE
    grant = agent.must_take(two)
    item = grant.items[0].measurement_id
    agent.send(grant, failed(item, "runner_died"), *(ok(i.measurement_id) for i in grant.items[1:]))
    agent.release(grant)
    assert agent.take(one) is None
    assert [i.measurement_id for i in agent.must_take(two).items] == [item]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"generation": "g2"}, GoldenReason.GENERATION),
        ({"facts": {"boot_id": "b2"}}, GoldenReason.REBOOTED),
    ],
)
def test_a_board_that_changed_is_measured_again(farm, agent, report_of, changes, reason):
    agent.register(report_of(facts={"boot_id": "b1"}))
    look(farm)
    agent.measure_all()
    assert look(farm) == (1, 0)
    agent.register(report_of(**({"facts": {"boot_id": "b1"}} | changes)))
    assert look(farm) == (0, 1)
    assert runs(farm, agent.boards[0])[0].reason == reason


def test_marked_quarantined_and_silent_boards_are_left_alone(farm, ann, report_of):
    marked = report_of("m", marks=["simulated"], board_model="sim-a")
    agent = farm.agent(ann, report_of("one"), marked)
    operator = farm.account("lab", Role.OPERATOR)
    with farm.transaction() as tx:
        boards.set_health(tx, agent.boards[0], Health.QUARANTINED, "smells", operator)
    assert look(farm) == (0, 0)
    farm.agent(ann, report_of("two"), name="other")
    farm.run("UPDATE agents SET last_heard_at = now() - interval '2 minutes'")
    assert look(farm) == (0, 0)


def test_two_drifts_in_a_row_quarantine_a_board_and_a_release_measures_it_anew(farm, agent):
    board = agent.boards[0]
    days(farm, agent, 5)
    assert [run.outcome for run in runs(farm, board)] == [*["steady"] * 2, *["begun"] * 3]
    days(farm, agent, 1, run_ns=1_400_000)
    assert (runs(farm, board)[0].outcome, health(farm, board)) == ("drifted", Health.GOOD)
    later(farm, 1)
    farm.messages.clear()
    assert look(farm) == (0, 1)
    assert runs(farm, board)[0].reason == GoldenReason.AGAIN
    agent.measure_all(run_ns=1_400_000)
    look(farm)
    assert health(farm, board) == Health.QUARANTINED
    assert Nudge(channel=board_channel(board)) in farm.messages
    with farm.transaction() as tx:
        assert "golden suite drifted twice: " in boards.get_board(tx, board).reason
        events = board_history.list_history(tx, board).items
    assert [event.kind for event in events[:2]] == [BoardEventKind.GOLDEN, BoardEventKind.HEALTH]
    assert events[0].after == "drifted"
    assert "conv +40 %" in events[0].reason
    later(farm, 48)
    assert look(farm) == (0, 0)
    operator = farm.account("lab", Role.OPERATOR)
    with farm.transaction() as tx:
        boards.set_health(tx, board, Health.GOOD, "new fan", operator)
    assert look(farm) == (0, 1)
    agent.measure_all(run_ns=1_400_000)
    look(farm)
    newest = runs(farm, board)[0]
    assert (newest.reason, newest.outcome) == (GoldenReason.RELEASED, GoldenOutcome.BEGUN)
    assert health(farm, board) == Health.GOOD


def test_a_slower_board_as_a_whole_is_seen_by_its_canaries(farm, agent):
    days(farm, agent, 4)
    later(farm, 25)
    look(farm)
    assert agent.measure_all(run_ns=1_300_000, canary_ns=2_600_000) == 3 * SUITE  # twice its canaries were off
    look(farm)
    newest = runs(farm, agent.boards[0])[0]
    assert (newest.outcome, newest.detail) == ("drifted", "canary-sgemm +30 %, canary-mobilenet +30 %")


def test_one_steady_run_between_two_drifts_keeps_a_board(farm, agent):
    days(farm, agent, 4)
    days(farm, agent, 1, run_ns=1_400_000)
    days(farm, agent, 1)
    days(farm, agent, 1, run_ns=1_400_000)
    assert health(farm, agent.boards[0]) == Health.GOOD


def test_the_suite_takes_no_more_than_its_minute_a_day(farm, agent, report_of):
    look(farm)
    agent.measure_all()
    look(farm)
    farm.run("UPDATE golden_runs SET board_s = :s", s=BUDGET_S - 5)
    for number in range(3):
        agent.register(report_of(facts={"boot_id": f"b{number}"}))
        assert look(farm) == (0, 0)
    later(farm, 25)
    assert look(farm)[1] == 1


def test_a_run_that_finds_no_moment_lapses(farm, agent):
    look(farm)
    farm.run("UPDATE golden_runs SET wanted_at = now() - interval '7 hours'")
    assert look(farm) == (1, 1)
    newest, first = runs(farm, agent.boards[0])
    assert (first.outcome, newest.reason, newest.outcome) == (GoldenOutcome.LAPSED, GoldenReason.AGAIN, None)
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state = 'cancelled'") == SUITE
    assert agent.measure_all() == SUITE


def test_a_suite_that_fails_says_so_and_waits_for_the_next_day(farm, agent):
    look(farm)
    grant = agent.must_take()
    agent.send(grant, *(failed(item.measurement_id, "unsupported_operator") for item in grant.items))
    agent.release(grant)
    assert look(farm) == (1, 0)
    assert runs(farm, agent.boards[0])[0].outcome == GoldenOutcome.FAILED
    assert health(farm, agent.boards[0]) == Health.GOOD


def test_two_looks_at_once_begin_one_run(farm, agent):
    with farm.transaction() as tx:
        assert board_health.begin_runs(tx, DAY) == 1
        with farm.transaction() as other:
            assert board_health.begin_runs(other, DAY) == 0
            assert board_health.end_runs(other) == 0
    assert len(runs(farm, agent.boards[0])) == 1


def test_how_units_of_one_model_differ(farm, ann, report_of):
    agent = farm.agent(ann, report_of("one"), report_of("two"))
    one, two = agent.boards
    look(farm)
    agent.measure_all(one)
    agent.measure_all(two, run_ns=1_100_000)
    look(farm)
    with farm.transaction() as tx:
        rows = {row.name: row for row in board_health.list_spread(tx, "host-a")}
        with pytest.raises(NotFound):
            board_health.list_spread(tx, "host-b")
    assert rows["conv"].spread == pytest.approx(0.1, abs=0.01)
    assert rows["canary-sgemm"].spread == 0
    assert {b.board_id for b in rows["conv"].boards} == {one, two}


def test_a_reader_of_a_boards_events_misses_and_repeats_nothing(farm, agent, report_of):
    board = agent.boards[0]
    reading = board_history.Reading(None)

    def read(one):
        with farm.transaction() as tx:
            return one.look(tx, board)

    (first,) = read(reading)
    assert first.kind == BoardEventKind.REGISTERED
    assert read(reading) == []
    agent.register(report_of(generation="g2"))
    agent.register(report_of(generation="g3"))
    assert [event.after for event in read(reading)] == ["g2", "g3"]
    assert read(reading) == []
    again = board_history.Reading(first.id)
    assert [event.after for event in read(again)] == ["g2", "g3"]
    with farm.transaction() as tx, pytest.raises(NotFound):
        board_history.Reading(None).look(tx, "b_none")
