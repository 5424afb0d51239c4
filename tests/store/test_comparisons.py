"""Pairs in the store: resolved, dispatched, judged, shown, reused and derived again."""

from typing import Any

import pytest

from benchfarm_core.boards import MEMORY_SHARE, EngineReport
from benchfarm_core.clock_proof import ClockEvidence
from benchfarm_core.comparing import ComparisonVerdict
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.jobs import ItemSource, JobKind, JobRequest, JobState
from benchfarm_core.measurements import LaunchSamples, MeasurementResult, SideSamples
from benchfarm_core.platforms import Precision
from benchfarm_core.workloads import PairWorkload
from benchfarm_store import comparisons, jobs, leases, models, results

ROUNDS = 4
KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
A = {"kind": "model", "name": "mobilenet_v2", "config": {"hw": 64}}
B = {"kind": "model", "name": "mobilenet_v2", "config": {"hw": 96}}
C = {"kind": "model", "name": "mobilenet_v2", "config": {"hw": 128}}


def comparison_of(*pairs: Any, **changes: Any) -> JobRequest:
    workloads = pairs or ({"kind": "pair", "a": A, "b": B},)
    return JobRequest.model_validate({"kind": "compare", "workloads": workloads, "platforms": [KEY], **changes})


def paired(measurement_id: int, *, slower: float = 1.0, launches: int = 3, wait_ns: int = 0) -> MeasurementResult:
    """Rounds of four pairs, with a little noise of their own; b takes `slower` times as long as a."""
    visits = []
    for number in range(launches):
        luck = [1 + 0.002 * ((7 * (number * ROUNDS + r)) % 5 - 2) for r in range(ROUNDS) for _ in range(4)]
        side: dict[str, Any] = {
            "delays_ns": (wait_ns,) * len(luck),
            "switches": (0,) * len(luck),
            "iterations": 2,
            "open_ms": 1.0,
            "first_ms": 1.0,
            "warmup_runs": 3,
            "gate_relative_l2": 1e-6,
            "timed_ms": 9.0,
        }
        b = SideSamples(
            blocks_ns=tuple(round(600_000 * slower * x) for x in luck), rounds=(4,) * ROUNDS, threads=1, **side
        )
        a: dict[str, Any] = {"launch_no": number, "blocks_ns": (600_000,) * len(luck), "canary_ms": 1.0, "beside": b}
        canaries = {"sgemm": ((0, 100_000),), "mobilenet": ((0, 400_000),)}
        visits.append(LaunchSamples.model_validate({"canaries": canaries, **a, **side}))
    return MeasurementResult(measurement_id=measurement_id, outcome="ok", launches=tuple(visits))


def answered(farm: Any, ann: Any, agent: Any, request: JobRequest, **found: Any) -> Any:
    """The one item of a comparison that was measured."""
    job = farm.submit_planned(ann, request)
    grant = agent.must_take()
    agent.send(grant, *(paired(item.measurement_id, **found) for item in grant.items))
    agent.release(grant)
    with farm.transaction() as tx:
        return jobs.items(tx, job.id, ann).items[0]


def test_the_answer_of_a_pair_is_shown_in_job_item_and_measurement(farm, ann, agent):
    item = answered(farm, ann, agent, comparison_of(), slower=1.05)
    found = item.comparison
    assert found is not None
    assert item.summary is None
    assert found.verdict == ComparisonVerdict.A_FASTER
    assert found.low_percent < 5 < found.high_percent
    assert (found.launches, found.rounds, found.pairs, found.tolerance_percent) == (3, 12, 48, 2)
    assert found.a_ms == pytest.approx(0.3, rel=1e-3)
    with farm.transaction() as tx:
        view = results.get_measurement(tx, item.measurement_id, ann)
        assert view.comparison == found
        assert view.samples[0].beside is not None
        assert results.list_results(tx, ann).items == []
        job = jobs.list_jobs(tx, ann).items[0]
    assert (job.kind, job.state, job.protocol.name) == (JobKind.COMPARE, JobState.SUCCEEDED, "compare")


