"""The agent API: enrolment, leases, results good and bad, and the poll that wakes."""

import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from benchfarm_api.main import create_app
from benchfarm_api.settings import Settings

if TYPE_CHECKING:
    from tests.api.conftest import Lab, Served

MakeCaller = Callable[..., httpx2.Client]


def submitted(client: httpx2.Client, count: int = 1, **fields: Any) -> str:
    workloads = [{"kind": "kernel", "type": "fc", "config": {"cin": 1 + n, "cout": 8}} for n in range(count)]
    job_id: str = client.post("/v1/jobs", json={"workloads": workloads, **fields}).json()["id"]
    return job_id


def test_an_enrolment_token_works_once(caller: MakeCaller, http: httpx2.Client) -> None:
    operator = caller("operator", "labs")
    token = operator.post("/v1/enrol-tokens", json={"name": "shelf 3"}).json()["token"]
    body = {"enrol_token": token, "name": "lab", "agent_version": "0.1.0", "protocol_version": 2}
    enrolled = http.post("/v1/agent/enrol", json=body)
    assert enrolled.status_code == 201
    again = http.post("/v1/agent/enrol", json=body)
    assert (again.status_code, again.json()["code"]) == (401, "enrol_token_used")
    unknown = http.post("/v1/agent/enrol", json={**body, "enrol_token": "bfe_nothing"})
    assert unknown.status_code == 401
    assert operator.get("/v1/agents").json()["items"][0]["id"] == enrolled.json()["agent_id"]


@pytest.mark.parametrize("version", [1, 4])
def test_another_protocol_version_is_refused(lab: "Lab", http: httpx2.Client, version: int) -> None:
    common = {"protocol_version": version, "agent_version": "9"}
    for path, field in (("boards", "boards"), ("poll", "idle")):
        answer = lab.post(path, {**common, field: []})
        assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required"), path
    enrol = http.post("/v1/agent/enrol", json={**common, "name": "x", "enrol_token": "bfe_x"})
    assert enrol.status_code == 426


def test_a_lease_from_offer_to_release(alice: httpx2.Client, lab: "Lab") -> None:
    job_id = submitted(alice, 3)
    grant = lab.lease(job_id)
    token = grant["lease_token"]
    assert len(grant["items"]) == 3
    assert grant["renew_in_s"] < grant["expires_in_s"]
    assert lab.post(f"leases/{token}/accept").json()["items"] == grant["items"]
    assert lab.post(f"leases/{token}/renew").json()["cancelled"] == []
    ids = [item["measurement_id"] for item in grant["items"]]
    assert lab.post(f"leases/{token}/started", {"measurement_ids": ids[:1]}).status_code == 204
    results = lab.good_results(grant)
    assert lab.report(grant, results).json() == {"accepted": ids, "repeated": [], "orphaned": []}
    assert lab.report(grant, results).json() == {"accepted": [], "repeated": ids, "orphaned": []}
    assert lab.post(f"leases/{token}/release", {"reason": "done"}).status_code == 204
    assert lab.post(f"leases/{token}/release", {"reason": "done"}).status_code == 204
    lost = lab.post(f"leases/{token}/renew")
    assert (lost.status_code, lost.json()["code"]) == (409, "lease_lost")
    assert lab.poll(leases=[token])["ended_leases"] == [token]


