"""What happened to a board, with its author and reason, and why it is not used."""

from typing import Any

import pytest

from benchfarm_core.access import Role
from benchfarm_core.agent_protocol import RecoveryReport, ReleaseRequest
from benchfarm_core.board_history import BoardEventKind, RecoveryStep
from benchfarm_core.boards import BoardName, Health
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.leases import LeaseTimes
from benchfarm_store import board_history, boards, dispatching, jobs, leases, sweeping, why


@pytest.fixture
def operator(farm):
    return farm.account("lab", Role.OPERATOR)


@pytest.fixture
def told(farm):
    """A board's events, oldest first, as (kind, before, after)."""

    def read(board: str) -> list[tuple[str, str, str]]:
        with farm.transaction() as tx:
            events = board_history.list_history(tx, board).items
        return [(str(one.kind), one.before, one.after) for one in reversed(events)]

    return read


def test_what_registrations_show_is_written_down(farm, ann, agent, report_of, told):
    board = agent.boards[0]
    first = [("registered", "", "host-a")]
    assert told(board) == first
    agent.register(report_of())
    assert told(board) == first, "nothing changed"
    agent.register(report_of(generation="g2", facts={"address": "10.0.0.7"}))
    agent.register(report_of(generation="g2", facts={"address": "10.0.0.9"}))
    agent.register()
    agent.register()
    agent.register(report_of(generation="g2", facts={"address": "10.0.0.9"}, board_model="host-b"))
    assert told(board)[1:] == [
        ("generation", "g1", "g2"),
        ("address", "", "10.0.0.7"),
        ("address", "10.0.0.7", "10.0.0.9"),
        ("offline", "", ""),
        ("board_model", "host-a", "host-b"),
        ("online", "", ""),
    ]
    with farm.transaction() as tx:
        events = board_history.list_history(tx, board).items
    assert {one.author for one in events} == {f"agent/{agent.id}"}
    assert {one.reason for one in events if one.kind == BoardEventKind.OFFLINE} == {"its agent no longer drives it"}


def test_a_board_moves_to_another_agent(farm, ann, agent, report_of, told):
    farm.run("UPDATE agents SET last_heard_at = now() - interval '5 minutes'")
    assert sweeping.sweep(farm.database).offline_boards == 1
    other = farm.agent(ann, report_of(), name="other")
    assert other.boards == agent.boards
    assert told(agent.boards[0])[1:] == [("offline", "", ""), ("agent", agent.id, other.id), ("online", "", "")]


def test_boards_that_come_and_go_without_a_registration(farm, ann, agent, job_of, told):
    farm.submit_planned(ann, job_of(2))
    agent.release(agent.must_take(), "drain")
    with farm.transaction() as tx:
        leases.offers_for(tx, agent.id, agent.boards)
    assert [kind for kind, *_ in told(agent.boards[0])] == ["registered", "offline", "online"]


def test_judgements_and_notes_stand_among_the_events_in_order(farm, agent, operator, report_of):
    board = agent.boards[0]
    for health, reason in ((Health.QUARANTINED, "smells burnt"), (Health.GOOD, "dusted")):
        with farm.transaction() as tx:
            boards.set_health(tx, board, health, reason, operator)
    with farm.transaction() as tx:
        written = board_history.add_note(tx, board, "fan on the left", operator)
    agent.register(report_of(generation="g2"))
    with farm.transaction() as tx:
        events = board_history.list_history(tx, board).items
    assert [(one.kind, one.before, one.after, one.reason) for one in events[1:4]] == [
        ("note", "", "", "fan on the left"),
        ("health", "quarantined", "good", "dusted"),
        ("health", "good", "quarantined", "smells burnt"),
    ]
    assert events[1] == written
    assert {one.author for one in events[1:4]} == {f"lab/{operator.token_id}"}
    assert [events[0].kind, events[4].kind] == ["generation", "registered"]


