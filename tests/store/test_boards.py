import pytest

from benchfarm_core.access import Role
from benchfarm_core.agent_protocol import RegisterBoards
from benchfarm_core.boards import BoardState, EngineReport, Health, is_online
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound, UpgradeRequired
from benchfarm_core.leases import AGENT_SILENT_S, LeaseTimes
from benchfarm_core.messages import Nudge, Task, TaskMessage, agent_channel
from benchfarm_core.platforms import PlatformFilter, Precision
from benchfarm_store import agents, boards, dispatching, leases, platforms, why


def test_a_registered_board_is_listed_with_what_it_offers(farm, ann, agent):
    with farm.transaction() as tx:
        view = boards.get_board(tx, agent.boards[0], show_serial=True)
        hidden = boards.get_board(tx, agent.boards[0])
        engines = platforms.list_engines(tx)
    assert (view.state, view.health, view.serial, hidden.serial) == (BoardState.IDLE, Health.GOOD, "s1", None)
    assert view.platforms == [
        "host-a/c0-1.t2.free/onnxruntime-1.31.1/fp32",
        "host-a/c0.t1.free/onnxruntime-1.31.1/fp32",
    ]
    assert view.generation == "g1"
    assert [(e.name, e.versions, e.boards, e.unavailable) for e in engines] == [
        ("ncnn", [], [], {view.id: "not installed"}),
        ("onnxruntime", ["1.31.1"], [view.id], {}),
    ]
    assert TaskMessage(task=Task.DISPATCH, args=(view.id,)) in farm.messages


def test_registering_again_changes_nothing(farm, agent, report_of):
    before = agent.boards
    assert agent.register(report_of()).boards[0].board_id == before[0]
    assert farm.scalar("SELECT count(*) FROM boards") == 1
    assert farm.scalar("SELECT count(*) FROM board_platforms") == 2
    assert farm.scalar("SELECT count(*) FROM generations") == 1


def test_a_board_left_out_goes_offline_and_a_leased_one_stays_leased(farm, ann, job_of, report_of):
    agent = farm.agent(ann, report_of("one"), report_of("two"))
    one, two = agent.boards
    farm.submit_planned(ann, job_of(2))
    grant = agent.must_take(two)
    answer = agent.register(report_of("two"))
    assert [(board.board_id, board.state) for board in answer.boards] == [(two, BoardState.LEASED)]
    with farm.transaction() as tx:
        assert boards.get_board(tx, one).state == BoardState.OFFLINE
    agent.release(grant)


def test_a_board_that_is_gone_loses_its_lease_and_what_was_running_pays(farm, ann, job_of, report_of):
    agent = farm.agent(ann, report_of("one"), report_of("two"))
    one, two = agent.boards
    farm.submit_planned(ann, job_of(6))
    running, waiting = agent.must_take(one), agent.must_take(two)
    first = running.items[0].measurement_id
    agent.start(running, [first])
    farm.messages.clear()
    agent.register()
    with farm.transaction() as tx:
        assert [boards.get_board(tx, board).state for board in (one, two)] == [BoardState.OFFLINE] * 2
        tokens = [running.lease_token, waiting.lease_token]
        assert leases.ended(tx, agent.id, tokens) == tokens
    assert farm.scalar("SELECT count(*) FROM leases WHERE end_reason = 'board_gone'") == 2
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state <> 'wanted'") == 0
    paid = "SELECT attempts || ' ' || losses || ' ' || detail FROM measurements WHERE id = :id"
    assert farm.scalar(paid, id=first) == "1 1 after board_lost"
    assert farm.scalar("SELECT sum(attempts) FROM measurements") == 1
    assert Nudge(channel=agent_channel(agent.id)) in farm.messages
    agent.register(report_of("one"), report_of("two"))
    assert agent.measure_all(one) + agent.measure_all(two) == 12


def test_an_offer_to_a_board_that_is_gone_lapses_free_of_charge(farm, ann, agent, job_of, report_of):
    farm.submit_planned(ann, job_of(2))
    with farm.transaction() as tx:
        assert dispatching.dispatch(tx, agent.boards[0], LeaseTimes()) is not None
    gone = agent.boards[0]
    agent.register()
    assert farm.scalar("SELECT sum(attempts) FROM measurements") == 0
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state = 'wanted'") == 4
    with farm.transaction() as tx:
        assert boards.get_board(tx, gone).state == BoardState.OFFLINE
        assert dispatching.dispatch(tx, gone, LeaseTimes()) is None


