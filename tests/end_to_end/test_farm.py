"""The people's own farm, started as they start it, with real engines on this host."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchfarm import Client
from benchfarm.fusions import measure_fusions
from benchfarm_core.access import Role
from benchfarm_core.accounts import AccountRequest, TokenRequest
from benchfarm_core.comparing import ComparisonVerdict
from benchfarm_core.errors import Forbidden, InvalidRequest, NotFound
from benchfarm_core.fusion import latency_verdict
from benchfarm_core.jobs import ItemSource, ItemState, JobKind, JobRequest, JobState
from benchfarm_core.platforms import PlatformFilter, Precision
from benchfarm_core.protocols import PROTOCOLS, ProtocolRequest
from benchfarm_core.workloads import ArchitectureRequest, GeneratedModelRequest, KernelRequest, PairRequest
from benchfarm_engines.engine_options import check_options
from benchfarm_engines.litert_engine import ENGINE as LITERT
from benchfarm_engines.quantise import quantise
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_workloads.artifacts import build
from benchfarm_workloads.draws import draw_mixed
from benchfarm_workloads.models import model_recipe
from tests.engines.catalogue import drawn_kernels
from tests.engines.test_litert_convert import converted

pytestmark = pytest.mark.quiet
ORT_1_THREAD = PlatformFilter(engine=("onnxruntime",), threads=(1,), precision=(Precision.FP32,))


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmProcess]:
    # on a busy machine some items are tried three times
    env = {"BENCHFARM_RETRY_S": "0.5"}
    with FarmProcess(tmp_path_factory.mktemp("farm"), env=env) as farm:
        yield farm


@pytest.fixture(scope="module")
def client(farm: FarmProcess) -> Iterator[Client]:
    with Client(farm.url, farm.admin_token) as client:
        yield client


def kernels(seed: int, count: int) -> tuple[KernelRequest, ...]:
    return tuple(KernelRequest(type=one.type, config=one.config) for one in draw_mixed(seed, count))


def quick(seed: int, count: int, **more: object) -> JobRequest:
    fields: dict[str, object] = {
        "workloads": kernels(seed, count),
        "platforms": ORT_1_THREAD,
        "protocol": ProtocolRequest(name="quick"),
    }
    return JobRequest.model_validate(fields | more)


@pytest.mark.timeout(600)
def test_models_and_kernels_on_every_platform_of_this_host(client: Client) -> None:
    along = {"onnxruntime", "openvino", "litert"}  # what comes with a farm; the tests' environment has more
    offered = list(client.platforms(engine=sorted(along), precision=["fp32"]))
    assert {platform.engine.name for platform in offered} == along
    request = JobRequest(
        workloads=(GeneratedModelRequest(name="mobilenet_v2"), *kernels(1, 6)),
        platforms=tuple(platform.key for platform in offered),
        protocol=ProtocolRequest(name="kernel", parameters={"visit_ms": 20}),
    )
    # in a loud hour most is tried three times, and the board rests after each lease that met neighbours
    job = client.wait(client.submit(request).id, timeout_s=500)
    items = list(client.items(job.id))
    assert len(items) == 7 * len(offered)
    for item in items:
        # a busy test machine may leave single kernels inconclusive; nothing else may go wrong
        assert item.summary is not None or item.failure == "inconclusive", (item.label, item.failure, item.reason)
    measured = [item for item in items if item.summary is not None]
    told = sorted((item.label, item.reason) for item in items if item.summary is None)
    assert len(measured) >= 0.7 * len(items), told
    limits = PROTOCOLS["kernel"]
    for item in measured:
        assert item.summary is not None
        assert limits.launches_min <= item.summary.launches <= limits.launches_max  # contended launches are replaced
        assert item.summary.low_ms <= item.summary.median_ms <= item.summary.high_ms
        assert item.summary.normalised_ms is not None
    evidence = client.measurement(measured[0].measurement_id or 0).evidence
    assert evidence is not None
    assert limits.launches_min <= len(evidence.launches) <= limits.launches_max
    assert all("no_new_privs" in launch["confinement"] for launch in evidence.launches)


def test_drawn_architectures_are_made_measured_and_answered(client: Client) -> None:
    small: dict[str, int | tuple[int, ...]] = {"layers": 1, "hidden": 128, "seq": 64, "intermediate": 512, "heads": 2}
    wanted = [*client.spaces.draw("ofa_mobilenet_v3", seed="farm"), ArchitectureRequest(space="bert", genes=small)]
    job = client.wait(client.submit(quick(1, 0, workloads=wanted)).id, timeout_s=120)
    items = list(client.items(job.id))
    assert [item.failure for item in items if item.failure not in (None, "inconclusive")] == []
    assert len(items) == len(wanted)
    answers = client.latency(wanted, [items[0].platform])
    for item in items:
        if item.summary is not None and item.summary.grade != "D":
            assert answers[item.item_no].measurement_id == item.measurement_id


def test_the_same_job_again_is_answered_from_what_is_stored(client: Client) -> None:
    request = quick(2, 10, min_grade="C")
    first = client.wait(client.submit(request).id, timeout_s=120)
    reusable = [item for item in client.items(first.id) if item.summary and item.summary.grade != "D"]
    again = request.model_copy(update={"workloads": tuple(_as_request(item.workload) for item in reusable)})
    second = client.wait(client.submit(again).id, timeout_s=20)
    assert second.state is JobState.SUCCEEDED
    assert second.device_s_spent == 0
    # the board's time is charged when its lease is released, which is after its results have ended the job
    charged_by_s = time.monotonic() + 30
    while client.job(first.id).device_s_spent == 0:
        assert time.monotonic() < charged_by_s
        time.sleep(0.1)
    assert {item.source for item in client.items(second.id)} == {ItemSource.KNOWN}
    assert second.finished_at is not None
    assert (second.finished_at - second.created_at).total_seconds() < 1, "an answer from storage took a second"
    anew = client.wait(client.submit(again.model_copy(update={"max_age_s": 0})).id, timeout_s=120)
    assert {item.source for item in client.items(anew.id)} == {ItemSource.NEW}
    numbers = [{item.measurement_id for item in client.items(job.id)} for job in (second, anew)]
    assert not numbers[0] & numbers[1]


def test_two_identical_jobs_at_once_share_the_work(client: Client) -> None:
    request = quick(3, 12)
    jobs: list[str] = []
    submitters = [threading.Thread(target=lambda: jobs.append(client.submit(request).id)) for _ in range(2)]
    for submitter in submitters:
        submitter.start()
    for submitter in submitters:
        submitter.join()
    ended = [client.wait(job, timeout_s=120) for job in jobs]
    numbers = [[item.measurement_id for item in client.items(job.id)] for job in ended]
    assert numbers[0] == numbers[1]
    assert all(number is not None for number in numbers[0])


def test_an_uploaded_model_is_measured_and_stays_private(farm: FarmProcess, client: Client) -> None:
    model = build(model_recipe("mobilenet_v2").workload({"hw": 96})).onnx_bytes
    uploaded = client.upload_model(model, name="mine")
    request = JobRequest.model_validate(
        {
            "workloads": [{"kind": "upload", "model_id": uploaded.id}],
            "platforms": ORT_1_THREAD,
            "protocol": {"name": "quick"},
        }
    )
    job = client.wait(client.submit(request).id, timeout_s=60)
    assert job.state is JobState.SUCCEEDED, [item.reason for item in client.items(job.id)]
    client.create_account(AccountRequest(name="stranger"))
    token = client.create_token(TokenRequest(account="stranger", role=Role.CLIENT)).token
    with Client(farm.url, token) as stranger:
        for look in (
            lambda: stranger.model(uploaded.id),
            lambda: stranger.job(job.id),
            lambda: stranger.submit(request),
        ):
            with pytest.raises((NotFound, InvalidRequest)):
                look()
        with pytest.raises(Forbidden):
            list(stranger.tokens())
        assert not [one for one in stranger.stored_results() if one.workload.kind == "upload"]


def test_a_comparison_finds_which_side_takes_longer(client: Client) -> None:
    platform = next(iter(client.platforms(engine=["onnxruntime"], threads=[1], precision=["fp32"])))
    narrow, wide = (
        KernelRequest(type="conv-bn-act", config={"hw": 28, "cin": 32, "cout": cout, "k": 3, "s": 1})
        for cout in (32, 48)
    )
    pairs = (PairRequest(a=narrow, b=wide), PairRequest(a=narrow, b=narrow))
    request = JobRequest(kind=JobKind.COMPARE, workloads=pairs, platforms=(platform.key,))
    job = client.wait(client.submit(request).id, timeout_s=120)
    assert (job.kind, job.protocol.name) == (JobKind.COMPARE, "compare")
    wider, same = (item.comparison for item in client.items(job.id))
    # a busy test machine may leave nothing undisturbed; it may not invent what is not there
    if wider is not None:
        assert wider.verdict is ComparisonVerdict.A_FASTER
        assert 10 < wider.change_percent < 100
    if same is not None:
        assert abs(same.change_percent) < 5
        assert same.rounds > same.launches >= 3
    assert wider or same, [item.reason for item in client.items(job.id)]
    told = [(one.effective_precision, one.b_effective_precision) for one in client.items(job.id) if one.comparison]
    assert set(told) == {(Precision.FP32, Precision.FP32)}
    again = client.wait(client.submit(request).id, timeout_s=60)
    answered = [item.source for item in client.items(again.id) if item.comparison == wider]
    assert wider is None or answered == [ItemSource.KNOWN]


def test_kernels_in_situ_are_measurements_of_their_own(client: Client) -> None:
    offered = client.platforms(engine=["onnxruntime", "openvino"], threads=[1], precision=["fp32"])
    platforms = tuple(platform.key for platform in offered)
    conv = KernelRequest(type="conv-bn-act", config={"hw": 28, "cin": 32, "cout": 32, "k": 3, "s": 1})
    act = KernelRequest(type="act", config={"hw": 28, "cin": 32, "act": "relu"})  # may be computed within its neighbour
    wanted = {"workloads": (conv, *kernels(6, 2), act), "platforms": platforms}
    inside, alone = (
        client.wait(client.submit(quick(6, 0, **wanted, timing=timing)).id, timeout_s=200)
        for timing in ("in_situ", "alone")
    )
    found = {timing: list(client.items(job.id)) for timing, job in (("in_situ", inside), ("alone", alone))}
    for timing, items in found.items():
        assert {(item.timing, item.source) for item in items} == {(timing, ItemSource.NEW)}
        for item in items:
            untold = ("fused_away", "below_clock", "inconclusive")
            assert item.summary is not None or item.failure in untold, (item.label, item.reason)
            assert item.effective_precision == (Precision.FP32 if item.summary else None)
    for one, other in zip(found["in_situ"], found["alone"], strict=True):
        assert (one.workload_id, one.platform) == (other.workload_id, other.platform)
        assert one.measurement_id != other.measurement_id
        if one.label == other.label == found["alone"][0].label and one.summary and other.summary:
            assert 0.2 < one.summary.median_ms / other.summary.median_ms < 3
    with pytest.raises(InvalidRequest) as caught:
        client.submit(quick(6, 0, workloads=[GeneratedModelRequest(name="mobilenet_v2")], timing="in_situ"))
    assert (caught.value.code, caught.value.field) == ("timing_impossible", "workloads.0")


def test_without_a_profiler_kernels_in_situ_are_differences(client: Client) -> None:
    platform = next(iter(client.platforms(engine=["litert"], threads=[1], precision=["fp32"])))
    conv, large = (
        KernelRequest(type="conv-bn-act", config={"hw": 28, "cin": 64, "cout": 64, "k": 3, "s": 1}),
        KernelRequest(type="resize", config={"hw": 200, "cin": 8, "scale": 3}),
    )
    wanted = {"platforms": (platform.key,), "timing": "in_situ"}
    job = client.wait(client.submit(quick(7, 0, workloads=(conv,), **wanted)).id, timeout_s=200)
    [item] = client.items(job.id)
    assert item.summary is not None or item.failure == "inconclusive", item.reason
    if item.summary is not None and item.measurement_id is not None:
        found = client.measurement(item.measurement_id)
        assert (found.in_situ_by, found.effective_precision) == ("difference", Precision.FP32)
        assert all(launch.beside is not None for launch in found.samples)
        assert 0.05 < item.summary.median_ms < 20
    with pytest.raises(InvalidRequest) as caught:
        client.submit(quick(7, 0, workloads=(conv, large), **wanted))
    assert (caught.value.code, caught.value.field) == ("timing_impossible", "workloads.1")


def test_what_an_engine_has_no_lower_form_of_is_ok_and_told(client: Client) -> None:
    offered = [
        *client.platforms(engine=["litert"], threads=[1], precision=["int8"]),
        *client.platforms(engine=["openvino"], threads=[1], precision=["bf16"]),
    ]
    softmax = KernelRequest(type="softmax", config={"seq": 50, "dim": 96})
    fc = KernelRequest(type="fc", config={"cin": 200, "cout": 300})
    platforms = tuple(platform.key for platform in offered)
    job = client.wait(client.submit(quick(8, 0, workloads=(softmax, fc), platforms=platforms)).id, timeout_s=100)
    for item in client.items(job.id):
        assert item.summary is not None or item.failure == "inconclusive", (item.label, item.reason)
        if item.summary is None:
            continue
        asked = Precision(item.platform.rpartition("/")[2])
        wanted = Precision.FP32 if item.workload.kind == "kernel" and item.workload.type == "softmax" else asked
        assert item.effective_precision == client.measurement(item.measurement_id or 0).effective_precision == wanted
        family = "softmax" if wanted is Precision.FP32 else "fc"
        found = {row.effective_precision: row.count for row in client.support(family=family, precision=asked)}
        assert found.get(wanted), found


def test_a_job_that_cannot_run_says_why(client: Client) -> None:
    platform = next(iter(client.platforms(engine=["openvino"], threads=[1], precision=["fp32"])))
    with pytest.raises(InvalidRequest) as caught:
        client.submit(quick(4, 1, platforms=(platform.key.replace("openvino", "ncnn"),)))
    assert caught.value.code == "platform_impossible"
    board = next(iter(client.boards()))
    client.set_board_health(board.id, board.health.__class__("maintenance"), "cleaning the fan")
    try:
        waiting = client.submit(quick(4, 2))
        why = wait_for_reason(client, waiting.id)
        assert "cleaning the fan" in why
    finally:
        client.set_board_health(board.id, board.health, "clean")
    ended = client.wait(waiting.id, timeout_s=60)
    assert ended.progress.succeeded == 2, [item.reason for item in client.items(ended.id)]


def test_cancelling_ends_the_items_that_wait(client: Client) -> None:
    job = client.submit(quick(5, 200, max_age_s=0))
    client.cancel(job.id)
    ended = client.wait(job.id, timeout_s=30)
    assert ended.state is JobState.CANCELLED
    assert all(item.state is not ItemState.PENDING for item in client.items(job.id))


def test_what_an_engine_fuses_is_found_by_its_times_and_by_its_profile(client: Client) -> None:
    [platform] = client.platforms(engine=["onnxruntime"], threads=[1], precision=["fp32"])
    expected = {("Conv", "Relu"): True, ("Relu", "Conv"): False, ("Linear", "Add"): False}
    found = measure_fusions(client, platform.key, expected, wait=lambda job_id: client.wait(job_id, timeout_s=120))
    rows = {(one.first, one.second): one for one in found.view.measured}
    # a busy test machine may leave a part inconclusive, and times undecided; a profile is sure
    profiled = {pair: row.by_profile for pair, row in rows.items() if row.by_profile is not None}
    assert profiled.items() <= expected.items()
    assert profiled, [pair.reason for pair in found.pairs]
    timed = [row for row in rows.values() if row.t12_ms is not None]
    assert timed
    for row in timed:
        assert row.t1_ms
        assert row.t2_ms
        assert row.t12_ms
        assert row.spread_ms is not None
        assert row.by_latency is latency_verdict(row.t1_ms, row.t2_ms, row.t12_ms, row.spread_ms)
        assert row.t12_ms > 0.5 * max(row.t1_ms, row.t2_ms)
    assert found.view.disagreements == [row for row in found.view.measured if row.disagree]
    kernels = client.model_kernels("squeezenet", platform.key)
    assert kernels.rules == "measured"


def wait_for_reason(client: Client, job_id: str) -> str:
    limit = time.monotonic() + 20
    reason = ""
    while time.monotonic() < limit and not reason:
        why = client.why(job_id)
        reason = " ".join(f"{one.reason} {' '.join(board.reason for board in one.boards)}" for one in why.platforms)
        reason = reason if "fan" in reason else ""
    return reason


def _as_request(workload: object) -> KernelRequest:
    return KernelRequest(type=workload.type, config=workload.config)  # type: ignore[attr-defined]


def test_tflite_files_run_as_they_are(farm: FarmProcess, client: Client, tmp_path: Path) -> None:
    """The files that LiteRT opens of one kernel, fp32 and 8 bits, as somebody else's would come in by the command."""
    [drawn] = drawn_kernels("conv-bn-act", 1)
    int8 = quantise(drawn[0], drawn[1], check_options({}, LITERT.options))
    files = {"plain": converted(drawn).content, "steps": converted(drawn, *int8, "int8").content}
    for name, content in files.items():
        (tmp_path / f"{name}.tflite").write_bytes(content)
    environment = {**os.environ, "BENCHFARM_URL": farm.url, "BENCHFARM_TOKEN": farm.admin_token, "HOME": str(tmp_path)}

    def benchfarm(*arguments: object) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "benchfarm", *map(str, arguments)]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=200)

    shown = benchfarm("models", "upload", tmp_path / "plain.tflite", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["format"] == "tflite"
    uploads = [option for name in files for option in ("--upload", tmp_path / f"{name}.tflite")]
    submit = ("jobs", "submit", *uploads, "--protocol", "quick")
    done = benchfarm(*submit, "--threads", 1, "--watch", "--json")
    items = json.loads(done.stdout)["items"]
    assert [(one["platform"].rsplit("/", 1)[1], one["failure"]) for one in items] == [("as_given", None)] * 2, items
    assert all(one["summary"]["median_ms"] > 0 for one in items)
    refused = benchfarm(*submit, "--engine", "onnxruntime")
    assert refused.returncode != 0
    assert "on litert with precision as_given alone" in refused.stderr
    kernels = client.model_kernels(json.loads(shown.stdout)["id"], items[0]["platform"])
    assert kernels.unknown == []
    assert "conv-bn-act" in {part.type for one in kernels.kernels for part in one.parts}
