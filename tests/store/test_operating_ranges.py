"""Operating points of boards' ranges in platform keys: made when first wanted, refused where no board has them."""

from typing import Any

import pytest

from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.platforms import PlatformFilter
from benchfarm_store import boards, jobs, latency, platforms, wanted_platforms
from tests.store.asking import measured_answers

ENGINE = "onnxruntime-1.31.1"
FREQUENCIES = [600_000, 1_500_000, 2_400_000]
PINNED: dict[str, Any] = {"mode": "pinned", "cores": [0, 1, 2, 3], "threads_max": 4, "freq_khz": FREQUENCIES}
FREE: dict[str, Any] = {"mode": "free", "cores": [0, 1, 2, 3], "threads_max": 4}
GRAPH = {"graph": {"kind": "choice", "default": "all", "choices": ["all", "none"]}}


def key(point: str, options: str = "", model: str = "rpi5") -> str:
    return f"{model}/{point}/{ENGINE}{options}/fp32"


def engine(**changes: Any) -> dict[str, Any]:
    fields = {"name": "onnxruntime", "available": True, "version": "1.31.1", "precisions": ["fp32"]}
    return {**fields, "options": GRAPH, **changes}


@pytest.fixture
def pi(report_of):
    """Makes reports of boards with ranges: `pi(serial, **changes)`."""

    def make(serial: str = "s1", **changes: Any):
        fields = {"board_model": "rpi5", "operating_points": (), "ranges": [PINNED, FREE], "clock_proof": "verified"}
        return report_of(serial, **{**fields, "engines": [engine()], **changes})

    return make


@pytest.fixture
def board(farm, ann, pi):
    return farm.agent(ann, pi())


def question(job_of, *names):
    return LatencyRequest.model_validate(
        {"items": [one.model_dump() for one in job_of(1).workloads], "platforms": names}
    )


def test_a_board_is_registered_at_a_few_points_and_shows_its_ranges(farm, board):
    with farm.transaction() as tx:
        view = boards.get_board(tx, board.boards[0])
        (one, other) = platforms.list_platforms(tx, PlatformFilter(), None, 10).items
    assert view.platforms == [one.key, other.key] == [key("c0-3.t4.2400000"), key("c3.t1.2400000")]
    assert [found.freq_khz for found in view.ranges] == [tuple(FREQUENCIES), ()]
    assert one.ranges == view.ranges


def test_any_point_of_a_range_is_measured_when_it_is_wanted(farm, ann, board, job_of):
    names = [key("c0-3.t1.2400000"), key("c0-1.t2.600000"), key("c2.t1.free"), key("c3.t1.2400000")]
    wanted = job_of(2, platforms=names)
    with farm.database.transaction(read_only=True) as tx:
        plan = jobs.dry_run(tx, wanted, ann)
        answers = measured_answers(latency.ask(tx, question(job_of, names[1]), ann))
        with pytest.raises(InvalidRequest, match="no job has wanted"):
            platforms.find(tx, names[1])
        with pytest.raises(NotFound):
            platforms.get_platform(tx, names[1])
    assert (plan.items, plan.to_measure, plan.reasons) == (8, 8, [])
    assert plan.expected_wait_s is not None
    assert [(one.platform, one.error) for one in answers] == [(names[1], "no_predictor")]
    job = farm.submit_planned(ann, wanted)
    assert board.measure_all() == 8
    assert farm.job(job.id, ann).state == "succeeded"
    with farm.transaction() as tx:
        found = platforms.get_platform(tx, names[1])
        assert (found.boards, found.results) == (board.boards, 2)
        # what one client wanted does not change what a filter means to others
        assert [row.key for row in platforms.find_offered(tx, PlatformFilter())] == [
            key("c0-3.t4.2400000"),
            key("c3.t1.2400000"),
        ]


@pytest.mark.parametrize(
    "point",
    ["c0-3.t1.2400001", "c0-4.t1.600000", "c0-3.t1.600000_600000", "c0-3.t1.600000.schedutil", "c0-3.t1.fixed"],
)
def test_a_point_that_no_board_has_is_refused_and_nothing_stays(farm, ann, board, job_of, point):
    stray = key(point)
    asks = (
        (lambda tx: jobs.submit(tx, job_of(1, platforms=[key("c0.t1.600000"), stray]), by=ann), "platforms"),
        (lambda tx: jobs.dry_run(tx, job_of(1, platforms=[stray]), ann), "platforms"),
        (lambda tx: latency.ask(tx, question(job_of, stray), ann), "platforms"),
        (lambda tx: platforms.find(tx, stray), "platform"),  # of requests that name one
    )
    for ask, field in asks:
        with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
            ask(tx)
        assert (refused.value.code, refused.value.field) == ("operating_point_impossible", field)
        assert "600000, 1500000 or 2400000 kHz" in refused.value.detail
    assert farm.scalar("SELECT count(*) FROM jobs") == 0
    assert farm.scalar("SELECT count(*) FROM platforms") == 2


