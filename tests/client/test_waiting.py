"""Waiting holds whatever becomes of the stream: it may be silent, broken, refused or full of surprises."""

import itertools
import json
from collections.abc import Callable, Iterator

import httpx2
import pytest
from rich.console import Console

from benchfarm import Client, JobState, JobView, NotFound, Progress, Retries, waiting
from benchfarm.commands.watching import GOES_ON, watch
from benchfarm.waiting import Deadline
from benchfarm_core.jobs import PriorityClass
from benchfarm_core.protocols import PROTOCOLS

TOTAL = 4


class ScriptedFarm:
    """A job that advances by one item per look, and a stream that behaves as the test says."""

    def __init__(self, stream: Callable[["ScriptedFarm", int], httpx2.Response], looks_until_end: int = TOTAL) -> None:
        self.looks: list[float] = []
        self.resumed_after: list[int] = []
        self._stream = stream
        self._last = looks_until_end
        self.done = 0
        self.waits_for = ""
        self.client = Client(
            "https://farm",
            "secret",
            transport=httpx2.MockTransport(self._answer),
            retries=Retries(sleep=lambda pause_s: None),
        )

    def job(self) -> dict[str, object]:
        ended = self.done >= self._last
        view = JobView(
            id="j",
            name="",
            labels={},
            state=JobState.SUCCEEDED if ended else JobState.RUNNING,
            reason="",
            priority=PriorityClass.NORMAL,
            protocol=PROTOCOLS["quick"],
            platforms=["p"],
            progress=self.progress(),
            device_s_spent=0.0,
            created_at="2026-01-01T00:00:00Z",  # type: ignore[arg-type]  # pydantic reads it
            finished_at=None,
            expires_at=None,
        )
        return view.model_dump(mode="json")

    def progress(self) -> Progress:
        done = min(self.done, TOTAL)
        return Progress(total=TOTAL, planned=0, pending=TOTAL - done, succeeded=done, failed=0, cancelled=0, known=0)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/events"):
            self.resumed_after.append(int(request.headers["Last-Event-ID"]))
            return self._stream(self, len(self.resumed_after))
        if request.url.path == "/v1/jobs/j/why" and self.waits_for:
            return httpx2.Response(200, json={"state": "running", "reason": self.waits_for, "platforms": []})
        if request.url.path != "/v1/jobs/j":
            return httpx2.Response(404, json={"code": "not_found", "detail": "no such job"})
        self.looks.append(float(request.url.params.get("wait_s", 0)))
        answer = httpx2.Response(200, json=self.job())
        self.done += 1
        return answer


def event(number: int, kind: str, data: object) -> bytes:
    whole = {"number": number, "kind": kind, "at": "2026-01-01T00:00:00Z", "data": data}
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(whole)}\n\n".encode()


def sse(pieces: Iterator[bytes]) -> httpx2.Response:
    return httpx2.Response(200, content=pieces, headers={"Content-Type": "text/event-stream"})


def whole_stream(farm: ScriptedFarm, attempt: int) -> httpx2.Response:
    def pieces() -> Iterator[bytes]:
        for number in range(1, TOTAL):
            farm.done = number
            yield event(number, "progress", farm.progress().model_dump())
        farm.done = TOTAL
        yield event(TOTAL, "state", {"state": "succeeded"})
        raise AssertionError("read on after the job ended")

    return sse(pieces())


def broken_stream(farm: ScriptedFarm, attempt: int) -> httpx2.Response:
    def pieces() -> Iterator[bytes]:
        yield event(attempt, "progress", farm.progress().model_dump())
        raise httpx2.ReadError("the proxy hung up")

    return sse(pieces())


def silent_stream(farm: ScriptedFarm, attempt: int) -> httpx2.Response:
    def pieces() -> Iterator[bytes]:
        yield b": alive\n\n"
        raise httpx2.ReadTimeout("nothing came")

    return sse(pieces())


def refused_stream(farm: ScriptedFarm, attempt: int) -> httpx2.Response:
    return httpx2.Response(503, json={"code": "unavailable", "detail": "no streams today"})


