"""The knowledge pool: who can be a donor, how alike platforms are, and pool files from and for other farms."""

from typing import Annotated, Final

from fastapi import Body, Path, Query
from fastapi.responses import Response

from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import binary_answer, not_found, quota, too_large
from benchfarm_api.routes import PageParameters, PageQuery, new_router, page_of
from benchfarm_core.jobs import Page
from benchfarm_core.pool import LikenessView, MatrixWanted, PoolEntryView, PoolExport, PoolImported, PoolMember
from benchfarm_core.pool_files import open_entries
from benchfarm_predictor import predictor_file
from benchfarm_store import likenesses, pool, pool_entries
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.own_kernels import OwnKernels

router = new_router("pool")

EntryId = Annotated[str, Path(max_length=40)]
FILE_TYPE: Final = "application/octet-stream"
_CATALOGUE: Final = OwnKernels()


class MatrixQuery(MatrixWanted, PageQuery):
    """The query of the matrix."""


@router.get("/pool")
def list_pool(parts: PartsDep, page: PageParameters) -> Page[PoolMember]:
    """What can be a donor: platforms of this farm that were probed or have a predictor, and what others measured."""
    with parts.database.transaction(read_only=True) as tx:
        return page_of(pool.list_members(tx), page)


@router.get("/pool/matrix")
def list_likenesses(parts: PartsDep, query: Annotated[MatrixQuery, Query()]) -> Page[LikenessView]:
    """How alike a donor is to a target, by subject and timing, over the probe set: the least divergence first."""
    wanted = MatrixWanted.model_validate(query.model_dump(include=set(MatrixWanted.model_fields)))
    with parts.database.transaction(read_only=True) as tx:
        return likenesses.list_likenesses(tx, wanted, cursor=query.cursor, limit=query.limit)


@router.get("/pool/file", response_class=Response, responses=not_found() | too_large() | binary_answer())
def export_pool(parts: PartsDep, wanted: Annotated[PoolExport, Query()]) -> Response:
    """Rows and predictors of platforms and entries as one file for another farm. No upload's time is in it."""
    with parts.database.transaction(read_only=True) as tx:
        gathered = pool.gather(tx, wanted)
    return Response(pool.export(gathered), media_type=FILE_TYPE)


@router.post("/pool", responses=quota() | too_large())
def import_pool(
    file: Annotated[bytes, Body(media_type=FILE_TYPE, description="a pool file")], caller: CallerDep, parts: PartsDep
) -> PoolImported:
    """Take in a pool file, whole or not at all. Entries can be donors; they never answer, and keep their origin.

    The same entries again change nothing, and what this farm measured itself is left out.
    """
    opened = open_entries(file, _CATALOGUE, CATALOGUE_VERSION, predictor_file.read)
    with parts.database.transaction() as tx:
        return pool_entries.import_entries(tx, opened, by=caller)


@router.get("/pool/entries/{entry_id}", responses=not_found())
def get_pool_entry(entry_id: EntryId, parts: PartsDep) -> PoolEntryView:
    """An imported entry, with what each of its predictors was taught: donors, rows by their hash, rule, code."""
    with parts.database.transaction(read_only=True) as tx:
        return pool_entries.get_entry(tx, entry_id)


@router.delete("/pool/entries/{entry_id}", responses=not_found())
def delete_pool_entry(entry_id: EntryId, parts: PartsDep) -> PoolMember:
    """Take an imported entry away with its rows and predictors. Predictors that learnt from it stay."""
    with parts.database.transaction() as tx:
        return pool_entries.delete_entry(tx, entry_id)
