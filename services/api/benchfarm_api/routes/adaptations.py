"""Adaptations: predictors for a platform from donors and few measurements."""

from typing import Annotated

from fastapi import Path, Query, Response

from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import conflict, forbidden, not_found, quota
from benchfarm_api.routes import PageQuery, new_router
from benchfarm_api.routes.platforms import PlatformName
from benchfarm_core.access import sees_all_accounts
from benchfarm_core.adapting import AdaptationRequest, AdaptationsWanted, AdaptationView, as_told
from benchfarm_core.jobs import Page
from benchfarm_store import adaptations
from benchfarm_store.tokens import Caller

router = new_router("adaptations")

AdaptationId = Annotated[str, Path(max_length=40)]


class AdaptationsQuery(AdaptationsWanted, PageQuery):
    """Every given field must match."""


@router.post("/platforms/{platform:path}/adaptations", status_code=201, responses=not_found() | conflict() | quota())
def start_adaptation(
    platform: PlatformName, request: AdaptationRequest, caller: CallerDep, parts: PartsDep, response: Response
) -> AdaptationView:
    """Make predictors for a platform: probes, then rounds of measurements until target, budget or no further gain, then
    judged on architectures declared beforehand. What answers already stays unless the new is better on the same ones.

    One at a time for each platform. The time of boards is charged to the caller's account; an adaptation counts as one
    of its active jobs, and what it waits for as waiting items.
    """
    with parts.database.transaction() as tx:
        view = adaptations.start(tx, platform, request, by=caller)
    response.headers["Location"] = f"/v1/adaptations/{view.id}"
    return view


@router.get("/adaptations")
def list_adaptations(
    caller: CallerDep, parts: PartsDep, query: Annotated[AdaptationsQuery, Query()]
) -> Page[AdaptationView]:
    """Adaptations, newest first; the architectures that other accounts gave are left out."""
    wanted = AdaptationsWanted(platform=query.platform, state=query.state)
    with parts.database.transaction(read_only=True) as tx:
        page = adaptations.list_adaptations(tx, wanted, cursor=query.cursor, limit=query.limit)
    return page.model_copy(update={"items": [_told(view, caller) for view in page.items]})


@router.get("/adaptations/{adaptation_id}", responses=not_found())
def get_adaptation(adaptation_id: AdaptationId, caller: CallerDep, parts: PartsDep) -> AdaptationView:
    """One adaptation with its whole story: what was measured, at what cost, from which donors, how good it became. The
    architectures that another account gave are left out."""
    with parts.database.transaction(read_only=True) as tx:
        return _told(adaptations.get_adaptation(tx, adaptation_id), caller)


def _told(view: AdaptationView, caller: Caller) -> AdaptationView:
    return as_told(view, is_own=view.author == caller.account or sees_all_accounts(caller.role))


@router.post("/adaptations/{adaptation_id}/cancel", responses=not_found() | conflict() | forbidden())
def cancel_adaptation(adaptation_id: AdaptationId, caller: CallerDep, parts: PartsDep) -> AdaptationView:
    """End one that has not ended; what was measured stays. Operators may end those of every account."""
    with parts.database.transaction() as tx:
        return adaptations.cancel(tx, adaptation_id, by=caller)