def test_a_lease_that_ends_brings_the_next(alice: httpx2.Client, lab: "Lab") -> None:
    """Reports and ends of version 3: one request for what runs, one for results, board and the next batch."""
    job_id = submitted(alice, 80)
    grant, seen = lab.lease(job_id), 0
    while grant is not None:
        token, ids = grant["lease_token"], [item["measurement_id"] for item in grant["items"]]
        told = {"lease_token": token, "measurement_ids": ids[:1], "renew": True}
        gone = {"lease_token": "l_" + "0" * 32}
        answer = lab.post("reports", {"leases": [told, gone]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["lost"] == [gone["lease_token"]]
        assert answer.json()["renewed"] == [{"lease_token": token, "cancelled": []}]
        end = {"results": lab.good_results(grant), "release": {"reason": "done"}, "wants_next": True}
        ended = lab.post(f"leases/{token}/finish", end)
        assert ended.status_code == 200, ended.text
        again = lab.post(f"leases/{token}/finish", end).json()
        assert (ended.json()["accepted"], again["repeated"], again["lost"]) == (ids, ids, False)
        assert again["next_lease"] == ended.json()["next_lease"]
        grant, seen = ended.json()["next_lease"], seen + len(ids)
    assert seen == 80
    assert alice.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded"


def test_an_end_that_cannot_be(alice: httpx2.Client, lab: "Lab") -> None:
    grant = lab.lease(submitted(alice))
    path, (good,) = f"leases/{grant['lease_token']}/finish", lab.good_results(grant)
    done = {"release": {"reason": "done"}}
    for wrong, field in (
        ({"results": [good]}, "release"),
        ({"results": [good], "release": {"reason": "tired"}}, "release.reason"),
        ({"results": [good, good], **done}, "results"),
        ({"results": [{**good, "measurement_id": good["measurement_id"] + 1000}], **done}, "results"),
    ):
        answer = lab.post(path, wrong)
        assert answer.status_code == 422, answer.text
        assert answer.json()["field"] == field
    lost = lab.post(f"leases/l_{'0' * 32}/finish", done)
    assert (lost.status_code, lost.json()["code"]) == (409, "lease_lost")
    strange = {"lease_token": grant["lease_token"], "measurement_ids": [good["measurement_id"] + 1000]}
    refused = lab.post("reports", {"leases": [strange]})
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (422, "result_invalid", "leases")
    assert lab.post(path, {"results": [good], **done}).json()["next_lease"] is None


@pytest.mark.parametrize(
    "damage",
    [
        {"iterations": 0},
        {"blocks_ns": [-5] * 10},
        {"blocks_ns": [0] * 10},
        {"blocks_ns": [1.5] * 10},
        {"blocks_ns": []},
        {"delays_ns": [0] * 3},
        {"open_ms": -1},
        {"open_ms": 1e300},
        {"warmup_runs": 2**70},
        {"canaries": {"other": []}},
        {"canaries": {"sgemm": [[0, 0]], "mobilenet": [[0, 5]]}},
        {"canaries": {"sgemm": [[-5, 10]], "mobilenet": [[0, 5]]}},
        {"canaries": {"sgemm": [[0, 10]], "mobilenet": [[2**70, 5]]}},
        {"canaries": {"sgemm": [[0, 10], [9, 10], [11, 10]], "mobilenet": [[0, 5]]}},
        {"surprise": 1},
    ],
)
def test_impossible_numbers_are_refused(alice: httpx2.Client, lab: "Lab", damage: dict[str, Any]) -> None:
    grant = lab.lease(submitted(alice))
    (good,) = lab.good_results(grant)
    bad = {**good, "launches": [{**launch, **damage} for launch in good["launches"]]}
    answer = lab.report(grant, [bad])
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"]
    assert lab.report(grant, [good]).json()["accepted"] == [good["measurement_id"]]


def test_impossible_measurement_ids_are_refused(alice: httpx2.Client, lab: "Lab") -> None:
    grant = lab.lease(submitted(alice))
    (good,) = lab.good_results(grant)
    assert lab.report(grant, [{**good, "measurement_id": 2**63}]).status_code == 422
    started = lab.post(f"leases/{grant['lease_token']}/started", {"measurement_ids": [2**63]})
    assert started.status_code == 422


def test_a_canary_of_zero_on_a_later_lease_does_not_reach_the_history(alice: httpx2.Client, lab: "Lab") -> None:
    for canary_ns, status in ((1_000_000, 200), (0, 422), (1_000_000, 200)):
        grant = lab.lease(submitted(alice, max_age_s=0))
        (result,) = lab.good_results(grant)
        canaries = {"sgemm": [[0, canary_ns]], "mobilenet": [[0, 2_000_000]]}
        launches = [{**launch, "canaries": canaries} for launch in result["launches"]]
        assert lab.report(grant, [{**result, "launches": launches}]).status_code == status
        lab.post(f"leases/{grant['lease_token']}/release", {"reason": "done"})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none(alice: httpx2.Client, lab: "Lab", number: str) -> None:
    grant = lab.lease(submitted(alice))
    good = lab.client.build_request("POST", "/", json={"results": lab.good_results(grant)}).content.decode()
    body = good.replace('"open_ms":1.0', f'"open_ms":{number}')
    assert number in body
    headers = {**lab.headers, "Content-Type": "application/json"}
    answer = lab.client.post(f"/v1/agent/leases/{grant['lease_token']}/results", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_duplicate_in_one_chunk(alice: httpx2.Client, lab: "Lab") -> None:
    grant = lab.lease(submitted(alice))
    answer = lab.report(grant, lab.good_results(grant) * 2)
    assert (answer.status_code, answer.json()["code"]) == (422, "result_invalid")


def test_a_measurement_outside_the_lease(alice: httpx2.Client, lab: "Lab") -> None:
    grant = lab.lease(submitted(alice))
    (good,) = lab.good_results(grant)
    answer = lab.report(grant, [{**good, "measurement_id": good["measurement_id"] + 1000}])
    assert (answer.status_code, answer.json()["code"]) == (422, "result_invalid")


def test_a_late_result_is_kept_apart(alice: httpx2.Client, lab: "Lab") -> None:
    job_id = submitted(alice)
    grant = lab.lease(job_id)
    lab.post(f"leases/{grant['lease_token']}/release", {"reason": "gate"})
    late = lab.report(grant, lab.good_results(grant))
    assert late.json()["orphaned"] == [grant["items"][0]["measurement_id"]]
    assert alice.get(f"/v1/jobs/{job_id}").json()["progress"]["succeeded"] == 0


def test_the_lease_of_another_agent(alice: httpx2.Client, lab: "Lab", http: httpx2.Client, caller: MakeCaller) -> None:
    grant = lab.lease(submitted(alice))
    token = caller("operator", "others").post("/v1/enrol-tokens", json={}).json()["token"]
    body = {"enrol_token": token, "name": "thief", "agent_version": "0.1.0", "protocol_version": 2}
    thief = http.post("/v1/agent/enrol", json=body).json()["token"]
    calls: dict[str, Any] = {"renew": None, "started": {"measurement_ids": [1]}, "release": {"reason": "done"}}
    for verb, call in calls.items():
        answer = http.post(
            f"/v1/agent/leases/{grant['lease_token']}/{verb}", json=call, headers={"Authorization": f"Bearer {thief}"}
        )
        assert (answer.status_code, answer.json()["code"]) == (409, "lease_lost"), verb


def test_a_parked_poll_hears_an_offer_within_100_ms(
    alice: httpx2.Client, lab: "Lab", eventually: Callable[..., None]
) -> None:
    token = alice.headers["Authorization"]
    delays_s = [_offer_while_parked(alice, token, lab, eventually) for _ in range(3)]
    assert min(delays_s) < 0.1, delays_s
    assert max(delays_s) < 5, delays_s


def _offer_while_parked(client: httpx2.Client, token: str, lab: "Lab", eventually: Callable[..., None]) -> float:
    """Seconds from the commit of an offer to the answer of the poll that waited for it."""
    client.headers["Authorization"] = token
    job_id = submitted(client, max_age_s=0)
    heard: list[tuple[float, str]] = []

    def park() -> None:
        (offer,) = lab.poll(wait_s=20)["offers"]
        heard.append((time.monotonic(), offer["lease_token"]))

    parked = threading.Thread(target=park)
    parked.start()
    eventually(lambda: "benchfarm_api_parked_polls 1.0" in client.get("/metrics").text)
    lab.plan_and_dispatch(job_id)
    offered_s = time.monotonic()
    parked.join(20)
    ((heard_s, lease),) = heard
    assert lab.post(f"leases/{lease}/accept").status_code == 200
    assert lab.post(f"leases/{lease}/release", {"reason": "done"}).status_code == 204
    client.post(f"/v1/jobs/{job_id}/cancel")
    return heard_s - offered_s


def test_a_parked_poll_ends_when_its_token_is_revoked(
    lab: "Lab", caller: MakeCaller, eventually: Callable[..., None]
) -> None:
    admin = caller("admin", "root")
    token_id = lab.client.get("/v1/whoami", headers=lab.headers).json()["token_id"]
    heard: list[tuple[httpx2.Response, float]] = []

    def park() -> None:
        body = {"protocol_version": 2, "agent_version": "0.1.0", "idle": lab.boards, "wait_s": 25}
        heard.append((lab.post("poll", body), time.monotonic()))

    parked = threading.Thread(target=park)
    parked.start()
    eventually(lambda: "benchfarm_api_parked_polls 1.0" in admin.get("/metrics").text)
    assert admin.delete(f"/v1/tokens/{token_id}").status_code == 200
    revoked_s = time.monotonic()
    parked.join(30)
    ((answer, heard_s),) = heard
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")
    assert heard_s - revoked_s < 5


def test_a_parked_poll_finds_an_offer_without_valkey(
    settings: Settings, lab: "Lab", alice: httpx2.Client, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    deaf = settings.model_copy(update={"redis_url": f"unix://{tmp_path}/kv.sock?db=0"})
    with TestClient(create_app(deaf)) as client:
        lab.client = client
        assert _offer_while_parked(client, alice.headers["Authorization"], lab, eventually) < 10


def test_a_poll_whose_agent_has_hung_up_brings_no_board_back(
    lab: "Lab", served: "Served", alice: httpx2.Client, eventually: Callable[..., None]
) -> None:
    """What it names as idle may be gone by then: an agent hangs up and says so."""
    common = {"protocol_version": 2, "agent_version": "0.1.0"}

    def take_away() -> None:
        assert lab.post("boards", {**common, "boards": []}).status_code == 200
        assert state() == "offline"

    def state() -> str:
        return str(alice.get(f"/v1/boards/{lab.boards[0]}").json()["state"])

    def is_parked() -> bool:
        metrics = httpx2.get(f"{served.url}/metrics", headers=dict(alice.headers)).text
        return "benchfarm_api_parked_polls 1.0" in metrics

    take_away()
    body = json.dumps({**common, "idle": lab.boards, "wait_s": 20})
    host, _, port = served.url.removeprefix("http://").partition(":")
    headers = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body)), **lab.headers}
    with socket.create_connection((host, int(port))) as agent:
        lines = ["POST /v1/agent/poll HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", body]
        agent.sendall("\r\n".join(lines).encode())
        eventually(lambda: state() == "idle")  # it has looked once
        take_away()
        assert is_parked()
    eventually(lambda: not is_parked())
    assert state() == "offline"


def test_an_empty_poll_ends_with_its_time(lab: "Lab") -> None:
    began_s = time.monotonic()
    nothing: dict[str, list[str]] = {"offers": [], "ended_leases": [], "unknown_boards": [], "drifted_boards": []}
    assert lab.poll(wait_s=0.2) == nothing
    assert 0.15 < time.monotonic() - began_s < 3


def test_a_poll_tells_which_boards_wait_for_quiet(lab: "Lab", alice: httpx2.Client) -> None:
    job_id = submitted(alice, platforms={"threads": [1]})
    lab.lease(job_id)
    poll = {"protocol_version": 2, "agent_version": "0.1.0", "idle": [], "wait_s": 0}
    told = {"waited_s": 90.5, "reason": "3.2 other threads want to run, more than 2"}
    assert lab.post("poll", {**poll, "waits": {lab.boards[0]: told}}).status_code == 200
    wait = alice.get(f"/v1/boards/{lab.boards[0]}/why").json()["gate_wait"]
    assert wait == {"since_unix_s": pytest.approx(time.time() - 90.5, abs=5), "reason": told["reason"]}
    why = alice.get(f"/v1/jobs/{job_id}/why").json()
    since = datetime.fromtimestamp(wait["since_unix_s"], UTC)
    assert f"waits for quiet since {since:%Y-%m-%d %H:%M:%S} UTC: 3.2 other threads" in why["reason"]
    lab.poll(wait_s=0)  # as agents do that do not tell
    assert alice.get(f"/v1/boards/{lab.boards[0]}/why").json()["gate_wait"] == wait
    assert lab.post("poll", {**poll, "waits": {}}).status_code == 200
    assert alice.get(f"/v1/boards/{lab.boards[0]}/why").json()["gate_wait"] is None
    for wrong in ({"b": {"waited_s": -1, "reason": ""}}, {"b": {"waited_s": 0, "reason": "x" * 301}}):
        assert lab.post("poll", {**poll, "waits": wrong}).status_code == 422


def test_a_poll_and_an_end_tell_which_boards_drifted_at_work_too(lab: "Lab", alice: httpx2.Client) -> None:
    grant = lab.lease(submitted(alice, platforms={"threads": [1]}))
    with lab.database.transaction() as tx:
        tx.execute(_DRIFTED, {"board": lab.boards[0]})
    boards, lab.boards = lab.boards, []
    assert lab.poll()["drifted_boards"] == []
    assert lab.poll(leases=[grant["lease_token"]])["drifted_boards"] == boards
    ended = lab.post(f"leases/{grant['lease_token']}/finish", {"release": {"reason": "done"}})
    assert ended.json()["drifted"] is True


_DRIFTED = text("""
    INSERT INTO golden_runs (board_id, generation_id, reason, outcome, wanted_at, ended_at, boot_id)
    SELECT id, generation_id, 'day', 'drifted', now(), now(), coalesce(facts->>'boot_id', '')
    FROM boards WHERE public_id = :board
""")


def test_a_board_of_another_agent_is_unknown(lab: "Lab") -> None:
    lab.boards = ["b_0000000000000000"]
    assert lab.poll(wait_s=5)["unknown_boards"] == ["b_0000000000000000"]


def test_boards_and_platforms_are_listed(lab: "Lab", alice: httpx2.Client, caller: MakeCaller) -> None:
    (board,) = alice.get("/v1/boards?kind=simulated&state=idle").json()["items"]
    assert board["serial"] is None
    operator = caller("operator", "labs")
    assert operator.get(f"/v1/boards/{board['id']}").json()["serial"] == "S-1"
    (platform,) = alice.get("/v1/platforms?engine=onnxruntime&threads=1&threads=2").json()["items"]
    assert platform["key"] == "sim-1/c0.t1.free/onnxruntime-1.31.1/fp32"
    for name in (platform["id"], platform["key"], platform["key"].replace("/", "%2F")):
        assert alice.get(f"/v1/platforms/{name}").json()["id"] == platform["id"]
    named = operator.put(f"/v1/platforms/{platform['key']}/alias", json={"alias": "sim"})
    assert named.json()["aliases"] == ["sim"]
    assert alice.get("/v1/platforms/sim").json()["key"] == platform["key"]
    assert alice.get("/v1/platforms/nothing").status_code == 404
    engines = {engine["name"]: engine for engine in alice.get("/v1/engines").json()["items"]}
    assert engines["ncnn"]["unavailable"] == {board["id"]: "not installed"}


def test_any_point_of_a_boards_ranges_is_a_platform(lab: "Lab", alice: httpx2.Client) -> None:
    ranges = [{"mode": "pinned", "cores": [0, 1], "threads_max": 2, "freq_khz": [600_000, 1_500_000]}]
    lab.register({**lab.reports[0], "ranges": ranges})
    (board,) = alice.get("/v1/boards").json()["items"]
    assert board["ranges"] == ranges
    assert alice.get("/v1/platforms").json()["items"][0]["ranges"] == ranges
    kernel = {"kind": "kernel", "type": "fc", "config": {"cin": 8, "cout": 8}}

    def ask(point: str) -> tuple[httpx2.Response, httpx2.Response]:
        named = {"platforms": [f"sim-1/{point}/onnxruntime-1.31.1/fp32"]}
        latency = alice.post("/v1/latency", json={**named, "items": [kernel]})
        return latency, alice.post("/v1/jobs", json={**named, "workloads": [kernel]})

    assert [answer.status_code for answer in ask("c1.t1.600000")] == [200, 201]
    for answer in ask("c1.t1.700000"):
        assert answer.status_code == 422
        problem = answer.json()
        assert (problem["code"], problem["field"]) == ("operating_point_impossible", "platforms")
        assert "600000 or 1500000 kHz" in problem["detail"]


@pytest.mark.parametrize(
    "damage",
    [
        {"ranges": [{"mode": "pinned", "cores": [0], "threads_max": 1}]},
        {"ranges": [{"mode": "free", "cores": [0], "threads_max": 2**53}]},
        {"ranges": [{"mode": "pinned", "cores": [0], "threads_max": 1, "freq_khz": [2**53]}]},
        {"ranges": [{"mode": "free", "cores": [0], "threads_max": 1}] * 101},
        {"marks": ["imagined"]},
        {"marks": ["emulated"]},
    ],
)
def test_a_registration_that_contradicts_itself(lab: "Lab", damage: dict[str, Any]) -> None:
    body = {"protocol_version": 2, "agent_version": "0.1.0", "boards": [{**lab.reports[0], **damage}]}
    answer = lab.post("boards", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["field"].startswith("boards.0")


def test_a_boards_history_is_for_the_lab(lab: "Lab", alice: httpx2.Client, caller: MakeCaller) -> None:
    path = f"/v1/boards/{lab.boards[0]}"
    operator = caller("operator", "labs")
    assert alice.get(f"{path}/history").status_code == alice.post(f"{path}/notes", json={}).status_code == 403
    noted = operator.post(f"{path}/notes", json={"text": "fan on the left"})
    assert (noted.status_code, noted.json()["kind"], noted.json()["reason"]) == (201, "note", "fan on the left")
    for refused in ("", "x" * 1001):
        assert operator.post(f"{path}/notes", json={"text": refused}).status_code == 422
    page = operator.get(f"{path}/history?limit=1").json()
    rest = operator.get(f"{path}/history?cursor={page['next_cursor']}").json()
    assert [event["kind"] for event in page["items"] + rest["items"]] == ["note", "registered"]
    assert alice.get(f"{path}/why").json()["reason"] == "nothing waits for its platforms"
    for missing in ("why", "history"):
        assert operator.get(f"/v1/boards/b_nothing/{missing}").status_code == 404


def test_health_is_changed_by_the_lab_only(lab: "Lab", alice: httpx2.Client, caller: MakeCaller) -> None:
    path = f"/v1/boards/{lab.boards[0]}/health"
    change = {"health": "maintenance", "reason": "fan is loud"}
    assert alice.post(path, json=change).status_code == 403
    operator = caller("operator", "labs")
    changed = operator.post(path, json=change)
    assert (changed.status_code, changed.json()["health"]) == (200, "maintenance")
    assert changed.json()["reason"] == "fan is loud"
    assert operator.post(path, json={"health": "suspect", "reason": "?"}).status_code == 409
    assert operator.post("/v1/boards/b_nothing/health", json=change).status_code == 404