@pytest.mark.parametrize("told", [("fp32", "bf16"), ("fp32", "fp32"), ("other", None), (None, "fp32"), (None, None)])
def test_what_both_sides_were_computed_in_is_kept(farm, ann, agent, told):
    job = farm.submit_planned(ann, comparison_of())
    grant = agent.must_take()
    [id_] = [item.measurement_id for item in grant.items]
    words = dict(zip(("effective_precision", "b_effective_precision"), told, strict=True))
    agent.send(grant, paired(id_).model_copy(update=words))
    agent.release(grant)
    with farm.transaction() as tx:
        item, view = jobs.items(tx, job.id, ann).items[0], results.get_measurement(tx, id_, ann)
    assert (item.effective_precision, item.b_effective_precision) == told
    assert (view.effective_precision, view.b_effective_precision) == told


def test_an_answer_is_as_sure_of_its_clock_as_its_launches(farm, ann, report_of):
    point = {"mode": "pinned", "cores": [0], "threads": 1, "freq_khz": [1_800_000]}
    board = farm.agent(ann, report_of(operating_points=[point], clock_proof="verified"))
    key = KEY.replace("free", "1800000")
    sure = ClockEvidence(asked_khz=(1_800_000,), residency=1.0, watched_s=3.0)
    hot = sure.model_copy(update={"throttle_events": 1})

    def measured(workload: dict[str, Any], *clocks: ClockEvidence) -> tuple[str, int, int]:
        pair = {"kind": "pair", "a": A, "b": workload}
        farm.submit_planned(ann, comparison_of(pair, platforms=[key], clock_proof="bounded"))
        grant = board.must_take()
        board.send(grant, paired(grant.items[0].measurement_id, launches=len(clocks)), clocks=clocks)
        board.release(grant)
        state = "SELECT state FROM measurements ORDER BY id DESC LIMIT 1"
        found = "SELECT max({}) FROM comparisons WHERE measurement_id = (SELECT max(id) FROM measurements)"
        return farm.scalar(state), farm.scalar(found.format("clock_proof")), farm.scalar(found.format("launches"))

    assert measured(B, sure, sure, sure) == ("done", 2, 3)
    assert measured(C, sure, hot, sure, sure) == ("done", 2, 3)
    farm.run("UPDATE comparisons SET rule_version = 0, launches = 77")
    with farm.transaction() as tx:
        assert comparisons.rederive(tx) == 2
    assert farm.scalar("SELECT max(launches) FROM comparisons") == 3


def test_a_job_of_another_kind_is_told_apart(farm, ann, agent, job_of):
    assert farm.submit(ann, job_of(1)).kind == JobKind.MEASURE


@pytest.mark.parametrize(("verdict", "source"), [("b_faster", ItemSource.KNOWN), ("inconclusive", ItemSource.NEW)])
def test_a_fresh_answer_is_reused_and_the_want_of_one_is_not(farm, ann, agent, verdict, source):
    request = comparison_of()
    first = answered(farm, ann, agent, request, slower=0.9)
    farm.run("UPDATE comparisons SET verdict = :verdict", verdict=verdict)
    job = farm.submit_planned(ann, request)
    with farm.transaction() as tx:
        again = jobs.items(tx, job.id, ann).items[0]
    assert again.source == source
    assert (again.measurement_id == first.measurement_id) == (source == ItemSource.KNOWN)


def test_a_pair_that_never_ran_undisturbed_is_tried_again(farm, ann, agent):
    item = answered(farm, ann, agent, comparison_of(), wait_ns=10**6)
    assert (item.comparison, item.state) == (None, "pending")
    assert farm.scalar("SELECT inconclusive FROM measurements") == 1


def test_an_answer_of_an_older_rule_is_derived_again(farm, ann, agent):
    item = answered(farm, ann, agent, comparison_of(), slower=1.05)
    farm.run("UPDATE comparisons SET rule_version = 0, verdict = 'inconclusive', change_percent = 0")
    with farm.transaction() as tx:
        assert comparisons.rederive(tx) == 1
        assert comparisons.rederive(tx) == 0
        assert results.get_measurement(tx, item.measurement_id, ann).comparison == item.comparison


