"""What the routes work with: made once in `main.create_app`, reached through the application's state."""

import asyncio
from dataclasses import dataclass
from threading import Lock
from typing import Annotated

import anyio
from fastapi import Depends, Request

from benchfarm_api.loaded_predictors import LoadedPredictors
from benchfarm_api.messages import HintSender
from benchfarm_api.metrics import Metrics
from benchfarm_api.settings import Settings
from benchfarm_api.turns import Turns
from benchfarm_api.wakeups import Wakeups
from benchfarm_predictor.known_blocks import RememberedBlocks
from benchfarm_store.database import Database
from benchfarm_store.files import Files
from benchfarm_workloads.network_kernels import RememberedKernels


@dataclass(frozen=True)
class Parts:
    """The parts of one application."""

    settings: Settings
    database: Database
    files: Files
    hints: HintSender
    wakeups: Wakeups
    metrics: Metrics
    predictors: LoadedPredictors
    kernels: RememberedKernels
    blocks: RememberedBlocks
    uploads: asyncio.Semaphore
    uploading_accounts: set[int]
    inspections: asyncio.Semaphore
    waiting: anyio.CapacityLimiter
    exporting: Lock
    turns: Turns


async def parts_of(request: Request) -> Parts:
    """The parts of the application that serves this request. A coroutine, because others get a thread each."""
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


PartsDep = Annotated[Parts, Depends(parts_of)]
