"""`POST /v1/latency` where nothing is measured: predicted, by which version, and what is said where nobody can."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from onnx import TensorProto, helper
from sqlalchemy import text

from benchfarm_api import predicting
from benchfarm_api.loaded_predictors import LoadedPredictors
from benchfarm_core.access import Role
from benchfarm_core.fusion import FusionReport, FusionRow
from benchfarm_core.predictors import KEPT_FILES, WHOLE_MODEL, PredictorEvidence, PredictorView
from benchfarm_predictor.combined import Scaled
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.predictions import answer
from benchfarm_predictor.predictor_file import Predictor, write
from benchfarm_store import fusions, platforms, predictors, tokens
from benchfarm_store.database import Database, Transaction
from benchfarm_store.predictors import Head
from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.network_kernels import NetworkKernels, Part, RememberedKernels
from tests.api.conftest import board_report, issue
from tests.predictor.predictors import header, kernel_predictor, model_predictor

if TYPE_CHECKING:
    from tests.api.conftest import Lab

KEY = "sim-1/c0.t1.free/onnxruntime-1.31.1/fp32"
NCNN = "sim-1/c0.t1.free/ncnn-20250503/fp32"
FC = {"cin": 64, "cout": 32}
FC_ITEM = {"kind": "kernel", "type": "fc", "config": FC}
GENES = {"layers": 2, "hidden": 128, "seq": 64, "intermediate": 512, "heads": 2}
TINY = {"kind": "architecture", "space": "bert", "genes": GENES}
SQUEEZENET = {"kind": "model", "name": "squeezenet"}


def tiny_kernels(rules: FusionRules) -> list[CountedKernel]:
    return [*spaces.kernels(spaces.space("bert").validate(GENES), rules)]


@pytest.fixture(scope="module")
def fc() -> Predictor:
    return kernel_predictor("fc")


@pytest.fixture(scope="module")
def whole() -> Predictor:
    """Of architectures of two spaces."""
    drawn = [one for name in ("bert", "ofa_mobilenet_v3") for one in spaces.draws(name, "tests", 25)]
    return model_predictor([spaces.kernels(one, FusionRules()) for one in drawn])


def publish(
    tx: Transaction, predictor: Predictor, *, key: str = KEY, slower: float = 1.0, rules: FusionRules | None = None
) -> PredictorView:
    """Let it answer, `slower` times as slow, by `rules` of fusion or, without, by those of now."""
    subject = predictor.header.kernel_type
    made = replace(predictor, header=header(subject, key), model=Scaled(predictor.model, slower))
    return predictors.publish(
        tx,
        platform_id=platforms.find(tx, key).id,
        subject=subject,
        file=write(made),
        evidence=PredictorEvidence(rules=None if rules is None else fusions.keep_rules(tx, rules)),
        reason="made up",
        activate=True,
    )


@pytest.fixture
def published(lab: "Lab", database: Database, fc: Predictor, whole: Predictor) -> dict[str, PredictorView]:
    with database.transaction() as tx:
        return {one.header.kernel_type: publish(tx, one) for one in (fc, whole)}


def ask(client: httpx2.Client, *items: dict[str, Any], platforms: Sequence[str] = (KEY,), **more: Any) -> Any:
    answer = client.post("/v1/latency", json={"platforms": platforms, "items": items, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["answers"]


def upload(client: httpx2.Client, *ops: str) -> dict[str, str]:
    """Operators in a row on an image of 3 x 8 x 8."""
    values = ["x", *(f"v{number}" for number in range(1, len(ops))), "y"]
    nodes = [helper.make_node(op, [a], [b]) for op, a, b in zip(ops, values, values[1:], strict=False)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    answer = client.post("/v1/models?name=m", content=made.SerializeToString())
    assert answer.status_code == 201, answer.text
    return {"kind": "upload", "model_id": answer.json()["id"]}


def test_kernels_models_architectures_and_uploads_are_predicted(
    alice: httpx2.Client, published: dict[str, PredictorView], fc: Predictor, whole: Predictor
) -> None:
    items: list[dict[str, Any]] = [FC_ITEM, TINY, SQUEEZENET, upload(alice, "Relu", "Tanh")]
    kernel, architecture, generated, uploaded = answers = ask(alice, *items)
    for number, found in enumerate(answers):
        version = published["fc" if number == 0 else WHOLE_MODEL]
        assert (found["item_no"], found["platform"], found["error"]) == (number, KEY, None)
        assert (found["source"], found["predictor_id"], found["predictor_version"]) == ("predicted", version.id, 1)
        assert 0 < found["low_ms"] <= found["median_ms"] == found["normalised_ms"] <= found["high_ms"]
        assert (found["grade"], found["measurement_id"], found["measured_at"]) == (None, None, None)
        is_known = not found["unknown_kernels"] and not found["outside"]
        assert (0 < found["coverage"] <= 0.9) if is_known else (found["coverage"] == 0)
    own = answer(fc, Kernels.of_configs("fc", [FC]))
    assert kernel["median_ms"] == pytest.approx(own.latency_ms[0], rel=1e-9)
    assert kernel["high_ms"] == pytest.approx(own.high_ms[0], rel=1e-9)
    own = answer(whole, KernelLists.of([tiny_kernels(FusionRules())]))
    assert architecture["median_ms"] == pytest.approx(own.latency_ms[0], rel=1e-9)
    assert architecture["unknown_kernels"] == []
    assert {"concat", "maxpool"} <= set(generated["unknown_kernels"])
    assert {"act", "Tanh"} <= set(uploaded["unknown_kernels"])
    assert kernel["coverage"] > 0 == uploaded["coverage"]


def test_what_is_measured_is_not_predicted(
    alice: httpx2.Client, lab: "Lab", published: dict[str, PredictorView]
) -> None:
    lab.finish(alice.post("/v1/jobs", json={"workloads": [FC_ITEM]}).json()["id"])
    other = {**FC_ITEM, "config": {**FC, "cin": 65}}
    answers = ask(alice, other, FC_ITEM, TINY, FC_ITEM, other)
    assert [found["source"] for found in answers] == ["predicted", "measured", "predicted", "measured", "predicted"]
    assert [found["item_no"] for found in answers] == [0, 1, 2, 3, 4]
    assert answers[1] == {**answers[3], "item_no": 1}
    assert answers[0] == {**answers[4], "item_no": 0}
    assert (answers[1]["predictor_id"], answers[1]["unknown_kernels"]) == (None, [])


def test_a_new_version_answers_at_once_and_a_rollback_returns(
    alice: httpx2.Client, lab: "Lab", database: Database, published: dict[str, PredictorView], fc: Predictor
) -> None:
    (before,) = ask(alice, FC_ITEM)
    with database.transaction() as tx:
        publish(tx, fc, slower=2.0)
    (after,) = ask(alice, FC_ITEM)
    assert (before["predictor_version"], after["predictor_version"]) == (1, 2)
    assert after["median_ms"] == pytest.approx(2 * before["median_ms"], rel=1e-9)
    with database.transaction() as tx:
        operator = tokens.authenticate(tx, issue(database, "labs", Role.OPERATOR))
        predictors.rollback(tx, KEY, "fc", by=operator, reason="it is off")
    assert ask(alice, FC_ITEM) == [before]


def test_a_question_sees_all_of_a_swap_or_nothing(
    alice: httpx2.Client, lab: "Lab", database: Database, published: dict[str, PredictorView], fc: Predictor,
    whole: Predictor,
) -> None:  # fmt: skip
    """Two subjects are published together, over and over, while somebody asks for both."""
    first = ask(alice, FC_ITEM, TINY)

    def swap() -> None:
        for step in range(1, 9):
            with database.transaction() as tx:
                publish(tx, fc, slower=2.0**step)
                publish(tx, whole, slower=2.0**step)

    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        seen = []
        while not swapping.done():
            seen.append(ask(alice, FC_ITEM, TINY))
        swapping.result()
    for answers in (*seen, ask(alice, FC_ITEM, TINY)):
        assert len({found["predictor_version"] for found in answers}) == 1, answers
        for found, one in zip(answers, first, strict=True):
            slower = 2.0 ** (found["predictor_version"] - 1)
            assert found["median_ms"] == pytest.approx(slower * one["median_ms"], rel=1e-9)
    assert ask(alice, FC_ITEM)[0]["predictor_version"] == 9


def test_each_platform_s_models_are_predicted_from_what_its_engine_fuses(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: Predictor
) -> None:
    report = board_report()
    ncnn = {"name": "ncnn", "available": True, "version": "20250503", "precisions": ["fp32"]}
    lab.register({**report, "engines": [report["engines"][0], ncnn]})
    apart = FusionRow(first="Linear", second="Gelu", by_profile=False)
    with database.transaction() as tx:
        for key in (KEY, NCNN):
            publish(tx, whole, key=key)
        fusions.report(tx, NCNN, FusionReport(rows=(apart,)))
    answers = ask(alice, TINY, platforms=(NCNN, KEY))
    assert [found["platform"] for found in answers] == [NCNN, KEY]
    for found, rules in zip(answers, (FusionRules({("Linear", "Gelu"): False}), FusionRules()), strict=True):
        own = answer(whole, KernelLists.of([tiny_kernels(rules)]))
        assert found["median_ms"] == pytest.approx(own.latency_ms[0], rel=1e-9)
    assert answers[0]["median_ms"] != answers[1]["median_ms"]


def test_a_version_answers_by_the_rules_of_fusion_that_it_learnt(
    alice: httpx2.Client, lab: "Lab", database: Database, whole: Predictor
) -> None:
    """Whatever was measured of the engine since: its weights are of other kernels."""
    with database.transaction() as tx:
        publish(tx, whole, rules=FusionRules())
    question = {"platforms": [KEY], "items": [TINY]}
    begun = alice.post("/v1/latency", json=question).json()
    apart = FusionRow(first="Linear", second="Gelu", by_profile=False)
    with database.transaction() as tx:
        fusions.report(tx, KEY, FusionReport(rows=(apart,)))
    assert ask(alice, TINY) == begun["answers"], "not by the new rules"
    assert alice.post("/v1/latency", json={**question, "pin": begun["pin"]}).json() == begun, "nor is its pin broken"
    own, split = (
        answer(whole, KernelLists.of([tiny_kernels(rules)])).latency_ms[0]
        for rules in (FusionRules(), FusionRules({("Linear", "Gelu"): False}))
    )
    assert own != split
    assert begun["answers"][0]["median_ms"] == pytest.approx(own, rel=1e-9)
    with database.transaction() as tx:
        publish(tx, whole, slower=2.0, rules=FusionRules({("Linear", "Gelu"): False}))
    assert ask(alice, TINY)[0]["median_ms"] == pytest.approx(2 * split, rel=1e-9), "what learnt the new ones"
    token = issue(database, "alice", Role.OPERATOR)
    with database.transaction() as tx:
        predictors.rollback(tx, KEY, WHOLE_MODEL, by=tokens.authenticate(tx, token), reason="back")
    assert ask(alice, TINY)[0]["median_ms"] == pytest.approx(own, rel=1e-9), "who returns brings its rules"


def test_architectures_without_a_kernel_of_the_catalogue_cost_their_own_answers_alone(
    alice: httpx2.Client, published: dict[str, PredictorView], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space has such architectures now; here those of one width are planted."""
    wide = {**TINY, "genes": {**GENES, "hidden": 256}}
    really = NetworkKernels._part

    def planted(self: NetworkKernels, layers: Any) -> Part:
        is_wide = any(256 in layer.config.values() for layer in layers)
        return Part((), ("Odd",)) if is_wide else really(self, layers)

    (alone,) = ask(alice, TINY)
    monkeypatch.setattr(NetworkKernels, "_part", planted)
    for items in ([TINY, wide], [wide, TINY, wide], [wide]):
        answers = ask(alice, *items)
        for item, found in zip(items, answers, strict=True):
            if item is wide:
                assert (found["error"], found["source"]) == ("no_predictor", None)
                assert "no kernel of the catalogue by which to predict it: Odd" in found["detail"]
            else:
                assert found["median_ms"] == pytest.approx(alone["median_ms"], rel=1e-12)


