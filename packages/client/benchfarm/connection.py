"""One farm over HTTP: connections are reused, requests repeated where that is right, errors are benchfarm_core's."""

import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from ipaddress import ip_address
from json import dumps
from pathlib import Path
from typing import IO, Any, Final, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from benchfarm.retries import Retries, may_repeat
from benchfarm_core.errors import BenchfarmError, InvalidRequest, Unauthenticated, Unavailable
from benchfarm_core.problems import error_from, retry_after_s

T = TypeVar("T")

Params = Mapping[str, str | int | float | list[str] | None]

READ_TIMEOUT_S: Final = 60.0
_TIMEOUT: Final = httpx2.Timeout(connect=5.0, read=READ_TIMEOUT_S, write=60.0, pool=30.0)

_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""Faults before the first byte left: every request may be repeated after them."""


class Connection:
    """The requests of one token to one farm. Safe to share between threads.

    Raises InvalidRequest for a URL that would send the token in clear over a network, and for a useless `ca_file`.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        transport: httpx2.BaseTransport | None = None,
        ca_file: Path | None = None,
        retries: Retries | None = None,
    ) -> None:
        base = checked_url(url)
        self.url = str(base).rstrip("/")
        self._retries = retries or Retries()
        self._http = httpx2.Client(
            base_url=base,
            headers=_headers(token),
            timeout=_TIMEOUT,
            transport=transport,
            verify=_trusting(ca_file) if ca_file else True,
            # A proxy of the environment must not see the token of a farm on this very machine.
            trust_env=base.scheme == "https",
        )

    def close(self) -> None:
        """Close the kept connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: BaseModel | Mapping[str, object] | None = None,
        content: bytes | None = None,
        file: IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> httpx2.Response:
        """The answer to one request, sent again where that is right.

        Args:
            method: the HTTP method.
            path: below /v1, with its parts quoted.
            params: query parameters; those that are None are left out.
            json: the body as a value.
            content: the body as it is.
            file: the body as an open file, rewound for each sending.
            headers: more headers.
            repeatable: whether sending twice equals sending once; by default true for all methods but POST.
            read_timeout_s: longest silence of the farm while it works on the answer.

        Raises:
            BenchfarmError: the class that the farm raised; Unavailable when no answer could be had.
        """
        safe = method != "POST" if repeatable is None else repeatable

        def build() -> httpx2.Request:
            if file is not None:
                file.seek(0)
            return self._http.build_request(
                method,
                f"/v1{path}",
                params=_given(params),
                content=_encoded(json) if json is not None else content if content is not None else file,
                headers={**({"Content-Type": "application/json"} if json is not None else {}), **(headers or {})},
                timeout=httpx2.Timeout(connect=5.0, read=read_timeout_s, write=60.0, pool=30.0),
            )

        return self._persist(build, repeatable=safe)

    def read(self, kind: type[T], path: str, *, params: Params | None = None, **options: Any) -> T:
        """GET `path` as a value of `kind`."""
        return self.value(kind, self.request("GET", path, params=params, **options))

    def value(self, kind: type[T], response: httpx2.Response) -> T:
        """The body of an answer as a value; BenchfarmError when this version does not understand it."""
        try:
            return TypeAdapter(kind).validate_json(response.content)
        except ValidationError as error:
            raise _not_understood(response, error) from error

    @contextmanager
    def stream(
        self, path: str, *, headers: Mapping[str, str] | None = None, read_timeout_s: float = READ_TIMEOUT_S
    ) -> Iterator[Iterable[bytes]]:
        """The body of GET `path` piece by piece. Sent once; faults midway raise Unavailable."""
        timeout = httpx2.Timeout(connect=5.0, read=read_timeout_s, write=60.0, pool=30.0)
        try:
            with self._http.stream("GET", f"/v1{path}", headers=headers, timeout=timeout) as response:
                if response.status_code >= 400:
                    raise error_from(response.status_code, response.read(), response.headers)
                yield response.iter_bytes()
        except httpx2.RequestError as error:
            raise self._unreachable(error) from error

    def _persist(self, build: Callable[[], httpx2.Request], *, repeatable: bool) -> httpx2.Response:
        attempt, spent_s = 0, 0.0
        while True:
            attempt += 1
            failure: BenchfarmError
            try:
                response = self._http.send(build())
            except httpx2.RequestError as error:
                failure, again, wish_s = self._unreachable(error), repeatable or isinstance(error, _NOT_SENT), None
            else:
                if response.status_code < 400:
                    return response
                failure = error_from(response.status_code, response.content, response.headers)
                again = may_repeat(response.status_code, repeatable=repeatable)
                wish_s = retry_after_s(response.headers)
            pause_s = self._retries.pause_s(attempt, spent_s, wish_s) if again else None
            if pause_s is None:
                raise failure
            self._retries.sleep(pause_s)
            spent_s += pause_s

    def _unreachable(self, error: httpx2.RequestError) -> Unavailable:
        return Unavailable(f"cannot reach the farm at {self.url}: {str(error) or type(error).__name__}")


def checked_url(url: str) -> httpx2.URL:
    """The farm's base URL. Raises InvalidRequest unless it is https, or http to this very machine."""
    try:
        parsed = httpx2.URL(url.strip().rstrip("/").removesuffix("/v1"))
    except httpx2.InvalidURL as error:
        raise InvalidRequest(f"{url[:120]!r} is no URL: {error}", field="url") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequest(f"{url[:120]!r} is no URL of a farm; give https://host", field="url")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise InvalidRequest("the farm's URL carries neither a user, a query nor a fragment", field="url")
    if parsed.scheme == "http" and not is_loopback(parsed.host):
        raise InvalidRequest(
            f"http:// to {parsed.host} would send the token in clear; use https://, or a tunnel to 127.0.0.1",
            field="url",
        )
    return parsed


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this very machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def path_part(text: object, *, safe: str = "") -> str:
    """One part of a path, quoted. Raises InvalidRequest for what is no text, and for texts of another path."""
    if not isinstance(text, str) or text in ("", ".", ".."):
        raise InvalidRequest(f"{text!r} names nothing")
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError as error:  # bytes of a command line that are no text
        raise InvalidRequest(f"{text!r} names nothing") from error


