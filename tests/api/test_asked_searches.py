"""`POST /v1/latency` of a search: mixed items, errors of single ones, columns, pins, and what is measured on a miss."""

import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import msgpack
import pytest
from sqlalchemy import text

from benchfarm_api import latency_answers, predicting
from benchfarm_core.latency import LatencyAnswer
from benchfarm_core.latency_columns import LatencyColumns
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.predictions import answer
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_store.database import Database
from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import FusionRules
from tests.api.conftest import board_report
from tests.api.test_predictions import FC, FC_ITEM, GENES, KEY, TINY, ask, fc, publish, published, tiny_kernels, whole

if TYPE_CHECKING:
    from tests.api.conftest import Lab, Serving

__all__ = ["fc", "published", "whole"]

ACT = {"kind": "kernel", "type": "act", "config": {"hw": 8, "cin": 8, "act": "relu"}}
FC_LIST = {"kind": "kernel_list", "kernels": [{"type": "fc", "config": FC, "count": 2}]}
OTHER_FC = {**FC_ITEM, "config": {**FC, "cin": 65}}
COLUMNS = {"Accept": "application/vnd.msgpack"}


def asked(client: httpx2.Client, *items: dict[str, Any], headers: Any = None, **more: Any) -> httpx2.Response:
    body = {"platforms": [KEY], "items": items, **more}
    return client.post(
        "/v1/latency", content=json.dumps(body), headers={"Content-Type": "application/json", **(headers or {})}
    )


def refused(found: httpx2.Response) -> tuple[int, str, str]:
    return found.status_code, found.json()["code"], found.json()["detail"]


def test_an_item_that_is_wrong_costs_its_own_answers_alone(alice: httpx2.Client, published: Any) -> None:
    wide = {**TINY, "genes": {**GENES, "hidden": 100}}
    foreign = {**TINY, "space": "nowhere"}
    strange = {"kind": "kernel_list", "kernels": [FC_LIST["kernels"][0], {"type": "fc", "config": {"cin": 4}}]}
    answers = ask(alice, TINY, wide, FC_ITEM, foreign, strange)
    assert [one["item_no"] for one in answers] == [0, 1, 2, 3, 4]
    assert [one["error"] for one in answers] == [
        None, "architecture_out_of_range", None, "space_unknown", "kernel_out_of_range",
    ]  # fmt: skip
    assert (answers[1]["field"], answers[1]["platform"]) == ("items.1.genes.hidden", KEY)
    assert "hidden=100 must be" in answers[1]["detail"]
    assert answers[4]["field"].startswith("items.4.kernels.1.config")


@pytest.mark.parametrize("name", ["ofa_mobilenet_v3", "bert"])
def test_architectures_at_once_are_answered_as_each_by_itself(alice: httpx2.Client, published: Any, name: str) -> None:
    """Also beside wrong ones and the same again; a question with a kernel is looked at item by item."""
    genes = [one.genes for one in spaces.draws(name, "at once", 30)]
    changed = [{**genes[0], gene: -1} for gene in genes[0]]
    drawn, wrong = ([{**TINY, "space": name, "genes": each} for each in some] for some in (genes, changed))
    first, second, *_ = drawn
    items = [*drawn, *wrong, first, first, second]
    ask(alice, *items)  # what is known of blocks does not change between the questions
    found, (*one_by_one, _) = ask(alice, *items), ask(alice, *items, FC_ITEM)
    assert found == one_by_one
    assert [one["item_no"] for one in found if one["error"]] == [*range(30, 30 + len(wrong))]
    for item, among in zip(items, found, strict=True):
        (alone,) = ask(alice, item)
        place = among["field"] and among["field"].replace(f"items.{among['item_no']}.", "items.0.")
        assert alone == {**among, "item_no": 0, "field": place}