def test_where_nobody_predicts_the_answer_says_what_would_help(
    alice: httpx2.Client, lab: "Lab", database: Database, fc: Predictor
) -> None:
    with database.transaction() as tx:
        publish(tx, fc)
    act = {"kind": "kernel", "type": "act", "config": {"hw": 8, "cin": 8, "act": "relu"}}
    kernel, model, known = ask(alice, act, TINY, FC_ITEM)
    for found, missing in ((kernel, "kernels act"), (model, "whole models")):
        assert (found["source"], found["error"], found["median_ms"]) == (None, "no_predictor", None)
        assert f"no predictor of {missing}" in found["detail"]
        assert f"benchfarm adapt {KEY}" in found["detail"]
    assert known["source"] == "predicted"
    never_wanted = KEY.replace("1.31.1", "1.31.1~graph=none")
    assert ask(alice, FC_ITEM, platforms=(never_wanted,))[0]["error"] == "no_predictor"


@pytest.mark.parametrize("on_miss", ["predict", "error", "measure"])
def test_what_is_of_single_use_answers_no_question(
    alice: httpx2.Client, lab: "Lab", database: Database, fc: Predictor, on_miss: str
) -> None:
    """Also not by a predictor from before its board was marked; nothing is queued that could never be an answer."""
    key = KEY.replace("sim-1", "shared-1")
    lab.register({**board_report("S-2"), "board_model": "shared-1", "marks": ["shared_host"]})
    with database.transaction() as tx:
        publish(tx, fc, key=key)
    body = {"platforms": [key, key], "items": [FC_ITEM, TINY], "on_miss": on_miss, "tolerance": 0.1}
    answer = alice.post("/v1/latency", json=body).json()
    for found in answer["answers"]:
        assert (found["source"], found["error"], found["job_id"]) == (None, "platform_single_use", None)
        assert "shared-1 share a host's cores" in found["detail"]
        assert "submit a job" in found["detail"]
    if on_miss == "measure":
        assert (answer["measuring"]["wanted"], answer["measuring"]["jobs"]) == (0, [])
    refused = alice.post(f"/v1/platforms/{key}/adaptations", json={})
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (
        422,
        "platform_single_use",
        "platform",
    )


