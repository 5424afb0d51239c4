"""Predictors over HTTP: who sees them, who rolls them back, and what their files are."""

import hashlib
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from benchfarm_core.predictors import PredictorEvidence
from benchfarm_store import predictors
from benchfarm_store.database import Database
from tests.store.predictor_bytes import LINEAGE, predictor_bytes

Publish = Callable[..., str]


@pytest.fixture
def operator(caller: Callable[..., httpx2.Client]) -> httpx2.Client:
    return caller("operator", "labs")


@pytest.fixture
def key(lab: Any, alice: httpx2.Client) -> str:
    """The one platform of the lab's board."""
    (platform,) = alice.get("/v1/platforms").json()["items"]
    return str(platform["key"])


@pytest.fixture
def publish(key: str, database: Database) -> Publish:
    """Makes versions: `publish(number, subject="fc", activate=True)` returns the id."""

    def make(number: int, subject: str = "fc", activate: bool = True) -> str:
        with database.transaction() as tx:
            head = predictors.publish(
                tx,
                platform_id=1,
                subject=subject,
                file=predictor_bytes(key, subject, bytes([number])),
                evidence=PredictorEvidence(chosen=("ridge",), rows={"alone": 40}, board_s=12.5),
                reason="better",
                activate=activate,
            )
        return head.id

    return make


def test_everybody_sees_versions_and_their_files(
    publish: Publish, key: str, alice: httpx2.Client, http: httpx2.Client
) -> None:
    first, second = publish(1), publish(2)
    listed = alice.get("/v1/predictors").json()["items"]
    assert [(one["id"], one["version"], one["state"]) for one in listed] == [
        (second, 2, "active"),
        (first, 1, "superseded"),
    ]
    shown = alice.get(f"/v1/predictors/{second}").json()
    assert shown == listed[0]
    assert (shown["platform"], shown["subject"], shown["lineage"]) == (key, "fc", LINEAGE)
    assert (shown["evidence"]["rows"], shown["evidence"]["holdout"]) == ({"alone": 40}, None)
    file = alice.get(f"/v1/predictors/{second}/file")
    assert (file.status_code, file.headers["content-type"]) == (200, "application/octet-stream")
    assert (hashlib.sha256(file.content).hexdigest(), len(file.content)) == (shown["sha256"], shown["size_bytes"])
    for path in ("/v1/predictors/pr_999", "/v1/predictors/pr_999/file", "/v1/predictors/nothing"):
        assert alice.get(path).status_code == 404, path
    assert http.get("/v1/predictors").status_code == 401


def test_the_list_is_filtered_and_has_pages(publish: Publish, key: str, alice: httpx2.Client) -> None:
    made = [publish(1), publish(2), publish(1, "model"), publish(3, activate=False)]

    def ids(query: str) -> list[str]:
        answer = alice.get(f"/v1/predictors?{query}")
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["items"]]

    assert ids("state=active") == [made[2], made[1]]
    assert ids("subject=fc&state=candidate") == [made[3]]
    assert ids("subject=conv-bn-act") == []
    assert ids(f"platform={alice.get('/v1/platforms').json()['items'][0]['id']}&subject=model") == [made[2]]
    first = alice.get("/v1/predictors?limit=3").json()
    assert [*(one["id"] for one in first["items"]), *ids(f"cursor={first['next_cursor']}")] == made[::-1]
    for query in ("platform=nowhere", "state=good", "cursor=x", "platforms=x"):
        assert alice.get(f"/v1/predictors?{query}").status_code == 422, query


def test_operators_roll_back_at_once(publish: Publish, key: str, operator: httpx2.Client, alice: httpx2.Client) -> None:
    publish(1)
    publish(2)
    path = f"/v1/platforms/{key}/predictors/fc/rollback"
    body = {"reason": "off by 20 % on wide layers", "version": 2}
    assert alice.post(path, json=body).status_code == 403
    for wrong in ({}, {"reason": ""}, {"reason": "r", "version": 0}, {"reason": "r", "versions": 2}):
        assert operator.post(path, json=wrong).status_code == 422, wrong
    back = operator.post(path, json=body)
    assert (back.status_code, back.json()["version"], back.json()["state"]) == (200, 1, "active")
    assert back.json()["reason"].endswith(": off by 20 % on wide layers")
    (answering,) = alice.get("/v1/predictors?state=active").json()["items"]
    assert answering == back.json()
    again = operator.post(path, json=body)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert operator.post(path, json={"reason": "further"}).status_code == 409
    for nothing in (path.replace("/fc/", "/model/"), "/v1/platforms/nowhere/predictors/fc/rollback"):
        assert operator.post(nothing, json={"reason": "r"}).status_code == 404, nothing
    by_id = alice.get("/v1/platforms").json()["items"][0]["id"]
    publish(3)
    assert operator.post(f"/v1/platforms/{by_id}/predictors/fc/rollback", json={"reason": "r"}).status_code == 200