def test_what_says_where_a_board_is_is_for_operators(farm, agent, report_of):
    agent.register(report_of(facts={"cores": 2, "address": "10.0.0.7"}, marks=["simulated"], board_model="sim-a"))
    with farm.transaction() as tx:
        assert boards.get_board(tx, agent.boards[0]).facts == {"cores": 2}
        shown = boards.get_board(tx, agent.boards[0], show_serial=True)
    assert shown.facts == {"cores": 2, "address": "10.0.0.7"}
    assert shown.marks == ["simulated"]


def test_a_new_generation_makes_older_results_stale(farm, ann, agent, job_of, report_of):
    farm.submit_planned(ann, job_of(2))
    agent.measure_all()
    assert farm.submit_planned(ann, job_of(2)).progress.known == 4
    agent.register(report_of(generation="g2"))
    assert farm.submit_planned(ann, job_of(2)).progress.pending == 4
    agent.measure_all()
    agent.register(report_of(generation="g1"))
    assert farm.submit_planned(ann, job_of(2)).progress.known == 4


def test_an_engine_that_goes_away_is_no_longer_offered_but_its_results_stay(farm, ann, agent, job_of, report_of):
    farm.submit_planned(ann, job_of(2))
    agent.measure_all()
    upgraded = EngineReport(name="onnxruntime", available=True, version="1.32.0", precisions=(Precision.FP32,))
    agent.register(report_of(engines=(upgraded,)))
    with farm.transaction() as tx:
        found = platforms.find_offered(tx, PlatformFilter())
        assert {row.spec["engine"]["version"] for row in found} == {"1.32.0"}
        old = platforms.get_platform(tx, "host-a/c0.t1.free/onnxruntime-1.31.1/fp32")
    assert (old.boards, old.boards_online, old.results) == ([], 0, 2)


def test_the_same_serial_on_two_live_agents_stops_both(farm, ann, agent, job_of, report_of):
    farm.submit_planned(ann, job_of(2))
    grant = agent.must_take()
    twin = farm.agent(ann, report_of(), name="twin")
    answer = twin.register(report_of())
    assert (answer.boards[0].health, answer.boards[0].reason) == (Health.MAINTENANCE, "duplicate_board")
    with farm.transaction() as tx:
        assert leases.ended(tx, agent.id, [grant.lease_token]) == [grant.lease_token]
    assert agent.take() is None
    operator = farm.account("lab", Role.OPERATOR)
    farm.run("UPDATE agents SET last_heard_at = now() - interval '2 minutes' WHERE id = :id", id=agent.id)
    twin.register(report_of())
    with farm.transaction() as tx:
        boards.set_health(tx, agent.boards[0], Health.GOOD, "", operator)
    assert twin.take() is not None


def test_a_board_of_an_agent_that_has_drained_is_free_for_another_at_once(farm, ann, agent, job_of, report_of):
    farm.submit_planned(ann, job_of(2))
    (board,) = agent.boards
    agent.register()
    with farm.transaction() as tx:
        assert why.explain_board(tx, board).reason == "is offline"
        assert [(one.boards, one.boards_online) for one in agents.list_agents(tx)] == [([board], 0)]
    twin = farm.agent(ann, report_of(), name="twin")
    assert twin.register(report_of()).boards[0].health == Health.GOOD
    assert twin.take() is not None
    with farm.transaction() as tx:
        assert [(one.id, one.boards_online) for one in agents.list_agents(tx)] == [(agent.id, 0), (twin.id, 1)]


def test_who_is_online_is_one_rule_in_sql_too(farm, agent):
    for state in (BoardState.IDLE, BoardState.LEASED, BoardState.COOLING, BoardState.OFFLINE):
        farm.run("UPDATE boards SET state = :state", state=state)
        for ago_s in (None, 0, AGENT_SILENT_S - 5, AGENT_SILENT_S, 900):
            farm.run("UPDATE agents SET last_heard_at = now() - make_interval(secs => :s)", s=ago_s)
            with farm.transaction() as tx:
                (listed,) = agents.list_agents(tx)
                heard_s = agents.heard_s(listed.last_heard_at, tx.now)
            assert listed.boards_online == is_online(state, heard_s), (state, ago_s)
    assert is_online(BoardState.LEASED, AGENT_SILENT_S - 1)
    assert not is_online(BoardState.OFFLINE, 0)


