"""The support matrix over HTTP: everybody reads it, nobody reads another account's names in it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from tests.api.conftest import Lab


def kernels(count: int) -> list[dict[str, Any]]:
    return [{"kind": "kernel", "type": "fc", "config": {"cin": 1 + n, "cout": 8}} for n in range(count)]


def test_outcomes_of_all_accounts_are_one_matrix(
    alice: httpx2.Client, caller: Callable[..., httpx2.Client], lab: "Lab"
) -> None:
    assert alice.get("/v1/support").json() == {"items": [], "next_cursor": None}
    job = alice.post("/v1/jobs", json={"workloads": kernels(2), "protocol": {"name": "quick"}}).json()
    grant = lab.lease(job["id"])
    good, bad = lab.good_results(grant)
    good["effective_precision"] = "bf16"
    lacking = {"outcome": "failed", "failure": "unsupported_operator", "detail": "no", "subject": "HardSwish"}
    results = [good, {"measurement_id": bad["measurement_id"], **lacking}]
    assert lab.report(grant, results).status_code == 200
    found = caller("client", "bob").get("/v1/support?family=fc&engine=onnxruntime&precision=fp32").json()["items"]
    assert [(row["code"], row["subject"], row["fault"], row["count"]) for row in found] == [
        ("ok", "", None, 1),
        ("unsupported_operator", "HardSwish", "user", 1),
    ]
    assert found[0]["max_relative_l2"] == 1e-7
    assert [row["effective_precision"] for row in found] == ["bf16", None]
    assert alice.get(f"/v1/measurements/{good['measurement_id']}").json()["effective_precision"] == "bf16"
    first = alice.get("/v1/support?limit=1").json()
    second = alice.get("/v1/support", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [*first["items"], *second["items"]] == found
    assert alice.get("/v1/support?board_model=other").json()["items"] == []


def test_a_subject_that_is_no_plain_word_is_refused(alice: httpx2.Client, lab: "Lab") -> None:
    job = alice.post("/v1/jobs", json={"workloads": kernels(1)}).json()
    grant = lab.lease(job["id"])
    failed = {"measurement_id": grant["items"][0]["measurement_id"], "outcome": "failed", "failure": "wrong_result"}
    for subject in ("x" * 61, "a\nb", "é"):
        answer = lab.report(grant, [{**failed, "subject": subject}])
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert alice.get("/v1/support").json()["items"] == []


def test_a_precision_that_is_none_of_the_farms_words_is_refused(alice: httpx2.Client, lab: "Lab") -> None:
    job = alice.post("/v1/jobs", json={"workloads": kernels(1), "protocol": {"name": "quick"}}).json()
    grant = lab.lease(job["id"])
    (good,) = lab.good_results(grant)
    for word in ("fp8", "", "someone's secret", 8):
        answer = lab.report(grant, [{**good, "effective_precision": word}])
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert alice.get("/v1/support").json()["items"] == []


def test_impossible_filters(alice: httpx2.Client) -> None:
    for query in ("precision=fp8", "cursor=nonsense", "limit=0", "family=" + "x" * 61, "color=red"):
        assert alice.get(f"/v1/support?{query}").status_code == 422, query
