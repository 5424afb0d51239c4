"""The engines that boards have, and why others do not."""

from benchfarm_api.parts import PartsDep
from benchfarm_api.routes import PageParameters, new_router, page_of
from benchfarm_core.jobs import Page
from benchfarm_core.views import EngineView
from benchfarm_store import platforms

router = new_router("engines")


@router.get("/engines")
def list_engines(parts: PartsDep, page: PageParameters) -> Page[EngineView]:
    """Every engine that some board has or lacks."""
    with parts.database.transaction(read_only=True) as tx:
        return page_of(platforms.list_engines(tx), page)
