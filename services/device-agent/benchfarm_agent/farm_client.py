"""The verbs of the agent API over HTTP. Every verb but `enrol` may be repeated, so passing faults are retried here."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from benchfarm_agent import VERSION
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.pauses import Pauses
from benchfarm_core import errors
from benchfarm_core.agent_protocol import (
    EnrolAnswer,
    EnrolRequest,
    FinishAnswer,
    FinishRequest,
    LeaseGrant,
    PollAnswer,
    PollRequest,
    RecoveryReport,
    RegisterAnswer,
    RegisterBoards,
    ReleaseRequest,
    RenewAnswer,
    ReportsAnswer,
    ReportsRequest,
    ResultsAnswer,
    ResultsRequest,
)
from benchfarm_core.problems import error_from

logger = logging.getLogger(__name__)

_Any = TypeVar("_Any")
_Model = TypeVar("_Model", bound=BaseModel)
Patience = float | Callable[[], float]
"""How long a call is repeated while the farm is away, in seconds from its beginning. What can change is asked anew."""

PATIENCE_S: Final = 30.0
"""How long one call is repeated while the farm is away."""
ANSWER_S: Final = 20.0
ACCEPT_ANSWER_S: Final = 5.0
"""A lost answer to `accept` must leave time to ask again before the offer lapses."""
CONNECT_S: Final = 5.0
KEEP_ALIVE_S: Final = 4.0
"""Below the 5 s after which the server closes an idle connection, so that no request meets a closing one."""
LOOK_S: Final = 0.25
"""How often it is looked in a pause whether patience has ended."""


class FarmClient:
    """One connection pool to one farm. Answers are checked; failures are the errors of `benchfarm_core.errors`."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self._url = url
        self._is_reached = True
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"User-Agent": f"benchfarm-agent/{VERSION}"},
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S, pool=None),
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_S),
            trust_env=False,
        )
        if token is not None:
            self.use_token(token)

    def use_token(self, token: str) -> None:
        """Sends this bearer token from now on."""
        self._http.headers["Authorization"] = f"Bearer {token}"

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def enrol(self, request: EnrolRequest) -> EnrolAnswer:
        """Trades the one-time token; repeated only while no connection could be made."""
        path = "/v1/agent/enrol"
        content = await _patiently(lambda: self._exchange(path, request), PATIENCE_S, NotConnected)
        return _read(EnrolAnswer, content)

    async def register(self, request: RegisterBoards) -> RegisterAnswer:
        """Names all boards of this agent. Not repeated: the desk goes on trying, and says so."""
        return _read(RegisterAnswer, await self._exchange("/v1/agent/boards", request))

    async def report_recovery(self, report: RecoveryReport) -> None:
        """Says what was done for a board that stays away."""
        await _patiently(lambda: self._exchange("/v1/agent/recoveries", report), PATIENCE_S)

    async def poll(self, request: PollRequest) -> PollAnswer:
        """Waits up to `request.wait_s` for offers. Not repeated: the caller's next poll is the retry."""
        return _read(PollAnswer, await self._exchange("/v1/agent/poll", request, answer_s=ANSWER_S + request.wait_s))

    async def accept(self, lease_token: str, *, patience_s: float) -> LeaseGrant:
        """Starts the lease. Accepting again gives the same batch, so a lost answer does not idle the board."""
        path = _lease(lease_token, "accept")
        return _read(LeaseGrant, await _patiently(lambda: self._exchange(path, answer_s=ACCEPT_ANSWER_S), patience_s))

    async def renew(self, lease_token: str) -> RenewAnswer:
        """Prolongs the lease. Not repeated here: the keeper of the lease knows how long trying makes sense."""
        return _read(RenewAnswer, await self._exchange(_lease(lease_token, "renew")))

    async def report(self, request: ReportsRequest) -> ReportsAnswer:
        """Says what runs now in all leases. Not repeated here: the next report brings it along."""
        return _read(ReportsAnswer, await self._exchange("/v1/agent/reports", request))

    async def results(self, lease_token: str, request: ResultsRequest, *, patience_s: Patience) -> ResultsAnswer:
        """Hands over one chunk of results."""
        path = _lease(lease_token, "results")
        return _read(ResultsAnswer, await _patiently(lambda: self._exchange(path, request), patience_s))

    async def release(self, lease_token: str, request: ReleaseRequest, *, patience_s: Patience = PATIENCE_S) -> None:
        """Gives the board back."""
        path = _lease(lease_token, "release")
        await _patiently(lambda: self._exchange(path, request), patience_s)

    async def finish(self, lease_token: str, request: FinishRequest, *, patience_s: Patience) -> FinishAnswer:
        """Hands over what is left of a lease and gives the board back. Repeating gives the same next lease."""
        path = _lease(lease_token, "finish")
        return _read(FinishAnswer, await _patiently(lambda: self._exchange(path, request), patience_s))

    async def fetch(self, sha256: str, target: Path, *, limit_bytes: int) -> None:
        """Writes the file with this hash to `target`. Raises DamagedFile, another BenchfarmError, OSError."""
        await _patiently(lambda: self._fetch_once(sha256, target, limit_bytes), PATIENCE_S)

    async def _fetch_once(self, sha256: str, target: Path, limit_bytes: int) -> None:
        try:
            async with self._http.stream("GET", f"/v1/agent/files/{sha256}") as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise _error_of(answer)
                found = await _receive(answer, target, limit_bytes)
        except httpx2.TransportError as error:
            raise errors.Unavailable(f"the connection to the farm broke: {error!r}") from error
        if found != sha256:
            raise DamagedFile(f"file {sha256} arrived with another content")

    async def _exchange(self, path: str, body: BaseModel | None = None, *, answer_s: float = ANSWER_S) -> bytes:
        """One request; the body of its good answer, else an error of `benchfarm_core.errors`."""
        content = b"" if body is None else body.model_dump_json().encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        timeout = httpx2.Timeout(answer_s, connect=CONNECT_S, pool=None)
        try:
            answer = await self._http.post(path, content=content, headers=headers, timeout=timeout)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            self._tell_reached(False)
            raise NotConnected(f"the farm cannot be reached: {error!r}") from error
        except httpx2.TransportError as error:
            raise errors.Unavailable(f"the connection to the farm broke: {error!r}") from error
        self._tell_reached(True)
        if not answer.is_success:
            raise _error_of(answer)
        return answer.content

    def _tell_reached(self, is_reached: bool) -> None:
        """Says when the farm goes and when it is back, not how often it was called in between."""
        if self._is_reached and not is_reached:
            logger.warning("cannot reach the farm at %s, trying again", self._url)
        elif is_reached and not self._is_reached:
            logger.info("the farm at %s is reached again", self._url)
        self._is_reached = is_reached