def platform_path(text: object) -> str:
    """A platform's id, alias or key as path parts: a key keeps its slashes."""
    parts = text.split("/") if isinstance(text, str) else [text]
    return "/".join(path_part(part, safe="~=+") for part in parts)


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except ssl.SSLError as error:
        raise InvalidRequest(f"{ca_file} holds no certificates in PEM form", field="ca_file") from error
    except OSError as error:
        raise InvalidRequest(f"cannot read {ca_file}: {error.strerror}", field="ca_file") from error


def _headers(token: str | None) -> dict[str, str]:
    headers = {"User-Agent": f"benchfarm/{version('benchfarm')}", "Accept": "application/json"}
    if token is None:
        return headers
    if not token.isascii() or not token.isprintable() or not token or " " in token:
        raise Unauthenticated("the token is empty or holds characters that no token has")
    return {**headers, "Authorization": f"Bearer {token}"}


def _encoded(value: BaseModel | Mapping[str, object]) -> bytes:
    return value.model_dump_json().encode() if isinstance(value, BaseModel) else dumps(value).encode()


def _given(params: Params | None) -> dict[str, str | int | float | list[str]]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _not_understood(response: httpx2.Response, error: ValidationError) -> BenchfarmError:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the body"
    failure = BenchfarmError(
        f"the farm's answer to {response.request.method} {response.request.url.path} is not understood "
        f"({place}: {first['msg']}); is {response.request.url.host} a Benchfarm, and this client new enough?"
    )
    failure.request_id = response.headers.get("x-request-id")
    return failure
