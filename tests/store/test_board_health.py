"""The golden suite: who gets it, that it stays within a minute a day, and what becomes of a board that drifts."""

from functools import partial

import pytest
from sqlalchemy import text

from benchfarm_core.access import Role
from benchfarm_core.board_health import BUDGET_S, GOLDEN_SUITE, GoldenOutcome, GoldenReason
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import EngineReport, Health
from benchfarm_core.errors import NotFound
from benchfarm_core.messages import Nudge, board_channel
from benchfarm_core.platforms import Precision
from benchfarm_store import board_health, board_history, boards, dispatching
from tests.store.conftest import failed, ok

DAY = 86_400.0
SUITE = len(GOLDEN_SUITE)


def look(farm, every_s=DAY):
    return board_health.look_after(farm.database, every_s=every_s)


def later(farm, hours):
    """As if so much time had gone since everything that the suite did."""
    farm.run(
        "UPDATE golden_runs SET wanted_at = wanted_at - make_interval(hours => :h),"
        " ended_at = ended_at - make_interval(hours => :h)",
        h=hours,
    )


def runs(farm, board):
    with farm.transaction() as tx:
        return board_health.list_runs(tx, board).items


def health(farm, board):
    with farm.transaction() as tx:
        return boards.get_board(tx, board).health


def days(farm, agent, count, size=SUITE, **changes):
    for _ in range(count):
        later(farm, 25)
        assert look(farm)[1] == 1
        assert agent.measure_all(**changes) == size
        look(farm)


def slow(farm, seconds):
    """As if the launches of each lease had taken so long."""
    farm.run(
        "UPDATE launches SET evidence = jsonb_set(evidence, '{wall_ms}', to_jsonb(CAST(:ms AS float8)))",
        ms=seconds * 1000,
    )


def measured(agent, **run_ns):
    """Work until nothing is offered: how many measurements of each engine; `run_ns` by engine."""
    count: dict[str, int] = {}
    while (grant := agent.take()) is not None:
        engine = grant.platform.engine.name
        changes = {"run_ns": run_ns[engine]} if engine in run_ns else {}
        agent.send(grant, *(ok(item.measurement_id, **changes) for item in grant.items))
        agent.release(grant)
        count[engine] = count.get(engine, 0) + len(grant.items)
    return count


@pytest.fixture
def two_engines(report_of):
    """Makes reports of boards with two engines."""
    engines = [
        EngineReport(name=name, available=True, version=version, precisions=(Precision.FP32,))
        for name, version in (("onnxruntime", "1.31.1"), ("ncnn", "1.0"))
    ]
    return partial(report_of, engines=tuple(engines))


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


def test_a_board_that_drifted_is_named_to_its_agent_until_it_reboots(farm, ann, report_of, job_of):
    agent = farm.agent(ann, report_of(facts={"boot_id": "b1"}))

    def named(agent_id=None):
        with farm.transaction() as tx:
            return boards.drifted(tx, agent_id or agent.id, agent.boards)

    days(farm, agent, 4)
    assert named() == []
    days(farm, agent, 1, run_ns=1_400_000)
    assert named() == agent.boards
    assert named("a_other") == []
    assert look(farm) == (0, 0), "time for a reboot"
    farm.submit_planned(ann, job_of(1))
    grant = agent.must_take(agent.boards[0])
    with farm.transaction() as tx:
        assert boards.drifted(tx, agent.id, [], [grant.lease_token]) == agent.boards, "at work too"
        assert boards.drifted(tx, "a_other", [], [grant.lease_token]) == []
        assert boards.drifted(tx, agent.id, [], []) == []
    assert agent.finish(grant).drifted
    assert agent.finish(grant).drifted, "said again where the answer was lost"
    agent.register(report_of(facts={"boot_id": "b2"}))
    assert named() == []
    assert not agent.finish(agent.must_take()).drifted
    assert look(farm) == (0, 1)
    assert runs(farm, agent.boards[0])[0].reason == GoldenReason.REBOOTED


def test_a_run_that_waited_for_its_busy_board_is_not_repeated_before_a_reboot(farm, agent):
    days(farm, agent, 4)
    later(farm, 25)
    assert look(farm) == (0, 1)
    later(farm, 1)
    agent.measure_all(run_ns=1_400_000)
    assert look(farm) == (1, 0)
    with farm.transaction() as tx:
        assert boards.drifted(tx, agent.id, agent.boards) == agent.boards
    later(farm, 1)
    assert look(farm) == (0, 1)
    assert runs(farm, agent.boards[0])[0].reason == GoldenReason.AGAIN


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
    agent.register(report_of(facts={"boot_id": "b"}))
    look(farm)
    agent.measure_all()
    look(farm)
    slow(farm, 6)
    farm.run("UPDATE golden_runs SET board_s = :s", s=BUDGET_S - 5)
    for number in range(3):
        agent.register(report_of(facts={"boot_id": f"b{number}"}))
        assert look(farm) == (0, 0)
    later(farm, 25)
    assert look(farm)[1] == 1


