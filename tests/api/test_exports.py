"""`/v1/exports`: tables over HTTP, bit for bit what `POST /v1/latency` says, and their keys, tags and misses."""

import hashlib
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchfarm.offline import Table
from benchfarm_core.exports import KEPT_TABLES, MAX_MISSES, FarmKeys
from benchfarm_core.fusion import FusionReport, FusionRow
from benchfarm_core.predictors import PredictorEvidence
from benchfarm_predictor.predictor_file import Predictor, write
from benchfarm_store import fusions, platforms, predictors
from benchfarm_store.database import Database
from benchfarm_workloads.spaces import draws
from tests.predictor.predictors import PLATFORM
from tests.predictor.whole_predictors import narrowed, whole_predictors

if TYPE_CHECKING:
    from tests.api.conftest import Lab

SPACE = "ofa_mobilenet_v3"
ONLY = {"hw": [128, 176, 224]}
GENES = [one.genes for one in draws(SPACE, "asked", 3000) if one.genes["hw"] in ONLY["hw"]][:200]
FIELDS = ("median_ms", "low_ms", "high_ms", "coverage")
_ARRAYS = {"median_ms": "latency_ms"}


@pytest.fixture(scope="module")
def whole() -> dict[str, Predictor]:
    return whole_predictors(SPACE)


def publish(database: Database, predictor: Predictor) -> str:
    with database.transaction() as tx:
        made = predictors.publish(
            tx,
            platform_id=platforms.find(tx, PLATFORM).id,
            subject="model",
            file=write(predictor),
            evidence=PredictorEvidence(),
            reason="made up",
            activate=True,
        )
    return made.id


def export(client: httpx2.Client, status: int = 201, **changes: Any) -> Any:
    wanted = {"platform": PLATFORM, "space": SPACE, "genes": ONLY, **changes}
    answer = client.post("/v1/exports", json=wanted)
    assert answer.status_code == status, answer.text
    return answer.json()


def table(client: httpx2.Client, export_id: str, **limits: Any) -> Table:
    file = client.get(f"/v1/exports/{export_id}/file")
    assert file.status_code == 200, file.text
    return Table.read(file.content, keys=FarmKeys.model_validate(client.get("/v1/keys").json()), **limits)


def asked(client: httpx2.Client, genes: list[Any]) -> list[dict[str, Any]]:
    items = [{"kind": "architecture", "space": SPACE, "genes": each} for each in genes]
    answer = client.post("/v1/latency", json={"platforms": [PLATFORM], "items": items})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["answers"]
    return found


def check_same(client: httpx2.Client, made: Table, genes: list[Any]) -> None:
    own, farms = made.latency(made.encode(genes)), asked(client, genes)
    assert not own.missing.any()
    for name in FIELDS:
        column = getattr(own, _ARRAYS.get(name, name))
        assert column.tolist() == [answer[name] for answer in farms], name


@pytest.mark.parametrize("kind", ["kernel sum", "ridge", "residual", "smooth", "mean", "stacked", "regional"])
def test_a_table_says_bit_for_bit_what_the_farm_says(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor], kind: str
) -> None:
    publish(database, whole[kind])
    made = table(alice, export(alice)["id"])
    check_same(alice, made, GENES)
    for few in (GENES[:1], GENES[7:9], GENES[50:19:-1]):
        check_same(alice, made, few)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(GENES) - 1), min_size=1, max_size=30))
def test_in_any_company(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor], rows: list[int]
) -> None:
    publish(database, narrowed(whole["regional"]))
    check_same(alice, table(alice, export(alice)["id"]), [GENES[row] for row in rows])


def test_fusions_of_the_engine_are_in_the_table(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor]
) -> None:
    publish(database, whole["kernel sum"])
    before = export(alice)
    apart = FusionRow(first="Conv", second="HardSwish", by_profile=False)
    with database.transaction() as tx:
        fusions.report(tx, PLATFORM, FusionReport(rows=(apart,)))
    assert alice.get(f"/v1/exports/{before['id']}").json()["is_current"] is False
    after = export(alice)
    assert after["id"] != before["id"]
    check_same(alice, table(alice, after["id"]), GENES[:50])
    old, new = (table(alice, each["id"]).latency(GENES[:5]).latency_ms for each in (before, after))
    assert (old != new).all()


def test_the_same_again_is_the_same_export(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor]
) -> None:
    version = publish(database, whole["ridge"])
    first = export(alice)
    assert (first["predictor_id"], first["predictor_version"], first["is_current"]) == (version, 1, True)
    assert (first["misses"], first["has_file"], first["genes"]) == (0, True, ONLY)
    assert export(alice, genes={"hw": [224, 128, 176, 176]}) == first == alice.get(f"/v1/exports/{first['id']}").json()
    assert export(alice, genes={"hw": [128]})["id"] != first["id"]


def test_one_table_is_made_at_a_time(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor], app: Any
) -> None:
    """What is there already needs no turn."""
    publish(database, whole["ridge"])
    made = export(alice)
    with app.state.parts.exporting:
        busy = alice.post("/v1/exports", json={"platform": PLATFORM, "space": SPACE, "genes": {"hw": [132]}})
        assert (busy.status_code, busy.json()["code"], int(busy.headers["retry-after"]) > 0) == (
            503,
            "unavailable",
            True,
        )
        assert export(alice) == made
    assert export(alice, genes={"hw": [132]})["id"] != made["id"]


