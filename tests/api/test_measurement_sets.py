"""Measurement sets over HTTP: who may bring them, what is answered, and that they never answer for the farm."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from benchfarm_core.access import Role
from benchfarm_core.accounts import AccountRequest, Quotas
from benchfarm_store import accounts
from benchfarm_store.database import Database
from tests.api.conftest import issue

PLATFORM = {
    "board_model": "Tesla P4",
    "engine": "pytorch-2.1",
    "precision": "fp32",
    "operating_point": {"note": "not recorded"},
    "source": "somebody's repository",
    "licence": "MIT",
}
TABLE = "hw,cin,cout,k,s,latency_ms\n28,64,128,3,1,0.75\n28,64,64,3,1,0.41\n14,64,64,3,1,-1\n"


def upload(**changes: Any) -> dict[str, Any]:
    fields = {"platform_json": json.dumps(PLATFORM), "tables": {"conv.csv": TABLE}, "names": {"conv": "conv-bn-act"}}
    return {**fields, **changes}


@pytest.fixture
def operator(caller: Callable[..., httpx2.Client]) -> httpx2.Client:
    return caller("operator", "labs")


def test_operators_bring_a_set_once_and_everybody_sees_it(operator: httpx2.Client, alice: httpx2.Client) -> None:
    assert alice.post("/v1/measurement-sets", json=upload()).status_code == 403
    dry = operator.post("/v1/measurement-sets", json=upload(dry_run=True)).json()
    assert alice.get("/v1/measurement-sets").json()["items"] == []
    came = operator.post("/v1/measurement-sets", json=upload())
    assert came.status_code == 200, came.text
    found = came.json()
    assert (dry["id"], dry["rows"], found["rows"], found["repeated"]) == (None, 2, 2, False)
    assert [(row["line"], row["reason_code"]) for row in found["rejected"]] == [(4, "placeholder")]
    assert operator.post("/v1/measurement-sets", json=upload()).json()["repeated"] is True
    (listed,) = alice.get("/v1/measurement-sets").json()["items"]
    assert listed == alice.get(f"/v1/measurement-sets/{found['id']}").json()
    assert (listed["origin"], listed["platform"]["source"]) == ("imported", PLATFORM["source"])
    assert alice.delete(f"/v1/measurement-sets/{found['id']}").status_code == 403
    assert operator.delete(f"/v1/measurement-sets/{found['id']}").json()["rows"] == 2
    assert operator.delete(f"/v1/measurement-sets/{found['id']}").status_code == 404


@pytest.mark.usefixtures("lab")
def test_an_imported_time_is_never_the_farms_answer(operator: httpx2.Client, alice: httpx2.Client) -> None:
    own = alice.get("/v1/platforms").json()["items"][0]
    board_model, _, engine, precision = own["key"].split("/")
    as_ours = PLATFORM | {"board_model": board_model, "engine": engine, "precision": precision}
    assert operator.post("/v1/measurement-sets", json=upload(platform_json=json.dumps(as_ours))).status_code == 200
    kernel = {"kind": "kernel", "type": "conv-bn-act", "config": {"hw": 28, "cin": 64, "cout": 128, "k": 3}}
    (answer,) = alice.post("/v1/latency", json={"items": [kernel], "platforms": [own["key"]]}).json()["answers"]
    assert (answer["source"], answer["error"]) == (None, "no_predictor")
    dry = alice.post("/v1/jobs?dry_run=true", json={"workloads": [kernel], "platforms": [own["key"]]}).json()
    assert (dry["known"], dry["to_measure"]) == (0, 1)
    assert alice.get("/v1/results").json()["items"] == []
    assert len(alice.get("/v1/platforms").json()["items"]) == 1
    unknown = alice.post("/v1/latency", json={"items": [kernel], "platforms": ["Tesla P4"]})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "platform_unknown")


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"tables": {}}, "invalid_request", "tables"),
        ({"tables": {"../x.csv": TABLE}}, "invalid_request", "tables"),
        ({"tables": {"conv.csv": "hw,latency_us\n28,7"}}, "measurement_set_empty", "tables"),
        ({"names": {}}, "measurement_set_empty", "tables"),
        ({"names": {"dwconv": "dwconv-bn-act"}}, "invalid_request", ""),
        ({"names": {"conv": "conv-bn-act:act"}}, "invalid_request", "names"),
        ({"platform_json": "{}"}, "invalid_request", "platform_json.board_model"),
        ({"tables": {"conv.csv": TABLE + "\0"}}, "invalid_request", ""),
    ],
)
def test_what_is_no_set_is_refused_and_leaves_nothing(
    operator: httpx2.Client, changes: dict[str, Any], code: str, field: str
) -> None:
    answer = operator.post("/v1/measurement-sets", json=upload(**changes))
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert str(answer.json().get("field") or "").startswith(field)
    assert operator.get("/v1/measurement-sets").json()["items"] == []


def test_a_body_above_the_limit_is_not_read(operator: httpx2.Client) -> None:
    answer = operator.post("/v1/measurement-sets", json=upload(tables={"conv.csv": "x" * 13 * 2**20}))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_sets_count_against_the_quota_of_who_brings_them(http: Any, database: Database) -> None:
    with database.transaction() as tx:
        accounts.create_account(tx, AccountRequest(name="poor", quotas=Quotas(stored_bytes=10)))
    headers = {"Authorization": f"Bearer {issue(database, 'poor', Role.OPERATOR)}"}
    answer = http.post("/v1/measurement-sets", json=upload(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    assert http.get("/v1/measurement-sets", headers=headers).json()["items"] == []
