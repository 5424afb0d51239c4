"""The protocols: ways to measure, with their parameters."""

from benchfarm_api.routes import PageParameters, new_router, page_of
from benchfarm_core.jobs import Page
from benchfarm_core.protocols import PROTOCOLS, Protocol

router = new_router("protocols")


@router.get("/protocols")
async def list_protocols(page: PageParameters) -> Page[Protocol]:
    """All protocols with the parameters that a job may change."""
    return page_of(list(PROTOCOLS.values()), page)
