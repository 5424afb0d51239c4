"""Fusion rules and the kernels of models over HTTP."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2
import pytest

from benchfarm_workloads.layers import Sketch
from benchfarm_workloads.onnx_models import build_network

if TYPE_CHECKING:
    from tests.api.conftest import Lab

KEY = "sim-1/c0.t1.free/onnxruntime-1.31.1/fp32"
ROW = {"first": "Conv", "second": "Relu", "t1_ms": 1.0, "t2_ms": 0.2, "t12_ms": 1.2}


@pytest.mark.usefixtures("lab")
def test_operators_tell_what_was_measured_and_everybody_reads_it(
    alice: httpx2.Client, caller: Callable[..., httpx2.Client]
) -> None:
    assert alice.put(f"/v1/platforms/{KEY}/fusion", json={"rows": [ROW]}).status_code == 403
    operator = caller("operator", "labs")
    told = operator.put(f"/v1/platforms/{quote(KEY, safe='')}/fusion", json={"rows": [{**ROW, "by_profile": True}]})
    assert told.status_code == 200, told.text
    assert told.json() == alice.get(f"/v1/platforms/{KEY}/fusion").json()
    (row,) = told.json()["disagreements"]
    assert (row["by_latency"], row["by_profile"], row["fused"]) == (False, True, True)


@pytest.mark.parametrize(
    "body",
    [
        {"rows": []},
        {"rows": [ROW] * 2},
        {"rows": [{**ROW, "by_latency": True}]},
        {"rows": [{**ROW, "t12_ms": -1}]},
        {"rows": [{**ROW, "first": "Conv\0"}]},
        {"rows": [{**ROW, "second": f"R{n}"} for n in range(501)]},
        {"rows": [ROW, {**ROW, "second": "Rellu"}]},
    ],
    ids=["none", "twice", "a verdict", "negative", "nul", "too many", "no operator"],
)
@pytest.mark.usefixtures("lab")
def test_rows_without_sense_are_refused(
    alice: httpx2.Client, caller: Callable[..., httpx2.Client], body: dict[str, object]
) -> None:
    answer = caller("operator", "labs").put(f"/v1/platforms/{KEY}/fusion", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert alice.get(f"/v1/platforms/{KEY}/fusion").json()["measured"] == []


@pytest.mark.usefixtures("lab")
def test_an_operator_that_no_model_has_is_named_with_those_that_are_like_it(
    caller: Callable[..., httpx2.Client],
) -> None:
    body = {"rows": [ROW, {**ROW, "second": "Rellu"}]}
    answer = caller("operator", "labs").put(f"/v1/platforms/{KEY}/fusion", json=body).json()
    assert answer["field"] == "rows.1.second"
    assert "no model has an operator 'Rellu'; do you mean " in answer["detail"]
    assert "Relu" in answer["detail"].split("?")[0].split("mean ")[1].split(" or ")
    assert "DepthwiseConv" in answer["detail"]


def test_the_kernels_of_a_model(alice: httpx2.Client, caller: Callable[..., httpx2.Client], lab: "Lab") -> None:
    sketch = Sketch("small", batch=1, hw=16)
    x = sketch.dwconv(sketch.conv(sketch.image(), 8, 3, s=2, act="hswish"), 3, act="swish")
    sketch.fc(sketch.global_avgpool(sketch.add(sketch.se(x, 4, gate="hsigmoid"), x, act="relu")), 10)
    data = build_network(sketch.finish(), seed=1)
    model = lab.client.post("/v1/models?name=s", content=data, headers=alice.headers).json()["id"]
    found = alice.get(f"/v1/models/{model}/kernels", params={"platform": KEY}).json()
    types = [part["type"] for kernel in found["kernels"] for part in kernel["parts"] if not part["is_free"]]
    assert types == ["conv-bn-act", "dwconv-bn-act", "se", "add-act", "global-avgpool", "fc"]
    assert (found["rules"], found["unknown"]) == ("default", [])
    assert all(part["config"] for kernel in found["kernels"] for part in kernel["parts"] if not part["is_free"])
    generated = alice.get("/v1/models/squeezenet/kernels", params={"platform": KEY}).json()
    assert len(generated["kernels"]) == 38
    for config, field in (
        (["first:Conv", "second:Softmax"], "config.second"),
        (["hw:16", "hw:32"], "config"),
        (["hw=16"], "config"),
        (["hw:" + "9" * 30], "config"),
        (["hw:0"], "config.hw"),
        (["depth:1"], "config.depth"),
    ):
        refused = alice.get("/v1/models/operator_pair/kernels", params={"platform": KEY, "config": config})
        assert (refused.status_code, refused.json()["field"]) == (422, field)
    taken = alice.get(f"/v1/models/{model}/kernels", params={"platform": KEY, "config": ["hw:16"]})
    assert (taken.status_code, taken.json()["field"]) == (422, "config")
    pair = {"platform": KEY, "config": ["first:Add", "second:Conv", "hw:16"]}
    kernels = alice.get("/v1/models/operator_pair/kernels", params=pair).json()["kernels"]
    assert [[part["type"] for part in kernel["parts"]] for kernel in kernels] == [["add-act"], ["conv-bn-act"]]
    assert caller("client", "bob").get(f"/v1/models/{model}/kernels?platform={KEY}").status_code == 404
    assert alice.get(f"/v1/models/{model}/kernels").status_code == 422
    refused = alice.get(f"/v1/models/{model}/kernels?platform=nowhere")
    assert (refused.status_code, refused.json()["code"]) == (422, "platform_unknown")
    assert refused.json()["field"] == "platform"
    assert alice.get("/v1/platforms/nowhere/fusion").status_code == 404