def strange_stream(farm: ScriptedFarm, attempt: int) -> httpx2.Response:
    return sse(iter([event(attempt, "progress", {"something": "else"}), event(attempt + 1, "item_failed", {})]))


STREAMS = [whole_stream, broken_stream, silent_stream, refused_stream, strange_stream]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_PAUSE_S", 0.0)


@pytest.mark.parametrize("stream", STREAMS)
def test_it_ends_with_the_job_and_tells_each_change_once(
    stream: Callable[[ScriptedFarm, int], httpx2.Response],
) -> None:
    farm = ScriptedFarm(stream, looks_until_end=TOTAL if stream is whole_stream else 9)
    seen: list[JobView] = []
    job = farm.client.wait("j", progress=seen.append, timeout_s=20)
    assert job.state == JobState.SUCCEEDED
    assert seen[-1] == job
    assert all(before != after for before, after in itertools.pairwise(seen))
    done = [view.progress.succeeded for view in seen]
    assert done == sorted(done)
    assert done[0] == 0


def test_progress_is_read_from_the_stream_without_asking_again() -> None:
    farm = ScriptedFarm(whole_stream)
    seen: list[int] = []
    farm.client.wait("j", progress=lambda job: seen.append(job.progress.succeeded))
    assert seen == [0, 1, 2, 3, 4]
    assert len(farm.looks) == 2


def test_a_broken_stream_is_taken_up_where_it_broke() -> None:
    farm = ScriptedFarm(broken_stream)
    farm.client.wait("j")
    assert farm.resumed_after == [0, 1, 2, 3]


def test_after_three_dead_streams_the_job_is_asked_for_instead() -> None:
    farm = ScriptedFarm(refused_stream, looks_until_end=6)
    farm.client.wait("j")
    assert len(farm.resumed_after) == waiting.BROKEN_STREAMS
    assert farm.looks[-2:] == [waiting.POLL_WAIT_S, waiting.POLL_WAIT_S]


def test_a_job_that_has_ended_is_not_streamed() -> None:
    farm = ScriptedFarm(whole_stream, looks_until_end=0)
    assert farm.client.wait("j").state == JobState.SUCCEEDED
    assert farm.resumed_after == []


@pytest.mark.parametrize("stream", [broken_stream, silent_stream, refused_stream])
def test_patience_ends_on_time(stream: Callable[[ScriptedFarm, int], httpx2.Response]) -> None:
    farm = ScriptedFarm(stream, looks_until_end=10**9)
    with pytest.raises(TimeoutError, match=r"job j is still running after 0\.05 s"):
        farm.client.wait("j", timeout_s=0.05)


@pytest.mark.parametrize("waits_for", ["its board waits for quiet: 3.2 other threads", ""])
def test_the_end_of_patience_says_what_the_boards_wait_for(waits_for: str) -> None:
    farm = ScriptedFarm(refused_stream, looks_until_end=10**9)
    farm.waits_for = waits_for
    with pytest.raises(TimeoutError) as ended:
        watch(farm.client, "j", Console(quiet=True), timeout_s=0.05)
    told = f": {waits_for}" if waits_for else ""
    assert str(ended.value) == f"job j is still running after 0.05 s{told}; {GOES_ON}"


def test_an_unknown_job_is_not_waited_for() -> None:
    with pytest.raises(NotFound):
        ScriptedFarm(whole_stream).client.wait("other", timeout_s=5)


def test_a_deadline_counts_down_and_stops_at_zero() -> None:
    now_s = 100.0
    deadline = Deadline(10.0, clock=lambda: now_s)
    assert deadline.left_s(30.0) == 10.0
    now_s = 108.0
    assert deadline.left_s(30.0) == 2.0
    assert deadline.left_s(1.5) == 1.5
    now_s = 111.0
    assert deadline.left_s(30.0) == 0.0
    assert deadline.passed
    assert not Deadline(None, clock=lambda: now_s).passed


def test_events_can_be_read_as_they_come() -> None:
    farm = ScriptedFarm(strange_stream)
    assert [found.number for found in farm.client.events("j", after=7)] == [1, 2]
    assert farm.resumed_after == [7]
