"""Platform keys with engine options: refused before a board is touched, made when first wanted, offered by who can."""

import threading

import pytest
from sqlalchemy import event

from benchfarm_core.boards import EngineReport
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.platforms import PlatformFilter
from benchfarm_store import jobs, latency, platforms, sweeping, wanted_platforms
from tests.store.asking import measured_answers

OPTIONS = {
    "graph": {"kind": "choice", "default": "all", "choices": ["all", "none", "1"]},
    "cache": {"kind": "number", "default": 8, "low": -1, "high": 64},
    "fast": {"kind": "switch", "default": False},
}
BASE = "host-a/c0.t1.free/onnxruntime-1.31.1"


def key(options: str = "") -> str:
    return f"{BASE}{options}/fp32"


def engine(**changes):
    fields = {"name": "onnxruntime", "available": True, "version": "1.31.1", "precisions": ["fp32"]}
    return EngineReport.model_validate({**fields, "options": OPTIONS, **changes})


@pytest.fixture
def board(farm, ann, report_of):
    return farm.agent(ann, report_of(engines=(engine(),)))


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ("~turbo=true", "engine_option_unknown", "cache (-1 to 64); fast (true or false); graph (all or none or 1)"),
        ("~graph=some", "engine_option_invalid", "all or none or 1"),
        ("~cache=65", "engine_option_invalid", "-1 to 64"),
        ("~cache=true", "engine_option_invalid", "-1 to 64"),
        ("~fast=1", "engine_option_invalid", "true or false"),
    ],
)
def test_an_option_that_cannot_be_is_refused_and_nothing_stays(farm, ann, board, job_of, options, code, told):
    asks = (
        lambda tx: jobs.submit(tx, job_of(1, platforms=[key(), key(options)]), by=ann),
        lambda tx: jobs.dry_run(tx, job_of(1, platforms=[key(options)]), ann),
        lambda tx: latency.ask(tx, question(job_of, [key(options)]), ann),
    )
    for ask in asks:
        with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
            ask(tx)
        assert (refused.value.code, refused.value.field) == (code, "platforms")
        assert told in refused.value.detail
    assert farm.scalar("SELECT count(*) FROM jobs") == 0
    assert farm.scalar("SELECT count(*) FROM platforms WHERE key LIKE '%~%'") == 0


def question(job_of, names):
    return LatencyRequest.model_validate(
        {"items": [one.model_dump() for one in job_of(1).workloads], "platforms": names}
    )


def test_an_engine_without_options_says_so(farm, ann, report_of, job_of):
    farm.agent(ann, report_of(engines=(engine(options={}),)))
    with farm.transaction() as tx, pytest.raises(InvalidRequest, match="it has none") as refused:
        jobs.submit(tx, job_of(1, platforms=[key("~graph=all")]), by=ann)
    assert refused.value.code == "engine_option_unknown"


def test_a_board_that_tells_no_options_is_as_before(farm, ann, agent, job_of):
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
        jobs.submit(tx, job_of(1, platforms=[key("~graph=none")]), by=ann)
    assert refused.value.code == "platform_impossible"


def test_a_default_and_what_is_left_out_are_one_platform(farm, ann, board, job_of):
    with farm.transaction() as tx:
        (base,) = platforms.find_all(tx, [key(), key("~graph=all"), key("~cache=8~fast=false")])
        names = [key("~graph=1~fast=false"), key("~graph=1~cache=8"), key("~cache=08~graph=1")]
        (one,) = platforms.make_all(tx, names, ann.account_number)
        assert platforms.find(tx, key("~fast=false~graph=1")).key == one.key == key("~graph=1")
        assert platforms.find(tx, key("~graph=all")).id == base.id
    assert base.key == key()


def test_an_option_without_effect_at_its_precision_makes_no_platform(farm, ann, report_of, job_of):
    told = {**OPTIONS, "seed": {"kind": "number", "default": 0, "low": 0, "high": 9, "precisions": ["int8"]}}
    farm.agent(ann, report_of(engines=(engine(options=told, precisions=["fp32", "int8"]),)))
    with farm.transaction() as tx:
        keys = [key("~seed=3"), key("~seed=3~graph=none")]
        assert [one.key for one in platforms.make_all(tx, keys, ann.account_number)] == [key(), key("~graph=none")]
        int8 = [one.replace("fp32", "int8") for one in keys[:1]]
        assert [one.key for one in platforms.make_all(tx, int8, ann.account_number)] == int8
        with pytest.raises(InvalidRequest, match="0 to 9"):
            platforms.find_all(tx, [key("~seed=10")])


