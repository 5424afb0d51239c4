"""Bundles: what is handed out, and how results come in: once, whole, from the right farm, in time."""

import json
from typing import Any

import pytest

from benchfarm_core.access import Role
from benchfarm_core.boards import EngineOption, EngineReport, Health
from benchfarm_core.bundles import (
    BundleContents,
    BundleFailure,
    BundleHead,
    BundleOrder,
    BundlePart,
    BundleRequest,
    BundleResults,
    sign,
)
from benchfarm_core.errors import BenchfarmError, Conflict, InvalidRequest, NotFound
from benchfarm_core.jobs import JobState
from benchfarm_core.platforms import OperatingPoint, Precision
from benchfarm_store import board_history, boards, bundles, results
from benchfarm_store.sweeping import sweep
from benchfarm_workloads.draws import draw_mixed
from tests.store.conftest import board_report, evidence, failed, ok

CONTENTS = "c" * 64
RUN = "0" * 32
POINT = OperatingPoint(mode="free", cores=(0,), threads=1)
PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"


def request_of(kernels: int = 2, **changes: Any) -> BundleRequest:
    """Kernels for ONNX Runtime on one thread."""
    workloads = [{"kind": "kernel", "type": w.type, "config": w.config} for w in draw_mixed(1, kernels)]
    fields = {"target": "linux-x86_64-cp312", "engine": "onnxruntime", "workloads": workloads}
    return BundleRequest.model_validate(fields | changes)


def head_of(order: BundleOrder, **changes: Any) -> BundleHead:
    """What a box says of itself; `report` and `platform` are those of the tests' usual host."""
    fields: dict[str, Any] = {
        "format": 1,
        "bundle_id": order.bundle_id,
        "farm": order.farm,
        "contents_sha256": CONTENTS,
        "run_id": RUN,
        "parts": 1,
        "agent_version": "0.1.0",
        "report": board_report("box", kind="air_gapped"),
        "platform": order.platform("host-a", POINT, "1.31.1"),
    }
    return BundleHead.model_validate({**fields, **changes})


def signed(order: BundleOrder, *found: Any, number: int = 0, **head: Any) -> BundleResults:
    """A part of a results file, as a box writes it; by default good numbers for everything."""
    found = found or tuple(ok(item.measurement_id) for item in order.items)
    part = BundlePart(number=number, wall_ms=900.0, results=found, launches=(evidence(0),))
    texts = head_of(order, **head).model_dump_json(), part.model_dump_json()
    return BundleResults(head=texts[0], part=texts[1], signature=sign(order.key, *texts))


@pytest.fixture
def lab(farm):
    """An operator who makes bundles and brings their results."""

    class Lab:
        by = farm.account("lab", Role.OPERATOR)

        def create(self, request: BundleRequest | None = None, *, seal: bool = True) -> BundleOrder:
            with farm.transaction() as tx:
                order = bundles.create_bundle(tx, request or request_of(), by=self.by)
            if seal:
                with farm.transaction() as tx:
                    bundles.seal_bundle(tx, order.bundle_id, BundleContents(contents_sha256=CONTENTS))
            return order

        def bring(self, order: BundleOrder, came: BundleResults | None = None):
            with farm.transaction() as tx:
                return bundles.import_part(tx, order.bundle_id, came or signed(order), by=self.by)

        def refused(self, order: BundleOrder, came: BundleResults) -> BenchfarmError:
            """The refusal of a part, after which nothing of it is there."""
            before = farm.scalar("SELECT count(*) FROM results"), farm.scalar("SELECT count(*) FROM boards")
            with pytest.raises(BenchfarmError) as error:
                self.bring(order, came)
            assert (farm.scalar("SELECT count(*) FROM results"), farm.scalar("SELECT count(*) FROM boards")) == before
            return error.value

        def results(self):
            with farm.transaction() as tx:
                return results.list_results(tx, self.by).items

    return Lab()


