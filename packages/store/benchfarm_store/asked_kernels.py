"""Kernel lists of what a question asks: made once for each different way to fuse, however many platforms share it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import select

from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.platforms import Platform
from benchfarm_core.workloads import (
    AnySingle,
    ArchitectureWorkload,
    GeneratedModelWorkload,
    KernelListRequest,
    UploadedWorkload,
)
from benchfarm_store import fusions, predictors
from benchfarm_store.database import Transaction
from benchfarm_store.kernel_lists import KernelList, graph_kernel_list, kernel_list
from benchfarm_store.tables import models
from benchfarm_workloads.fusing import FusionRules, Pair
from benchfarm_workloads.models import model_recipe
from benchfarm_workloads.network_kernels import NetworkKernels, Part
from benchfarm_workloads.spaces import space
from benchfarm_workloads.verdicts import Graph

MAX_UPLOADS: Final = 200
"""Different uploaded models that one question has predicted: a graph of ten thousand operators takes a second."""
_GRAPHS_AT_ONCE: Final = 8
"""Graphs held in memory: one has up to 16 MB."""


@dataclass(frozen=True, eq=False)
class AskedKernels:
    """The different rules by which the platforms of a question fuse, and its uploaded models by number, of which
    kernels are wanted: the first `MAX_UPLOADS`."""

    rules: tuple[FusionRules, ...] = ()
    uploads: Mapping[int, str] = field(default_factory=dict)


UploadParts = Mapping[tuple[int, int], Part]
"""By the number of a workload and the place of the rules."""
ReadGraphs = Callable[[Sequence[str]], Mapping[str, Any]]
"""Graphs of uploaded models as they are stored, by id; what was deleted meanwhile is not there."""


def upload_parts(asked: AskedKernels, read: ReadGraphs) -> dict[tuple[int, int], Part]:
    """The kernels of uploaded models. `read` is called for a few graphs at a time, and no connection is needed between:
    the kernels of a large one take a second."""
    wanted = list(asked.uploads.items())
    found: dict[tuple[int, int], Part] = {}
    for start in range(0, len(wanted), _GRAPHS_AT_ONCE):
        numbers = wanted[start : start + _GRAPHS_AT_ONCE]
        graphs = read([model_id for _, model_id in numbers])
        for number, model_id in numbers:
            if model_id in graphs:
                graph = Graph.model_validate(graphs[model_id])
                found |= {(number, at): _part(graph_kernel_list(graph, rules)) for at, rules in enumerate(asked.rules)}
    return found


def graphs(tx: Transaction, model_ids: Sequence[str]) -> dict[str, Any]:
    """The graphs of models that the caller was seen to have."""
    rows = tx.execute(select(models.c.id, models.c.graph).where(models.c.id.in_(list(model_ids))))
    return {row.id: row.graph for row in rows}


def kernel_parts(
    asked: AskedKernels,
    uploads: UploadParts,
    number: int,
    workload: AnySingle | KernelListRequest,
    fusing: int,
    known: NetworkKernels,
) -> Sequence[Part]:
    """The kernels of the question's workload of that number by one of the rules, of which `known` remembers kernels.

    Raises InvalidRequest for what this code does not generate, and for uploads beyond `MAX_UPLOADS` (`too_large`);
    NotFound for an upload that was deleted meanwhile.
    """
    if isinstance(workload, ArchitectureWorkload):
        # genes were checked when the question was read
        return known.parts(space(workload.space), workload.genes)
    if isinstance(workload, KernelListRequest):
        return [Part(tuple((one.type, one.config, one.count) for one in workload.kernels), ())]
    if isinstance(workload, GeneratedModelWorkload):
        return [known.counts(model_recipe(workload.name).network(workload.config))]
    if not isinstance(workload, UploadedWorkload):
        return [_part(kernel_list(workload, asked.rules[fusing]))]
    found = uploads.get((number, fusing))
    if found is None and number in asked.uploads:
        raise NotFound("the model was deleted meanwhile")
    if found is None:
        detail = f"one question has at most {MAX_UPLOADS} different uploaded models predicted: ask in several"
        raise InvalidRequest(detail, code="too_large")
    return [found]


def _part(found: KernelList) -> Part:
    return Part(found.kernels, found.unknown)


def fusings(tx: Transaction, asked: Sequence[tuple[Platform, str]]) -> tuple[list[int], tuple[FusionRules, ...]]:
    """By which rules predictors (their ids, each with its platform) take kernel lists: the place of each one's among
    the different ones, and those. They are the ones by which it learnt, whatever was measured of its engine since;
    where nobody kept them, what is known of the engine now."""
    kept = predictors.rules_of(tx, [id_ for _, id_ in asked])
    engines = {_engine_of(one): one for one, id_ in asked if id_ not in kept}
    now = dict(zip(engines, fusions.engines_rules(tx, list(engines.values())), strict=True))
    places: dict[frozenset[tuple[Pair, bool]], int] = {}
    rules: dict[int, FusionRules] = {}
    found = []
    for one, id_ in asked:
        own = kept[id_] if id_ in kept else now[_engine_of(one)]
        place = places.setdefault(frozenset(own.measured.items()), len(places))
        rules.setdefault(place, own)
        found.append(place)
    return found, tuple(rules.values())


def _engine_of(platform: Platform) -> tuple[str, str, str]:
    """What its rules follow from."""
    return platform.engine.key, platform.precision, platform.board_model