def test_a_platform_made_for_an_option_without_effect_means_the_one_without(farm, ann, report_of, job_of):
    told = {"seed": {"kind": "number", "default": 0, "low": 0, "high": 9}}
    agent = farm.agent(ann, report_of(engines=(engine(options=told),)))
    waiting = farm.submit_planned(ann, job_of(1, platforms=[key("~seed=3")]))
    with farm.transaction() as tx:
        (stale,) = platforms.find_all(tx, [key("~seed=3")])
        id_ = platforms.set_alias(tx, key("~seed=3"), "seeded").id
    agent.register(report_of(engines=(engine(options={"seed": {**told["seed"], "precisions": ["int8"]}}),)))
    assert farm.submit(ann, job_of(1, platforms=[key("~seed=3")])).platforms == [key()]
    with farm.transaction() as tx:
        for name in (key("~seed=3"), id_, "seeded"):
            (one,) = platforms.find_all(tx, [name])
            assert one.key == key() == platforms.find(tx, name).key
            assert one.id != stale.id
        [of_platform] = jobs.explain(tx, waiting.id, ann).platforms
    assert of_platform.boards[0].reason == f"takes this for {key()}: ask for that; what waits here is cancelled"
    agent.register(report_of(engines=(engine(options={}),)))
    with farm.transaction() as tx:  # what was measured on it can still be asked for
        assert platforms.find(tx, "seeded").id == stale.id
        assert measured_answers(latency.ask(tx, question(job_of, [key("~seed=3")]), ann))[0].platform == key("~seed=3")


def test_what_waits_where_an_option_turned_out_without_effect_is_cancelled_with_what_to_ask_for(
    farm, ann, report_of, job_of
):
    told = {name: {"kind": "number", "default": 0, "low": 0, "high": 9} for name in ("seed", "deep")}
    agent = farm.agent(ann, report_of(engines=(engine(options=told),)))
    stranded = farm.submit_planned(ann, job_of(3, platforms=[key("~seed=3")]))
    both = farm.submit_planned(ann, job_of(2, seed=9, platforms=[key("~seed=3"), key("~deep=2")]))
    retired = [sweeping.sweep(farm.database).retired_measurements]
    agent.register(report_of(engines=(engine(options=told | {"seed": {**told["seed"], "precisions": ["int8"]}}),)))
    retired += [sweeping.sweep(farm.database).retired_measurements for _ in range(2)]
    assert retired == [0, 5, 0]
    ended, left = farm.job(stranded.id, ann), farm.job(both.id, ann)
    assert (ended.state, ended.progress.cancelled) == ("failed", 3)
    assert (left.state, left.progress.cancelled, left.progress.pending) == ("running", 2, 2)
    with farm.transaction() as tx:
        reasons = {item.reason for item in jobs.items(tx, stranded.id, ann).items}
    assert reasons == {f"its options are without effect: ask for {key()}, which is the same"}
    agent.measure_all()
    assert farm.job(both.id, ann).state == "partial"


def test_what_waits_for_an_option_that_no_board_says_anything_of_goes_on_waiting(farm, ann, report_of, job_of):
    agent = farm.agent(ann, report_of(engines=(engine(),)))
    farm.submit_planned(ann, job_of(1, platforms=[key("~graph=none")]))
    nothing: tuple[dict[str, object] | None, ...] = (None, {})
    for options in nothing:
        agent.register(report_of(engines=(engine(options=options),)))
        assert sweeping.sweep(farm.database).retired_measurements == 0


def test_one_name_that_cannot_be_changes_nothing_for_the_others(farm, ann, report_of, job_of):
    told = {name: {"kind": "number", "default": 0, "low": 0, "high": 9} for name in ("seed", "gone")}
    agent = farm.agent(ann, report_of(engines=(engine(options=told),)))
    farm.submit(ann, job_of(1, platforms=[key("~seed=3"), key("~gone=1")]))
    agent.register(report_of(engines=(engine(options={"seed": {**told["seed"], "precisions": ["int8"]}}),)))
    with farm.transaction() as tx:
        found = platforms.find_all(tx, [key("~gone=1"), key("~seed=3")])
    assert [one.key for one in found] == [key("~gone=1"), key()]