def test_a_model_without_any_known_kernel_is_not_predicted(
    alice: httpx2.Client, published: dict[str, PredictorView]
) -> None:
    (found,) = ask(alice, upload(alice, "Tanh", "Erf"))
    assert (found["error"], found["predictor_id"]) == ("no_predictor", None)
    assert found["detail"].endswith("no kernel of the catalogue by which to predict it: Tanh, Erf")


def test_times_in_situ_are_not_predicted(alice: httpx2.Client, published: dict[str, PredictorView]) -> None:
    kernel, model = ask(alice, FC_ITEM, TINY, timing="in_situ")
    assert (kernel["timing"], kernel["error"]) == ("in_situ", "no_predictor")
    assert "not predicted" in kernel["detail"]
    assert (model["timing"], model["error"]) == ("in_situ", "timing_impossible")


def test_what_a_platform_cannot_open_is_not_predicted_for_it(
    alice: httpx2.Client, lab: "Lab", database: Database, fc: Predictor
) -> None:
    given = {"name": "litert", "available": True, "version": "2.1.0", "precisions": ["as_given"]}
    lab.register({**board_report(), "engines": [given]})
    key = "sim-1/c0.t1.free/litert-2.1.0/as_given"
    with database.transaction() as tx:
        publish(tx, fc, key=key)
    (found,) = ask(alice, FC_ITEM, platforms=(key,))
    assert (found["error"], found["source"]) == ("format_not_opened", None)