def test_one_request_cannot_name_a_board_twice(farm, agent, report_of):
    with pytest.raises(InvalidRequest) as refused:
        agent.register(report_of(), report_of())
    assert refused.value.code == "duplicate_board"


@pytest.mark.parametrize("version", [1, 99])
def test_agents_of_another_protocol_are_told_to_upgrade(farm, agent, version):
    request = RegisterBoards(protocol_version=version, agent_version="9", boards=())
    with farm.transaction() as tx, pytest.raises(UpgradeRequired):
        boards.register(tx, agent.id, request)


def test_health_moves_by_its_table(farm, ann, agent):
    operator = farm.account("lab", Role.OPERATOR)
    with farm.transaction() as tx:
        assert boards.set_health(tx, agent.boards[0], Health.SUSPECT, "slow", operator).health == Health.SUSPECT
        assert boards.set_health(tx, agent.boards[0], Health.RETIRED, "old", operator).health == Health.RETIRED
        with pytest.raises(Conflict):
            boards.set_health(tx, agent.boards[0], Health.GOOD, "", operator)
        with pytest.raises(NotFound):
            boards.set_health(tx, "b_none", Health.GOOD, "", operator)
        assert platforms.find_offered(tx, PlatformFilter()) == []


def test_boards_are_listed_by_state_kind_and_model(farm, ann, report_of):
    agent = farm.agent(ann, *(report_of(f"s{n}", board_model=f"host-{n % 2}") for n in range(5)))
    with farm.transaction() as tx:
        page = boards.list_boards(tx, limit=3)
        rest = boards.list_boards(tx, limit=3, cursor=page.next_cursor)
        assert sorted(b.id for b in page.items + rest.items) == sorted(agent.boards)
        assert len(boards.list_boards(tx, board_model="host-0").items) == 3
        assert len(boards.list_boards(tx, state=BoardState.IDLE, health=Health.GOOD, kind="simulated").items) == 5
        assert boards.list_boards(tx, state=BoardState.COOLING).items == []


def test_unknown_boards_of_a_poll(farm, agent):
    with farm.transaction() as tx:
        assert leases.unknown_boards(tx, agent.id, [*agent.boards, "b_none"]) == ["b_none"]


def test_platforms_by_id_key_and_alias(farm, agent):
    key = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
    with farm.transaction() as tx:
        found = platforms.find(tx, key)
        id_ = found.public_id
        assert (platforms.find(tx, id_).key, found.key) == (key, key)
        assert platforms.set_alias(tx, id_, "fast").aliases == ["fast"]
        assert platforms.find(tx, "fast").public_id == id_
        assert platforms.get_platform(tx, "fast").key == key
        other = platforms.list_platforms(tx, PlatformFilter(threads=(2,)), None, 10).items[0]
        assert platforms.set_alias(tx, other.id, "fast").id == other.id
        assert platforms.get_platform(tx, "fast").id == other.id
        for bad in ("p_x", "A", "", "a/b", "x" * 61):
            with pytest.raises(InvalidRequest):
                platforms.set_alias(tx, id_, bad)
        for nothing in ("nothing", "\x00", "p_000000000000"):
            with pytest.raises(InvalidRequest) as refused:
                platforms.find(tx, nothing)
            assert refused.value.code == "platform_unknown"
            with pytest.raises(NotFound):
                platforms.get_platform(tx, nothing)


def test_a_platform_that_cannot_exist_names_what_is_offered(farm, agent):
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
        platforms.find(tx, "host-a/c0.t1.free/onnxruntime-9.9/fp32")
    assert refused.value.code == "platform_impossible"
    assert "onnxruntime-1.31.1" in refused.value.detail


def test_a_registration_with_too_many_platforms_is_refused(farm, ann, agent, report_of):
    point = {"mode": "free", "cores": [0], "threads": 1}
    engine = {"name": "ncnn", "available": True, "version": "1", "precisions": ["fp32"] * 20}
    with pytest.raises(InvalidRequest, match="500000 platforms") as refused:
        agent.register(report_of("s2", operating_points=[point] * 500, engines=[engine] * 50))
    assert (refused.value.code, refused.value.field) == ("too_large", "boards")
