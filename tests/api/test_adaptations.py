"""Adaptations over HTTP: who may ask, what is answered, what is refused."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from benchfarm_workloads.spaces import draws

UNKNOWN = "00000000-0000-7000-8000-000000000000"
SMALL = {"budget_s": 10, "spaces": ["proxylessnas"], "target": {"share": 0.9, "percent": 10}}


@pytest.fixture
def platform(lab: Any, alice: httpx2.Client) -> str:
    """A platform's key: it holds slashes."""
    key: str = alice.get("/v1/platforms").json()["items"][0]["key"]
    return key


def test_one_is_asked_for_followed_and_ended(alice: httpx2.Client, platform: str) -> None:
    answer = alice.post(f"/v1/platforms/{platform}/adaptations", json=SMALL)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["Location"] == f"/v1/adaptations/{made['id']}"
    assert (made["platform"], made["state"], made["round"]) == (platform, "queued", 0)
    others = {"unseen_spaces": [], "holdouts": 20, "donors": "any", "seed": "0", "architectures": []}
    assert made["request"] == {**SMALL, **others}
    assert alice.get(f"/v1/adaptations/{made['id']}").json() == made
    assert alice.get("/v1/adaptations", params={"platform": platform}).json()["items"] == [made]
    assert alice.get("/v1/adaptations", params={"state": "failed"}).json()["items"] == []
    again = alice.post(f"/v1/platforms/{made['platform_id']}/adaptations", json=SMALL)
    assert (again.status_code, again.json()["code"]) == (409, "adaptation_running")
    ended = alice.post(f"/v1/adaptations/{made['id']}/cancel")
    assert (ended.status_code, ended.json()["state"]) == (200, "cancelled")
    assert alice.post(f"/v1/adaptations/{made['id']}/cancel").json() == ended.json(), "twice changes nothing"


def test_others_see_it_and_cannot_end_it_but_operators_can(
    alice: httpx2.Client, caller: Callable[..., httpx2.Client], platform: str
) -> None:
    made = alice.post(f"/v1/platforms/{platform}/adaptations", json=SMALL).json()
    bob, operator = caller("client", "bob"), caller("operator", "labs")
    assert bob.get(f"/v1/adaptations/{made['id']}").json() == made
    refused = bob.post(f"/v1/adaptations/{made['id']}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert operator.post(f"/v1/adaptations/{made['id']}/cancel").json()["state"] == "cancelled"


def test_what_a_search_found_is_told_to_its_account_alone(
    alice: httpx2.Client, caller: Callable[..., httpx2.Client], platform: str
) -> None:
    drawn = [one.genes for one in draws("bert", "given", 3)]
    given = {**SMALL, "spaces": ["bert"], "architectures": [{"space": "bert", "genes": genes} for genes in drawn]}
    response = alice.post(f"/v1/platforms/{platform}/adaptations", json=given)
    assert response.status_code == 201, response.text
    made = response.json()
    assert len(made["request"]["architectures"]) == 3
    bob, operator = caller("client", "bob"), caller("operator", "labs")
    for one in (alice, operator):
        assert one.get(f"/v1/adaptations/{made['id']}").json() == made
        assert one.get("/v1/adaptations").json()["items"] == [made]
    hidden = {**made, "request": {**made["request"], "architectures": []}}
    assert bob.get(f"/v1/adaptations/{made['id']}").json() == hidden
    assert bob.get("/v1/adaptations").json()["items"] == [hidden]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"budget_s": -1}, "budget_s"),
        ({"target": {"share": 2}}, "target.share"),
        ({"target": "0.95@10%"}, "target"),
        ({"spaces": ["nowhere"]}, "spaces.0"),
        ({"architectures": [{"space": "bert", "genes": {}}]}, "architectures.0.space"),
        ({"architectures": [{"space": "bert"}]}, "architectures.0.genes"),
        ({"architectures": [{"space": "bert", "genes": {}}], "unseen_spaces": ["autoformer"]}, "unseen_spaces"),
        ({"donors": "mine"}, "donors"),
        ({"stranger": 1}, "stranger"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(
    alice: httpx2.Client, platform: str, body: dict[str, Any], field: str
) -> None:
    answer = alice.post(f"/v1/platforms/{platform}/adaptations", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
    assert alice.get("/v1/adaptations").json()["items"] == []


def test_what_is_not_there_is_not_found(alice: httpx2.Client, platform: str) -> None:
    assert platform
    for answer in (
        alice.post("/v1/platforms/nobody/adaptations", json=SMALL),
        alice.get(f"/v1/adaptations/{UNKNOWN}"),
        alice.get("/v1/adaptations/nothing"),
        alice.post(f"/v1/adaptations/{UNKNOWN}/cancel"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), answer.text
    strange = alice.get("/v1/adaptations", params={"platform": "nobody"}).json()
    assert (strange["code"], strange["field"]) == ("platform_unknown", "platform")
