"""Two board models that are found to be one."""

from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

import pytest

from benchfarm_core.access import Role
from benchfarm_core.adapting import AdaptationRequest
from benchfarm_core.board_health import GOLDEN_SUITE
from benchfarm_core.board_history import BoardEventKind
from benchfarm_core.boards import MergeRequest, SplitRequest
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound
from benchfarm_core.platforms import PlatformFilter
from benchfarm_core.views import ResultsWanted
from benchfarm_store import adaptations, board_health, board_history, board_models, boards, jobs, platforms, results

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


def split(farm, by, model="host-b"):
    with farm.transaction() as tx:
        return board_models.split(tx, model, SplitRequest(reason="other chips"), by)


def test_a_merge_is_taken_back(farm, ann, lab, pair, job_of, report_of):
    one, two = pair.boards
    merge(farm, lab)
    job = farm.submit_planned(ann, job_of(1, platforms=[B]))
    assert pair.measure_all(two) == 1
    done = split(farm, lab)
    assert (done.was_merged_into, done.boards) == ("host-a", [two])
    with farm.transaction() as tx:
        view = boards.get_board(tx, two)
        event = board_history.list_history(tx, two).items[0]
        assert boards.get_board(tx, one).board_model == "host-a"
        kept = results.list_results(tx, ann, ResultsWanted(platform=A)).items
    assert (view.board_model, {key.partition("/")[0] for key in view.platforms}) == ("host-b", {"host-b"})
    assert (event.before, event.after, event.reason) == ("host-a", "host-b", "other chips")
    assert (len(kept), farm.job(job.id, ann).progress.succeeded) == (1, 1), "what was measured meanwhile stays"
    assert farm.submit_planned(ann, job_of(1, seed=3, platforms=[B])).platforms == [B]
    assert pair.measure_all(two) == 1
    pair.register(report_of("one"), report_of("two", board_model="host-b"))
    with farm.transaction() as tx:
        assert boards.get_board(tx, two).board_model == "host-b"
    with pytest.raises(NotFound):
        split(farm, lab)


def test_a_board_that_came_while_its_model_was_merged_is_named_anew(farm, ann, lab, pair, report_of):
    merge(farm, lab)
    late = report_of("late", board_model="host-b")
    other = farm.agent(ann, late, name="other")
    assert split(farm, lab).boards == [pair.boards[1]]
    with farm.transaction() as tx:
        assert boards.get_board(tx, other.boards[0]).board_model == "host-a"
    other.register(late)
    with farm.transaction() as tx:
        assert boards.get_board(tx, other.boards[0]).board_model == "host-b"


def test_of_a_chain_of_merges_the_first_is_taken_back(farm, ann, lab, pair, report_of):
    merge(farm, lab)
    farm.agent(ann, report_of("three", board_model="host-c"), name="other")
    merge(farm, lab, "host-a", "host-c")
    assert split(farm, lab, "host-b").boards == [pair.boards[1]]
    with farm.transaction() as tx:
        models = [boards.get_board(tx, board).board_model for board in pair.boards]
    assert models == ["host-c", "host-b"]


def test_what_cannot_be_one_model(farm, ann, lab, pair, job_of, report_of):
    farm.agent(ann, report_of("sim", board_model="sim-a", marks=["simulated"]), name="sims")
    with pytest.raises(InvalidRequest):
        merge(farm, lab, "host-b", "host-b")
    for model, into in (("host-b", "host-x"), ("host-x", "host-a"), ("a\x00", "host-a"), ("sim-a", "host-x")):
        with pytest.raises(NotFound, match=r"of the model (host-x|a)$"):
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


def test_a_job_that_is_not_planned_yet_keeps_a_model(farm, ann, lab, pair, job_of):
    job = farm.submit(ann, job_of(2, platforms=[B]))
    with pytest.raises(Conflict) as busy:
        merge(farm, lab)
    assert busy.value.code == "board_model_busy"
    with farm.transaction() as tx:
        jobs.cancel(tx, job.id, ann)
    merge(farm, lab)
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as merged:
        jobs.retry(tx, job.id, ann)
    assert merged.value.code == "board_model_merged"
    assert A in merged.value.detail


