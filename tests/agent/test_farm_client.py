"""The agent's side of HTTP: which answers are errors of what kind, and what is tried again."""

import asyncio
import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent import farm_client
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_core import errors
from benchfarm_core.agent_protocol import LeaseGrant, PollRequest, ReleaseRequest
from tests.agent.scripted_farm import HANG_UP, Call, Script, problem, scripted_farm

Run = Callable[[Any], Any]
TOKEN = "l_" + "0" * 32
POLL = PollRequest(protocol_version=2, agent_version="1", idle=("b_1",))
NOTHING: dict[str, list[str]] = {"offers": [], "ended_leases": [], "unknown_boards": []}


async def with_farm(script: Script, work: Callable[[FarmClient], Any]) -> tuple[Any, list[Call]]:
    async with scripted_farm(script) as farm:
        client = FarmClient(farm.url, token="secret")
        try:
            return await work(client), farm.calls
        finally:
            await client.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(401, "unauthenticated"), errors.Unauthenticated),
        (problem(401, "token_revoked"), errors.Unauthenticated),
        (problem(403, "forbidden"), errors.Forbidden),
        (problem(404, "not_found"), errors.NotFound),
        (problem(409, "conflict"), errors.Conflict),
        (problem(409, "lease_lost"), errors.LeaseLost),
        (problem(413, "too_large"), errors.TooLarge),
        (problem(422, "result_invalid"), errors.InvalidRequest),
        (problem(400, "a_code_of_tomorrow"), errors.InvalidRequest),
        (problem(426, "upgrade_required"), errors.UpgradeRequired),
        (problem(429, "quota_exceeded"), errors.Unavailable),
        (problem(500, "internal_error"), errors.Unavailable),
        (problem(503, "unavailable"), errors.Unavailable),
        ((502, b"<html>"), errors.Unavailable),
        ((200, b"<html>"), errors.Unavailable),
        ((200, {"offers": 1}), errors.Unavailable),
        (HANG_UP, errors.Unavailable),
    ],
)
def test_every_answer_has_its_error(running: Run, answer: Any, kind: type[errors.BenchfarmError]) -> None:
    with pytest.raises(kind) as caught:
        running(with_farm(lambda _: answer, lambda client: client.poll(POLL)))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (problem(400, "lease_lost"), errors.LeaseLost, "lease_lost"),
        (problem(410, "gone_tomorrow"), errors.NotFound, "gone_tomorrow"),
        (problem(409, "duplicate_board"), errors.Conflict, "duplicate_board"),
        (problem(507, "disk_full"), errors.Unavailable, "disk_full"),
        (problem(500, "internal_error"), errors.Unavailable, "internal_error"),
    ],
)
def test_the_code_decides_before_the_status_and_is_kept(
    running: Run, answer: Any, kind: type[errors.BenchfarmError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        running(with_farm(lambda _: answer, lambda client: client.poll(POLL)))
    assert (type(caught.value), caught.value.code) == (kind, code)


def test_the_token_travels_as_a_bearer(running: Run) -> None:
    _, calls = running(with_farm(lambda _: (200, NOTHING), lambda client: client.poll(POLL)))
    assert calls[0].authorization == "bearer secret"
    assert calls[0].path == "/v1/agent/poll"


def test_passing_faults_are_tried_again(running: Run) -> None:
    answers = iter([HANG_UP, problem(503, "unavailable"), (204, b"")])
    work = lambda client: client.release(TOKEN, ReleaseRequest(reason="done"))  # noqa: E731
    _, calls = running(with_farm(lambda _: next(answers), work))
    assert len(calls) == 3


def test_a_lost_answer_to_accept_is_asked_for_again(running: Run, grant: Callable[..., LeaseGrant]) -> None:
    answers = iter([HANG_UP, problem(503, "unavailable"), (200, grant(2).model_dump(mode="json"))])
    found, calls = running(with_farm(lambda _: next(answers), lambda client: client.accept(TOKEN, patience_s=30)))
    assert [item.measurement_id for item in found.items] == [1, 2]
    assert len(calls) == 3


@pytest.mark.parametrize("answer", [HANG_UP, problem(409, "lease_lost")])
def test_accepting_ends_with_the_offer(running: Run, answer: Any) -> None:
    with pytest.raises((errors.Unavailable, errors.LeaseLost)):
        running(with_farm(lambda _: answer, lambda client: client.accept(TOKEN, patience_s=0.3)))


def test_patience_ends(running: Run) -> None:
    work = lambda client: client.release(TOKEN, ReleaseRequest(reason="done"), patience_s=0.3)  # noqa: E731
    with pytest.raises(errors.Unavailable):
        running(with_farm(lambda _: problem(503, "unavailable"), work))


def test_patience_that_ends_in_a_pause_ends_the_pause(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told to stop waits for no pause."""
    monkeypatch.setattr("benchfarm_agent.pauses.FIRST_S", 20.0)
    left_s = [30.0]
    work = lambda client: client.release(TOKEN, ReleaseRequest(reason="done"), patience_s=lambda: left_s[0])  # noqa: E731
    tries_s: list[float] = []

    def away(_: Call) -> Any:
        tries_s.append(boottime_s())
        asyncio.get_running_loop().call_later(0.1, left_s.__setitem__, 0, 0.0)
        return problem(503, "unavailable")

    with pytest.raises(errors.Unavailable):
        running(with_farm(away, work))
    (tried_s,) = tries_s
    assert boottime_s() - tried_s < 5, "the pause takes ten seconds at least"


def test_a_refusal_is_final(running: Run) -> None:
    answers = iter([problem(409, "lease_lost")])
    work = lambda client: client.release(TOKEN, ReleaseRequest(reason="done"))  # noqa: E731
    with pytest.raises(errors.LeaseLost):
        running(with_farm(lambda _: next(answers), work))


def test_a_farm_that_is_away_is_unavailable(running: Run) -> None:
    async def poll_nobody() -> None:
        client = FarmClient("http://127.0.0.1:1")
        try:
            await client.poll(POLL)
        finally:
            await client.close()

    with pytest.raises(errors.Unavailable, match="reached"):
        running(poll_nobody())


def test_a_farm_that_is_away_and_comes_is_told_once_each(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def call_until_it_is_there() -> None:
        client = FarmClient(f"http://127.0.0.1:{port}")
        try:
            for _ in range(2):
                with pytest.raises(errors.Unavailable):
                    await client.poll(POLL)
            async with scripted_farm(lambda _: (200, NOTHING), port):
                await client.poll(POLL)
                await client.poll(POLL)
        finally:
            await client.close()

    running(call_until_it_is_there())
    assert [one.getMessage() for one in caplog.records if one.name == farm_client.__name__] == [
        f"cannot reach the farm at http://127.0.0.1:{port}, trying again",
        f"the farm at http://127.0.0.1:{port} is reached again",
    ]


def test_a_file_is_taken_only_with_its_hash(running: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm_client, "PATIENCE_S", 0.3)
    content = b"model" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    target = tmp_path / "file"

    def fetch(limit_bytes: int) -> Callable[[FarmClient], Any]:
        return lambda client: client.fetch(sha256, target, limit_bytes=limit_bytes)

    answers = iter([(200, b"not the model"), (200, content)])
    running(with_farm(lambda _: next(answers), fetch(10**6)))
    assert target.read_bytes() == content
    with pytest.raises(errors.Unavailable, match="another content"):
        running(with_farm(lambda _: (200, b"never the model"), fetch(10**6)))
    with pytest.raises(errors.TooLarge):
        running(with_farm(lambda _: (200, content), fetch(100)))
    with pytest.raises(errors.NotFound):
        running(with_farm(lambda _: problem(404, "not_found"), fetch(100)))
