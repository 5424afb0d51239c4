"""What is sent again and what is not, and where a token never goes."""

from collections.abc import Callable, Sequence

import httpx2
import pytest

from benchfarm import BenchfarmError, Client, InvalidRequest, KernelRequest, QuotaExceeded, Retries, Unavailable
from benchfarm.connection import checked_url, path_part, platform_path
from benchfarm_core.accounts import AccountRequest
from benchfarm_core.errors import Unauthenticated

WHO = {"account": "lab", "role": "client", "token_id": "t"}
Step = httpx2.Response | Exception


class Farm:
    """Answers with the given steps in order, the last one for ever, and keeps what was asked."""

    def __init__(self, *steps: Step, retries: Retries | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self.bodies: list[bytes] = []
        self.pauses: list[float] = []
        self._steps = steps
        patience = retries or Retries(sleep=self.pauses.append, chance=lambda: 1.0)
        self.client = Client("https://farm", "secret", transport=httpx2.MockTransport(self._answer), retries=patience)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.bodies.append(request.read())
        step = self._steps[min(len(self.requests), len(self._steps)) - 1]
        if isinstance(step, Exception):
            raise step
        return step


def problem(status: int, code: str, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, json={"code": code, "detail": "not now"}, headers=headers)


def ok(document: object) -> httpx2.Response:
    return httpx2.Response(200, json=document)


def whoami(farm: Farm) -> object:
    return farm.client.whoami()


def submit(farm: Farm) -> object:
    return farm.client.submit(workloads=[KernelRequest(type="fc", config={"cin": 1})])


def retry(farm: Farm) -> object:
    return farm.client.retry("j")


def create_account(farm: Farm) -> object:
    return farm.client.create_account(AccountRequest(name="new"))


def upload(farm: Farm) -> object:
    return farm.client.upload_model(b"bytes")


REPEATABLE: Sequence[Callable[[Farm], object]] = (whoami, submit, retry, upload)


@pytest.mark.parametrize(
    "step",
    [
        problem(503, "unavailable"),
        problem(429, "quota_exceeded"),
        httpx2.Response(502, text="<html>"),
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        httpx2.ReadTimeout("silence"),
        httpx2.RemoteProtocolError("closed"),
    ],
    ids=str,
)
def test_a_repeatable_request_is_sent_again(step: Step) -> None:
    farm = Farm(step, step, ok(WHO))
    assert farm.client.whoami().account == "lab"
    assert farm.pauses == [0.2, 0.4]


@pytest.mark.parametrize("step", [httpx2.ReadError("reset"), httpx2.Response(504)], ids=str)
def test_a_request_that_may_have_worked_is_not_sent_again(step: Step) -> None:
    farm = Farm(step)
    with pytest.raises(Unavailable):
        create_account(farm)
    assert len(farm.requests) == 1


@pytest.mark.parametrize("step", [httpx2.ConnectError("refused"), problem(503, "unavailable")], ids=str)
def test_a_request_that_surely_did_not_work_is_sent_again(step: Step) -> None:
    farm = Farm(step, problem(409, "conflict"))
    with pytest.raises(BenchfarmError, match="not now"):
        create_account(farm)
    assert len(farm.requests) == 2


@pytest.mark.parametrize("call", REPEATABLE)
def test_repeats_end(call: Callable[[Farm], object]) -> None:
    farm = Farm(httpx2.ConnectError("refused"))
    with pytest.raises(Unavailable, match=r"cannot reach the farm at https://farm: refused"):
        call(farm)
    assert len(farm.requests) == Retries().attempts
    assert sum(farm.pauses) <= Retries().budget_s


def test_retry_after_is_obeyed() -> None:
    farm = Farm(problem(429, "quota_exceeded", **{"Retry-After": "7"}), ok(WHO))
    farm.client.whoami()
    assert farm.pauses == [7.0]


def test_a_retry_after_beyond_the_budget_is_the_callers_matter() -> None:
    farm = Farm(problem(429, "quota_exceeded", **{"Retry-After": "3600"}))
    with pytest.raises(QuotaExceeded) as caught:
        farm.client.whoami()
    assert caught.value.retry_after_s == 3600
    assert farm.pauses == []


@pytest.mark.parametrize("code", ["internal_error", "forbidden"])
def test_refusals_are_final(code: str) -> None:
    farm = Farm(problem(500 if code == "internal_error" else 403, code))
    with pytest.raises(BenchfarmError):
        farm.client.whoami()
    assert len(farm.requests) == 1


@pytest.mark.parametrize("call", [submit, retry])
def test_all_sendings_of_a_submission_carry_the_same_key(call: Callable[[Farm], object]) -> None:
    farm = Farm(httpx2.ReadError("reset"), problem(503, "unavailable"), problem(422, "kernel_unknown"))
    with pytest.raises(InvalidRequest):
        call(farm)
    keys = {request.headers["Idempotency-Key"] for request in farm.requests}
    assert len(farm.requests) == 3
    assert len(keys) == 1
    assert len(set(farm.bodies)) == 1


def test_two_submissions_carry_different_keys_unless_one_is_given() -> None:
    farm = Farm(problem(422, "kernel_unknown"))
    for key in (None, None, "mine"):
        with pytest.raises(InvalidRequest):
            farm.client.submit(workloads=[KernelRequest(type="fc", config={})], idempotency_key=key)
    first, second, third = (request.headers["Idempotency-Key"] for request in farm.requests)
    assert first != second
    assert third == "mine"


def test_an_upload_is_sent_whole_each_time() -> None:
    farm = Farm(problem(503, "unavailable"), problem(422, "not_onnx"))
    with pytest.raises(InvalidRequest):
        upload(farm)
    assert farm.bodies == [b"bytes", b"bytes"]
    assert farm.requests[1].headers["Content-Length"] == "5"


def test_the_token_is_sent_and_shown_nowhere() -> None:
    farm = Farm(ok(WHO))
    farm.client.whoami()
    assert farm.requests[0].headers["Authorization"] == "Bearer secret"
    assert "secret" not in repr(vars(farm.client))


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"account": 3}', b"[]"])
def test_an_answer_that_is_not_understood_is_an_error_with_a_place(body: bytes) -> None:
    farm = Farm(httpx2.Response(200, content=body, headers={"x-request-id": "r-9"}))
    with pytest.raises(BenchfarmError, match="GET /v1/whoami is not understood") as caught:
        farm.client.whoami()
    assert caught.value.request_id == "r-9"


