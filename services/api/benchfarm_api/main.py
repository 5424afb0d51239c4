"""The application: everything is made and wired here."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Lock
from typing import Final

import anyio
import anyio.to_thread
from fastapi import FastAPI

from benchfarm_api import errors, openapi
from benchfarm_api.access import Authenticator
from benchfarm_api.edge import Edge
from benchfarm_api.loaded_predictors import LoadedPredictors
from benchfarm_api.messages import HintSender
from benchfarm_api.metrics import create_metrics
from benchfarm_api.parts import Parts
from benchfarm_api.router import include_all
from benchfarm_api.settings import Settings
from benchfarm_api.turns import Turns
from benchfarm_api.wakeups import Wakeups
from benchfarm_predictor.answers import kernels_of
from benchfarm_predictor.known_blocks import KeptSums, RememberedBlocks
from benchfarm_store.database import Database
from benchfarm_store.files import Files
from benchfarm_workloads.network_kernels import RememberedKernels

KERNELS_BYTES: Final = 8 * 2**20
"""What is remembered of the kernels of architectures: thousands of blocks, as of one space in all resolutions."""
BLOCKS_BYTES: Final = 8 * 2**20
"""What is remembered of blocks beside that, as columns: thirteen thousand."""
SUMS_BYTES: Final = 24 * 2**20
"""What is kept of what versions say of blocks: of a few hundred versions for one space in all resolutions."""
STALE_S: Final = 3600.0
"""What a dead process left of an upload is removed at the next start, when no live one can still be at it."""


def create_app(settings: Settings) -> FastAPI:
    """An application that connects to Postgres and Valkey when it starts, not before."""
    metrics = create_metrics()
    wakeups = Wakeups(settings.redis_url, metrics)
    hints = HintSender(settings.redis_url, metrics, wakeups.wake)
    database = Database(settings.database_url, on_commit=hints, pool_size=_connections(settings))
    predictors = LoadedPredictors(settings.benchfarm_predictors_bytes)
    metrics.predictors_bytes.set_function(lambda: predictors.held_bytes)
    parts = Parts(
        settings=settings,
        database=database,
        files=Files(settings.benchfarm_data_dir),
        hints=hints,
        wakeups=wakeups,
        metrics=metrics,
        predictors=predictors,
        kernels=RememberedKernels(KERNELS_BYTES),
        blocks=RememberedBlocks(BLOCKS_BYTES, kernels_of, KeptSums(SUMS_BYTES)),
        uploads=asyncio.Semaphore(settings.benchfarm_uploads_at_once),
        uploading_accounts=set(),
        inspections=asyncio.Semaphore(settings.benchfarm_inspections_at_once),
        waiting=anyio.CapacityLimiter(settings.benchfarm_waiting_threads),
        exporting=Lock(),
        turns=Turns(),
    )
    app = FastAPI(
        title="Benchfarm",
        lifespan=_lifespan,
        # No interactive page: it would load scripts from other hosts. The description is docs/openapi.json.
        openapi_url=None,
    )
    app.state.parts = parts
    app.state.authenticator = Authenticator(database, parts.waiting)
    app.add_middleware(Edge, metrics=metrics)
    errors.install(app)
    include_all(app)
    app.openapi = lambda: openapi.describe(app)  # type: ignore[method-assign]
    return app


def _connections(settings: Settings) -> int:
    """One for every thread that can ask for one at the same time."""
    threads = settings.benchfarm_api_threads + settings.benchfarm_waiting_threads
    return threads + settings.benchfarm_inspections_at_once


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    anyio.to_thread.current_default_thread_limiter().total_tokens = parts.settings.benchfarm_api_threads
    await asyncio.to_thread(parts.files.sweep_incoming, STALE_S, time.time())
    parts.hints.start()
    await parts.wakeups.start()
    try:
        yield
    finally:
        await parts.wakeups.stop()
        await asyncio.to_thread(parts.hints.close)
        parts.database.dispose()
