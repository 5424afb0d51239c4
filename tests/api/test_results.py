"""Results as JSON and CSV."""

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from benchfarm_core.csv_rows import ITEM_COLUMNS, RESULT_COLUMNS

if TYPE_CHECKING:
    from tests.api.conftest import Lab

MakeCaller = Callable[..., httpx2.Client]


def rows(answer: httpx2.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text)))


@pytest.fixture
def measured(alice: httpx2.Client, lab: "Lab") -> dict[str, Any]:
    workloads = [{"kind": "kernel", "type": "fc", "config": {"cin": 1 + n, "cout": 8}} for n in range(4)]
    job: dict[str, Any] = alice.post("/v1/jobs", json={"workloads": workloads}).json()
    lab.finish(job["id"])
    return job


def test_results_of_a_job(alice: httpx2.Client, measured: dict[str, Any]) -> None:
    path = f"/v1/jobs/{measured['id']}/results"
    page = alice.get(path, params={"limit": 3}).json()
    rest = alice.get(path, params={"limit": 3, "cursor": page["next_cursor"]}).json()
    items = page["items"] + rest["items"]
    assert [item["item_no"] for item in items] == [0, 1, 2, 3]
    for answer in (alice.get(path, params={"format": "csv"}), alice.get(path, headers={"Accept": "text/csv"})):
        table = rows(answer)
        assert tuple(table[0]) == ITEM_COLUMNS
        assert [float(row["median_ms"]) for row in table] == [item["summary"]["median_ms"] for item in items]
        assert table[1]["workload"] == "fc cin=2 cout=8 act=none batch=1"
        assert table[0]["grade"] == "A"


def test_results_of_the_farm(alice: httpx2.Client, measured: dict[str, Any], caller: MakeCaller) -> None:
    page = alice.get("/v1/results", params={"limit": 3}).json()
    assert len(page["items"]) == 3
    rest = alice.get("/v1/results", params={"limit": 3, "cursor": page["next_cursor"]}).json()
    ids = [row["measurement_id"] for row in page["items"] + rest["items"]]
    assert len(set(ids)) == 4
    table = rows(alice.get("/v1/results?format=csv"))
    assert tuple(table[0]) == RESULT_COLUMNS
    assert sorted(int(row["measurement_id"]) for row in table) == sorted(ids)
    one = page["items"][0]
    same = alice.get("/v1/results", params={"workload_id": one["workload_id"], "platform": one["platform"]}).json()
    assert [row["measurement_id"] for row in same["items"]] == [one["measurement_id"]]
    assert alice.get("/v1/results", params={"since": "2100-01-01T00:00:00Z"}).json()["items"] == []
    assert alice.get("/v1/results", params={"since": "2100-01-01T00:00:00"}).json()["field"] == "since"
    for zone in ("-23:16", "+23:59"):  # Postgres itself knows no zone beyond 16 hours
        assert alice.get("/v1/results", params={"until": f"7738-04-20T03:48:07{zone}"}).json()["items"]
    assert alice.get("/v1/results", params={"until": "9999-12-31T23:59:59-01:00"}).json()["field"] == "until"
    assert alice.get("/v1/results", params={"platform": one["platform_id"]}).json()["items"]
    assert len(caller("client", "bob").get("/v1/results").json()["items"]) == 4  # kernels are nobody's secret


def test_a_cell_that_a_spreadsheet_would_run(alice: httpx2.Client, lab: "Lab") -> None:
    job = alice.post(
        "/v1/jobs", json={"workloads": [{"kind": "kernel", "type": "fc", "config": {"cin": 3, "cout": 8}}]}
    )
    grant = lab.lease(job.json()["id"])
    failed = {
        "measurement_id": grant["items"][0]["measurement_id"],
        "outcome": "failed",
        "failure": "unsupported_operator",
        "detail": '=HYPERLINK("http://example.test")',
    }
    assert lab.report(grant, [failed]).status_code == 200
    (row,) = rows(alice.get(f"/v1/jobs/{job.json()['id']}/results?format=csv"))
    assert (row["state"], row["failure"]) == ("failed", "unsupported_operator")
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())


@pytest.mark.usefixtures("lab")
def test_a_measurement_of_nobody(alice: httpx2.Client) -> None:
    assert alice.get("/v1/measurements/999999").status_code == 404
    assert alice.get("/v1/measurements/0").status_code == 422
    assert alice.get(f"/v1/measurements/{2**63}").status_code == 422


def test_latency_of_what_is_measured(alice: httpx2.Client, measured: dict[str, Any]) -> None:
    items = [{"kind": "kernel", "type": "fc", "config": {"cin": cin, "cout": 8}} for cin in (1, 999)]
    answer = alice.post("/v1/latency", json={"platforms": measured["platforms"], "items": items})
    assert answer.status_code == 200, answer.text
    known, unknown = answer.json()["answers"]
    assert (known["source"], known["error"]) == ("measured", None)
    assert known["low_ms"] <= known["median_ms"] <= known["high_ms"]
    assert (unknown["source"], unknown["error"]) == (None, "no_predictor")


def test_latency_with_an_impossible_age(alice: httpx2.Client, measured: dict[str, Any]) -> None:
    question = {
        "platforms": measured["platforms"],
        "items": [{"kind": "kernel", "type": "fc", "config": {"cin": 1, "cout": 8}}],
    }
    ten_years_s = 10 * 365 * 86_400
    assert alice.post("/v1/latency", json={**question, "max_age_s": ten_years_s}).status_code == 200
    refused = alice.post("/v1/latency", json={**question, "max_age_s": 10**12})
    assert (refused.status_code, refused.json()["field"]) == (422, "max_age_s")