def test_boards_are_asked_only_what_a_platform_means_that_none_offers(farm, ann, report_of, job_of):
    agent = farm.agent(ann, report_of(engines=(engine(),)))
    farm.submit(ann, job_of(1, platforms=[key("~graph=none")]))

    def asked() -> int:
        with farm.transaction() as tx:
            statements: list[str] = []
            bind = tx.connection
            event.listen(bind, "before_cursor_execute", lambda *said: statements.append(said[2]))
            latency.ask(tx, question(job_of, [key(), key("~graph=none")]), ann)
        return sum("b.engines" in one for one in statements)

    assert asked() == 0
    agent.register(report_of(engines=(engine(options={}),)))
    assert asked() == 1


def test_an_option_named_twice_is_refused(farm, ann, board, job_of):
    with farm.transaction() as tx, pytest.raises(InvalidRequest, match="graph is named twice") as refused:
        jobs.submit(tx, job_of(1, platforms=[key("~graph=none~cache=9~graph=none")]), by=ann)
    assert (refused.value.code, refused.value.field) == ("engine_option_repeated", "platforms")


def test_a_platform_with_options_is_made_when_wanted_and_measured(farm, ann, board, job_of):
    wanted = job_of(2, platforms=[key("~graph=none"), key("~cache=-1"), key()])
    with farm.database.transaction(read_only=True) as tx:
        plan = jobs.dry_run(tx, wanted, ann)
        answers = measured_answers(latency.ask(tx, question(job_of, [key("~graph=none")]), ann))
    assert (plan.items, plan.to_measure, plan.reasons) == (6, 6, [])
    assert plan.expected_wait_s is not None
    assert [(one.platform, one.error) for one in answers] == [(key("~graph=none"), "no_predictor")]
    with farm.transaction() as tx, pytest.raises(InvalidRequest, match="no job has wanted"):
        platforms.find(tx, key("~graph=none"))
    job = farm.submit_planned(ann, wanted)
    assert board.measure_all() == 6
    assert farm.job(job.id, ann).state == "succeeded"
    with farm.transaction() as tx:
        found = platforms.get_platform(tx, key("~graph=none"))
        assert (found.boards, found.results, found.engine.options) == (board.boards, 2, {"graph": "none"})
        # what one client wanted does not change what a filter means to others
        assert [row.key for row in platforms.find_offered(tx, PlatformFilter(threads=(1,)))] == [key()]


def test_what_was_wanted_stays_offered_while_the_engine_has_it(farm, ann, board, report_of, job_of):
    farm.submit(ann, job_of(1, platforms=[key("~graph=none"), key("~cache=9")]))
    other = farm.agent(ann, report_of("s2", engines=(engine(),)), name="other")
    smaller = {**OPTIONS, "cache": {"kind": "number", "default": 1, "low": 0, "high": 8}}
    board.register(report_of(engines=(engine(options=smaller),)))

    def offered(by) -> list[str]:
        with farm.transaction() as tx:
            return [name for name in (key("~graph=none"), key("~cache=9")) if by.boards[0] in boards_of(tx, name)]

    assert offered(other) == [key("~graph=none"), key("~cache=9")]
    assert offered(board) == [key("~graph=none")]
    board.register(report_of(engines=(engine(options=None),)))
    assert offered(board) == []


def boards_of(tx, name):
    return platforms.get_platform(tx, name).boards


def test_many_clients_want_the_same_new_platforms_at_once(farm, ann, board, report_of, job_of):
    errors = []

    def submit(names):
        try:
            farm.submit(ann, job_of(1, platforms=names))
            board.register(report_of(engines=(engine(),)))
        except Exception as error:  # boundary: a thread of the test
            errors.append(error)

    names = [key(f"~cache={n}") for n in range(6)]
    threads = [threading.Thread(target=submit, args=(names[::step],)) for step in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    with farm.transaction() as tx:
        assert [boards_of(tx, name) for name in names] == [board.boards] * 6


def test_there_is_a_limit_to_what_can_be_wanted(farm, ann, board, job_of, monkeypatch):
    monkeypatch.setattr(wanted_platforms, "MAX_WANTED", 2)
    farm.submit(ann, job_of(1, platforms=[key("~cache=1"), key("~cache=2")]))
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
        jobs.submit(tx, job_of(1, platforms=[key("~cache=3")]), by=ann)
    assert refused.value.code == "too_large"
    farm.submit(ann, job_of(1, platforms=[key("~cache=2")]))
    farm.submit(farm.account("bob"), job_of(1, platforms=[key("~cache=3")]))


def test_engines_are_listed_with_their_options(farm, board):
    with farm.transaction() as tx:
        (listed,) = platforms.list_engines(tx)
    assert listed.options["1.31.1"]["cache"].high == 64
    assert sorted(listed.options["1.31.1"]) == ["cache", "fast", "graph"]