def test_a_merge_waits_for_a_job_that_is_just_submitted(farm, ann, lab, pair, job_of):
    with ThreadPoolExecutor(1) as other:
        with farm.transaction() as tx:
            jobs.submit(tx, job_of(2, platforms=[B]), by=ann)
            merged = other.submit(merge, farm, lab)
            await_lock(farm)
        with pytest.raises(Conflict):
            merged.result()


def test_a_registration_beside_a_merge_brings_no_old_name_back(farm, lab, pair, report_of):
    with ThreadPoolExecutor(1) as other:
        with farm.transaction() as tx:
            board_models.merge(tx, "host-b", MergeRequest(into="host-a", reason="same sticker"), lab)
            registered = other.submit(pair.register, report_of("one"), report_of("two", board_model="host-b"))
            await_lock(farm)
        registered.result()
    with farm.transaction() as tx:
        assert {boards.get_board(tx, board).board_model for board in pair.boards} == {"host-a"}


def await_lock(farm):
    """Until a transaction waits for another one."""
    end_s = monotonic() + 20
    while not farm.scalar("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        assert monotonic() < end_s, "nobody waits"
        sleep(0.02)


def test_times_are_compared_before_any_board_is_held(farm, lab, pair):
    with farm.statements() as sent:
        merge(farm, lab)
    compared = next(number for number, one in enumerate(sent) if "percentile_cont" in one)
    held = next(number for number, one in enumerate(sent) if "FROM boards" in one and "FOR NO KEY UPDATE" in one)
    assert compared < held
    assert not any("state IN ('wanted', 'leased')" in one for one in sent)


def test_the_farms_own_wishes_do_not_stand_in_a_merges_way(farm, lab, pair):
    assert board_health.look_after(farm.database, every_s=86_400) == (0, 2)
    grant = pair.must_take(pair.boards[1])
    with pytest.raises(Conflict, match="its boards measure"):
        merge(farm, lab)
    pair.release(grant, "drain")
    merge(farm, lab)
    assert board_health.look_after(farm.database, every_s=86_400) == (1, 0)
    farm.run("UPDATE golden_runs SET wanted_at = wanted_at - interval '20 minutes'")
    pair.measure_all(pair.boards[0])
    farm.run("UPDATE boards SET state = 'idle'")
    assert board_health.look_after(farm.database, every_s=86_400) == (1, 1)
    with farm.transaction() as tx:
        newest, given_up = board_health.list_runs(tx, pair.boards[1]).items
    assert (given_up.outcome, newest.reason) == ("lapsed", "again")
    assert pair.measure_all(pair.boards[1]) == len(GOLDEN_SUITE)


def test_hold_outs_that_a_refresh_wants_again_do_not_stand_in_a_merges_way_either(farm, ann, lab, pair, job_of):
    farm.submit_planned(ann, job_of(2, platforms=[B]))
    farm.run("UPDATE measurements SET purpose = 'holdout'")
    with pytest.raises(Conflict, match="jobs wait"):
        merge(farm, lab)
    farm.run("DELETE FROM job_items")  # now only the farm waits for them
    farm.run("UPDATE jobs SET state = 'succeeded', finished_at = now()")
    merge(farm, lab)
    assert farm.scalar("SELECT count(*) FROM measurements WHERE state = 'cancelled'") == 2


def test_a_model_is_not_merged_while_a_platform_of_it_is_adapted(farm, ann, lab, pair):
    with farm.transaction() as tx:
        made = adaptations.start(tx, B, AdaptationRequest(), by=ann)
        other = adaptations.start(tx, A, AdaptationRequest(), by=ann)
    with pytest.raises(Conflict, match="adaptation") as busy:
        merge(farm, lab)
    assert busy.value.code == "board_model_busy"
    with farm.transaction() as tx:
        adaptations.cancel(tx, made.id, by=ann)
    assert merge(farm, lab).boards == [pair.boards[1]], "one of the other model's platforms is in nobody's way"
    with farm.transaction() as tx:
        assert adaptations.cancel(tx, other.id, by=ann).platform == A
        assert adaptations.start(tx, B, AdaptationRequest(), by=ann).platform == A
