"""Search spaces: their genes, seeded draws, and the kernels of an architecture."""

from typing import Annotated

from fastapi import Path, Query

from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import not_found
from benchfarm_api.routes import PageParameters, new_router, page_of
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.spaces import (
    ArchitectureKernels,
    ArchitectureKernelsRequest,
    DrawnArchitecture,
    DrawnArchitectures,
    DrawQuery,
    GeneView,
    SpaceView,
)
from benchfarm_store import fusions
from benchfarm_workloads import spaces

router = new_router("spaces")

SpaceName = Annotated[str, Path(max_length=40)]


@router.get("/spaces")
async def list_spaces(page: PageParameters) -> Page[SpaceView]:
    """Every search space with its genes, its paper, and what of the paper is reproduced."""
    return page_of([_view(space) for space in spaces.spaces()], page)


@router.get("/spaces/{space}/draws", responses=not_found())
def draw_architectures(space: SpaceName, query: Annotated[DrawQuery, Query()]) -> DrawnArchitectures:
    """Different architectures by a seed, ready to be submitted as workloads."""
    found = _found(space)
    drawn = spaces.draws(found.name, query.seed, query.count)
    return DrawnArchitectures(items=[DrawnArchitecture.of(found.workload(one.genes)) for one in drawn])


@router.post("/spaces/{space}/kernels", responses=not_found())
def list_architecture_kernels(
    space: SpaceName, question: ArchitectureKernelsRequest, parts: PartsDep
) -> ArchitectureKernels:
    """What a platform's engine would compute as one kernel each. The genes are checked; nothing is measured."""
    workload = _found(space).workload(question.genes)
    with parts.database.transaction(read_only=True) as tx:
        return fusions.architecture_kernels(tx, workload, question.platform)


def _found(name: str) -> spaces.Space:
    try:
        return spaces.space(name)
    except InvalidRequest as error:
        raise NotFound(error.detail) from error


def _view(space: spaces.Space) -> SpaceView:
    return SpaceView(
        name=space.name,
        version=space.version,
        title=space.title,
        paper=space.paper,
        kept=space.kept,
        read=space.read,
        left=space.left,
        drawn_as=space.drawn_as,
        genes=[
            GeneView(name=gene.name, unit=gene.unit, meaning=gene.meaning, allowed=gene.allowed, is_list=gene.is_list)
            for gene in space.genes
        ],
    )
