"""Search spaces over HTTP, and architectures wherever a generated model is taken."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Lab

KEY = "sim-1/c0.t1.free/onnxruntime-1.31.1/fp32"
GENES = {"layers": 1, "hidden": 128, "seq": 64, "intermediate": 512, "heads": 2}
TINY = {"kind": "architecture", "space": "bert", "genes": GENES}
NAMES = ["ofa_mobilenet_v3", "proxylessnas", "ofa_resnet", "bignas", "fbnet_v3", "autoformer", "bert"]


def kernels(client: httpx2.Client, space: str, **body: Any) -> httpx2.Response:
    return client.post(f"/v1/spaces/{space}/kernels", json=body)


def test_the_spaces_with_their_genes(alice: httpx2.Client) -> None:
    spaces = alice.get("/v1/spaces").json()["items"]
    assert [space["name"] for space in spaces] == NAMES
    (bert,) = (space for space in spaces if space["name"] == "bert")
    assert bert["version"] == 1
    assert [gene["name"] for gene in bert["genes"]] == list(GENES)
    assert bert["genes"][2] == {
        "name": "seq", "unit": "tokens", "meaning": "S: tokens of one input", "allowed": "64 or 128", "is_list": False,
    }  # fmt: skip


def test_draws_by_a_seed(alice: httpx2.Client) -> None:
    drawn = alice.get("/v1/spaces/fbnet_v3/draws?seed=a&count=3").json()["items"]
    assert len({one["workload_id"] for one in drawn}) == 3
    assert alice.get("/v1/spaces/fbnet_v3/draws?seed=a").json()["items"] == drawn[:1]
    assert alice.get("/v1/spaces/fbnet_v3/draws").json()["items"] != drawn[:1]
    assert drawn[0]["workload"]["kind"] == "architecture"
    genes = drawn[0]["workload"]["genes"]
    found = kernels(alice, "fbnet_v3", genes=genes).json()
    assert (found["workload_id"], found["workload"]["genes"]) == (drawn[0]["workload_id"], genes)


def test_draws_that_cannot_be(alice: httpx2.Client) -> None:
    for path, status, code in (
        ("darts/draws", 404, "not_found"),
        ("bert/draws?count=0", 422, "invalid_request"),
        ("bert/draws?count=1001", 422, "invalid_request"),
        ("bert/draws?count=1000", 422, "invalid_request"),
        ("bert/draws?seeds=1", 422, "invalid_request"),
    ):
        answer = alice.get(f"/v1/spaces/{path}")
        assert (answer.status_code, answer.json()["code"]) == (status, code), path


@pytest.mark.usefixtures("lab")
def test_the_kernels_of_an_architecture_follow_the_platform(
    alice: httpx2.Client, caller: Callable[..., httpx2.Client]
) -> None:
    found = kernels(alice, "bert", genes=GENES).json()
    assert (found["platform"], found["rules"]) == (None, "default")
    assert found["cost"]["parameters"] > 200_000
    fused = [part["config"] for kernel in found["kernels"] for part in kernel["parts"] if part["type"] == "linear"]
    assert [config["act"] for config in fused].count("gelu") == 1
    assert found["assumed"] == [["Linear", "Gelu"]]
    row = {"first": "Linear", "second": "Gelu", "by_profile": False}
    told = caller("operator", "labs").put(f"/v1/platforms/{KEY}/fusion", json={"rows": [row]})
    assert told.status_code == 200, told.text
    apart = kernels(alice, "bert", genes=GENES, platform=KEY).json()
    assert (apart["platform"], apart["rules"], apart["assumed"]) == (KEY, "measured", [])
    assert len(apart["kernels"]) == len(found["kernels"]) + 1


@pytest.mark.usefixtures("lab")
def test_kernels_of_nothing(alice: httpx2.Client) -> None:
    cases: tuple[tuple[str, dict[str, Any], int, str, str | None], ...] = (
        ("darts", {"genes": {}}, 404, "not_found", None),
        ("bert", {"genes": {**GENES, "seq": 512}}, 422, "architecture_out_of_range", "genes.seq"),
        ("bert", {"genes": {**GENES, "depth": 2}}, 422, "architecture_out_of_range", "genes.depth"),
        ("bert", {"genes": {**GENES, "heads": "2"}}, 422, "invalid_request", "genes.heads"),
        ("bert", {"genes": {**GENES, "heads": [2, 2.5]}}, 422, "invalid_request", "genes.heads"),
        ("bert", {"genes": {**GENES, "heads": [1] * 201}}, 422, "invalid_request", "genes.heads"),
        ("bert", {}, 422, "invalid_request", "genes"),
        ("bert", {"genes": GENES, "platform": "nowhere"}, 422, "platform_unknown", None),
    )
    for space, body, status, code, field in cases:
        answer = kernels(alice, space, **body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert field is None or answer.json()["field"] == field


def test_an_architecture_is_measured_and_asked_for(alice: httpx2.Client, lab: "Lab") -> None:
    """The same workload whatever its spelling; what is known then answers the latency question."""
    turned = {**TINY, "genes": dict(reversed(GENES.items()))}
    body = {"workloads": [TINY, turned], "protocol": {"name": "quick"}}
    assert alice.post("/v1/jobs?dry_run=true", json=body).json()["items"] == 1
    job = alice.post("/v1/jobs", json=body)
    assert job.status_code == 201, job.text
    grant = lab.lease(job.json()["id"])
    (item,) = grant["items"]
    assert item["workload"] == {"kind": "architecture", "space": "bert", "space_version": 1, "genes": GENES}
    assert lab.report(grant, lab.good_results(grant)).status_code == 200
    (done,) = alice.get(f"/v1/jobs/{job.json()['id']}/items").json()["items"]
    assert done["label"] == "bert layers=1 hidden=128 seq=64 intermediate=512 heads=2"
    assert done["workload_id"] == kernels(alice, "bert", genes=GENES).json()["workload_id"]
    (answer,) = alice.post("/v1/latency", json={"items": [turned], "platforms": [KEY]}).json()["answers"]
    assert (answer["source"], answer["measurement_id"]) == ("measured", done["measurement_id"])
    support = alice.get("/v1/support?family=bert").json()["items"]
    assert [row["family"] for row in support] == ["bert"]


@pytest.mark.usefixtures("lab")
def test_architectures_are_compared_and_packed_as_models_are(
    alice: httpx2.Client, caller: Callable[..., httpx2.Client]
) -> None:
    pair = {"kind": "pair", "a": TINY, "b": {**TINY, "genes": {**GENES, "heads": 4}}}
    assert alice.post("/v1/jobs", json={"kind": "compare", "workloads": [pair]}).status_code == 201
    order = {"target": "linux-x86_64-cp312", "engine": "onnxruntime", "workloads": [TINY]}
    packed = caller("operator", "labs").post("/v1/bundles", json=order)
    assert packed.status_code == 201, packed.text
    assert packed.json()["items"][0]["workload"]["space"] == "bert"


@pytest.mark.usefixtures("lab")
def test_a_job_with_a_wrong_gene_is_refused_whole(alice: httpx2.Client) -> None:
    cases: tuple[tuple[dict[str, Any], str, str], ...] = (
        ({"space": "darts"}, "space_unknown", "space"),
        ({"genes": {**GENES, "heads": 3}}, "architecture_out_of_range", "genes.heads"),
        ({"genes": {**GENES, "heads": None}}, "invalid_request", "genes.heads"),
        ({"genes": [1]}, "invalid_request", "genes"),
        ({"space_version": 1}, "invalid_request", "space_version"),
    )
    for fields, code, field in cases:
        answer = alice.post("/v1/jobs", json={"workloads": [TINY, {**TINY, **fields}]})
        found = (answer.status_code, answer.json()["code"], answer.json()["field"])
        assert found == (422, code, f"workloads.1.{field}"), answer.text
    assert alice.get("/v1/jobs").json()["items"] == []


@pytest.mark.usefixtures("lab")
def test_architectures_are_not_timed_in_situ(alice: httpx2.Client) -> None:
    answer = alice.post("/v1/jobs", json={"workloads": [TINY], "timing": "in_situ"})
    assert (answer.status_code, answer.json()["code"]) == (422, "timing_impossible")