def test_results_enter_with_their_origin_board_and_evidence(farm, lab):
    order = lab.create()
    assert [item.measurement_id for item in order.items] == [1, 2]
    answer = lab.bring(order)
    assert (answer.results, answer.completed, answer.failed, answer.repeated) == (2, 0, 0, False)
    assert answer.platform == PLATFORM
    found = lab.results()
    assert {one.bundle_id for one in found} == {order.bundle_id}
    assert {one.board_id for one in found} == {answer.board_id}
    assert {one.summary.launches for one in found} == {3}
    with farm.transaction() as tx:
        board = boards.get_board(tx, answer.board_id)
        told = board_history.list_history(tx, answer.board_id).items
        measured = results.get_measurement(tx, found[0].measurement_id, lab.by)
        view = bundles.get_bundle(tx, order.bundle_id)
    assert (board.kind, board.state) == ("air_gapped", "offline")
    assert [str(one.kind) for one in reversed(told)] == ["registered", "offline"]
    assert order.bundle_id in told[0].reason
    assert measured.evidence is not None
    assert [launch["engine_version"] for launch in measured.evidence.launches] == ["1.31.1"]
    assert [(run.board_id, run.parts, run.results) for run in view.runs] == [(answer.board_id, 1, 2)]


def test_a_second_import_changes_nothing(farm, lab):
    order = lab.create()
    came = signed(order)
    first = lab.bring(order, came)
    before = [farm.scalar(f"SELECT count(*) FROM {table}") for table in ("results", "leases", "board_events")]
    farm.run("UPDATE bundles SET expires_at = now() - interval '1 day'")
    again = lab.bring(order, came)
    assert again == first.model_copy(update={"repeated": True})
    assert [farm.scalar(f"SELECT count(*) FROM {table}") for table in ("results", "leases", "board_events")] == before


def test_what_a_box_measured_beside_neighbours_counts_with_a_mark(lab):
    """Nobody there can measure it again."""
    lab.bring(lab.create())
    order = lab.create()
    found = [ok(item.measurement_id, neighbours=1.2) for item in order.items]
    assert lab.bring(order, signed(order, *found, run_id="1" * 32)).results == 2
    marks = {(one.bundle_id == order.bundle_id, one.summary.grade, one.summary.noisy) for one in lab.results()}
    assert marks == {(True, "D", True), (False, "A", False)}


def test_parts_of_one_run_are_taken_in_one_by_one(lab, farm):
    order = lab.create(request_of(3))
    numbers = [item.measurement_id for item in order.items]
    parts = [signed(order, ok(number), number=index, parts=3) for index, number in enumerate(numbers)]
    answers = [lab.bring(order, part) for part in parts]
    assert [answer.results for answer in answers] == [1, 1, 1]
    assert len({answer.board_id for answer in answers}) == 1
    assert len(lab.results()) == 3
    assert farm.scalar("SELECT count(*) FROM board_events") == 2, "the box came and went once"


def generation_of(farm, run: str) -> str:
    """The generation under which all results of a run stand."""
    name: str = farm.scalar(
        """
        SELECT DISTINCT g.name FROM bundle_parts p JOIN leases l ON l.id = p.lease_id
            JOIN generations g ON g.id = l.generation_id WHERE p.run_id = :run
        """,
        run=run,
    )
    return name


def test_what_a_board_has_become_since_is_not_what_a_run_measured(farm, lab):
    order = lab.create(request_of(2))
    numbers = [item.measurement_id for item in order.items]
    old = {"report": board_report("box", kind="air_gapped", generation="old"), "parts": 2}
    engines = (EngineReport(name="onnxruntime", version="1.32.0", available=True, precisions=(Precision.FP32,)),)
    new_report = board_report("box", kind="air_gapped", generation="new", engines=engines)
    lab.bring(order, signed(order, ok(numbers[0]), number=0, **old))
    newer = lab.create(request_of(1))
    platform = newer.platform("host-a", POINT, "1.32.0")
    lab.bring(newer, signed(newer, report=new_report, platform=platform, run_id="1" * 32))
    answer = lab.bring(order, signed(order, ok(numbers[1]), number=1, **old))
    assert (answer.platform, answer.results) == (PLATFORM, 1)
    assert (generation_of(farm, RUN), generation_of(farm, "1" * 32)) == ("old", "new")
    late = lab.create(request_of(1))
    lab.bring(late, signed(late, report=old["report"], run_id="2" * 32))
    assert generation_of(farm, "2" * 32) == "old"
    with farm.transaction() as tx:
        board = boards.get_board(tx, answer.board_id)
    assert (board.generation, [engine.version for engine in board.engines]) == ("new", ["1.32.0"])
    assert PLATFORM not in board.platforms


