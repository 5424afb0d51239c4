"""Event streams: whole, resumed where they broke, alive while nothing happens, and ended with the job."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from benchfarm_core.events import EventKind
from benchfarm_store import events
from benchfarm_store.database import Database

if TYPE_CHECKING:
    from tests.api.conftest import Lab, Served

MakeCaller = Callable[..., httpx2.Client]


def submitted(client: httpx2.Client, count: int = 2) -> str:
    workloads = [{"kind": "kernel", "type": "fc", "config": {"cin": 1 + n, "cout": 8}} for n in range(count)]
    job_id: str = client.post("/v1/jobs", json={"workloads": workloads}).json()["id"]
    return job_id


def parsed(text: str) -> list[dict[str, Any]]:
    """The events of a stream."""
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            data = json.loads(lines["data"])
            assert (int(lines["id"]), lines["event"]) == (data["number"], data["kind"])
            events.append(data)
    return events


def test_the_stream_of_an_ended_job(alice: httpx2.Client, lab: "Lab") -> None:
    job_id = submitted(alice)
    lab.finish(job_id)
    answer = alice.get(f"/v1/jobs/{job_id}/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = parsed(answer.text)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["data"]["state"], events[-1]["data"]["state"]) == ("queued", "succeeded")


def test_a_stream_is_taken_up_where_it_broke(alice: httpx2.Client, lab: "Lab") -> None:
    job_id = submitted(alice)
    lab.finish(job_id)
    whole = parsed(alice.get(f"/v1/jobs/{job_id}/events").text)
    for number in range(len(whole) + 1):
        rest = alice.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": str(number)})
        assert parsed(rest.text) == whole[number:]


@pytest.mark.usefixtures("lab")
def test_what_is_no_stream(alice: httpx2.Client) -> None:
    job_id = submitted(alice)
    assert alice.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "-1"}).status_code == 422
    assert alice.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "x"}).status_code == 422
    unknown = alice.get("/v1/jobs/00000000-0000-7000-8000-000000000000/events")
    assert (unknown.status_code, unknown.headers["Content-Type"]) == (404, "application/problem+json")


@pytest.fixture
def live(served: "Served", token: Callable[..., str]) -> Iterator[httpx2.Client]:
    """A client of the API as a process of its own: streams are read while they come."""
    with httpx2.Client(base_url=served.url, headers={"Authorization": f"Bearer {token()}"}, timeout=20) as client:
        yield client


def test_a_stream_follows_a_job_to_its_end(live: httpx2.Client, lab: "Lab") -> None:
    job_id = submitted(live)
    worker = threading.Thread(target=lab.finish, args=(job_id,))
    with live.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "id: 1"
        worker.start()
        text = "id: 1\n" + "\n".join(lines)
    worker.join()
    events = parsed(text)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["data"]["state"] == "succeeded"


@pytest.mark.usefixtures("lab")
def test_a_silent_stream_says_that_it_is_alive(live: httpx2.Client) -> None:
    job_id = submitted(live)
    with live.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        began_s = time.monotonic()
        alive = [line for line in _first(stream.iter_lines(), 8) if line == ": alive"]
        assert len(alive) >= 2
        assert time.monotonic() - began_s < 5


def _first(lines: Iterator[str], count: int) -> list[str]:
    return [next(lines) for _ in range(count)]


@pytest.mark.usefixtures("lab")
def test_a_stream_ends_with_its_token(live: httpx2.Client, caller: MakeCaller) -> None:
    job_id = submitted(live)
    me = live.get("/v1/whoami").json()
    with live.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        assert caller("admin", "root").delete(f"/v1/tokens/{me['token_id']}").status_code == 200
        for _ in lines:
            pass


@pytest.mark.usefixtures("lab")
def test_a_busy_stream_ends_with_its_token_too(live: httpx2.Client, caller: MakeCaller, database: Database) -> None:
    job_id = submitted(live)
    me = live.get("/v1/whoami").json()
    enough = threading.Event()

    def keep_busy() -> None:
        while not enough.wait(0.02):  # far below the heartbeat: the stream is never silent
            with database.transaction() as tx:
                events.append(tx, job_id, EventKind.PROGRESS, {})

    worker = threading.Thread(target=keep_busy)
    worker.start()
    try:
        with live.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            assert caller("admin", "root").delete(f"/v1/tokens/{me['token_id']}").status_code == 200
            revoked_s = time.monotonic()
            for line in lines:
                assert line != ": alive", "the stream was not busy"
                assert time.monotonic() - revoked_s < 10
    finally:
        enough.set()
        worker.join()


@pytest.mark.usefixtures("lab")
def test_stopping_the_process_ends_streams_and_polls(
    live: httpx2.Client, served: "Served", eventually: Callable[..., None]
) -> None:
    job_id = submitted(live)
    with live.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        served.process.terminate()
        began_s = time.monotonic()
        for _ in lines:
            pass
    eventually(lambda: served.process.poll() is not None)
    assert time.monotonic() - began_s < 3
    assert served.process.returncode in (0, -15)