def test_columns_of_predictions_alone_say_what_rows_say(
    alice: httpx2.Client, published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made column by column; beside anything else row by row."""
    monkeypatch.setattr(predicting, "columns_of", None)
    drawn = [{**TINY, "genes": one.genes} for one in spaces.draws("bert", "alone", 8)]
    items = [*drawn, drawn[3]]
    pin = asked(alice, *items).json()["pin"]
    columns = LatencyColumns.of(msgpack.unpackb(asked(alice, *items, pin=pin, headers=COLUMNS).content))
    assert list(columns.answers()) == [LatencyAnswer.model_validate(one) for one in ask(alice, *items, pin=pin)]
    assert {one.source for one in columns.answers()} == {"predicted"}


def test_measured_architectures_stand_among_predicted_ones(
    alice: httpx2.Client, lab: "Lab", published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of which some have none."""
    monkeypatch.setattr(latency_answers, "ROWS_AT_ONCE", 3)
    drawn = [{**TINY, "genes": one.genes} for one in spaces.draws("bert", "among", 8)]
    lab.finish(alice.post("/v1/jobs", json={"workloads": [drawn[4]]}).json()["id"])
    pin = asked(alice, *drawn).json()["pin"]
    found = ask(alice, *drawn, pin=pin)
    assert [one["source"] for one in found] == [*["predicted"] * 4, "measured", *["predicted"] * 3]
    assert found == ask(alice, *drawn, FC_ITEM, pin=pin)[:-1]
    assert {one["within_tolerance"] for one in ask(alice, *drawn, pin=pin, tolerance=10)} <= {True, False}
    columns = LatencyColumns.of(msgpack.unpackb(asked(alice, *drawn, pin=pin, headers=COLUMNS).content))
    assert list(columns.answers()) == [LatencyAnswer.model_validate(one) for one in found]


def test_a_kernel_list_is_predicted_as_the_model_that_it_is_of(alice: httpx2.Client, published: Any) -> None:
    kernels = [{"type": name, "config": config, "count": count} for name, config, count in tiny_kernels(FusionRules())]
    listed = {"kind": "kernel_list", "kernels": kernels}
    architecture, one, same = ask(alice, TINY, listed, listed)
    assert (one["source"], one["predictor_id"]) == ("predicted", published["model"].id)
    assert one == {**architecture, "item_no": 1} == {**same, "item_no": 1}


def test_without_a_predictor_of_models_a_kernel_list_is_the_sum_of_its_kernels(
    alice: httpx2.Client, lab: "Lab", database: Database, fc: Predictor
) -> None:
    with database.transaction() as tx:
        publish(tx, fc)
    other = {"cin": 65, "cout": 32}
    both = {"kind": "kernel_list", "kernels": [*FC_LIST["kernels"], {"type": "fc", "config": other}]}
    own = answer(fc, Kernels.of_configs("fc", [FC, other])).latency_ms
    (found,) = ask(alice, both)
    assert (found["source"], found["coverage"], found["predictor_id"]) == ("predicted", 0.0, None)
    assert found["median_ms"] == pytest.approx(2 * own[0] + own[1], rel=1e-9)
    lab.finish(alice.post("/v1/jobs", json={"workloads": [FC_ITEM]}).json()["id"])
    mixed, measured = ask(alice, both, FC_ITEM)
    assert (mixed["source"], measured["source"]) == ("mixed", "measured")
    assert mixed["median_ms"] == pytest.approx(2 * measured["median_ms"] + own[1], rel=1e-9)
    (lacking,) = ask(alice, {"kind": "kernel_list", "kernels": [{"type": "act", "config": ACT["config"]}]})
    assert (lacking["error"], lacking["source"]) == ("no_predictor", None)
    assert "kernels act" in lacking["detail"]


@pytest.mark.parametrize("accept", ["application/vnd.msgpack;q=0, application/json", "application/vnd.msgpack; q=0.0"])
def test_columns_that_are_refused_are_not_sent(alice: httpx2.Client, lab: "Lab", accept: str) -> None:
    answer = asked(alice, FC_ITEM, headers={"Accept": accept})
    assert answer.headers["content-type"] == "application/json"
    some = asked(alice, FC_ITEM, headers={"Accept": "application/vnd.msgpack;q=0.5"})
    assert some.headers["content-type"] == "application/vnd.msgpack"


def test_columns_say_what_rows_say(
    alice: httpx2.Client, lab: "Lab", published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency_answers, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(latency_answers, "PIECE_BYTES", 100)
    lab.finish(alice.post("/v1/jobs", json={"workloads": [FC_ITEM]}).json()["id"])
    items: list[dict[str, Any]] = [FC_ITEM, TINY, {"kind": "model", "name": "squeezenet"}, ACT, {**TINY, "genes": {}}]
    rows = asked(alice, *items, tolerance=0.5)
    pin = rows.json()["pin"]
    rows = asked(alice, *items, tolerance=0.5, pin=pin)
    columns = asked(alice, *items, tolerance=0.5, pin=pin, headers=COLUMNS)
    assert (columns.headers["content-type"], rows.headers["content-type"]) == (COLUMNS["Accept"], "application/json")
    document = msgpack.unpackb(columns.content)
    found = LatencyColumns.of(document)
    assert found.platforms == (KEY,)
    assert list(found.answers()) == [LatencyAnswer.model_validate(one) for one in rows.json()["answers"]]
    assert [one.source for one in found.answers()] == ["measured", "predicted", "predicted", None, None]
    assert (document["pin"], document["measuring"]) == (pin, None)


def test_a_measured_answer_says_its_age(alice: httpx2.Client, lab: "Lab", published: Any) -> None:
    lab.finish(alice.post("/v1/jobs", json={"workloads": [FC_ITEM]}).json()["id"])
    measured, predicted = ask(alice, FC_ITEM, TINY)
    assert 0 <= measured["age_s"] < 600
    assert predicted["age_s"] is None


def test_what_is_within_the_tolerance_is_said(alice: httpx2.Client, lab: "Lab", published: Any) -> None:
    lab.finish(alice.post("/v1/jobs", json={"workloads": [FC_ITEM]}).json()["id"])
    (plain,) = ask(alice, OTHER_FC)
    assert plain["coverage"] > 0.5
    width = (plain["high_ms"] - plain["low_ms"]) / 2 / plain["median_ms"]
    assert plain["within_tolerance"] is None
    for tolerance, within in ((width * 0.99, False), (width * 1.01, True)):
        found = ask(alice, FC_ITEM, OTHER_FC, ACT, tolerance=tolerance)
        assert [one["within_tolerance"] for one in found] == [True, within, None]
    doubtful = ask(alice, {"kind": "model", "name": "squeezenet"}, tolerance=10.0)[0]
    assert (doubtful["coverage"], doubtful["within_tolerance"]) == (0.0, False)


@pytest.mark.parametrize("tolerance", ["NaN", "Infinity", "-0.1", "0", '"narrow"', '"0.1"', "true"])
def test_a_tolerance_is_a_share(alice: httpx2.Client, lab: "Lab", tolerance: str) -> None:
    body = f'{{"platforms": ["{KEY}"], "items": [{json.dumps(FC_ITEM)}], "tolerance": {tolerance}}}'
    found = alice.post("/v1/latency", content=body, headers={"Content-Type": "application/json"})
    assert refused(found)[:2] == (422, "invalid_request")
    assert found.json()["field"] == "tolerance"


def test_a_grade_that_is_never_reused_is_refused(alice: httpx2.Client, lab: "Lab") -> None:
    found = asked(alice, FC_ITEM, min_grade="D")
    assert refused(found)[:2] == (422, "invalid_request")
    assert found.json()["field"] == "min_grade"
    assert "never reused; C is the worst that is" in refused(found)[2]
    assert asked(alice, FC_ITEM, min_grade="C").status_code == 200


def test_too_many_items_are_refused_with_the_limit(alice: httpx2.Client, lab: "Lab") -> None:
    found = refused(asked(alice, *[FC_ITEM] * 20_001))
    assert found[:2] == (413, "too_large")
    assert "20001 items; the limit is 20000" in found[2]
    body = b'{"platforms": ["x"], "items": [' + b"{}," * 1_000_000 + b"{}]}"
    many = alice.post("/v1/latency", content=body, headers={"Content-Type": "application/json"})
    assert refused(many)[:2] == (413, "too_large")
    assert "20000 items" in refused(many)[2]
    assert "more than 400000 JSON objects (items, their genes or configurations, listed kernels" in refused(many)[2]
    lists = alice.post("/v1/latency", content=body.replace(b"{}", b"[]"), headers={"Content-Type": "application/json"})
    assert refused(lists)[:2] == (413, "too_large")
    assert "more than 400000 JSON lists" in refused(lists)[2]


def test_a_pin_holds_the_version_and_what_was_measured(
    alice: httpx2.Client, lab: "Lab", database: Database, published: Any, fc: Predictor
) -> None:
    begun = asked(alice, FC_ITEM, TINY).json()
    assert set(begun["pin"]["predictors"]) == {one.id for one in published.values()}
    with database.transaction() as tx:
        publish(tx, fc, slower=2.0)
    lab.finish(alice.post("/v1/jobs", json={"workloads": [FC_ITEM]}).json()["id"])
    assert [one["source"] for one in ask(alice, FC_ITEM, TINY)] == ["measured", "predicted"]
    held = asked(alice, FC_ITEM, TINY, pin=begun["pin"]).json()
    assert held == begun
    only = asked(alice, FC_ITEM, pin={"predictors": begun["pin"]["predictors"]}).json()
    assert only["answers"][0]["source"] == "measured"  # no moment, so measurements go on


def test_a_pinned_version_that_is_gone_is_refused(
    alice: httpx2.Client, lab: "Lab", database: Database, published: Any, fc: Predictor
) -> None:
    pin = asked(alice, FC_ITEM).json()["pin"]
    with database.transaction() as tx:
        publish(tx, fc, slower=2.0)
        tx.execute(text("UPDATE predictors SET file = NULL WHERE version = 1 AND subject = 'fc'"))
    status, code, detail = refused(asked(alice, FC_ITEM, pin=pin))
    assert (status, code) == (409, "pinned_predictor_gone")
    assert f"version 1 of fc on {KEY}" in detail
    assert refused(asked(alice, FC_ITEM, pin={"predictors": ["pr_999999"]}))[0] == 404
    both = [published["fc"].id, asked(alice, FC_ITEM).json()["pin"]["predictors"]]
    with database.transaction() as tx:
        third = publish(tx, fc, slower=3.0)
    two = {"predictors": [third.id, next(one for one in both[1] if one not in (both[0], published["model"].id))]}
    assert refused(asked(alice, FC_ITEM, pin=two))[0] == 422


def test_a_pinned_search_sees_no_predictor_where_there_was_none(
    alice: httpx2.Client, lab: "Lab", database: Database, fc: Predictor, whole: Predictor
) -> None:
    """Sums of kernels would become predictions of whole models in its middle."""
    with database.transaction() as tx:
        publish(tx, fc)
    begun = asked(alice, FC_LIST, TINY).json()
    assert [one["error"] for one in begun["answers"]] == [None, "no_predictor"]
    with database.transaction() as tx:
        publish(tx, whole)
    summed, refused_ = asked(alice, FC_LIST, TINY, pin=begun["pin"]).json()["answers"]
    assert summed == begun["answers"][0]
    assert (refused_["error"], "at the pin's moment" in refused_["detail"]) == ("no_predictor", True)
    assert [one["predictor_id"] is None for one in ask(alice, FC_LIST, TINY)] == [False, False]
    with database.transaction() as tx:
        publish(tx, fc, slower=2.0)
    other = asked(alice, OTHER_FC, pin={"as_of": begun["pin"]["as_of"]}).json()["answers"]
    assert other[0]["predictor_version"] == 2  # not named, and there was one


@pytest.mark.parametrize("as_of", [0, 1.5, "1700000000", "2026-01-31", "2026-01-31T12:00:00"])
def test_the_moment_of_a_pin_has_a_time_zone(alice: httpx2.Client, lab: "Lab", as_of: object) -> None:
    found = asked(alice, FC_ITEM, pin={"as_of": as_of})
    assert (found.status_code, found.json()["field"]) == (422, "pin.as_of")


def test_on_miss_error_predicts_nothing(alice: httpx2.Client, lab: "Lab", published: Any) -> None:
    lab.finish(alice.post("/v1/jobs", json={"workloads": [FC_ITEM]}).json()["id"])
    found = ask(alice, FC_ITEM, TINY, FC_LIST, on_miss="error")
    assert [one["source"] for one in found] == ["measured", None, None]
    assert [one["error"] for one in found] == [None, "not_measured", "not_measured"]


def test_what_is_not_exact_enough_is_predicted_and_queued_once(
    alice: httpx2.Client, lab: "Lab", published: Any
) -> None:
    miss = {"tolerance": 1e-6, "on_miss": "measure"}
    first = asked(alice, FC_ITEM, TINY, FC_ITEM, FC_LIST, **miss).json()
    measuring = first["measuring"]
    assert (measuring["wanted"], measuring["queued"], measuring["waiting"], measuring["refused"]) == (3, 2, 0, 1)
    assert [one["source"] for one in first["answers"]] == ["predicted"] * 4
    (job_id,) = measuring["jobs"]
    assert [one["job_id"] for one in first["answers"]] == [job_id, job_id, job_id, None]
    job = alice.get(f"/v1/jobs/{job_id}").json()
    assert (job["progress"]["total"], job["platforms"], job["priority"]) == (2, [KEY], "low")
    again = asked(alice, FC_ITEM, TINY, **miss).json()
    assert (again["measuring"]["queued"], again["measuring"]["waiting"]) == (0, 2)
    assert again["measuring"]["jobs"] == [job_id]
    assert again["measuring"]["budget_left_s"] == pytest.approx(measuring["budget_left_s"])
    lab.finish(job_id)
    after = asked(alice, FC_ITEM, TINY, **miss).json()
    assert [one["source"] for one in after["answers"]] == ["measured", "measured"]
    assert after["measuring"]["wanted"] == 0


def test_what_is_exact_enough_is_not_queued(alice: httpx2.Client, lab: "Lab", published: Any) -> None:
    found = asked(alice, OTHER_FC, ACT, tolerance=10.0, on_miss="measure").json()
    assert [one["job_id"] is None for one in found["answers"]] == [True, False]  # nobody predicts the second
    assert found["answers"][1]["error"] == "no_predictor"
    without = asked(alice, TINY, on_miss="measure")
    assert refused(without)[0] == 422
    assert "needs a tolerance" in refused(without)[2]


def test_what_a_token_has_measured_stays_within_its_budget(
    alice: httpx2.Client, lab: "Lab", database: Database, published: Any
) -> None:
    miss = {"tolerance": 1e-6, "on_miss": "measure"}
    one = asked(alice, FC_ITEM, **miss).json()["measuring"]
    assert one["device_s"] > 0
    left_s = one["device_s"] * 2.5
    with database.transaction() as tx:
        tx.execute(text("UPDATE tokens SET asked_s = 3600 - :left WHERE asked_since IS NOT NULL"), {"left": left_s})
    others = [{**FC_ITEM, "config": {**FC, "cin": 100 + at}} for at in range(4)]
    found = asked(alice, *others, **miss).json()
    assert (found["measuring"]["queued"], found["measuring"]["left_out"]) == (2, 2)
    assert sum(one["job_id"] is not None for one in found["answers"]) == 2
    with database.transaction() as tx:
        tx.execute(text("UPDATE tokens SET asked_since = asked_since - interval '25 hours'"))
    assert asked(alice, *others, **miss).json()["measuring"]["queued"] == 2


def test_a_pinned_search_is_charged_once_for_what_it_does_not_see(
    alice: httpx2.Client, lab: "Lab", database: Database, published: Any
) -> None:
    miss = {"tolerance": 1e-6, "on_miss": "measure"}
    first = asked(alice, FC_ITEM, TINY, **miss).json()
    lab.finish(first["measuring"]["jobs"][0])
    with database.transaction() as tx:
        tx.execute(text("UPDATE jobs SET finished_at = finished_at - interval '2 hours'"))
    again = asked(alice, FC_ITEM, TINY, pin=first["pin"], **miss).json()
    told = again["measuring"]
    assert (told["wanted"], told["measured"], told["queued"], told["device_s"]) == (2, 2, 0, 0.0)
    assert told["budget_left_s"] == pytest.approx(first["measuring"]["budget_left_s"])
    assert [one["source"] for one in again["answers"]] == ["predicted", "predicted"]
    assert [one["source"] for one in ask(alice, FC_ITEM, TINY)] == ["measured", "measured"]


def test_no_platform_takes_the_budget_of_the_others(
    alice: httpx2.Client, lab: "Lab", database: Database, published: Any
) -> None:
    points = [{"mode": "free", "cores": [core], "threads": 1} for core in (0, 1)]
    lab.register({**board_report(), "operating_points": points})
    platforms = [KEY, KEY.replace("/c0.", "/c1.")]
    miss = {"tolerance": 1e-6, "on_miss": "measure", "platforms": platforms}
    cost_s = asked(alice, FC_ITEM, **miss).json()["measuring"]["device_s"] / 2
    with database.transaction() as tx:
        tx.execute(text("UPDATE tokens SET asked_s = 3600 - :s WHERE asked_since IS NOT NULL"), {"s": 6.5 * cost_s})
    others = [{**FC_ITEM, "config": {**FC, "cin": 100 + at}} for at in range(6)]
    found = asked(alice, *others, **miss).json()
    queued = [one["platform"] for one in found["answers"] if one["job_id"] is not None]
    assert {key: queued.count(key) for key in platforms} == dict.fromkeys(platforms, 3)
    assert found["measuring"]["left_out"] == 6


def test_what_cannot_be_queued_is_said_and_costs_no_answer(
    alice: httpx2.Client, lab: "Lab", database: Database, published: Any
) -> None:
    with database.transaction() as tx:
        tx.execute(text("UPDATE accounts SET quota_active_jobs = 0"))
    found = asked(alice, FC_ITEM, tolerance=1e-6, on_miss="measure").json()
    assert (found["answers"][0]["source"], found["answers"][0]["job_id"]) == ("predicted", None)
    assert (found["measuring"]["refused"], found["measuring"]["queued"]) == (1, 0)
    assert "active" in found["measuring"]["detail"]


def ask_much(caller: socket.socket, url: str, token: str) -> None:
    """A question whose answer no socket holds; its first bytes are read."""
    items = [{**FC_ITEM, "config": {**FC, "cin": 1 + at}} for at in range(16_000)]
    body = json.dumps({"platforms": [KEY], "items": items}).encode()
    head = (
        f"POST /v1/latency HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.settimeout(20)
    host, port = url.removeprefix("http://").split(":")
    caller.connect((host, int(port)))
    caller.sendall(head.encode() + body)
    assert caller.recv(12) == b"HTTP/1.1 200"


def wait_for_the_end(environment: dict[str, str]) -> None:
    log = Path(environment["BENCHFARM_DATA_DIR"]).with_name("api.log")
    until_s = time.monotonic() + 20
    while "the client went away" not in log.read_text():
        assert time.monotonic() < until_s, "it is still waited for"
        time.sleep(0.05)


def test_nothing_more_is_made_for_a_caller_that_went_away(
    lab: "Lab", published: Any, serving: "Serving", environment: dict[str, str], token: Any
) -> None:
    """A server's own `send` says nothing of it: an answer was made to its end for nobody."""
    with serving({**environment, "BENCHFARM_ANSWER_STALL_S": "3600"}) as served:
        with socket.socket() as caller:
            ask_much(caller, served.url, token())
        wait_for_the_end(environment)


def test_a_caller_that_stops_reading_is_waited_for_and_then_cut_off(
    lab: "Lab", published: Any, serving: "Serving", environment: dict[str, str], token: Any
) -> None:
    """What he does not take is not made: the answer is many times what sockets hold."""
    whole = 16_000 * len(
        json.dumps(asked(lab.client, FC_ITEM, headers={"Authorization": f"Bearer {token()}"}).json()["answers"])
    )
    with serving({**environment, "BENCHFARM_ANSWER_STALL_S": "1"}) as served, socket.socket() as caller:
        ask_much(caller, served.url, token())
        wait_for_the_end(environment)
        received = 0
        while piece := caller.recv(2**16):
            received += len(piece)
    assert received < whole


def sockets_to(caller: socket.socket) -> list[str]:
    """Of the processes that serve him; what a process has let go of belongs to none."""
    own = f":{caller.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[9] for row in rows if row[2].endswith(own) and row[9] != "0"]


def test_of_a_caller_that_is_cut_off_no_socket_is_kept(
    lab: "Lab", published: Any, serving: "Serving", environment: dict[str, str], token: Any, eventually: Any
) -> None:
    """Whoever closes a socket waits until all was taken: he kept it, with his last piece, for as long as he liked."""
    with serving({**environment, "BENCHFARM_ANSWER_STALL_S": "1"}) as served, socket.socket() as caller:
        ask_much(caller, served.url, token())
        assert len(sockets_to(caller)) == 1
        wait_for_the_end(environment)
        eventually(lambda: not sockets_to(caller), limit_s=15)