def test_what_waits_on_a_platform_is_packed_and_completed(farm, lab, ann, job_of):
    lab.bring(lab.create(request_of(1)))
    job = farm.submit_planned(ann, job_of(3, seed=7, platforms=[PLATFORM]))
    order = lab.create(BundleRequest(target="linux-x86_64-cp312", platform=PLATFORM))
    assert (order.engine, order.engine_version, order.threads, len(order.items)) == ("onnxruntime", "1.31.1", 1, 3)
    answer = lab.bring(order)
    assert (answer.results, answer.completed) == (3, 3)
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED
    with farm.transaction() as tx, pytest.raises(Conflict, match="nothing"):
        bundles.create_bundle(tx, BundleRequest(target="linux-x86_64-cp312", platform=PLATFORM), by=lab.by)


def test_what_was_done_elsewhere_meanwhile_becomes_a_further_repeat(farm, lab, ann, job_of):
    lab.bring(lab.create(request_of(1)))
    farm.submit_planned(ann, job_of(2, seed=7, platforms=[PLATFORM]))
    order = lab.create(BundleRequest(target="linux-x86_64-cp312", platform=PLATFORM))
    quicker = farm.agent(ann, board_report("other"))
    assert quicker.measure_all() == 2
    answer = lab.bring(order)
    assert (answer.results, answer.completed) == (2, 0)
    found = [one for one in lab.results() if one.bundle_id == order.bundle_id]
    assert {one.repeat_no for one in found} == {1}


def test_a_failure_is_an_outcome_and_a_passing_one_leaves_the_wish(farm, lab, ann, job_of):
    lab.bring(lab.create(request_of(1)))
    job = farm.submit_planned(ann, job_of(2, seed=7, platforms=[PLATFORM]))
    order = lab.create(BundleRequest(target="linux-x86_64-cp312", platform=PLATFORM))
    answer = lab.bring(order, signed(order, failed(1, "conversion_failed"), failed(2, "runner_died")))
    assert (answer.results, answer.failed) == (0, 2)
    progress = farm.job(job.id, ann).progress
    assert (progress.failed, progress.pending) == (1, 1)
    assert farm.scalar("SELECT state FROM boards WHERE kind = 'air_gapped'") == "offline"


def test_results_changed_on_the_way_are_refused(lab):
    order = lab.create()
    came = signed(order)
    part = json.loads(came.part)
    part["results"][0]["launches"][0]["blocks_ns"][0] //= 2
    edited = came.model_copy(update={"part": json.dumps(part)})
    assert lab.refused(order, edited).code == "bundle_tampered"
    moved = came.model_copy(update={"head": came.head + came.part[:1], "part": came.part[1:]})
    assert lab.refused(order, moved).code == "bundle_tampered"
    other = lab.create()
    assert lab.refused(other, came).code == "bundle_tampered", "signed for another bundle"


def test_a_bundle_that_was_changed_is_refused(lab):
    order = lab.create()
    assert lab.refused(order, signed(order, contents_sha256="d" * 64)).code == "bundle_tampered"
    unsealed = lab.create(seal=False)
    assert lab.refused(unsealed, signed(unsealed)).code == "bundle_tampered"


def test_a_bundle_is_packed_once(farm, lab):
    order = lab.create()
    with farm.transaction() as tx:
        assert bundles.seal_bundle(tx, order.bundle_id, BundleContents(contents_sha256=CONTENTS)).contents_sha256
    with farm.transaction() as tx, pytest.raises(Conflict):
        bundles.seal_bundle(tx, order.bundle_id, BundleContents(contents_sha256="d" * 64))
    with farm.transaction() as tx, pytest.raises(NotFound):
        bundles.seal_bundle(tx, "n_none", BundleContents(contents_sha256=CONTENTS))


def test_a_bundle_that_could_not_be_packed_has_failed_at_once_and_for_good(farm, lab):
    order, sealed = lab.create(seal=False), lab.create()
    for reason in ("no network", "no room"):
        with farm.transaction() as tx:
            assert bundles.fail_bundle(tx, order.bundle_id, BundleFailure(reason=reason)).failure == "no network"
    contents = BundleContents(contents_sha256=CONTENTS)
    with farm.transaction() as tx, pytest.raises(Conflict, match="no network: create another one"):
        bundles.seal_bundle(tx, order.bundle_id, contents)
    assert lab.refused(order, signed(order)).code == "bundle_tampered"
    with farm.transaction() as tx, pytest.raises(Conflict, match="was packed"):
        bundles.fail_bundle(tx, sealed.bundle_id, BundleFailure(reason="too late"))
    with farm.transaction() as tx, pytest.raises(NotFound):
        bundles.fail_bundle(tx, "n_none", BundleFailure(reason="none"))
    with farm.transaction() as tx:
        told = {one.id: (one.contents_sha256, one.failure) for one in bundles.list_bundles(tx).items}
    assert told == {order.bundle_id: (None, "no network"), sealed.bundle_id: (CONTENTS, "")}