def test_a_slow_board_keeps_its_suite_and_says_what_is_left_out(farm, ann, two_engines):
    agent = farm.agent(ann, two_engines("one"))
    days(farm, agent, 1, size=2 * SUITE)
    slow(farm, 300)
    days(farm, agent, 1)
    newest = runs(farm, agent.boards[0])[0]
    assert {one.platform.split("/")[2] for one in newest.times} == {"onnxruntime-1.31.1"}
    assert newest.detail == (
        "too few earlier runs to compare with; left out: too slow for what the day has left (ncnn 300 s)"
    )
    farm.run("UPDATE golden_runs SET wanted_at = wanted_at - interval '8 days'")
    assert look(farm) == (0, 1)
    assert agent.measure_all() == 2 * SUITE, "what was slow a week ago is tried again"


def test_waiting_and_converting_are_none_of_the_boards_time(farm, agent):
    look(farm)
    agent.measure_all()
    farm.run("UPDATE leases SET accepted_at = accepted_at - interval '400 seconds'")
    look(farm)
    assert runs(farm, agent.boards[0])[0].board_s == pytest.approx(0.9)
    look(farm)
    farm.run("DELETE FROM launches")
    farm.run("UPDATE golden_runs SET ended_at = NULL, outcome = NULL")
    farm.run("UPDATE leases SET conversion_ms = 390000")
    look(farm)
    assert runs(farm, agent.boards[0])[0].board_s == pytest.approx(10, abs=2)


def test_boards_that_cannot_begin_keep_no_other_waiting(farm, ann, report_of):
    spent = [report_of(f"spent{number}", facts={"boot_id": "a"}) for number in range(board_health.MAX_BOARDS)]
    agent = farm.agent(ann, *spent)
    assert look(farm) == (0, board_health.MAX_BOARDS)
    farm.run("UPDATE measurements SET state = 'cancelled'")
    look(farm)
    farm.run("UPDATE golden_runs SET outcome = 'steady', board_s = 55, boot_id = 'before'")
    later(farm, 1)
    agent.register(*spent, report_of("bare", engines=()), report_of("good", facts={"boot_id": "a"}))
    farm.run("UPDATE golden_runs SET wanted_at = wanted_at - interval '1 hour'")
    farm.run(_SECOND, board=agent.boards[-1])
    assert look(farm) == (0, 1)
    assert runs(farm, agent.boards[-1])[0].reason == GoldenReason.REBOOTED


_SECOND = """
    INSERT INTO golden_runs (board_id, generation_id, wanted_at, ended_at, reason, outcome, boot_id)
    SELECT id, generation_id, now(), now(), 'enrolled', 'steady', 'before' FROM boards WHERE public_id = :board
"""


def test_a_drift_of_the_second_engine_is_looked_at_again_whatever_the_day_has_left(farm, ann, two_engines):
    agent = farm.agent(ann, two_engines("one"))
    days(farm, agent, 4, size=2 * SUITE)
    later(farm, 25)
    look(farm)
    assert measured(agent, ncnn=1_400_000) == {"onnxruntime": SUITE, "ncnn": SUITE}
    look(farm)
    slow(farm, 29)
    farm.run("UPDATE golden_runs SET board_s = 58")
    later(farm, 1)
    assert look(farm) == (0, 1)
    assert measured(agent, ncnn=1_400_000) == {"ncnn": SUITE}
    look(farm)
    newest = runs(farm, agent.boards[0])[0]
    assert (newest.reason, newest.outcome) == (GoldenReason.AGAIN, GoldenOutcome.DRIFTED)
    assert health(farm, agent.boards[0]) == Health.QUARANTINED


def test_the_numbers_of_repeats_are_found_without_reading_all_of_them(farm, agent):
    days(farm, agent, 3)
    assert farm.scalar("SELECT max(repeat_no) FROM measurements") == 2
    parameters = {
        name: farm.scalar(f"SELECT array_agg(DISTINCT {name}_id) FROM measurements")
        for name in ("workload", "platform")
    }
    with farm.transaction() as tx:
        tx.execute(text("SET LOCAL enable_seqscan = off"))
        plan = tx.execute(
            text(f"EXPLAIN (ANALYZE, FORMAT JSON) {board_health._REPEATS.text}"),
            {
                "workloads": parameters["workload"],
                "platforms": parameters["platform"],
                "protocol": farm.scalar("SELECT min(protocol_id) FROM measurements"),
            },
        ).scalar_one()
    assert rows_read(plan[0]["Plan"], "measurements") == SUITE


def rows_read(plan, table):
    own = plan["Actual Rows"] * plan["Actual Loops"] if plan.get("Relation Name") == table else 0
    return own + sum(rows_read(part, table) for part in plan.get("Plans", ()))


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


def test_a_board_is_not_woken_for_what_another_one_measures_for_its_own_sake(farm, ann, report_of, job_of):
    agent = farm.agent(ann, report_of("one"), report_of("two"))
    one, two = agent.boards

    def to_dispatch():
        with farm.transaction() as tx:
            return set(dispatching.boards_to_dispatch(tx))

    look(farm)
    assert to_dispatch() == {one, two}
    agent.measure_all(one)
    assert to_dispatch() == {two}
    farm.submit_planned(ann, job_of(1))
    assert to_dispatch() == {one, two}
