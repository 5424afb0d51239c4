"""The SDK against the real API."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchfarm import (
    Client,
    GeneratedModelRequest,
    InvalidRequest,
    ItemState,
    JobState,
    KernelRequest,
    NotFound,
    UploadRequest,
    calls,
    client,
)
from benchfarm.workload_text import parse_kernel
from benchfarm_core.accounts import AccountRequest, TokenRequest
from benchfarm_core.boards import BoardState, Health
from benchfarm_core.errors import Conflict, Forbidden, Unauthenticated
from benchfarm_core.events import EventKind
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_workloads.artifacts import build
from benchfarm_workloads.kernels import kernel_type

SOME = [parse_kernel("fc cin=16 cout=8")]


@pytest.fixture
def workloads(farm: Any) -> list[KernelRequest]:
    """Three kernels that nobody has measured."""
    return [parse_kernel(text) for text in farm.kernels]


def test_a_job_from_submission_to_records(farm: Any, workloads: list[KernelRequest], tmp_path: Path) -> None:
    with farm.client() as sdk:
        plan = sdk.dry_run(workloads=workloads)
        assert (plan.items, plan.known, plan.to_measure) == (3, 0, 3)
        job_id = sdk.submit(workloads=workloads, name="first", labels={"run": "1"}, protocol={"name": "quick"}).id
        worker = threading.Thread(target=farm.measure, args=[job_id], kwargs={"failing": '"cin": 17'})
        seen: list[JobState] = []
        worker.start()
        job = sdk.wait(job_id, progress=lambda view: seen.append(view.state), timeout_s=60)
        worker.join()
        assert (job.state, seen[-1]) == (JobState.PARTIAL, JobState.PARTIAL)
        results = sdk.results(job_id)
        assert [item.state for item in results] == [ItemState.SUCCEEDED, ItemState.FAILED, ItemState.SUCCEEDED]
        assert results.unmeasured[0].failure == "out_of_memory"
        assert [item.item_no for item in sdk.items(job_id, state=ItemState.FAILED)] == [1]
        summary = results[0].summary
        assert summary is not None
        assert 0.04 <= summary.low_ms <= summary.median_ms <= summary.high_ms < 0.05
        text = results.to_csv(tmp_path / "results.csv")
        assert text == _csv_of_the_farm(sdk, job_id)
        assert sdk.measurement(results[0].measurement_id or 0).summary == summary
        events = list(sdk.events(job_id))
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert events[-1].kind == EventKind.STATE
        assert list(sdk.events(job_id, after=len(events))) == []


def _csv_of_the_farm(sdk: Client, job_id: str) -> str:
    connection = sdk._connection
    return connection.request("GET", f"/jobs/{job_id}/results", params={"format": "csv"}).content.decode()


def test_the_same_key_is_the_same_job(farm: Any, workloads: list[KernelRequest]) -> None:
    with farm.client() as sdk:
        first = sdk.submit(workloads=workloads, idempotency_key="key")
        assert sdk.submit(workloads=workloads, idempotency_key="key").id == first.id
        assert sdk.submit(workloads=workloads).id != first.id
        with pytest.raises(Conflict) as caught:
            sdk.submit(workloads=workloads[:1], idempotency_key="key")
        assert caught.value.code == "idempotency_mismatch"
        assert caught.value.request_id


def test_lists_go_over_pages(farm: Any, workloads: list[KernelRequest], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAGE_ITEMS", 2)
    monkeypatch.setattr(client, "JOBS_PAGE_ITEMS", 2)
    with farm.client() as sdk:
        made = [sdk.submit(workloads=workloads, labels={"even": str(number % 2 == 0)}).id for number in range(5)]
        assert [job.id for job in sdk.jobs()] == made[::-1]
        assert [job.id for job in sdk.jobs(label="even=False")] == [made[3], made[1]]
        assert list(sdk.jobs(state=JobState.CANCELLED)) == []
        assert len(sdk.kernels()) > 2


def test_waiting_gives_up_and_the_job_goes_on(farm: Any, workloads: list[KernelRequest]) -> None:
    with farm.client() as sdk:
        job_id = sdk.submit(workloads=workloads).id
        with pytest.raises(TimeoutError, match="is still queued"):
            sdk.wait(job_id, timeout_s=0.5)
        assert sdk.why(job_id).state == JobState.QUEUED
        assert sdk.cancel(job_id).state == JobState.CANCELLED
        assert sdk.wait(job_id, timeout_s=5).state == JobState.CANCELLED
        assert sdk.cancel(job_id).state == JobState.CANCELLED


def test_what_is_measured_is_known_reused_and_asked_for(farm: Any, workloads: list[KernelRequest]) -> None:
    with farm.client() as sdk:
        first = sdk.submit(workloads=workloads).id
        farm.measure(first)
        second = sdk.submit(workloads=workloads).id
        farm.plan(second)
        assert sdk.wait(second, timeout_s=5).progress.known == 3
        [platform] = sdk.job(second).platforms
        answers = sdk.latency([*workloads, parse_kernel("fc cin=99 cout=8")], [platform])
        assert [answer.source for answer in answers] == ["measured"] * 3 + [None]
        assert answers[3].error == "no_predictor"
        mine = {item.workload_id for item in sdk.items(first)}
        stored = [found for found in sdk.stored_results(platform=platform) if found.workload_id in mine]
        assert len(stored) == 3
        later = datetime.now(UTC) + timedelta(days=1)
        assert list(sdk.stored_results(workload_id=stored[0].workload_id, since=later)) == []
        assert [found.key for found in sdk.platforms(engine=["onnxruntime"])] == [platform]
        assert list(sdk.platforms(engine=["ncnn"])) == []


def test_a_failed_part_is_retried_as_a_new_job(farm: Any, workloads: list[KernelRequest]) -> None:
    with farm.client() as sdk:
        job_id = sdk.submit(workloads=workloads).id
        with pytest.raises(Conflict) as caught:
            sdk.retry(job_id)
        assert caught.value.code == "job_not_finished"
        farm.measure(job_id, failing='"cin": 17')
        again = sdk.retry(job_id, idempotency_key="again")
        assert again.id != job_id
        assert sdk.retry(job_id, idempotency_key="again").id == again.id
        farm.measure(again.id)
        assert [item.label for item in sdk.results(again.id).measured] == [f"{farm.kernels[1]} act=none batch=1"]


def test_an_uploaded_model(farm: Any, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(build(kernel_type("fc").workload({"cin": 16, "cout": 8})).onnx_bytes)
    with farm.client() as sdk, farm.client(account="eve") as eve:
        model = sdk.upload_model(path)
        assert (model.name, model.size_bytes) == ("tiny.onnx", path.stat().st_size)
        assert sdk.upload_model(path.read_bytes(), name="again").id == model.id
        assert [found.id for found in sdk.models()] == [model.id]
        assert sdk.submit(workloads=[UploadRequest(model_id=model.id)]).progress.total in (0, 1)
        with pytest.raises(NotFound):
            eve.model(model.id)
        with pytest.raises(InvalidRequest) as caught:
            sdk.upload_model(b"just some text", name="text.onnx")
        assert caught.value.code in ("not_onnx", "truncated_model")
        sdk.delete_model(model.id)
        with pytest.raises(NotFound):
            sdk.model(model.id)


def test_the_lab_side(farm: Any) -> None:
    with farm.client("operator", "lab") as operator, farm.client() as sdk:
        [board] = operator.boards(state=BoardState.IDLE)
        assert (board.serial, next(sdk.boards()).serial) == ("S-1", None)
        changed = operator.set_board_health(board.id, Health.QUARANTINED, "smells burnt")
        assert (changed.health, changed.reason) == (Health.QUARANTINED, "smells burnt")
        assert list(sdk.boards(health=Health.GOOD)) == []
        with pytest.raises(Forbidden):
            sdk.set_board_health(board.id, Health.GOOD, "please")
        operator.set_board_health(board.id, Health.GOOD, "dusted")
        [platform] = sdk.platforms()
        assert operator.set_platform_alias(platform.key, "simmy").aliases == ["simmy"]
        assert sdk.platform("simmy") == sdk.platform(platform.id) == sdk.platform(platform.key)
        assert [agent.boards for agent in operator.agents()] == [[board.id]]
        assert operator.create_enrol_token(name="next").token
        assert {engine.name for engine in sdk.engines()} == {"onnxruntime", "ncnn"}
        assert list(sdk.support(engine="ncnn")) == []
        assert {found.name for found in sdk.protocols()} == set(PROTOCOLS)
        assert "mobilenet_v2" in {found.name for found in sdk.generated_models()}


def test_accounts_and_tokens(farm: Any) -> None:
    with farm.client("admin") as admin:
        account = admin.create_account(AccountRequest(name="bob"))
        assert account.name in {found.name for found in admin.accounts()}
        made = admin.create_token(TokenRequest(account="bob", role="client", name="laptop"))  # type: ignore[arg-type]
        with Client(farm.url, made.token) as bob:
            assert bob.whoami().account == "bob"
            with pytest.raises(Forbidden):
                list(bob.tokens())
            assert admin.revoke_token(made.id).revoked_at is not None
        assert made.id in {found.id for found in admin.tokens()}
    with Client(farm.url, "bft_" + "x" * 43) as nobody, pytest.raises(Unauthenticated):
        nobody.whoami()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"workloads": []}, "workloads"),
        ({"workloads": SOME, "shoe_size": 43}, "shoe_size"),
        ({"workloads": SOME, "repeats": 0}, "repeats"),
        ({"workloads": [{"kind": "kernel", "type": "fc"}]}, "workloads.0"),
    ],
)
def test_a_request_that_cannot_be_is_refused_before_it_is_sent(fields: dict[str, Any], field: str) -> None:
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(500)

    transport = httpx2.MockTransport(answer)
    with Client("https://farm", "secret", transport=transport) as sdk, pytest.raises(InvalidRequest) as caught:
        sdk.submit(**fields)
    assert (caught.value.field or "").startswith(field)
    assert sent == []


def test_the_farm_names_the_field_that_it_refuses(farm: Any) -> None:
    with farm.client() as sdk:
        with pytest.raises(InvalidRequest) as caught:
            sdk.submit(workloads=[parse_kernel("fc cin=0 cout=8")])
        assert caught.value.code == "kernel_out_of_range"
        assert caught.value.request_id
        with pytest.raises(InvalidRequest) as caught:
            sdk.submit(workloads=[GeneratedModelRequest(name="no_such_net")])
        assert caught.value.code == "model_unknown"
