"""Jobs over HTTP: submitted once, paged, waited for, cancelled, retried, and refused with a reason."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from sqlalchemy import text

from benchfarm_store.database import Database

if TYPE_CHECKING:
    from tests.api.conftest import Lab

MakeCaller = Callable[..., httpx2.Client]


def kernels(count: int) -> list[dict[str, Any]]:
    return [{"kind": "kernel", "type": "fc", "config": {"cin": 1 + n, "cout": 8}} for n in range(count)]


def submit(client: httpx2.Client, count: int = 1, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"workloads": kernels(count), **fields})
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


@pytest.mark.usefixtures("lab")
def test_submit_and_get(alice: httpx2.Client) -> None:
    answer = alice.post("/v1/jobs", json={"workloads": kernels(3), "name": "first", "labels": {"who": "me"}})
    assert answer.status_code == 201
    job = answer.json()
    assert (job["state"], job["progress"]["total"], job["labels"]) == ("queued", 3, {"who": "me"})
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert alice.get(answer.headers["Location"]).json() == job


@pytest.mark.usefixtures("lab")
def test_the_same_key_gives_the_same_job(alice: httpx2.Client, caller: MakeCaller) -> None:
    body = {"workloads": kernels(2)}
    first = alice.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k1"})
    again = alice.post("/v1/jobs", json={**body, "repeats": 1}, headers={"Idempotency-Key": "k1"})
    other = alice.post("/v1/jobs", json={**body, "repeats": 2}, headers={"Idempotency-Key": "k1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    assert len(alice.get("/v1/jobs").json()["items"]) == 1
    bob = caller("client", "bob").post("/v1/jobs", json=body, headers={"Idempotency-Key": "k1"})
    assert bob.status_code == 201
    assert bob.json()["id"] != first.json()["id"]


@pytest.mark.usefixtures("lab")
def test_the_same_key_gives_the_same_job_of_hundreds_of_workloads(alice: httpx2.Client) -> None:
    """It is looked for before they are named."""
    body = {"workloads": kernels(300)}
    first, again = (alice.post("/v1/jobs", json=body, headers={"Idempotency-Key": "many"}) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    wrong = {"workloads": [*kernels(300), {"kind": "kernel", "type": "nothing", "config": {"n": 1}}]}
    other = alice.post("/v1/jobs", json=wrong, headers={"Idempotency-Key": "many"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    for key in ("new", "newer"):
        refused = alice.post("/v1/jobs", json=wrong, headers={"Idempotency-Key": key})
        assert (refused.status_code, refused.json()["code"]) == (422, "kernel_unknown")
        assert refused.json()["field"].startswith("workloads.300")
    assert len(alice.get("/v1/jobs").json()["items"]) == 1


@pytest.mark.usefixtures("lab")
def test_a_grade_that_answers_nobody_is_refused(alice: httpx2.Client) -> None:
    """As by a latency question: it was taken, and meant C."""
    answer = alice.post("/v1/jobs", json={"workloads": kernels(1), "min_grade": "D"})
    assert (answer.status_code, answer.json()["field"]) == (422, "min_grade")
    assert "never reused; C is the worst that is" in answer.json()["detail"]
    assert submit(alice, min_grade="C")["state"] == "queued"


@pytest.mark.usefixtures("lab")
def test_a_dry_run_stores_nothing(alice: httpx2.Client) -> None:
    answer = alice.post("/v1/jobs?dry_run=true", json={"workloads": kernels(3)})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["items"], answer.json()["to_measure"]) == (3, 3)
    assert alice.get("/v1/jobs").json()["items"] == []


@pytest.mark.usefixtures("lab")
def test_lists_are_paged_and_filtered(alice: httpx2.Client) -> None:
    made = [submit(alice, labels={"n": str(n % 2)})["id"] for n in range(5)]
    seen, cursor = [], None
    while True:
        page = alice.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    odd = alice.get("/v1/jobs?label=n=1").json()["items"]
    assert [job["id"] for job in odd] == [made[3], made[1]]
    assert alice.get("/v1/jobs?state=succeeded").json()["items"] == []


@pytest.mark.usefixtures("lab")
def test_another_account_sees_nothing(alice: httpx2.Client, caller: MakeCaller) -> None:
    job = submit(alice)["id"]
    bob = caller("client", "bob")
    for path in ("", "/items", "/results", "/why", "/events", "/results?format=csv"):
        assert bob.get(f"/v1/jobs/{job}{path}").status_code == 404, path
    for verb in ("cancel", "retry"):
        assert bob.post(f"/v1/jobs/{job}/{verb}").status_code == 404
    assert bob.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"workloads": []}, "invalid_request", "workloads"),
        ({"workloads": [{"kind": "kernel", "type": "gru", "config": {}}]}, "kernel_unknown", None),
        (
            {"workloads": [{"kind": "kernel", "type": "fc", "config": {"cin": 0, "cout": 8}}]},
            "kernel_out_of_range",
            None,
        ),
        ({"workloads": [{"kind": "kernel", "type": "fc", "config": {"cin": 4}}]}, "kernel_out_of_range", None),
        ({"workloads": [{"kind": "model", "name": "alexnet"}]}, "model_unknown", None),
        ({"workloads": [{"kind": "upload", "model_id": "m_nothing"}]}, "not_found", None),
        ({"workloads": kernels(1), "platforms": ["no-such"]}, "platform_unknown", None),
        (
            {"workloads": kernels(1), "platforms": ["sim-1/c0.t1.free/onnxruntime-9.9.9/fp32"]},
            "platform_impossible",
            "platforms",
        ),
        (
            {"workloads": kernels(1), "platforms": ["sim-1/c0.t1.free/onnxruntime-1.31.1~turbo=true/fp32"]},
            "engine_option_unknown",
            "platforms",
        ),
        (
            {"workloads": kernels(1), "platforms": ["sim-1/c0.t1.free/onnxruntime-1.31.1~graph=some/fp32"]},
            "engine_option_invalid",
            "platforms",
        ),
        ({"workloads": kernels(1), "platforms": {"engine": ["ncnn"]}}, "platform_none_matched", None),
        ({"workloads": kernels(1), "platforms": []}, "workloads_empty", "platforms"),
        ({"workloads": kernels(1), "platforms": ["p"] * 1001}, "invalid_request", None),
        ({"workloads": kernels(1), "platforms": {"engine": ["ncnn"] * 101}}, "invalid_request", None),
        ({"workloads": kernels(1), "protocol": {"name": "guess"}}, "protocol_unknown", "protocol.name"),
        (
            {"workloads": kernels(1), "protocol": {"parameters": {"blocks_min": 9000}}},
            "protocol_impossible",
            "protocol.parameters",
        ),
        (
            {"workloads": kernels(1), "protocol": {"parameters": {"launches_max": 40}}},
            "protocol_too_long",
            "protocol.parameters",
        ),
        (
            {"workloads": kernels(1), "protocol": {"parameters": {"visit_ms": True}}},
            "invalid_request",
            "protocol.parameters.visit_ms",
        ),
        (
            {"workloads": kernels(1), "protocol": {"parameters": {"visit_ms": "10"}}},
            "invalid_request",
            "protocol.parameters.visit_ms",
        ),
        ({"workloads": kernels(1), "timing": "later"}, "invalid_request", "timing"),
        (
            {"workloads": [*kernels(1), {"kind": "model", "name": "mobilenet_v2"}], "timing": "in_situ"},
            "timing_impossible",
            "workloads.1",
        ),
        ({"workloads": kernels(1), "budget_device_s": 1e-6}, "budget_too_small", None),
    ],
)
@pytest.mark.usefixtures("lab")
def test_a_job_that_cannot_be(alice: httpx2.Client, body: dict[str, Any], code: str, field: str | None) -> None:
    answer = alice.post("/v1/jobs", json=body)
    assert answer.json()["code"] == code, answer.text
    assert answer.status_code == (404 if code == "not_found" else 422)
    if field is not None:
        assert answer.json()["field"] == field
    assert alice.get("/v1/jobs").json()["items"] == []


def test_quota_says_when_to_come_again(alice: httpx2.Client, caller: MakeCaller, lab: "Lab") -> None:
    admin = caller("admin", "root")
    admin.post("/v1/accounts", json={"name": "small", "quotas": {"active_jobs": 1}})
    token = admin.post("/v1/tokens", json={"account": "small", "role": "client"}).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    body = {"workloads": kernels(1)}
    assert lab.client.post("/v1/jobs", json=body, headers=headers).status_code == 201
    refused = lab.client.post("/v1/jobs", json=body, headers=headers)
    assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (429, "quota_exceeded", 1)
    assert int(refused.headers["Retry-After"]) == refused.json()["retry_after_s"] > 0


def test_a_measured_job(alice: httpx2.Client, lab: "Lab") -> None:
    job = submit(alice, 3)
    lab.finish(job["id"])
    done = alice.get(f"/v1/jobs/{job['id']}").json()
    assert (done["state"], done["progress"]["succeeded"]) == ("succeeded", 3)
    items = alice.get(f"/v1/jobs/{job['id']}/items?state=succeeded").json()["items"]
    assert [item["item_no"] for item in items] == [0, 1, 2]
    assert items[0]["summary"]["median_ms"] == pytest.approx(0.04, rel=0.01)
    again = submit(alice, 3)
    lab.plan_and_dispatch(again["id"])
    known = alice.get(f"/v1/jobs/{again['id']}?wait_s=5").json()
    assert (known["state"], known["progress"]["known"]) == ("succeeded", 3)
    assert (alice.post(f"/v1/jobs/{job['id']}/cancel").json()["code"]) == "job_finished"
    evidence = alice.get(f"/v1/measurements/{items[0]['measurement_id']}").json()
    assert evidence["state"] == "done"
    assert len(evidence["samples"]) == 3


def test_cancel_and_retry(alice: httpx2.Client, lab: "Lab") -> None:
    job = submit(alice, 2)
    assert alice.post(f"/v1/jobs/{job['id']}/retry").json()["code"] == "job_not_finished"
    cancelled = alice.post(f"/v1/jobs/{job['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert alice.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    retried = alice.post(f"/v1/jobs/{job['id']}/retry")
    assert retried.status_code == 201
    assert retried.json()["progress"]["total"] == 2
    lab.finish(retried.json()["id"])
    assert alice.get(f"/v1/jobs/{retried.json()['id']}").json()["state"] == "succeeded"


def test_a_retry_sent_twice_is_one_job(alice: httpx2.Client, lab: "Lab") -> None:
    job = submit(alice, 2)
    alice.post(f"/v1/jobs/{job['id']}/cancel")
    path, key = f"/v1/jobs/{job['id']}/retry", {"Idempotency-Key": "again"}
    first, second = (alice.post(path, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    assert first.headers["Location"] == second.headers["Location"] == f"/v1/jobs/{first.json()['id']}"
    assert len(alice.get("/v1/jobs").json()["items"]) == 2
    other = submit(alice, 1)
    alice.post(f"/v1/jobs/{other['id']}/cancel")
    mismatch = alice.post(f"/v1/jobs/{other['id']}/retry", headers=key)
    assert (mismatch.status_code, mismatch.json()["code"]) == (409, "idempotency_mismatch")


def test_why_names_what_stands_in_the_way(alice: httpx2.Client, lab: "Lab") -> None:
    job = submit(alice)
    lab.boards = []
    lab.plan_and_dispatch(job["id"])
    lab.register({**_other_board(), "serial": "S-2"})
    why = alice.get(f"/v1/jobs/{job['id']}/why").json()
    assert why["platforms"][0]["pending"] == 1
    assert why["platforms"][0]["reason"]


def test_why_tells_of_what_rests_for_as_long_as_this_farm_lets_it(
    alice: httpx2.Client, lab: "Lab", database: Database
) -> None:
    kernel = {"kind": "kernel", "type": "fc", "config": {"cin": 8, "cout": 8}}
    job = alice.post("/v1/jobs", json={"workloads": [kernel]}).json()
    grant = lab.lease(job["id"])
    full = {"outcome": "failed", "failure": "disk_full", "detail": "no room"}
    results = [{"measurement_id": one["measurement_id"], **full} for one in grant["items"]]
    end = {"results": results, "release": {"reason": "done"}}
    assert lab.post(f"leases/{grant['lease_token']}/finish", end).status_code == 200
    with database.transaction() as tx:  # its board has rested; what failed there rests for the farm's five seconds
        tx.execute(text("UPDATE boards SET state = 'idle', cooling_until = NULL"))
        tx.execute(text("UPDATE leases SET ended_at = now() + interval '1 minute'"))  # however slow this test is
    why = alice.get(f"/v1/jobs/{job['id']}/why").json()
    assert why["reason"].startswith("1 rests until "), why
    assert why["reason"].endswith(": no launch began on the board that tried last: disk_full: no room")
    use = alice.get(f"/v1/boards/{lab.boards[0]}/why").json()
    assert use["reason"] == why["platforms"][0]["boards"][0]["reason"] == "is idle: what waits for it rests"


def _other_board() -> dict[str, Any]:
    return {
        "kind": "simulated", "serial": "S-1", "hardware_id": "hw", "board_model": "sim-2", "model_name": "Other",
        "generation": "g1", "facts": {}, "clock_proof": "unpinned",
        "engines": [{"name": "ncnn", "available": True, "version": "1.0", "precisions": ["fp32"]}],
        "operating_points": [{"mode": "free", "cores": [0], "threads": 1}],
    }  # fmt: skip


def test_waiting_ends_with_the_change(alice: httpx2.Client, lab: "Lab") -> None:
    job = submit(alice)
    grant = lab.lease(job["id"])
    began_s = time.monotonic()
    worker = threading.Timer(0.3, lambda: lab.report(grant, lab.good_results(grant)))
    worker.start()
    done = alice.get(f"/v1/jobs/{job['id']}?wait_s=20").json()
    worker.join()
    assert done["state"] == "succeeded"
    assert 0.2 < time.monotonic() - began_s < 5


@pytest.mark.usefixtures("lab")
def test_waiting_ends_with_the_time(alice: httpx2.Client) -> None:
    job = submit(alice)
    began_s = time.monotonic()
    assert alice.get(f"/v1/jobs/{job['id']}?wait_s=0.3").json()["state"] == "queued"
    assert 0.3 <= time.monotonic() - began_s < 3
    assert alice.get(f"/v1/jobs/{job['id']}?wait_s=56").status_code == 422