def test_a_damaged_file_costs_its_own_answers_only(
    alice: httpx2.Client, lab: "Lab", database: Database, published: dict[str, PredictorView], fc: Predictor
) -> None:
    with database.transaction() as tx:
        tx.execute(text("UPDATE predictors SET file = file || '\\x00'::bytea WHERE subject = 'fc'"))
    kernel, model = ask(alice, FC_ITEM, TINY)
    assert (kernel["error"], kernel["median_ms"]) == ("predictor_file_damaged", None)
    assert "version 1 cannot answer" in kernel["detail"]
    assert model["source"] == "predicted"
    with database.transaction() as tx:
        publish(tx, fc, slower=3.0)
    assert ask(alice, FC_ITEM)[0]["predictor_version"] == 2


def test_loaded_predictors_are_told_in_the_metrics(
    alice: httpx2.Client, published: dict[str, PredictorView], http: httpx2.Client
) -> None:
    def held() -> float:
        lines = http.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("benchfarm_api_predictors_bytes")).split()[1])

    assert held() == 0
    ask(alice, FC_ITEM)
    one = held()
    assert one > published["fc"].size_bytes
    ask(alice, FC_ITEM)
    assert held() == one


@pytest.mark.parametrize("many", [1, 100])
def test_a_question_takes_as_many_statements_however_many_items(
    alice: httpx2.Client, published: dict[str, PredictorView], many: int, app: Any
) -> None:
    """Kernels and architectures alike; the first question also reads the files."""
    from sqlalchemy import event

    drawn = spaces.draws("ofa_mobilenet_v3", "many", many)
    items = [{"kind": "architecture", "space": one.space, "genes": one.genes} for one in drawn]
    items += [{**FC_ITEM, "config": {"cin": 1 + number, "cout": 16}} for number in range(many)]
    ask(alice, FC_ITEM, TINY)
    sent: list[str] = []

    def keep(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    engine = app.state.parts.database._engine
    event.listen(engine, "before_cursor_execute", keep)
    answers = ask(alice, *items)
    event.remove(engine, "before_cursor_execute", keep)
    assert {found["source"] for found in answers} == {"predicted"}
    assert len(sent) <= 12


MakeCaller = Callable[..., httpx2.Client]


def test_uploads_of_others_stay_unknown(
    alice: httpx2.Client, caller: MakeCaller, published: dict[str, PredictorView]
) -> None:
    mine = upload(alice, "Relu")
    (refused,) = ask(caller("client", "bob"), mine)
    assert (refused["error"], refused["field"]) == ("not_found", "items.0.model_id")


class Watching(RememberedKernels):
    """Looks how many connections are out while kernels are made."""

    def __init__(self, database: Database) -> None:
        super().__init__(2**20)
        self.database, self.seen = database, list[int]()

    def of(self, rules: FusionRules) -> NetworkKernels:
        self.seen.append(self.database._engine.pool.checkedout())  # type: ignore[attr-defined]
        return super().of(rules)


def test_no_connection_is_held_while_kernels_are_made(
    alice: httpx2.Client, published: dict[str, PredictorView], app: Any
) -> None:
    database = app.state.parts.database
    watching = Watching(database)
    app.state.parts = replace(app.state.parts, kernels=watching)
    assert [found["source"] for found in ask(alice, FC_ITEM, TINY, upload(alice, "Relu", "Tanh"))] == ["predicted"] * 3
    assert watching.seen == [0]
    assert watching.held_bytes > 0, "what was found is remembered for the next question"


class Overtaken(LoadedPredictors):
    """Before a file is read, so many newer versions come that it is not kept."""

    def __init__(self, overtake: Callable[[], None], times: int) -> None:
        super().__init__(2**20)
        self.overtake, self.times = overtake, times

    def get(self, head: Head, file: Callable[[], bytes]) -> Predictor:
        if self.times:
            self.times -= 1
            self.overtake()
        return super().get(head, file)


@pytest.mark.parametrize("times", [1, predicting.LOOKS])
def test_a_question_that_newer_versions_overtook_is_looked_up_again(
    alice: httpx2.Client, database: Database, published: dict[str, PredictorView], fc: Predictor, app: Any, times: int
) -> None:
    versions = count(2)

    def overtake() -> None:
        for version in islice(versions, KEPT_FILES + 1):
            with database.transaction() as tx:
                publish(tx, fc, slower=version)

    app.state.parts = replace(app.state.parts, predictors=Overtaken(overtake, times))
    (found,) = ask(alice, FC_ITEM)
    if times < predicting.LOOKS:
        assert (found["source"], found["predictor_version"]) == ("predicted", 1 + KEPT_FILES + 1)
    else:
        assert (found["error"], found["predictor_version"]) == ("unavailable", None)
        assert "replaced meanwhile, ask again" in found["detail"]


def test_many_answers_tell_fewer_texts_each(
    alice: httpx2.Client, published: dict[str, PredictorView], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they tell together is bounded, and each tells something."""
    assert [predicting.listed_of(count) for count in (1, 10_000, 20_000, 50_000, 200_000)] == [20, 20, 10, 4, 3]
    many = upload(alice, "Relu", *("Tanh", "Erf", "Sin", "Cos", "Atan") * 2)
    (alone,) = ask(alice, many)
    monkeypatch.setattr(predicting, "MAX_TEXTS", 6)
    (found, _) = ask(alice, many, TINY)
    assert found["unknown_kernels"] == alone["unknown_kernels"][:3]
    assert len(alone["unknown_kernels"]) > 3
    assert found["median_ms"] == pytest.approx(alone["median_ms"], rel=1e-9)