class DamagedFile(errors.Unavailable):
    """A file keeps coming with other bytes than its hash says."""


class NotConnected(errors.Unavailable):
    """The request cannot have arrived. The client itself has told the log."""


def _lease(lease_token: str, verb: str) -> str:
    return f"/v1/agent/leases/{lease_token}/{verb}"


def _read(model: type[_Model], content: bytes) -> _Model:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise errors.Unavailable(f"the farm's answer cannot be understood: {error}") from error


async def _patiently(
    attempt: Callable[[], Awaitable[_Any]],
    patience_s: Patience,
    passing: type[errors.Unavailable] = errors.Unavailable,
) -> _Any:
    """Repeats while the fault is a passing one and patience lasts."""
    begun_s, pauses = boottime_s(), Pauses()
    while True:
        try:
            return await attempt()
        except passing:
            again_s = boottime_s() + pauses.next_s()
            if not await _outlasted(again_s, begun_s, patience_s):
                raise


async def _outlasted(again_s: float, begun_s: float, patience_s: Patience) -> bool:
    """Waits until `again_s`; False as soon as the patience of a call that began at `begun_s` ends before that."""
    while True:
        if again_s > begun_s + (patience_s() if callable(patience_s) else patience_s):
            return False
        left_s = again_s - boottime_s()
        if left_s <= 0:
            return True
        await asyncio.sleep(min(left_s, LOOK_S))


async def _receive(answer: httpx2.Response, target: Path, limit_bytes: int) -> str:
    """Writes a body to a file while counting and hashing; returns the SHA-256."""
    digest, size_bytes = hashlib.sha256(), 0
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644), "wb") as file:
        async for part in answer.aiter_bytes():
            size_bytes += len(part)
            if size_bytes > limit_bytes:
                raise errors.TooLarge(f"a file of the farm is larger than {limit_bytes} bytes")
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def _error_of(response: httpx2.Response) -> errors.BenchfarmError:
    """The error that an answer stands for; "not now" and faults of the farm may pass, so they are Unavailable."""
    error = error_from(response.status_code, response.content, response.headers)
    if isinstance(error, errors.Unavailable) or not _may_pass(response.status_code):
        return error
    passing = errors.Unavailable(error.detail)
    passing.code = error.code
    return passing


def _may_pass(status: int) -> bool:
    return status == httpx2.codes.TOO_MANY_REQUESTS or status >= httpx2.codes.INTERNAL_SERVER_ERROR
