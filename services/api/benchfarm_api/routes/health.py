"""Is the process alive, is the farm ready, what does it count."""

from functools import cache

import redis
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from benchfarm_api.parts import Parts, PartsDep
from benchfarm_api.routes import new_router
from benchfarm_core.errors import Unavailable
from benchfarm_core.values import Answer
from benchfarm_store import migrations

router = new_router("health")
metrics_router = new_router("health", prefix="")


class HealthView(Answer):
    """The process answers."""

    status: str


class ReadyView(Answer):
    """What was looked at, each with `ok`."""

    postgres: str
    schema_revision: str
    valkey: str


@router.get("/health")
async def get_health() -> HealthView:
    """Whether this process lives; asks nobody else."""
    return HealthView(status="ok")


@router.get("/ready")
def get_ready(parts: PartsDep) -> ReadyView:
    """Whether Postgres has the schema of this version and Valkey answers."""
    revision = _schema_revision(parts)
    try:
        with redis.Redis.from_url(parts.settings.redis_url, socket_timeout=2, socket_connect_timeout=2) as valkey:
            valkey.ping()
    except (redis.RedisError, OSError) as error:
        raise Unavailable("Valkey is away; try again shortly") from error
    return ReadyView(postgres="ok", schema_revision=revision, valkey="ok")


@cache
def _head_revision() -> str:
    return migrations.head_revision()


def _schema_revision(parts: Parts) -> str:
    head = _head_revision()
    with parts.database.transaction(read_only=True) as tx:
        found = migrations.current_revision(tx)
    if found != head:
        raise Unavailable(f"the schema is at {found or 'nothing'}, this version needs {head}; run the migrations")
    return head


@metrics_router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(parts: PartsDep) -> Response:
    """Counts of this process in the Prometheus text format."""
    return Response(parts.metrics.text(), media_type=CONTENT_TYPE_LATEST)