def test_of_several_repeats_that_wait_each_run_completes_the_next(farm, lab, ann, job_of):
    lab.bring(lab.create(request_of(1)))
    job = farm.submit_planned(ann, job_of(2, seed=7, platforms=[PLATFORM], repeats=2))
    order = lab.create(BundleRequest(target="linux-x86_64-cp312", platform=PLATFORM))
    assert len(order.items) == 2
    for run in ("1", "2", "3"):
        answer = lab.bring(order, signed(order, run_id=run * 32))
        assert (answer.results, answer.completed) == (2, 0 if run == "3" else 2)
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED


def test_one_run_measures_as_often_as_it_was_told(farm, lab, ann, job_of):
    order = lab.create(request_of(2, repeats=3))
    assert [item.measurement_id for item in order.items] == [1, 2, 3, 4, 5, 6]
    first, second = (order.items[index].workload for index in (0, 1))
    assert [item.workload for item in order.items] == [first, second] * 3
    assert lab.bring(order).results == 6
    repeats = "SELECT string_agg(repeat_no::text, ' ' ORDER BY workload_id, repeat_no) FROM measurements"
    assert farm.scalar(repeats) == "0 1 2 0 1 2"

    job = farm.submit_planned(ann, job_of(1, seed=9, platforms=[PLATFORM], repeats=3))
    waiting: dict[str, Any] = {"target": "linux-x86_64-cp312", "platform": PLATFORM}
    assert len(lab.create(BundleRequest.model_validate(waiting | {"repeats": 2})).items) == 2
    order = lab.create(BundleRequest.model_validate(waiting | {"repeats": 9}))
    assert len(order.items) == 3, "no more often than it waits"
    answer = lab.bring(order)
    assert (answer.results, answer.completed) == (3, 3)
    assert farm.job(job.id, ann).state == JobState.SUCCEEDED


def test_a_lease_of_an_import_is_its_importer_s(farm, lab, ann, job_of):
    """Also where it completes what somebody else waits for."""
    lab.bring(lab.create(request_of(1)))
    farm.submit_planned(ann, job_of(1, seed=7, platforms=[PLATFORM]))
    lab.bring(lab.create(BundleRequest(target="linux-x86_64-cp312", platform=PLATFORM)))
    accounts = """
        SELECT string_agg(DISTINCT a.name, ' ') FROM leases l JOIN queues q ON q.id = l.queue_id
        JOIN accounts a ON a.id = q.account_id
    """
    assert farm.scalar(accounts) == "lab"


def test_the_list_has_each_bundles_own_runs(farm, lab):
    used, unused = lab.create(), lab.create(request_of(3), seal=False)
    lab.bring(used)
    lab.bring(used, signed(used, run_id="1" * 32))
    with farm.transaction() as tx:
        found = {one.id: one for one in bundles.list_bundles(tx).items}
    assert [run.run_id for run in found[used.bundle_id].runs] == [RUN, "1" * 32]
    assert (found[unused.bundle_id].runs, found[unused.bundle_id].items) == ([], 3)


def test_bundles_of_no_use_are_forgotten(farm, lab):
    brought, expired, left, open_ = lab.create(), lab.create(), lab.create(seal=False), lab.create()
    lab.bring(brought)
    farm.run("UPDATE bundles SET created_at = now() - interval '3 days'")
    farm.run(
        "UPDATE bundles SET expires_at = now() - interval '31 days' WHERE public_id = ANY(:ids)",
        ids=[brought.bundle_id, expired.bundle_id],
    )
    assert sweep(farm.database).forgotten_bundles == 2
    with farm.transaction() as tx:
        kept = {one.id for one in bundles.list_bundles(tx).items}
    assert kept == {brought.bundle_id, open_.bundle_id}, left.bundle_id


def test_a_bundle_of_another_farm_is_refused_by_its_name(lab):
    foreign = lab.create().model_copy(update={"bundle_id": "n_elsewhere", "farm": "next-door"})
    error = lab.refused(foreign, signed(foreign))
    assert error.code == "bundle_foreign"
    assert "next-door" in error.detail
    ours = foreign.model_copy(update={"farm": lab.create().farm})
    assert isinstance(lab.refused(ours, signed(ours)), NotFound)


