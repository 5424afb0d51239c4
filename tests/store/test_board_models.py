"""Two board models that are found to be one."""

import pytest

from benchfarm_core.access import Role
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import MergeRequest
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound
from benchfarm_core.platforms import PlatformFilter
from benchfarm_core.views import ResultsWanted
from benchfarm_store import board_history, board_models, boards, platforms, results

A = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
B = "host-b/c0.t1.free/onnxruntime-1.31.1/fp32"


@pytest.fixture
def lab(farm):
    return farm.account("lab", Role.OPERATOR)


@pytest.fixture
def pair(farm, ann, report_of):
    """An agent with one board of each of two models."""
    return farm.agent(ann, report_of("one"), report_of("two", board_model="host-b"))


def merge(farm, by, model="host-b", into="host-a"):
    with farm.transaction() as tx:
        return board_models.merge(tx, model, MergeRequest(into=into, reason="same sticker"), by)


def test_boards_of_a_merged_model_share_the_others_platforms(farm, ann, lab, pair, job_of, report_of):
    two = pair.boards[1]
    farm.submit_planned(ann, job_of(2, platforms=[B]))
    assert pair.measure_all(two) == 2
    merged = merge(farm, lab)
    assert (merged.merged_into, merged.boards) == ("host-a", [two])
    with farm.transaction() as tx:
        view = boards.get_board(tx, two)
        event = board_history.list_history(tx, two).items[0]
        offered = platforms.find_offered(tx, PlatformFilter())
        old = results.list_results(tx, ann, ResultsWanted(platform=B))
    assert (view.board_model, {key.partition("/")[0] for key in view.platforms}) == ("host-a", {"host-a"})
    assert (event.kind, event.before, event.after) == (BoardEventKind.BOARD_MODEL, "host-b", "host-a")
    assert event.reason == "same sticker"
    assert {row.key.partition("/")[0] for row in offered} == {"host-a"}
    assert len(old.items) == 2  # where it was measured
    job = farm.submit_planned(ann, job_of(2, platforms=[B]))
    assert (job.platforms, job.progress.pending) == ([A], 2)
    assert pair.measure_all(two) == 2
    pair.register(report_of("one"), report_of("two", board_model="host-b", generation="g2"))
    with farm.transaction() as tx:
        assert boards.get_board(tx, two).board_model == "host-a"
        kinds = [event.kind for event in board_history.list_history(tx, two).items]
    assert kinds.count(BoardEventKind.BOARD_MODEL) == 1


def test_a_merge_is_repeated_and_followed(farm, ann, lab, pair, report_of):
    merge(farm, lab)
    assert merge(farm, lab).boards == []
    other = farm.agent(ann, report_of("three", board_model="host-c"), name="other")
    with farm.transaction() as tx:
        assert boards.get_board(tx, other.boards[0]).board_model == "host-c"
    assert merge(farm, lab, "host-a", "host-c").merged_into == "host-c"
    pair.register(report_of("one"), report_of("two", board_model="host-b"))
    with farm.transaction() as tx:
        assert {boards.get_board(tx, board).board_model for board in pair.boards} == {"host-c"}


def test_what_cannot_be_one_model(farm, ann, lab, pair, job_of, report_of):
    farm.agent(ann, report_of("sim", board_model="sim-a", marks=["simulated"]), name="sims")
    with pytest.raises(InvalidRequest):
        merge(farm, lab, "host-b", "host-b")
    for model, into in (("host-b", "host-x"), ("host-x", "host-a"), ("a\x00", "host-a")):
        with pytest.raises(NotFound):
            merge(farm, lab, model, into)
    with pytest.raises(Conflict) as marked:
        merge(farm, lab, "sim-a", "host-a")
    assert marked.value.code == "board_models_differ"
    farm.submit_planned(ann, job_of(2, platforms=[A, B]))
    with pytest.raises(Conflict) as busy:
        merge(farm, lab)
    assert busy.value.code == "board_model_busy"
    pair.measure_all(pair.boards[0])
    pair.measure_all(pair.boards[1], run_ns=1_200_000)
    with pytest.raises(Conflict, match=r"1\.20 times as long") as differing:
        merge(farm, lab)
    assert differing.value.code == "board_models_differ"
    assert farm.scalar("SELECT count(*) FROM board_model_merges") == 0
