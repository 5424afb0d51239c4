"""Every error as problem+json with the right status, and never a trace."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from benchfarm_api import errors
from benchfarm_api.main import create_app
from benchfarm_api.settings import Settings
from benchfarm_core.errors import BenchfarmError

MakeCaller = Callable[..., httpx2.Client]

KERNEL = {"kind": "kernel", "type": "fc", "config": {"cin": 16, "cout": 16}}


def subclasses(kind: type[BenchfarmError]) -> Iterator[type[BenchfarmError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def test_every_error_class_has_a_status() -> None:
    ours = {kind for kind in subclasses(BenchfarmError) if kind.__module__ == BenchfarmError.__module__}
    assert set(errors.STATUS) == ours


def assert_problem(answer: httpx2.Response, status: int, code: str) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert problem["type"] == f"urn:benchfarm:error:{code}"
    assert "Traceback" not in answer.text


def test_what_the_framework_refuses(alice: httpx2.Client) -> None:
    assert_problem(alice.get("/v1/nothing"), 404, "not_found")
    wrong_method = alice.put("/v1/jobs")
    assert_problem(wrong_method, 405, "method_not_allowed")
    assert wrong_method.headers["Allow"] == "POST" or "GET" in wrong_method.headers["Allow"]


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"null", b'{"workloads": NaN}', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_job(alice: httpx2.Client, body: bytes) -> None:
    answer = alice.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "invalid_request")


def test_a_body_of_another_type(alice: httpx2.Client) -> None:
    answer = alice.post("/v1/jobs", content=b'{"workloads": []}', headers={"Content-Type": "text/plain"})
    assert_problem(answer, 422, "invalid_request")
    assert "send Content-Type: application/json" in answer.json()["detail"]
    untyped = alice.post("/v1/jobs", content=b'{"workloads": []}')
    assert "send Content-Type: application/json" in untyped.json()["detail"]
    assert "Content-Type" not in alice.post("/v1/jobs", json=[]).json()["detail"]


def test_an_id_of_another_form_is_told_as_such(alice: httpx2.Client) -> None:
    answer = alice.get("/v1/jobs/nope")
    assert_problem(answer, 422, "invalid_request")
    assert answer.json()["detail"] == "'nope' is no job id"


def test_a_kind_that_is_missing_or_unknown_is_told_with_those_that_are(alice: httpx2.Client) -> None:
    unkind = {"type": "fc", "config": {}}
    for workload, told in ((unkind, "it is missing"), ({**unkind, "kind": "kernal"}, "it cannot be 'kernal'")):
        answer = alice.post("/v1/jobs", json={"workloads": [KERNEL, workload]})
        assert_problem(answer, 422, "invalid_request")
        assert answer.json()["field"] == "workloads.1.kind"
        kinds = "kernel, model, architecture, upload, pair"
        assert answer.json()["detail"] == f"workloads.1.kind: {told}; it can be {kinds}"
    asked = alice.post("/v1/latency", json={"platforms": ["x"], "items": [unkind]}).json()
    assert asked["field"] == "items.0.kind"
    assert asked["detail"].endswith("; it can be kernel, model, architecture, upload, kernel_list")
    chosen = alice.post("/v1/jobs", json={"workloads": [KERNEL], "platforms": {"engin": ["ncnn"]}}).json()
    assert (chosen["field"], chosen["detail"]) == ("platforms.engin", "platforms.engin: Extra inputs are not permitted")


def test_a_field_is_named_with_its_path(alice: httpx2.Client) -> None:
    answer = alice.post("/v1/jobs", json={"workloads": [KERNEL], "repeats": 0})
    assert_problem(answer, 422, "invalid_request")
    assert answer.json()["field"] == "repeats"
    unknown = alice.post("/v1/jobs", json={"workloads": [KERNEL], "repeat": 1})
    assert unknown.json()["field"] == "repeat"
    query = alice.get("/v1/jobs?limit=0")
    assert query.json()["field"] == "limit"
    assert alice.get("/v1/jobs?colour=red").json()["field"] == "colour"


def test_a_nul_character_is_refused_everywhere(alice: httpx2.Client) -> None:
    assert_problem(alice.post("/v1/jobs", json={"workloads": [KERNEL], "name": "a\0b"}), 422, "invalid_request")
    spelt = {"workloads": [KERNEL], "name": "\\\0"}  # a backslash, then a NUL
    assert_problem(alice.post("/v1/jobs", json=spelt), 422, "invalid_request")
    for wide in ("utf-16", "utf-32-le"):  # read as JSON too
        body = json.dumps({"platforms": ["a\0b"], "items": [KERNEL]}).encode(wide)
        asked = alice.post("/v1/latency", content=body, headers={"Content-Type": "application/json"})
        assert_problem(asked, 422, "invalid_request")
        assert "NUL" in asked.json()["detail"]
    assert_problem(alice.get("/v1/jobs?label=a%00"), 422, "invalid_request")
    assert_problem(alice.get("/v1/platforms/a%00b"), 422, "invalid_request")


def test_a_body_of_another_form_is_told_so_and_not_searched(alice: httpx2.Client) -> None:
    packed = b"\x82\xa5items\x90\xa1a\xcd\x00\x01"  # MessagePack, in which a number has a zero byte
    asked = alice.post("/v1/latency", content=packed, headers={"Content-Type": "application/vnd.msgpack"})
    assert_problem(asked, 422, "invalid_request")
    assert "send Content-Type: application/json" in asked.json()["detail"]
    untold = alice.post("/v1/latency", content=packed)
    assert "NUL" in untold.json()["detail"]


def test_backslashes_before_a_number_are_no_nul(alice: httpx2.Client) -> None:
    """JSON spells a backslash as two; what stands behind them is text."""
    for name in ("a\\u0000", "\\\\u0000"):
        answer = alice.post("/v1/jobs", json={"workloads": [KERNEL], "platforms": ["nowhere"], "name": name})
        assert_problem(answer, 422, "platform_unknown")


def test_a_body_above_the_limit(alice: httpx2.Client) -> None:
    big = b'{"name": "' + b"x" * 9_000_000 + b'"}'
    announced = alice.post("/v1/jobs", content=big, headers={"Content-Type": "application/json"})
    assert_problem(announced, 413, "too_large")

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(big), 1_000_000):
            yield big[start : start + 1_000_000]

    counted = alice.post("/v1/jobs", content=pieces(), headers={"Content-Type": "application/json"})
    assert_problem(counted, 413, "too_large")


def test_a_cursor_of_another_list(alice: httpx2.Client) -> None:
    for path in ("/v1/jobs", "/v1/models", "/v1/results", "/v1/platforms", "/v1/boards", "/v1/kernels"):
        assert_problem(alice.get(path, params={"cursor": "bm9uc2Vuc2U"}), 422, "cursor_invalid")


def test_request_ids_go_in_and_out(alice: httpx2.Client) -> None:
    assert alice.get("/v1/whoami", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    replaced = alice.get("/v1/whoami", headers={"X-Request-ID": "no spaces, please"}).headers["X-Request-ID"]
    assert len(replaced) == 32


def test_an_unknown_fault_is_a_problem_without_a_trace(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    with TestClient(app) as client:
        answer = client.get("/broken")
    assert_problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text


def test_postgres_and_valkey_away(tmp_path: Path) -> None:
    settings = Settings(
        database_url=f"postgresql://farm@/farm?host={tmp_path}",
        redis_url=f"unix://{tmp_path}/kv.sock?db=0",
        benchfarm_data_dir=tmp_path,
    )
    with TestClient(create_app(settings)) as client:
        assert client.get("/v1/health").status_code == 200
        away = client.get("/v1/whoami", headers={"Authorization": "Bearer bft_x"})
        assert_problem(away, 503, "unavailable")
        assert away.headers["Retry-After"] == "2"
        assert_problem(client.get("/v1/ready"), 503, "unavailable")


def test_valkey_away_does_not_stop_the_farm(
    settings: Settings, token: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deaf = settings.model_copy(update={"redis_url": f"unix://{tmp_path}/kv.sock?db=0"})
    with TestClient(create_app(deaf)) as client:
        headers = {"Authorization": f"Bearer {token()}"}
        assert client.get("/v1/whoami", headers=headers).status_code == 200
        assert_problem(client.get("/v1/ready"), 503, "unavailable")
    assert "waiters look more often" in caplog.text


def test_ready(http: httpx2.Client) -> None:
    answer = http.get("/v1/ready")
    assert answer.status_code == 200, answer.text
    assert answer.json()["valkey"] == "ok"


def test_metrics_count_by_operation(alice: httpx2.Client) -> None:
    alice.get("/v1/whoami")
    text = alice.get("/metrics").text
    assert 'benchfarm_api_requests_total{operation="get_whoami",status="200"} 1.0' in text