def test_a_bundle_expires(farm, lab):
    order = lab.create()
    farm.run("UPDATE bundles SET expires_at = now() - interval '1 second'")
    assert lab.refused(order, signed(order)).code == "bundle_expired"


def test_one_part_of_a_run_has_one_content(lab):
    order = lab.create()
    lab.bring(order)
    assert lab.refused(order, signed(order, ok(1, run_ns=2_000_000))).code == "bundle_differs"


@pytest.mark.parametrize(
    ("found", "head", "code"),
    [
        ((ok(9),), {}, "result_invalid"),
        ((ok(1), ok(1)), {}, "result_invalid"),
        ((), {"parts": 1, "number": 1}, "result_invalid"),
        ((), {"report": board_report("box")}, "result_invalid"),
        ((), {"report": board_report("box", kind="air_gapped", board_model="host-b")}, "result_invalid"),
        ((), {"report": board_report("box", kind="air_gapped", engines=())}, "platform_impossible"),
    ],
)
def test_results_that_cannot_be_are_refused(lab, found, head, code):
    order = lab.create()
    assert lab.refused(order, signed(order, *found, **head)).code == code


def test_a_board_out_of_use_brings_nothing(farm, lab):
    answer = lab.bring(lab.create())
    with farm.transaction() as tx:
        boards.set_health(tx, answer.board_id, Health.QUARANTINED, "dropped", lab.by)
    order = lab.create()
    error = lab.refused(order, signed(order))
    assert isinstance(error, Conflict)
    assert "dropped" in error.detail


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"protocol": {"name": "compare"}}, "protocol"),
        ({"protocol": {"name": "none"}}, "protocol.name"),
        ({"workloads": [{"kind": "kernel", "type": "none", "config": {}}]}, "workloads.0.type"),
        ({"engine": "zzz"}, "engine"),
        ({"engine": "torch"}, "engine"),
        ({"engine": "mnn", "precision": "int8"}, "precision"),
        ({"engine": "litert", "precision": "as_given"}, "precision"),
    ],
)
def test_an_order_that_cannot_be(farm, lab, changes, field):
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as error:
        bundles.create_bundle(tx, request_of(**changes), by=lab.by)
    assert (error.value.field or "").startswith(field.rpartition(".")[0] or field)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"turbo": True}, "engine_option_unknown"),
        ({"graph": "some"}, "engine_option_invalid"),
        ({"graph": "none"}, None),
    ],
)
def test_options_that_boards_know_not_are_refused_before_a_box_measures_with_them(farm, lab, ann, options, code):
    graph = EngineOption(kind="choice", default="all", choices=("all", "none"))
    told = EngineReport(
        name="onnxruntime", available=True, version="1.31.1", precisions=(Precision.FP32,), options={"graph": graph}
    )
    farm.agent(ann, board_report("other", engines=(told,)))
    if code is None:
        assert lab.create(request_of(options=options)).options == options
        return
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as error:
        bundles.create_bundle(tx, request_of(options=options), by=lab.by)
    assert (error.value.code, error.value.field) == (code, "options")


def test_more_than_a_bundle_holds_is_refused(farm, lab):
    with farm.transaction() as tx, pytest.raises(InvalidRequest) as error:
        bundles.create_bundle(tx, request_of(6, repeats=100), by=lab.by)
    assert (error.value.code, error.value.field) == ("too_large", "repeats")


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "windows-x86_64-cp312"},
        {"target": "linux-x86_64-cp39"},
        {"workloads": []},
        {"engine": None},
        {"platform": PLATFORM},
        {"repeats": 0},
        {"repeats": 101},
    ],
)
def test_a_request_that_cannot_be(changes):
    with pytest.raises(ValueError):
        request_of(**changes)


def test_a_nul_in_a_text_that_holds_json_is_refused(farm, lab):
    """The edge sees the bytes of a body: in a text that is decoded once more a NUL can hide from it."""
    order = lab.create()
    part = BundlePart(
        number=0, wall_ms=1.0, results=(failed(order.items[0].measurement_id, "engine_error"),), launches=()
    )
    texts = head_of(order).model_dump_json(), part.model_dump_json().replace('"detail":"', '"detail":"\\u0000', 1)
    assert "\\u0000" in texts[1]
    came = BundleResults(head=texts[0], part=texts[1], signature=sign(order.key, *texts))
    with pytest.raises(InvalidRequest) as caught:
        lab.bring(order, came)
    assert caught.value.code == "result_invalid"
