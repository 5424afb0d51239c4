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
    """Add every route to an application, as it stands.

    `include_router` would build each of a hundred routes again, with the models of its requests and answers, when the
    application is first asked something.
    """
    for router in (*(noun.router for noun in _NOUNS), health.metrics_router):
        app.router.routes.extend(router.routes)