def test_the_sides_have_rows_of_their_own_and_files_for_both_are_named(farm, ann, agent):
    farm.submit_planned(ann, comparison_of())
    (item,) = agent.must_take().items
    assert isinstance(item.workload, PairWorkload)
    assert item.beside is not None
    assert (item.beside.max_relative_l2, item.max_relative_l2) == (1e-3, 1e-3)
    assert farm.scalar("SELECT count(*) FROM workloads WHERE kind = 'model'") == 2
    assert farm.scalar("SELECT count(*) FROM pairs p JOIN workloads w ON w.id = p.workload_id AND w.kind = 'pair'") == 1
    both = farm.scalar("SELECT p.flops = a.flops + b.flops FROM pairs x JOIN workloads p ON p.id = x.workload_id"
                       " JOIN workloads a ON a.id = x.a_id JOIN workloads b ON b.id = x.b_id")  # fmt: skip
    assert both is True


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "measure"}, "workloads.0"),
        ({"workloads": [A]}, "workloads.0"),
        ({"workloads": [{"kind": "pair", "a": A, "b": B}, B]}, "workloads.1"),
        ({"protocol": {"name": "kernel"}}, "protocol.name"),
        ({"kind": "measure", "workloads": [A], "protocol": {"name": "compare"}}, "protocol.name"),
    ],
)
def test_pairs_their_protocol_and_the_kind_come_together(farm, ann, agent, changes, field):
    body = {"kind": "compare", "workloads": [{"kind": "pair", "a": A, "b": B}], "platforms": [KEY], **changes}
    with pytest.raises(InvalidRequest) as refused:
        farm.submit(ann, JobRequest.model_validate(body))
    assert (refused.value.code, refused.value.field) == ("not_a_pair", field)
    assert farm.scalar("SELECT count(*) FROM workloads") == 0


def test_a_side_that_the_catalogue_refuses_is_named(farm, ann, agent):
    stray = {"kind": "kernel", "type": "nothing", "config": {}}
    with pytest.raises(InvalidRequest) as refused:
        farm.submit(ann, comparison_of({"kind": "pair", "a": A, "b": stray}))
    assert (refused.value.code, refused.value.field) == ("kernel_unknown", "workloads.0.b.type")
    with pytest.raises(NotFound):
        farm.submit(ann, comparison_of({"kind": "pair", "a": {"kind": "upload", "model_id": "m_1"}, "b": B}))


PRECISE = EngineReport(
    name="onnxruntime", available=True, version="1.31.1", precisions=(Precision.FP32, Precision.INT8)
)


def test_two_precisions_of_one_engine_are_compared_in_one_process(farm, ann, report_of):
    agent = farm.agent(ann, report_of(engines=(PRECISE,)))
    on_int8 = {"kind": "pair", "a": A, "b": A, "b_platform": KEY.replace("fp32", "int8")}
    farm.submit_planned(ann, comparison_of(on_int8))
    grant = agent.must_take()
    (item,) = grant.items
    assert (grant.platform.precision, item.workload.b_precision, item.workload.b_options) == ("fp32", "int8", None)
    assert (item.max_relative_l2, item.beside.max_relative_l2) == (1e-3, 5e-2)


def test_what_cannot_share_a_process_is_refused(farm, ann, agent):
    stray = {"kind": "pair", "a": A, "b": A, "b_platform": KEY.replace("c0.t1", "c0-1.t2")}
    with pytest.raises(InvalidRequest) as refused:
        farm.submit(ann, comparison_of(stray))
    assert (refused.value.code, refused.value.field) == ("compare_across_engines", "workloads.0.b_platform")
    with pytest.raises(InvalidRequest) as refused:
        farm.submit(ann, comparison_of({"kind": "pair", "a": A, "b": A}, stray))
    assert refused.value.field == "workloads.1.b_platform"


def test_a_filter_leaves_out_what_cannot_share_a_process(farm, ann, agent):
    on_one = {"kind": "pair", "a": A, "b": B, "b_platform": KEY}
    job = farm.submit_planned(ann, comparison_of(on_one, platforms={}))
    with farm.transaction() as tx:
        assert [item.platform for item in jobs.items(tx, job.id, ann).items] == [KEY]
    other = {"kind": "pair", "a": A, "b": B, "b_platform": KEY.replace("c0.t1", "c0-1.t2")}
    with pytest.raises(InvalidRequest) as refused:
        farm.submit(ann, comparison_of(on_one, other, platforms={}))
    assert refused.value.code == "compare_across_engines"


