"""Platforms, by id, key or alias. A key holds slashes; they may stay or be sent as %2F."""

from typing import Annotated

from fastapi import Path, Query

from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import not_found
from benchfarm_api.routes import PageQuery, new_router
from benchfarm_core.fusion import FusionReport, FusionsView
from benchfarm_core.jobs import Page
from benchfarm_core.platforms import Name, PlatformFilter
from benchfarm_core.values import Value
from benchfarm_core.views import PlatformView
from benchfarm_store import fusions, platforms

router = new_router("platforms")

PlatformName = Annotated[str, Path(max_length=300, description="id, key or alias")]


class PlatformsQuery(PlatformFilter, PageQuery):
    """Every given part must match; one given twice means either."""


class AliasRequest(Value):
    """A further name of a platform."""

    alias: Name


@router.get("/platforms")
def list_platforms(parts: PartsDep, query: Annotated[PlatformsQuery, Query()]) -> Page[PlatformView]:
    """Platforms whose parts match; a parameter given twice means either."""
    wanted = PlatformFilter(**{name: getattr(query, name) for name in PlatformFilter.model_fields})
    with parts.database.transaction(read_only=True) as tx:
        return platforms.list_platforms(tx, wanted, query.cursor, query.limit)


@router.put("/platforms/{platform:path}/alias", responses=not_found())
def set_platform_alias(platform: PlatformName, alias: AliasRequest, parts: PartsDep) -> PlatformView:
    """Point an alias at a platform. Answers always name the real key."""
    with parts.database.transaction() as tx:
        return platforms.set_alias(tx, platform, alias.alias)


@router.get("/platforms/{platform:path}/fusion", responses=not_found())
def get_platform_fusion(platform: PlatformName, parts: PartsDep) -> FusionsView:
    """Which operators the platform's engine computes as one, by latency and by profile, and where the two disagree."""
    with parts.database.transaction(read_only=True) as tx:
        return fusions.get_fusions(tx, platform)


@router.put("/platforms/{platform:path}/fusion", responses=not_found())
def set_platform_fusion(platform: PlatformName, report: FusionReport, parts: PartsDep) -> FusionsView:
    """Keep what was measured of operators in a row. The farm makes the verdict on latencies itself:
    T1 + T2 - T12 > 0.5 min(T1, T2)."""
    with parts.database.transaction() as tx:
        return fusions.report(tx, platform, report)


# After alias and fusion: a key holds slashes, so that this path would match those too.
@router.get("/platforms/{platform:path}", responses=not_found())
def get_platform(platform: PlatformName, parts: PartsDep) -> PlatformView:
    """One platform."""
    with parts.database.transaction(read_only=True) as tx:
        return platforms.get_platform(tx, platform)
