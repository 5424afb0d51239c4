"""Exports: tables of search spaces for use without a network, the keys that sign them, and what they lacked."""

from typing import Annotated

from fastapi import Header, Path, Response

from benchfarm_api import exporting
from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import binary_answer, conflict, not_found, too_large, unavailable
from benchfarm_api.routes import new_router
from benchfarm_core.exports import ExportRequest, ExportView, FarmKeys, Misses, MissesReport, MissesTaken
from benchfarm_store import exports, farm_keys

router = new_router("exports")

ExportId = Annotated[str, Path(max_length=40)]
IfNoneMatch = Annotated[str | None, Header(max_length=1000)]


@router.post("/exports", status_code=201, responses=conflict() | too_large() | unavailable())
def create_export(request: ExportRequest, caller: CallerDep, parts: PartsDep) -> ExportView:
    """Make the table of a search space on a platform, with what answers there or a version of it.

    The same table asked for again is the one that is there; one that was made longer than `max_age_s` ago is made and
    signed anew, with the same numbers under its old id. `genes` names the values that genes may have where a table
    of the whole space would be too large.
    """
    return exporting.export(parts.database, parts.exporting, request, caller)


@router.get("/exports/{export_id}", responses=not_found())
def get_export(export_id: ExportId, caller: CallerDep, parts: PartsDep) -> ExportView:
    """One export: of which version it is, whether that still answers, and how much it lacked."""
    with parts.database.transaction(read_only=True) as tx:
        return exports.get_export(tx, export_id, caller)


@router.get(
    "/exports/{export_id}/file",
    response_class=Response,
    responses={**not_found(), **binary_answer(), 304: {"description": "The caller has this file"}},
)
def get_export_file(export_id: ExportId, parts: PartsDep, if_none_match: IfNoneMatch = None) -> Response:
    """The table: safetensors with a signed header. Its ETag is its SHA-256; with If-None-Match it is sent once."""
    with parts.database.transaction(read_only=True) as tx:
        tag = f'"{exports.file_hash(tx, export_id)}"'
        if if_none_match is not None and _names(if_none_match, tag):
            return Response(status_code=304, headers={"ETag": tag})
        file = exports.file(tx, export_id)
    return Response(file, media_type="application/octet-stream", headers={"ETag": tag})


@router.post("/exports/{export_id}/misses", responses=not_found())
def report_export_misses(export_id: ExportId, report: MissesReport, caller: CallerDep, parts: PartsDep) -> MissesTaken:
    """Tell for which architectures a table had no number: all of them must be of its space."""
    genes = exporting.checked_misses(parts.database, export_id, report)
    with parts.database.transaction() as tx:
        return exports.report_misses(tx, export_id, genes, caller)


@router.get("/exports/{export_id}/misses", responses=not_found())
def list_export_misses(export_id: ExportId, caller: CallerDep, parts: PartsDep) -> Misses:
    """For which architectures a table had no number, the most often reported first.

    Clients see what their own account told, operators and admins what all accounts told together.
    """
    with parts.database.transaction(read_only=True) as tx:
        return exports.list_misses(tx, export_id, caller)


@router.get("/keys")
def list_keys(parts: PartsDep) -> FarmKeys:
    """The public keys by which what the farm signed is known; none before its first export."""
    with parts.database.transaction(read_only=True) as tx:
        return farm_keys.list_keys(tx)


def _names(if_none_match: str, tag: str) -> bool:
    """Whether the header names this very file; a proxy may have called it weak."""
    named = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return tag in named or "*" in named
