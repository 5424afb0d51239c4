"""All routes of the application."""

from typing import Final

from fastapi import FastAPI

from benchfarm_api.routes import (
    accounts,
    adaptations,
    agent,
    agents,
    boards,
    bundles,
    engines,
    events,
    exports,
    health,
    jobs,
    kernels,
    latency,
    measurement_sets,
    models,
    platforms,
    pool,
    predictors,
    protocols,
    results,
    spaces,
    support,
    tokens,
)

PREFIX: Final = "/v1"

_NOUNS: Final = (
    jobs,
    events,
    models,
    results,
    latency,
    boards,
    bundles,
    measurement_sets,
    pool,
    predictors,
    exports,
    adaptations,
    platforms,
    kernels,
    spaces,
    protocols,
    engines,
    support,
    accounts,
    tokens,
    agents,
    agent,
    health,
)


def include_all(app: FastAPI) -> None:
    """Add every route to an application."""
    for noun in _NOUNS:
        app.include_router(noun.router, prefix=PREFIX)
    app.include_router(health.metrics_router)
