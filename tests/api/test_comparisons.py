"""Jobs that compare, over HTTP: what is taken, what is refused, and what a client of before still sees."""

from typing import Any

import httpx2
import pytest

FC = {"kind": "kernel", "type": "fc", "config": {"cin": 8, "cout": 8}}
WIDE = {"kind": "kernel", "type": "fc", "config": {"cin": 8, "cout": 9}}
PAIR = {"kind": "pair", "a": FC, "b": WIDE}
TOO_FEW = {"launches_min": 1, "launches_max": 2}


@pytest.mark.usefixtures("lab")
def test_a_job_of_kind_compare_has_pairs_and_a_protocol_of_its_own(alice: httpx2.Client) -> None:
    answer = alice.post("/v1/jobs", json={"kind": "compare", "workloads": [PAIR]})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert (job["kind"], job["protocol"]["name"], job["protocol"]["half_width_target"]) == ("compare", "compare", 0.02)
    assert alice.get(f"/v1/jobs/{job['id']}").json() == job
    dry = alice.post("/v1/jobs?dry_run=true", json={"kind": "compare", "workloads": [PAIR, PAIR]}).json()
    assert dry["items"] == job["progress"]["total"]  # the same pair twice is one
    assert dry["device_s"] > 0


@pytest.mark.usefixtures("lab")
def test_a_job_without_a_kind_measures_as_ever(alice: httpx2.Client) -> None:
    job = alice.post("/v1/jobs", json={"workloads": [FC]}).json()
    assert (job["kind"], job["protocol"]["name"]) == ("measure", "kernel")
    named = alice.post("/v1/jobs", json={"workloads": [FC], "protocol": {"name": "quick"}}).json()
    assert named["protocol"]["name"] == "quick"


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"workloads": [PAIR]}, "not_a_pair", "workloads.0"),
        ({"kind": "compare", "workloads": [FC]}, "not_a_pair", "workloads.0"),
        ({"kind": "compare", "workloads": [PAIR], "protocol": {"name": "quick"}}, "not_a_pair", "protocol.name"),
        (
            {"kind": "compare", "workloads": [{**PAIR, "b_platform": "nowhere"}]},
            "platform_unknown",
            "workloads.0.b_platform",
        ),
        ({"kind": "compare", "workloads": [{**PAIR, "a": PAIR}]}, "invalid_request", "workloads.0.a.kind"),
        ({"kind": "contrast", "workloads": [FC]}, "invalid_request", "kind"),
        (
            {"kind": "compare", "workloads": [PAIR], "protocol": {"name": "compare", "parameters": TOO_FEW}},
            "protocol_impossible",
            "protocol.parameters",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(alice: httpx2.Client, body: Any, code: str, field: str) -> None:
    answer = alice.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, code, field)
    assert alice.get("/v1/jobs").json()["items"] == []


@pytest.mark.usefixtures("lab")
def test_latencies_of_pairs_are_not_asked(alice: httpx2.Client) -> None:
    answer = alice.post("/v1/latency", json={"items": [PAIR], "platforms": ["x"]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
