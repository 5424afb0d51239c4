"""`python -m benchfarm_api`: serve until stopped."""

import gc
import os
import socket
import sys
from ipaddress import ip_address
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from benchfarm_api.connections import connections
from benchfarm_api.settings import Settings
from benchfarm_core.log import configure

BACKLOG: Final = 2048
GRACE_S: Final = 10
SWITCH_S: Final = 0.0005
COLLECTED_EVERY: Final = 50_000
"""Objects more than there were: some megabytes."""
ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Predictors multiply small matrices: more threads cost more than they save, and other cores may be measuring."""


class Server(uvicorn.Server):
    """Lets waiting requests answer as soon as it is told to stop, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.parts.wakeups.begin_closing()
        super().handle_exit(sig, frame)


def main() -> int:
    """Read the settings, refuse what is unsafe, serve."""
    configure("api")
    try:
        settings = Settings()
    except ValidationError as error:
        parts = (": ".join((*map(str.upper, map(str, part["loc"])), part["msg"])) for part in error.errors())
        sys.stderr.write("the API's settings in its environment are not complete: " + "; ".join(parts) + "\n")
        return 2
    try:
        listener = listen(settings)
    except OSError as error:
        sys.stderr.write(f"the API cannot listen: {error}\n")
        return 2
    refusal = refusal_to_listen(settings, listener)
    if refusal is not None:
        sys.stderr.write(refusal + "\n")
        return 2
    app = _app(settings)
    _keep_pauses_short()
    Server(_config(app, settings), app).run(sockets=[listener])
    return 0


def listen(settings: Settings) -> socket.socket:
    """The socket to serve on: inherited, or bound to host and port. Raises OSError."""
    if settings.benchfarm_api_fd is not None:
        return socket.socket(fileno=settings.benchfarm_api_fd)
    family = socket.AF_INET6 if ":" in settings.benchfarm_api_host else socket.AF_INET
    address = (settings.benchfarm_api_host, settings.benchfarm_api_port)
    return socket.create_server(address, family=family, backlog=BACKLOG)


def refusal_to_listen(settings: Settings, listener: socket.socket) -> str | None:
    """Why serving on this socket would send tokens in clear over a network; None when it would not."""
    if settings.benchfarm_behind_tls_proxy or settings.benchfarm_tls_certificate is not None:
        return None
    if listener.family == socket.AF_UNIX or ip_address(listener.getsockname()[0]).is_loopback:
        return None
    return (
        f"refusing to listen on {listener.getsockname()[0]} without TLS: tokens would cross the network in clear. "
        "Set BENCHFARM_TLS_CERTIFICATE and BENCHFARM_TLS_KEY, or put a TLS proxy in front and set "
        "BENCHFARM_BEHIND_TLS_PROXY=1"
    )


def _app(settings: Settings) -> FastAPI:
    """The application; numpy reads how many threads it may have when it is imported."""
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    from benchfarm_api.main import create_app

    return create_app(settings)


def _keep_pauses_short() -> None:
    """What makes the slowest of a hundred answers slow, beside the database."""
    # A thread that comes back from Postgres gets its turn after this time, by default ten times later; a submit
    # comes back a dozen times.
    sys.setswitchinterval(SWITCH_S)
    # What was imported stays for ever: looking through it takes the collector a tenth of a second each time.
    gc.collect()
    gc.freeze()
    # A question's hundred thousand objects come and go together: to look for cycles after each 700 of them takes a
    # third of its answer.
    gc.set_threshold(COLLECTED_EVERY, 20, 20)


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=connections(settings.benchfarm_answer_stall_s),
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        # Nothing here depends on the client's address, so no header of a proxy is trusted.
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=settings.benchfarm_tls_certificate,
        ssl_keyfile=settings.benchfarm_tls_key,
    )


if __name__ == "__main__":
    sys.exit(main())