def test_a_version_can_be_named(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor]
) -> None:
    first = publish(database, whole["ridge"])
    publish(database, whole["residual"])
    old, new = export(alice, version=1), export(alice)
    assert (old["predictor_id"], old["is_current"], new["is_current"]) == (first, False, True)
    answer = export(alice, 409, version=9)
    assert (answer["code"], answer["field"]) == ("no_predictor", "version")


def test_files_are_sent_once_by_their_tag(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor]
) -> None:
    publish(database, whole["ridge"])
    made = export(alice)
    path = f"/v1/exports/{made['id']}/file"
    file = alice.get(path)
    tag = file.headers["etag"]
    assert tag == f'"{hashlib.sha256(file.content).hexdigest()}"' == f'"{made["sha256"]}"'
    assert len(file.content) == made["size_bytes"]
    for known in (tag, f'"other", W/{tag}', "*"):
        again = alice.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert alice.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    for wrong in ("/v1/exports/ex_none", "/v1/exports/ex_none/file", "/v1/exports/ex_none/misses"):
        assert alice.get(wrong).status_code == 404


def test_one_key_signs_and_is_shown_without_its_secret(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor]
) -> None:
    assert alice.get("/v1/keys").json() == {"keys": []}
    publish(database, whole["ridge"])
    made = [export(alice), export(alice, genes={"hw": [200]})]
    (key,) = alice.get("/v1/keys").json()["keys"]
    assert {one["key_id"] for one in made} == {key["id"]}
    assert key.keys() == {"id", "algorithm", "public_key", "is_active", "created_at"}
    assert table(alice, made[0]["id"]).head.farm


def test_old_files_are_let_go(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor]
) -> None:
    publish(database, whole["ridge"])
    made = [export(alice, genes={"hw": [128 + 4 * at]})["id"] for at in range(KEPT_TABLES + 1)]
    assert alice.get(f"/v1/exports/{made[0]}").json()["has_file"] is False
    answer = alice.get(f"/v1/exports/{made[0]}/file")
    assert (answer.status_code, "export the table again" in answer.json()["detail"]) == (404, True)
    assert alice.get(f"/v1/exports/{made[1]}/file").status_code == 200
    again = export(alice, genes={"hw": [128]})
    assert (again["has_file"], again["id"]) == (True, made[0])
    assert table(alice, again["id"]).head.export_id == again["id"]


def test_misses_are_told_once_and_counted(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor]
) -> None:
    publish(database, whole["ridge"])
    made = export(alice, genes={"hw": [224]})
    lacked = [genes for genes in GENES if genes["hw"] != 224][:3]
    own = table(alice, made["id"])
    found = own.latency([GENES[0], *lacked, {"hw": 1}])
    assert [each.code for each in found.misses][-1] == "architecture_out_of_range"
    path = f"/v1/exports/{made['id']}/misses"
    assert alice.post(path, json={"architectures": [*lacked, lacked[0]]}).json() == {
        "new": 3,
        "known": 0,
        "left_out": 0,
    }
    assert alice.post(path, json={"architectures": lacked[:1]}).json() == {"new": 0, "known": 1, "left_out": 0}
    misses = alice.get(path).json()["misses"]
    assert [each["reports"] for each in misses] == [2, 1, 1]
    assert misses[0]["genes"] == {name: [*v] if isinstance(v, tuple) else v for name, v in lacked[0].items()}
    assert alice.get(f"/v1/exports/{made['id']}").json()["misses"] == 3
    refused = alice.post(path, json={"architectures": [lacked[0], {**lacked[1], "hw": 7}]})
    assert (refused.status_code, refused.json()["code"]) == (422, "architecture_out_of_range")
    assert refused.json()["field"] == "architectures.1.genes.hw"
    assert alice.post(path, json={"architectures": []}).status_code == 422
    many = [one.genes for one in draws(SPACE, "many", MAX_MISSES)]
    taken = alice.post(path, json={"architectures": many}).json()
    assert taken == {"new": MAX_MISSES - 3, "known": 0, "left_out": 3}


def test_what_cannot_be_exported_says_why(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor]
) -> None:
    nobody = export(alice, 409)
    assert (nobody["code"], f"benchfarm adapt {PLATFORM}" in nobody["detail"]) == ("no_predictor", True)
    publish(database, whole["ridge"])
    for status, code, field, changes in (
        (422, "space_unknown", "space", {"space": "nowhere"}),
        (422, "platform_unknown", "platform", {"platform": "nowhere"}),
        (422, "architecture_out_of_range", "genes.hw", {"genes": {"hw": [7]}}),
        (422, "architecture_out_of_range", "genes.colour", {"genes": {"colour": [1]}}),
        (422, "export_impossible", "space", {"space": "bert", "genes": {}}),
        (413, "too_large", "genes", {"space": "fbnet_v3", "genes": {}}),
        (422, "invalid_request", "version", {"version": 0}),
        (422, "invalid_request", "version", {"version": 2**31}),
        (409, "no_predictor", "version", {"version": 2**31 - 1}),
        (422, "invalid_request", "genes.hw", {"genes": {"hw": []}}),
    ):
        refused = export(alice, status, **changes)
        assert (refused["code"], refused["field"]) == (code, field)
    assert alice.get("/v1/keys").json()["keys"]


def test_numbers_come_as_arrays_without_a_network(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: dict[str, Predictor]
) -> None:
    publish(database, whole["regional"])
    made = table(alice, export(alice)["id"])
    codes = made.encode(GENES)
    found = made.latency(codes)
    assert found.latency_ms.dtype == np.float64
    assert (len(codes), found.latency_ms.shape, made.blocks > 50) == (len(GENES), (len(GENES),), True)