def test_a_history_is_read_in_pages(farm, agent, operator):
    board = agent.boards[0]
    with farm.transaction() as tx:  # at one moment
        for number in range(3):
            board_history.add_note(tx, board, str(number), operator)
            boards.set_health(tx, board, (Health.SUSPECT, Health.GOOD)[number % 2], str(number), operator)
    found: list[Any] = []
    cursor = None
    while not found or cursor:
        with farm.transaction() as tx:
            page = board_history.list_history(tx, board, cursor=cursor, limit=2)
        found += page.items
        cursor = page.next_cursor
    assert sorted((one.kind, one.reason) for one in found[:6]) == [
        (kind, str(number)) for kind in ("health", "note") for number in range(3)
    ]
    assert [one.kind for one in found[6:]] == ["registered"]
    with farm.transaction() as tx, pytest.raises(InvalidRequest):
        board_history.list_history(tx, board, cursor="nonsense")


def test_a_board_that_is_none(farm, operator):
    asks = (
        lambda tx: board_history.list_history(tx, "b_none"),
        lambda tx: board_history.add_note(tx, "b_none", "hello", operator),
        lambda tx: why.explain_board(tx, "b_none"),
    )
    for ask in asks:
        with farm.transaction() as tx, pytest.raises(NotFound):
            ask(tx)


def test_comings_and_goings_are_forgotten_and_nothing_else(farm, agent, told):
    agent.register()
    farm.run("UPDATE board_events SET at = now() - interval '91 days'")
    assert sweeping.sweep(farm.database).forgotten_board_events == 1
    with farm.transaction() as tx:
        (board,) = boards.list_boards(tx).items
    assert told(board.id) == [("registered", "", "host-a")]


def test_why_a_board_is_not_used(farm, ann, agent, operator, job_of):
    board = agent.boards[0]

    def use(**expected: Any) -> str:
        with farm.transaction() as tx:
            found = why.explain_board(tx, board)
        shown = found.model_dump()
        assert {name: shown[name] for name in expected} == expected
        return found.reason

    assert use(removed_by=None, waiting=0, last_lease=None) == "nothing waits for its platforms"
    farm.submit_planned(ann, job_of(2))
    assert use(removed_by=None, waiting=4) == "next in line"
    with farm.transaction() as tx:
        token = dispatching.dispatch(tx, board, LeaseTimes()) or ""
    assert use(removed_by=None, state="leased") == "has an offer that its agent has not answered yet"
    with farm.transaction() as tx:
        leases.accept(tx, agent.id, token, LeaseTimes())
    assert use(removed_by=None) == "is measuring"
    with farm.transaction() as tx:
        leases.release(tx, agent.id, token, ReleaseRequest(reason="gate", detail="62 C is above 45"))
    assert use(removed_by="state") == "is cooling down: its conditions did not hold: 62 C is above 45"
    with farm.transaction() as tx:
        found = why.explain_board(tx, board)
    assert found.last_lease is not None
    assert (found.last_lease.end_reason, found.last_lease.detail) == ("gate", "62 C is above 45")
    assert found.rests_until is not None
    farm.run("UPDATE agents SET last_heard_at = now() - interval '2 minutes'")
    assert use(removed_by="agent").startswith("its agent has not been heard for 12")
    with farm.transaction() as tx:
        boards.set_health(tx, board, Health.QUARANTINED, "smells burnt", operator)
    assert use(removed_by="health", contested=False) == "health is quarantined: smells burnt"


def test_a_contested_board_says_so(farm, ann, agent, report_of):
    farm.agent(ann, report_of(), name="twin")
    with farm.transaction() as tx:
        found = why.explain_board(tx, agent.boards[0])
    assert (found.contested, found.removed_by, found.health_reason) == (True, "health", "duplicate_board")


