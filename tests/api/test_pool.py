"""The pool over HTTP: who may carry what in and out, what is refused, and that no entry ever answers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from benchfarm_core.measurements import Timing
from benchfarm_core.pool import Likeness
from benchfarm_core.pool_files import MAX_POOL_BYTES, part_hash, read, write
from benchfarm_predictor import predictor_file
from benchfarm_store import likenesses
from benchfarm_store.database import Database
from tests.api.conftest import Lab
from tests.pool_rows import KEY, ORIGIN, entry_of, made_file, made_rows, manifest_of, of_another_farm
from tests.predictor.predictors import LINEAGE, kernel_predictor

FILE = {"Content-Type": "application/octet-stream"}
FCS = [{"kind": "kernel", "type": "fc", "config": {"cin": cin, "cout": 8}} for cin in (64, 65, 66)]


@pytest.fixture
def operator(caller: Callable[..., httpx2.Client]) -> httpx2.Client:
    return caller("operator", "labs")


@pytest.fixture
def platform(lab: Lab, alice: httpx2.Client) -> dict[str, Any]:
    """The lab's platform, with results of three kernels."""
    job = alice.post("/v1/jobs", json={"workloads": FCS}).json()
    lab.finish(job["id"])
    (found,) = alice.get("/v1/platforms").json()["items"]
    return dict(found)


def bring(client: httpx2.Client, data: bytes) -> httpx2.Response:
    return client.post("/v1/pool", content=data, headers=FILE)


def test_a_pool_file_goes_from_farm_to_farm(
    operator: httpx2.Client, alice: httpx2.Client, platform: dict[str, Any]
) -> None:
    query = {"names": platform["key"], "licence": "MIT", "source": "the lab"}
    assert alice.get("/v1/pool/file", params=query).status_code == 403
    exported = operator.get("/v1/pool/file", params=query)
    assert (exported.status_code, exported.headers["content-type"]) == (200, "application/octet-stream")
    (entry,) = read(exported.content).manifest.entries
    assert (entry.platform.key, entry.licence, entry.rows.alone) == (platform["key"], "MIT", 3)
    own = bring(operator, exported.content).json()
    assert (own["entries"], own["own"]) == ([], [platform["key"]])
    data = of_another_farm(exported.content)
    assert bring(alice, data).status_code == 403
    came = bring(operator, data)
    assert came.status_code == 200, came.text
    (entry_id,) = came.json()["entries"]
    assert bring(operator, data).json()["repeated"] == [entry_id]
    (listed,) = alice.get("/v1/pool").json()["items"]
    assert (listed["id"], listed["origin"], listed["is_own"]) == (entry_id, ORIGIN, False)
    assert alice.delete(f"/v1/pool/entries/{entry_id}").status_code == 403
    assert operator.delete(f"/v1/pool/entries/{entry_id}").json()["key"] == platform["key"]
    assert operator.delete(f"/v1/pool/entries/{entry_id}").status_code == 404
    assert alice.get("/v1/pool").json()["items"] == []


def test_an_entry_never_answers(operator: httpx2.Client, alice: httpx2.Client, platform: dict[str, Any]) -> None:
    kernel = made_rows().kernels[0]
    asked = {"kind": "kernel", "type": kernel.kernel_type, "config": kernel.config}
    assert bring(operator, made_file(made_rows(platform["key"]))).status_code == 200
    (answer,) = alice.post("/v1/latency", json={"items": [asked], "platforms": [platform["key"]]}).json()["answers"]
    assert (answer["source"], answer["error"]) == (None, "no_predictor")
    dry = alice.post("/v1/jobs?dry_run=true", json={"workloads": [asked], "platforms": [platform["key"]]}).json()
    assert (dry["known"], dry["to_measure"]) == (0, 1)
    assert len(alice.get("/v1/results").json()["items"]) == 3
    assert len(alice.get("/v1/platforms").json()["items"]) == 1
    assert alice.get("/v1/predictors").json()["items"] == []


def test_the_matrix_is_for_everybody(alice: httpx2.Client, database: Database, platform: dict[str, Any]) -> None:
    fields = {"target": platform["id"], "subject": "conv-bn-act", "divergence": 0.25, "low": 0.125, "high": 0.5}
    told = {"timing": Timing.ALONE, "spearman": None, "log_ratio_variance": 0.5, "count": 16, "is_near": True}
    with database.transaction() as tx:
        likenesses.keep_entry(
            tx, platform["id"], [Likeness.model_validate({**fields, **told, "donor": platform["id"]})]
        )
    (found,) = alice.get("/v1/pool/matrix", params={"target": platform["key"], "timing": "alone"}).json()["items"]
    assert (found["donor"], found["target"], found["divergence"]) == (platform["key"], platform["key"], 0.25)
    assert alice.get("/v1/pool/matrix", params={"subject": "linear"}).json()["items"] == []
    unknown = alice.get("/v1/pool/matrix", params={"target": "nowhere"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "platform_unknown")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "invalid_request"),
        (b"PK\x03\x04", 422, "pool_file_foreign"),
        (made_file()[:-1], 422, "pool_file_damaged"),
        (b"\0" * (MAX_POOL_BYTES + 1), 413, "too_large"),
    ],
)
def test_what_is_no_whole_pool_file_is_refused_and_leaves_nothing(
    operator: httpx2.Client, data: bytes, status: int, code: str
) -> None:
    answer = bring(operator, data)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert operator.get("/v1/pool").json()["items"] == []


