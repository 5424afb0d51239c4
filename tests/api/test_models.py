"""Uploads: what is accepted, what is refused with which code, and that a refusal leaves no trace."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import onnx
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator
from fastapi import FastAPI
from onnx import TensorProto, helper
from starlette.testclient import TestClient

from benchfarm_api.main import create_app
from benchfarm_api.settings import Settings
from benchfarm_engines.litert_writer import TfliteWriter

if TYPE_CHECKING:
    from tests.api.conftest import Lab, Served, Serving

MakeCaller = Callable[..., httpx2.Client]

FLOAT = TensorProto.FLOAT


def model(*, batch: int | str = 1, op: str = "Relu", weights: list[TensorProto] | None = None) -> bytes:
    """One small operator."""
    inputs = [helper.make_tensor_value_info("x", FLOAT, [batch, 4])]
    outputs = [helper.make_tensor_value_info("y", FLOAT, [batch, 4])]
    names = ["x", *(tensor.name for tensor in weights or [])]
    graph = helper.make_graph([helper.make_node(op, names, ["y"])], "g", inputs, outputs, initializer=weights or [])
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(built.SerializeToString())


def with_external_data(location: str) -> bytes:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[1, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return model(op="Add", weights=[tensor])


def upload(client: httpx2.Client, content: Any, name: str = "m.onnx", **params: Any) -> httpx2.Response:
    return client.post("/v1/models", params={"name": name, **params}, content=content)


@pytest.fixture
def kept(settings: Settings) -> Callable[[], list[Path]]:
    """Every file below the data folder."""
    return lambda: sorted(path for path in settings.benchfarm_data_dir.rglob("*") if path.is_file())


def test_an_accepted_model(alice: httpx2.Client, kept: Callable[[], list[Path]]) -> None:
    answer = upload(alice, model())
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert (view["format"], view["size_bytes"], view["opset"]) == ("onnx", len(model()), 17)
    assert [node["op"] for node in view["graph"]["nodes"]] == ["Relu"]
    assert len(kept()) == 2  # the model and its reference output
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept())
    assert upload(alice, model(), name="again").json()["id"] == view["id"]
    assert len(kept()) == 2
    assert alice.get(f"/v1/models/{view['id']}").json() == view
    assert view.pop("graph")
    assert alice.get("/v1/models").json()["items"] == [view]


def test_dims_and_ints_are_bound(alice: httpx2.Client) -> None:
    answer = upload(alice, model(batch="n"), dims="n:3")
    assert answer.status_code == 201, answer.text
    assert answer.json()["inputs"][0]["shape"] == [3, 4]
    assert answer.json()["dims"] == {"n": 3}


@pytest.mark.parametrize("dims", ["n:0", "n:99999999999", "n:-1"])
def test_a_number_that_no_dimension_has_is_told_as_that(alice: httpx2.Client, dims: str) -> None:
    answer = upload(alice, model(batch="n"), dims=dims)
    assert (answer.status_code, answer.json()["field"]) == (422, "dims")
    assert "a whole number from 1 on of at most ten digits" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "params", "code"),
    [
        (b"", {}, "truncated_model"),
        (b"a text file named model.onnx\n" * 50, {}, "not_onnx"),
        (model()[:-10], {}, "truncated_model"),
        (with_external_data("weights.bin"), {}, "external_data"),
        (with_external_data("/etc/passwd"), {}, "external_data"),
        (with_external_data("../../secret"), {}, "external_data"),
        (model(op="Teleport"), {}, "unknown_operator"),
        (model(batch="n"), {}, "unbound_dims"),
        (model(), {"dims": "n:3"}, "invalid_request"),
        (model(), {"dims": "n:0"}, "invalid_request"),
        (model(), {"dims": "n"}, "invalid_request"),
        (model(batch="n"), {"dims": ["n:3", "n:4"]}, "invalid_request"),
        (model(batch="n"), {"dims": "n:9999999"}, "invalid_request"),
        (model(), {"format": "tflite"}, "not_tflite"),
        (b"\0" * 2_000_001, {}, "too_large"),
    ],
)
def test_a_refused_model_leaves_no_trace(
    alice: httpx2.Client, kept: Callable[[], list[Path]], content: bytes, params: dict[str, Any], code: str
) -> None:
    answer = upload(alice, content, **params)
    assert answer.json()["code"] == code, answer.text
    assert answer.status_code == (413 if code == "too_large" else 422)
    assert kept() == []
    assert alice.get("/v1/models").json()["items"] == []


def test_too_large_without_an_announced_length(alice: httpx2.Client, kept: Callable[[], list[Path]]) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 100_000

    answer = upload(alice, pieces())
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert kept() == []


def test_the_model_of_another_account(alice: httpx2.Client, caller: MakeCaller, lab: "Lab") -> None:
    mine = upload(alice, model()).json()["id"]
    bob = caller("client", "bob")
    assert bob.get(f"/v1/models/{mine}").status_code == 404
    assert bob.delete(f"/v1/models/{mine}").status_code == 404
    assert bob.get("/v1/models").json()["items"] == []
    body = {"workloads": [{"kind": "upload", "model_id": mine}]}
    refused = bob.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert alice.post("/v1/jobs", json=body).status_code == 201


def test_a_full_quota_keeps_nothing(caller: MakeCaller, http: httpx2.Client, kept: Callable[[], list[Path]]) -> None:
    admin = caller("admin", "root")
    admin.post("/v1/accounts", json={"name": "small", "quotas": {"stored_bytes": 10}})
    token = admin.post("/v1/tokens", json={"account": "small", "role": "client"}).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    answer = http.post("/v1/models?name=m", content=model(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    assert kept() == []


def test_delete(alice: httpx2.Client) -> None:
    model_id = upload(alice, model()).json()["id"]
    assert alice.delete(f"/v1/models/{model_id}").status_code == 204
    assert alice.get(f"/v1/models/{model_id}").status_code == 404
    assert alice.delete(f"/v1/models/{model_id}").status_code == 404


def test_an_agent_reads_the_files_of_its_lease_only(alice: httpx2.Client, lab: "Lab", http: httpx2.Client) -> None:
    view = upload(alice, model()).json()
    path = f"/v1/agent/files/{view['sha256']}"
    assert http.get(path, headers=lab.headers).status_code == 404
    job = alice.post("/v1/jobs", json={"workloads": [{"kind": "upload", "model_id": view["id"]}]}).json()
    (item,) = lab.lease(job["id"])["items"]
    assert http.get(path, headers=lab.headers).content == model()
    assert http.get(f"/v1/agent/files/{item['reference_sha256']}", headers=lab.headers).content[:2] == b"PK"
    assert http.get("/v1/agent/files/" + "0" * 64, headers=lab.headers).status_code == 404
    assert http.get("/v1/agent/files/..%2f..", headers=lab.headers).status_code in (404, 422)
    assert alice.get(path).status_code == 403


def test_no_turn_within_the_time(settings: Settings, token: Callable[..., str]) -> None:
    app = create_app(settings.model_copy(update={"benchfarm_inspection_wait_s": 0.1}))
    headers = {"Authorization": f"Bearer {token()}"}
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(_take_all, app)
        busy = client.post("/v1/models?name=m", content=model(), headers=headers)
    assert (busy.status_code, busy.json()["code"]) == (503, "unavailable")


async def _take_all(app: FastAPI) -> None:
    places: asyncio.Semaphore = app.state.parts.inspections
    while not places.locked():
        await places.acquire()


def begun_upload(url: str, token: str) -> socket.socket:
    """A connection on which less is sent than was announced."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /v1/models?name=m HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000"
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(f"{head}\r\nConnection: close\r\n\r\nonly this".encode())
    return connection