def test_many_pairs_cost_no_more_statements_than_few(farm, ann, agent):
    sizes = [64 + 32 * n for n in range(8)]
    counts = []
    for some in (sizes[:2], sizes):
        sides = [{**A, "config": {"hw": hw}} for hw in some]
        named = [{"kind": "pair", "a": A, "b": side, "b_platform": KEY} for side in sides]
        with farm.statements() as sent, farm.transaction() as tx:
            jobs.dry_run(tx, comparison_of(*named), ann)
        counts.append(len(sent))
    assert counts[0] == counts[1]


def upload(farm: Any, by: Any, content: str) -> Any:
    fields = {"name": content, "sha256": content * 64, "reference_sha256": "0" * 64}
    inputs = [{"name": "x", "dtype": "float32", "shape": [1, 4], "fill": {"kind": "normal"}}]
    more = {
        "size_bytes": 1000,
        "flops": 9,
        "parameters": 9,
        "opset": 17,
        "dims": {},
        "graph": {"operators": []},
        "inputs": inputs,
    }
    with farm.transaction() as tx:
        return models.add(tx, models.NewModel.model_validate({**fields, **more}), by=by)


def test_a_pair_with_an_upload_is_as_private_as_the_upload(farm, ann, agent, job_of):
    mine, bob = upload(farm, ann, "a"), farm.account("bob")
    pair = {"kind": "pair", "a": A, "b": {"kind": "upload", "model_id": mine.id}}
    with farm.transaction() as tx, pytest.raises(NotFound):
        jobs.submit(tx, comparison_of(pair), by=bob)
    farm.submit_planned(ann, comparison_of(pair))
    (item,) = (grant := agent.must_take()).items
    assert (item.file_sha256, item.beside.file_sha256) == (None, mine.sha256)
    with farm.transaction() as tx:
        leases.check_file(tx, agent.id, mine.sha256)
        assert models.unneeded_files(tx, [mine.sha256]) == []
        models.delete_model(tx, mine.id, ann)
        assert models.unneeded_files(tx, [mine.sha256]) == []  # a measurement waits
    agent.send(grant, paired(item.measurement_id))
    with farm.transaction() as tx:
        assert results.get_measurement(tx, item.measurement_id, ann).comparison is not None
        with pytest.raises(NotFound):
            results.get_measurement(tx, item.measurement_id, bob)
        assert models.unneeded_files(tx, [mine.sha256]) == [mine.sha256]


def test_pairs_with_uploads_share_no_lease_with_others(farm, ann, agent):
    model = upload(farm, ann, "a")
    stranger = {"kind": "pair", "a": A, "b": {"kind": "upload", "model_id": model.id}}
    farm.submit_planned(ann, comparison_of({"kind": "pair", "a": A, "b": B}, stranger))
    sizes = []
    while (grant := agent.take()) is not None:
        sizes.append(len(grant.items))
        agent.send(grant, *(paired(item.measurement_id) for item in grant.items))
        agent.release(grant)
    assert sizes == [1, 1]


def test_a_retry_of_a_pair_names_models_that_were_deleted(farm, ann, agent):
    model = upload(farm, ann, "a")
    job = farm.submit_planned(
        ann, comparison_of({"kind": "pair", "a": A, "b": {"kind": "upload", "model_id": model.id}})
    )
    with farm.transaction() as tx:
        jobs.cancel(tx, job.id, ann)
        models.delete_model(tx, model.id, ann)
    with farm.transaction() as tx, pytest.raises(InvalidRequest, match=model.id) as refused:
        jobs.retry(tx, job.id, ann)
    assert refused.value.code == "model_deleted"


def test_both_sides_of_a_pair_must_fit_in_one_process(farm, ann, report_of):
    """Planned as it was submitted, also when the board that could hold both has gone meanwhile."""
    mine = upload(farm, ann, "a")
    agent = farm.agent(ann, report_of(facts={"memory_bytes": 10_000}))
    side = {"kind": "upload", "model_id": mine.id}
    job = farm.submit(ann, comparison_of({"kind": "pair", "a": side, "b": side}))
    agent.register(report_of(facts={"memory_bytes": round(1500 / MEMORY_SHARE)}))
    farm.plan(job)
    with farm.transaction() as tx:
        (item,) = jobs.items(tx, job.id, ann).items
    assert (item.state, item.failure) == ("failed", "model_too_large_for_board")
