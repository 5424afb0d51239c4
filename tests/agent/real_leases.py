"""Leases with the real runner, the real children and the real board, for a farm that takes everything."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.journal import Journal
from benchfarm_agent.leases import LeaseWork
from benchfarm_agent.main import open_lab
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import LeaseGrant
from tests.agent.scripted_farm import Call, results_in, scripted_farm, taken

DISTRIBUTIONS: Final = {"litert": "ai-edge-litert", "mnn": "MNN"}
"""Of engines whose wheel has another name."""


def of_installed(grant: LeaseGrant) -> LeaseGrant:
    """The lease on a platform of the engine's version that is here: of another one nothing is measured."""
    engine = grant.platform.engine
    installed = engine.model_copy(update={"version": version(DISTRIBUTIONS.get(engine.name, engine.name))})
    return grant.model_copy(update={"platform": grant.platform.model_copy(update={"engine": installed})})


class RealLeases:
    """A lab on a farm that takes everything; one lease after the other on one board."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self.calls: list[Call] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with scripted_farm(taken) as farm:
            # tests run beside others, hence no limit to what else wants to run
            settings = Settings(url=farm.url, state_dir=self._state.root, gate_foreign_threads=1000)
            client = FarmClient(farm.url)
            self.board = LocalBoard(self._state, Journal(self._state.journal), settings)
            self._farm = farm
            try:
                async with open_lab(settings, self._state, client) as self.lab:
                    yield
            finally:
                await client.close()

    async def lease(self, grant: LeaseGrant) -> dict[int, Any]:
        """The results of one lease by measurement."""
        begun = len(self._farm.calls)
        await LeaseWork(self.lab, self.board, of_installed(grant), asked_s=boottime_s()).run()
        self.calls = self._farm.calls[begun:]
        return results_in(self.calls)

    async def target(self, grant: LeaseGrant, measurement_id: int) -> str:
        """The name of the file that a measurement's workload is."""
        async with self.lab.artifacts.prepared(grant.items, grant.platform) as (ready, _):
            return ready[measurement_id].artifact.name


def outcome_of(result: Any) -> str:
    """`ok` or the failure's code."""
    return str(result["failure"] or "ok")