def test_why_a_job_waits_names_the_filter_that_removed_each_board_of_the_model(farm, ann, report_of, job_of):
    ranges = [{"mode": "pinned", "cores": [0], "threads_max": 1, "freq_khz": [100, 200]}]
    slow = [{**ranges[0], "freq_khz": [100]}]
    agent = farm.agent(
        ann,
        report_of("fits", operating_points=(), ranges=ranges),
        report_of("slow", operating_points=(), ranges=slow),
        report_of("bare", operating_points=(), ranges=ranges, engines=()),
        report_of("stranger", board_model="host-b"),
    )
    fits, slow_one, bare, _ = agent.boards
    job = farm.submit_planned(ann, job_of(1, platforms=["host-a/c0.t1.200/onnxruntime-1.31.1/fp32"]))
    with farm.transaction() as tx:
        boards.set_health(tx, fits, Health.MAINTENANCE, "new fan", ann)
        (platform,) = jobs.explain(tx, job.id, ann).platforms
    found = {one.board_id: (one.removed_by, one.reason) for one in platform.boards}
    assert found == {
        fits: ("health", "health is maintenance: new fan"),
        slow_one: ("operating_point", "cannot be set to c0.t1.200; it has c0, 1 thread, at 100 kHz"),
        bare: ("engine", "lacks onnxruntime"),
    }


def test_what_an_agent_did_for_a_board_that_stays_away_is_kept(farm, ann, agent, report_of):
    report = RecoveryReport(
        board=BoardName(kind="simulated", serial="s1", hardware_id="hw"), step=RecoveryStep.REBOOT, detail="no answer"
    )
    with farm.transaction() as tx:
        boards.note_recovery(tx, agent.id, report)
        boards.note_recovery(tx, agent.id, report.model_copy(update={"step": RecoveryStep.POWER_CYCLE, "detail": ""}))
        newest, before, *_ = board_history.list_history(tx, agent.boards[0]).items
    assert (newest.kind, newest.before, newest.after) == (BoardEventKind.RECOVERY, "power_cycle", "done")
    assert (before.before, before.after, before.reason) == ("reboot", "failed", "no answer")
    stranger = farm.agent(ann, report_of("other"), name="other")
    with farm.transaction() as tx, pytest.raises(NotFound):
        boards.note_recovery(tx, stranger.id, report)


def test_a_board_that_is_not_put_back_measures_for_nobody_until_it_is(farm, agent, ann):
    board = BoardName(kind="simulated", serial="s1", hardware_id="hw")
    report = RecoveryReport(board=board, step=RecoveryStep.PUT_BACK, detail="another board answers at pi now")
    back = report.model_copy(update={"detail": ""})

    def after(*reports):
        with farm.transaction() as tx:
            for one in reports:
                boards.note_recovery(tx, agent.id, one)
            view = boards.get_board(tx, agent.boards[0])
            return view.health, view.reason

    why = "an agent changed it and could not put it back: another board answers at pi now"
    assert after(report) == (Health.QUARANTINED, why)
    assert after(report) == (Health.QUARANTINED, why)
    assert after(back) == (Health.GOOD, "it was put back")
    assert after(back) == (Health.GOOD, "it was put back")
    with farm.transaction() as tx:
        boards.set_health(tx, agent.boards[0], Health.QUARANTINED, "its fan is loud", ann)
    assert after(report, back) == (Health.QUARANTINED, "its fan is loud"), "what a person holds against it stays"


def test_a_report_of_a_recovery_that_is_sent_again_changes_nothing(farm, agent):
    board = BoardName(kind="simulated", serial="s1", hardware_id="hw")
    report = RecoveryReport(report_id="a" * 32, board=board, step=RecoveryStep.REBOOT)
    for one in (report, report, report.model_copy(update={"report_id": "b" * 32})):
        with farm.transaction() as tx:
            boards.note_recovery(tx, agent.id, one)
    assert farm.scalar("SELECT count(*) FROM board_events WHERE kind = 'recovery'") == 2


def test_a_reboot_is_an_event(farm, agent, report_of):
    for boot in ("b1", "b1", "b2"):
        agent.register(report_of(facts={"cores": 2, "boot_id": boot}))
    with farm.transaction() as tx:
        kinds = [event.kind for event in board_history.list_history(tx, agent.boards[0]).items]
    assert kinds == [BoardEventKind.REBOOT, BoardEventKind.REGISTERED]
