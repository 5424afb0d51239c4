"""Kernel lists of what a question asks: made once for each different way to fuse, however many platforms share it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from sqlalchemy import select

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.platforms import Platform
from benchfarm_core.workloads import AnySingle, ArchitectureWorkload, GeneratedModelWorkload, UploadedWorkload
from benchfarm_store import fusions
from benchfarm_store.database import Transaction
from benchfarm_store.kernel_lists import KernelList, graph_kernel_list, kernel_list
from benchfarm_store.tables import models
from benchfarm_workloads.fusing import FusionRules, Pair
from benchfarm_workloads.layers import Network
from benchfarm_workloads.models import model_recipe
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces import space
from benchfarm_workloads.verdicts import Graph

MAX_UPLOADS: Final = 200
"""Different uploaded models that one question has predicted: a graph of ten thousand operators takes a second."""
_GRAPHS_AT_ONCE: Final = 8
"""Graphs held in memory: one has up to 16 MB."""


@dataclass(frozen=True, eq=False)
class AskedKernels:
    """The different rules by which the platforms of a question fuse, and the kernels of its uploaded models by each."""

    rules: tuple[FusionRules, ...] = ()
    uploads: Mapping[tuple[int, int], KernelList] = field(default_factory=dict)

    def kernel_list(self, number: int, workload: AnySingle, fusing: int) -> KernelList:
        """The kernels of the question's workload of that number by one of the rules.

        Raises InvalidRequest for what this code does not generate, and for uploads beyond `MAX_UPLOADS` (`too_large`).
        """
        if isinstance(workload, ArchitectureWorkload | GeneratedModelWorkload):
            return KernelList(*self._networks[fusing].counts(_network(workload)))
        if not isinstance(workload, UploadedWorkload):
            return kernel_list(workload, self.rules[fusing])
        found = self.uploads.get((number, fusing))
        if found is None:
            detail = f"one question has at most {MAX_UPLOADS} different uploaded models predicted: ask in several"
            raise InvalidRequest(detail, code="too_large")
        return found

    @cached_property
    def _networks(self) -> tuple[NetworkKernels, ...]:
        return tuple(map(NetworkKernels, self.rules))


def _network(workload: ArchitectureWorkload | GeneratedModelWorkload) -> Network:
    if isinstance(workload, ArchitectureWorkload):
        return space(workload.space).layout(workload.genes)  # they were checked when the question was read
    return model_recipe(workload.name).network(workload.config)


def fusings(tx: Transaction, asked: Sequence[Platform]) -> tuple[list[int], tuple[FusionRules, ...]]:
    """What the platforms' engines fuse: the place of each platform's rules among the different ones, and those."""
    places: dict[frozenset[tuple[Pair, bool]], int] = {}
    rules: list[FusionRules] = []
    engines: dict[tuple[str, str, str], int] = {}
    found = []
    for platform in asked:
        engine = (platform.engine.key, platform.precision, platform.board_model)
        if engine not in engines:
            own = fusions.engine_rules(tx, platform)
            engines[engine] = places.setdefault(frozenset(own.measured.items()), len(places))
            rules += [own] if engines[engine] == len(rules) else []
        found.append(engines[engine])
    return found, tuple(rules)


def upload_lists(
    tx: Transaction, model_ids: Mapping[int, str], rules: Sequence[FusionRules]
) -> dict[tuple[int, int], KernelList]:
    """The kernels of uploaded models, by the number of a workload and the place of the rules.

    `model_ids`: of the first `MAX_UPLOADS` models that the caller may see, by the number of their workload.
    """
    wanted = list(model_ids.items())[:MAX_UPLOADS]
    found: dict[tuple[int, int], KernelList] = {}
    for start in range(0, len(wanted), _GRAPHS_AT_ONCE):
        numbers = {model_id: number for number, model_id in wanted[start : start + _GRAPHS_AT_ONCE]}
        for row in tx.execute(select(models.c.id, models.c.graph).where(models.c.id.in_(list(numbers)))):
            graph = Graph.model_validate(row.graph)
            found |= {(numbers[row.id], place): graph_kernel_list(graph, each) for place, each in enumerate(rules)}
    return found