def test_what_is_no_matter_of_the_point_is_refused_as_ever(farm, ann, board, job_of):
    for stray in (key("c0.t1.600000").replace("1.31.1", "9.9"), key("c0.t1.600000", model="rpi9")):
        with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
            platforms.find(tx, stray)
        assert refused.value.code == "platform_impossible"


def test_options_of_the_engine_at_a_point_of_a_range(farm, ann, board, job_of):
    wanted = key("c0.t1.600000", "~graph=none")
    farm.submit_planned(ann, job_of(1, platforms=[wanted, key("c0.t1.600000", "~graph=all")]))
    assert board.measure_all() == 2
    with farm.transaction() as tx:
        assert platforms.get_platform(tx, wanted).results == 1
        assert platforms.get_platform(tx, key("c0.t1.600000")).results == 1
        with pytest.raises(InvalidRequest) as refused:
            platforms.find(tx, key("c1.t1.600000", "~graph=some"))
    assert refused.value.code == "engine_option_invalid"


def test_two_spellings_of_a_point_are_one_platform(farm, ann, board):
    with farm.transaction() as tx:
        (one,) = platforms.make_all(tx, [key("c0+1.t1.600000"), key("c0-1.t1.0600000")], ann.account_number)
        (known,) = platforms.find_all(tx, [key("c0+1-3.t4.2400000")])
    assert (one.key, known.key) == (key("c0-1.t1.600000"), key("c0-3.t4.2400000"))
    assert farm.scalar("SELECT count(*) FROM platforms") == 3


def test_what_was_wanted_is_offered_by_every_board_that_has_it(farm, ann, board, pi, job_of):
    wanted = key("c0.t1.600000")
    farm.submit(ann, job_of(1, platforms=[wanted]))
    slow = {**PINNED, "freq_khz": [1_500_000, 2_400_000]}
    others = farm.agent(ann, pi("s2"), pi("s3", ranges=[slow]), name="others")

    def offering() -> set[str]:
        with farm.transaction() as tx:
            return set(platforms.get_platform(tx, wanted).boards)

    assert offering() == {board.boards[0], others.boards[0]}
    board.register(pi(ranges=[slow]))
    assert offering() == {others.boards[0]}
    board.register(pi())
    assert offering() == {board.boards[0], others.boards[0]}
    others.register(pi("s2", engines=[engine(available=False)]), pi("s3", ranges=[PINNED]))
    assert offering() == {board.boards[0], others.boards[1]}


def test_a_board_with_the_point_serves_though_another_of_its_model_has_it_not(farm, ann, pi, job_of):
    slow = {**PINNED, "freq_khz": [600_000]}
    agent = farm.agent(ann, pi("fast"), pi("slow", ranges=[slow]))
    farm.submit(ann, job_of(1, platforms=[key("c0.t1.1500000"), key("c0.t1.600000")]))
    with farm.transaction() as tx:
        assert platforms.get_platform(tx, key("c0.t1.1500000")).boards == agent.boards[:1]
        assert platforms.get_platform(tx, key("c0.t1.600000")).boards == sorted(agent.boards)


def test_an_account_has_so_many_platforms_made_and_not_more(farm, ann, board, job_of, monkeypatch):
    monkeypatch.setattr(wanted_platforms, "MAX_WANTED", 2)
    farm.submit(ann, job_of(1, platforms=[key("c0.t1.600000"), key("c0.t1.600000", "~graph=none")]))
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
        jobs.submit(tx, job_of(1, platforms=[key("c0.t1.1500000")]), by=ann)
    assert (refused.value.code, refused.value.field) == ("too_large", "platforms")
    bob = farm.account("bob")
    farm.submit(bob, job_of(1, platforms=[key("c0.t1.1500000")]))
    farm.submit(ann, job_of(1, platforms=[key("c0.t1.1500000"), key("c0.t1.600000")]))
    assert farm.scalar("SELECT count(*) FROM platforms WHERE wanted_by_id IS NOT NULL") == 3


def test_what_a_board_is_registered_with_is_nobodys_own_wish(farm, ann, board, pi, job_of):
    wanted = key("c0.t1.600000")
    farm.submit(ann, job_of(1, platforms=[wanted]))
    board.register(pi(operating_points=[{"mode": "pinned", "cores": [0], "threads": 1, "freq_khz": [600_000]}]))
    assert farm.scalar("SELECT count(*) FROM platforms WHERE wanted_by_id IS NOT NULL") == 0
    with farm.transaction() as tx:
        assert wanted in [row.key for row in platforms.find_offered(tx, PlatformFilter(mode=("pinned",)))]
        # a point that was once registered stays offered while the board's ranges hold it
        assert key("c3.t1.2400000") in boards.get_board(tx, board.boards[0]).platforms


def test_a_retired_board_makes_nothing(farm, ann, board, job_of):
    farm.run("UPDATE boards SET health = 'retired'")
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as refused:
        jobs.submit(tx, job_of(1, platforms=[key("c0.t1.600000")]), by=ann)
    assert refused.value.code == "platform_impossible"
