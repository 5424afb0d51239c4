"""Agents as operators see them."""

from benchfarm_api.parts import PartsDep
from benchfarm_api.routes import PageParameters, new_router, page_of
from benchfarm_core.accounts import AgentView
from benchfarm_core.jobs import Page
from benchfarm_store import agents

router = new_router("agents")


@router.get("/agents")
def list_agents(parts: PartsDep, page: PageParameters) -> Page[AgentView]:
    """All agents with their boards and when each was last heard."""
    with parts.database.transaction(read_only=True) as tx:
        return page_of(agents.list_agents(tx), page)