def test_unknown_fields_of_a_newer_farm_are_ignored() -> None:
    assert Farm(ok({**WHO, "shoe_size": 43})).client.whoami().role == "client"


@pytest.mark.parametrize(
    "url",
    [
        "https://farm.example",
        "https://farm.example/v1/",
        "http://127.0.0.1:8650",
        "http://localhost:1",
        "http://[::1]:8",
    ],
)
def test_urls_that_keep_a_token_safe(url: str) -> None:
    assert checked_url(url).host


@pytest.mark.parametrize(
    "url",
    [
        "http://farm.example",
        "http://192.168.1.2:8650",
        "http://127.0.0.1.farm.example",
        "http://localhost.farm.example",
        "http://[fe80::1]",
        "ftp://farm",
        "farm.example",
        "",
        "https://user:word@farm",
        "https://farm?x=1",
        "https://",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Client(url, "secret")
    assert caught.value.field == "url"


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "naïve"])
def test_texts_that_are_no_tokens_are_refused_before_they_are_sent(token: str) -> None:
    with pytest.raises(Unauthenticated):
        Client("https://farm", token)


@pytest.mark.parametrize("text", ["", ".", ".."])
def test_an_id_cannot_name_another_path(text: str) -> None:
    with pytest.raises(InvalidRequest):
        path_part(text)


def test_path_parts_are_quoted_and_a_platform_key_keeps_its_slashes() -> None:
    assert path_part("a/b?c#d") == "a%2Fb%3Fc%23d"
    assert platform_path("rpi5/c0+2.t1.free/ort-1.2~a=b/fp32") == "rpi5/c0+2.t1.free/ort-1.2~a=b/fp32"


def test_a_client_closes_its_connections() -> None:
    farm = Farm(ok(WHO))
    with farm.client as client:
        client.whoami()
    with pytest.raises(RuntimeError, match="closed"):
        farm.client.whoami()
