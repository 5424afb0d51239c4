"""Measurement sets: latencies that somebody else measured."""

from typing import Annotated, Final

from fastapi import Path

from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import not_found, quota
from benchfarm_api.routes import PageParameters, new_router
from benchfarm_core.jobs import Page
from benchfarm_core.measurement_sets import (
    MeasurementSetImported,
    MeasurementSetUpload,
    MeasurementSetView,
    read_tables,
)
from benchfarm_store import measurement_sets
from benchfarm_workloads.own_kernels import OwnKernels

router = new_router("measurement-sets")

SetId = Annotated[str, Path(max_length=40)]
_CATALOGUE: Final = OwnKernels()


@router.post("/measurement-sets", responses=quota())
def import_measurement_set(upload: MeasurementSetUpload, caller: CallerDep, parts: PartsDep) -> MeasurementSetImported:
    """Take in a set, named by its contents: the same again changes nothing. Rejected rows are listed with reasons.

    Its rows can be donors. They never answer as measured, and no job reuses them.
    """
    found = read_tables(upload.platform_json, upload.tables, names=upload.names, catalogue=_CATALOGUE)
    with parts.database.transaction() as tx:
        return measurement_sets.import_set(tx, found, by=caller, dry_run=upload.dry_run)


@router.get("/measurement-sets")
def list_measurement_sets(parts: PartsDep, query: PageParameters) -> Page[MeasurementSetView]:
    """Imported sets, newest first."""
    with parts.database.transaction(read_only=True) as tx:
        return measurement_sets.list_sets(tx, cursor=query.cursor, limit=query.limit)


@router.get("/measurement-sets/{set_id}", responses=not_found())
def get_measurement_set(set_id: SetId, parts: PartsDep) -> MeasurementSetView:
    """One imported set: where it was measured, and what it holds."""
    with parts.database.transaction(read_only=True) as tx:
        return measurement_sets.get_set(tx, set_id)


@router.delete("/measurement-sets/{set_id}", responses=not_found())
def delete_measurement_set(set_id: SetId, parts: PartsDep) -> MeasurementSetView:
    """Take an imported set away with its rows."""
    with parts.database.transaction() as tx:
        return measurement_sets.delete_set(tx, set_id)