@pytest.mark.parametrize(
    ("query", "status", "code", "field"),
    [
        ({}, 422, "invalid_request", "licence"),
        ({"licence": ""}, 422, "invalid_request", "licence"),
        ({"licence": "MIT"}, 422, "invalid_request", "names"),
        ({"licence": "MIT", "names": "nowhere"}, 422, "platform_unknown", "names"),
        ({"licence": "MIT", "names": "e_" + "0" * 32}, 404, "not_found", None),
    ],
)
def test_what_cannot_be_exported_is_told(
    operator: httpx2.Client, query: dict[str, str], status: int, code: str, field: str | None
) -> None:
    answer = operator.get("/v1/pool/file", params=query)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert str(answer.json().get("field") or "").endswith(field or "")


def with_predictor(file: bytes, donor: bytes = b"DONOR") -> bytes:
    """A pool file with a predictor; `donor`: its donor as it is written in the manifest's JSON within JSON."""
    lineage = LINEAGE.model_copy(update={"donors": ("DONOR",)})
    packed = {"subject": "fc", "sha256": part_hash(file), "lineage": lineage.model_dump()}
    entry, part = entry_of(made_rows(), predictors=(packed,))
    data = write(manifest_of([entry]), [part, file]).replace(b"DONOR", donor, 1)
    length = int.from_bytes(data[:8], "little") + len(donor) - len(b"DONOR")
    return length.to_bytes(8, "little") + data[8:]


def an_fc_predictor() -> bytes:
    found = kernel_predictor("fc", KEY)
    lineage = LINEAGE.model_copy(update={"donors": ("DONOR",)})
    return predictor_file.write(replace(found, header=found.header.model_copy(update={"lineage": lineage})))


def test_a_nul_that_is_written_otherwise_is_damage_too(operator: httpx2.Client) -> None:
    answer = bring(operator, with_predictor(an_fc_predictor(), b"a\\u005cu0000b"))
    assert (answer.status_code, answer.json()["code"]) == (422, "pool_file_damaged"), answer.text
    assert "no text holds" in answer.json()["detail"]


def test_a_predictor_is_taken_in_with_all_its_arrays_or_not_at_all(operator: httpx2.Client) -> None:
    file = an_fc_predictor()
    for spoilt in (file[:-8], file[:-8] + b"\xff" * 8):  # the last array is weights
        answer = bring(operator, with_predictor(spoilt))
        assert (answer.status_code, answer.json()["code"]) == (422, "pool_file_damaged"), answer.text
    assert operator.get("/v1/pool").json()["items"] == []
    assert bring(operator, with_predictor(file)).json()["left_out"] == []
    (listed,) = operator.get("/v1/pool").json()["items"]
    assert [one["subject"] for one in listed["predictors"]] == ["fc"]


def test_an_entry_says_what_its_predictors_were_taught(
    operator: httpx2.Client, alice: httpx2.Client, database: Database
) -> None:
    file = an_fc_predictor()
    (entry_id,) = bring(operator, with_predictor(file)).json()["entries"]
    found = alice.get(f"/v1/pool/entries/{entry_id}").json()
    (listed,) = alice.get("/v1/pool").json()["items"]
    taught = found.pop("taught")
    assert found == listed
    lineage = LINEAGE.model_copy(update={"donors": ("DONOR",)}).model_dump(mode="json")
    assert taught == [{"subject": "fc", "sha256": part_hash(file), "is_kept": True, "lineage": lineage}]
    with database.transaction() as tx:
        tx.execute(text("DELETE FROM pool_predictors"))  # as where this farm could not read it
    (left_out,) = alice.get(f"/v1/pool/entries/{entry_id}").json()["taught"]
    assert (left_out["is_kept"], left_out["lineage"]) == (False, lineage)
    assert alice.get(f"/v1/pool/entries/e_{'0' * 32}").status_code == 404


def test_the_file_of_a_farm_elsewhere_keeps_its_words(operator: httpx2.Client) -> None:
    (entry_id,) = bring(operator, made_file()).json()["entries"]
    again = operator.get("/v1/pool/file", params={"licence": "ours", "names": entry_id}).content
    (entry,) = read(again).manifest.entries
    assert (entry.id, entry.platform.key, entry.licence) == (entry_id, KEY, "Apache-2.0")