def test_an_upload_that_stops_is_given_up(
    served: "Served", token: Callable[..., str], kept: Callable[[], list[Path]]
) -> None:
    with begun_upload(served.url, token()) as connection:
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 422"), answer
    assert b"upload_incomplete" in answer
    assert kept() == []


def test_an_upload_that_drips_is_given_up(
    environment: dict[str, str], serving: "Serving", token: Callable[..., str], kept: Callable[[], list[Path]]
) -> None:
    limits = {"BENCHFARM_UPLOAD_MIN_BYTES_PER_S": "100", "BENCHFARM_UPLOAD_GRACE_S": "0.5"}
    with serving(environment | limits) as served, begun_upload(served.url, token()) as connection:
        connection.settimeout(0.1)
        answer = dripped(connection)
    assert answer.startswith(b"HTTP/1.1 422"), answer
    assert b"upload_too_slow" in answer
    assert kept() == []


def dripped(connection: socket.socket, limit_s: float = 10) -> bytes:
    """What is answered to a sender of one byte at a time."""
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        connection.sendall(b".")
        with suppress(TimeoutError):
            return b"".join(iter(lambda: connection.recv(65_536), b""))
    return b"nothing"


def test_an_account_uploads_one_model_at_a_time(
    served: "Served", token: Callable[..., str], kept: Callable[[], list[Path]], eventually: Callable[..., None]
) -> None:
    def post(account: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token(account=account)}"}
        return httpx2.post(f"{served.url}/v1/models?name=m", content=model(), headers=headers, timeout=30)

    with begun_upload(served.url, token(account="alice")):
        eventually(lambda: len(kept()) == 1)
        second = post("alice")
        assert (second.status_code, second.json()["code"]) == (429, "upload_in_progress")
        assert (second.json()["limit"], second.headers["Retry-After"]) == (1, "2")
        assert post("bob").status_code == 201
    eventually(lambda: post("alice").status_code == 201)


def test_an_upload_whose_sender_hangs_up_leaves_nothing(
    served: "Served", token: Callable[..., str], kept: Callable[[], list[Path]], eventually: Callable[..., None]
) -> None:
    with begun_upload(served.url, token()):
        eventually(lambda: len(kept()) == 1)
    eventually(lambda: kept() == [])


def test_onnx_itself_takes_the_accepted_model() -> None:
    onnx.checker.check_model(onnx.load_from_string(model()))


def tflite(batch: int = 1) -> bytes:
    """One small operator, as LiteRT reads it."""
    writer = TfliteWriter()
    x, y = writer.tensor((batch, 4), "float32", "x"), writer.tensor((batch, 4), "float32", "y")
    writer.operator(BuiltinOperator.RELU, [x], [y])
    return writer.to_bytes([x], [y])


def test_a_tflite_file_is_known_by_its_bytes(alice: httpx2.Client, lab: "Lab") -> None:
    answer = upload(alice, tflite(), name="no hint.onnx")
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert (view["format"], view["opset"], view["graph"]["nodes"][0]["op"]) == ("tflite", 3, "RELU")
    assert upload(alice, tflite(), name="again", format="tflite").json()["id"] == view["id"]
    assert upload(alice, tflite(), format="onnx").json()["code"] == "not_onnx"
    assert upload(alice, tflite()[:100]).json()["code"] == "truncated_model"
    lab.register()
    job = {"workloads": [{"kind": "upload", "model_id": view["id"]}]}
    refused = alice.post("/v1/jobs", json=job)
    assert (refused.status_code, refused.json()["code"]) == (422, "format_not_opened")
    assert refused.json()["field"] == "workloads.0"
